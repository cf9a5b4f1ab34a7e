"""Processes and the machines they run on: who wrote a file, and is that process still there?"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import time
from functools import cache
from pathlib import Path

_SLACK = 2.0  # seconds between clocks of one machine


def environment_of_child() -> dict[str, str]:
    """This process's environment, for a Python that is to find this very package, also when it runs from a checkout."""
    search = [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(search)}


@cache
def host_name() -> str:
    """This machine's name, fit for a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", socket.gethostname())[:40].strip("-.") or "host"


@cache
def host_id() -> str:
    """Eight hex digits of this machine and its table of processes: equal where process numbers mean the same.

    Containers may share a host name, but not their processes, so the namespace is part of it.
    """
    namespace = ""
    with contextlib.suppress(OSError):  # no Linux
        namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{socket.gethostname()}\0{namespace}".encode("utf-8", "replace")).hexdigest()[:8]


def alive(pid: int, since: float | None = None) -> bool:
    """Whether process `pid` of this machine runs; `since`: and began before that time (seconds since 1970).

    Numbers of dead processes are given again, hence `since`. Where the beginning is not known it counts as before.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's process; or no number a process can have
        return True
    begun = _begun(pid) if since is not None else None
    return begun is None or since is None or begun <= since + _SLACK


def _begun(pid: int) -> float | None:
    """When a process began, seconds since 1970; None where /proc does not say. A zombie's is never: it is dead."""
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
