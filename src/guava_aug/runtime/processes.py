"""Processes and their machines: which process wrote a file, and whether it is still alive.

At fault points tests kill this process, to check that nothing is lost; without the variable they do nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import time
import uuid
from functools import cache
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # a random number of every start of a machine
_SLACK = 2.0  # seconds between clocks of one machine
FAULT_VARIABLE = "GUAVA_AUG_KILL_AT"  # "name" or "name:k": the k-th time the point is reached, from 1
FAULT_POINTS = ("after-plan", "mid-encode", "before-fsync", "before-video", "before-journal")

_fault, _, _fault_count = os.environ.get(FAULT_VARIABLE, "").partition(":")
_faults_left = int(_fault_count or 1)


def child_environment() -> dict[str, str]:
    """Return this process's environment with a PYTHONPATH to this package, also when it runs from a checkout."""
    search = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(search)}


@cache
def host_name() -> str:
    """Return this machine's name, restricted to characters of file names."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", socket.gethostname())[:40].strip("-.") or "host"


@cache
def host_id() -> str:
    """Return eight hexadecimal digits of this machine and its process namespace.

    They are equal where process numbers mean the same. Machines of one image may share a host name, and every machine's
    first process namespace has the same number, so the boot identifier is part of it. Containers share that, but not
    their processes, so the namespace is part of it too. After a restart the digits differ, and all earlier processes
    are dead.
    """
    parts = [socket.gethostname()]
    try:
        parts += [os.readlink("/proc/self/ns/pid"), BOOT_ID.read_text(encoding="ascii")]
    except (OSError, ValueError):  # no Linux: the hardware address, or where there is none a random number
        parts += [f"{uuid.getnode():x}"]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:8]


def process_lives(identity: object, pid: object, since: float | None = None) -> bool | None:
    """Return whether a process is alive, by its recorded `host_id` and number; None: unknown, as it is from elsewhere.

    From elsewhere are other machines, other containers, earlier starts of this machine, and processes of guava-aug
    0.1.0, whose identity did not include the start. `since` is that of `is_alive`.
    """
    if identity != host_id() or isinstance(pid, bool) or not isinstance(pid, int) or pid <= 0:
        return None
    return is_alive(pid, since)


def is_alive(pid: int, since: float | None = None) -> bool:
    """Return whether process `pid` of this machine runs and, with `since`, started before that time.

    `since` is in seconds since 1970: numbers of dead processes are reused. An unknown start counts as before.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # a process of another user; or not a process number
        return True
    begun = _begun(pid) if since is not None else None
    return begun is None or since is None or begun <= since + _SLACK


def _begun(pid: int) -> float | None:
    """Return when a process started, seconds since 1970; None if /proc has no answer, infinity for a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
        if fields[0] in "ZX":
            return float("inf")
        return time.time() - uptime + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def fault_point(name: str) -> None:
    """Kill this process (SIGKILL) if the environment requests it at this point."""
    global _faults_left
    if name == _fault:
        _faults_left -= 1
        if _faults_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
