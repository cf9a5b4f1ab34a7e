"""What makes runs on CPUs fast: the number of processors, idle threads that release them, freed memory that is kept.

Programs call the settings at their start: `shorten_spin` before torch is imported, `same_threads` before numba is.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

SPINS = "20000"  # about a millisecond; libgomp's default is some ten
_ROOT, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def usable_cpus() -> int:
    """Return the number of processors that this process may use, at least 1.

    A cluster job, a container or `taskset` often has only a part of the machine: the processors it is bound to, and of
    their time at most the quota of its control group.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, bound if quota is None else min(bound, math.ceil(quota)))


@cache
def _quota() -> float | None:
    """Return processors by the quota of the control group, or of one above it; None: no quota, or not Linux."""
    try:
        groups = _OWN.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for group in groups:  # "0::/path" of version 2, "5:cpu,cpuacct:/path" of version 1
        _, controllers, path = (group.split(":", 2) + ["", ""])[:3]
        if not controllers:
            quotas += _of_folders(_ROOT, path, _version_2)
        elif "cpu" in controllers.split(","):
            quotas += _of_folders(_ROOT / "cpu", path, _version_1)
    return min(quotas, default=None)


def _of_folders(root: Path, path: str, read: Callable[[Path], float | None]) -> list[float]:
    """Return the quotas of a group and of all above it.

    Inside a container the path may be that of the host and may not exist.
    """
    group = root / path.lstrip("/")
    found = []
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError, IndexError):
            quota = read(folder)
            if quota is not None and quota > 0:
                found.append(quota)
        if folder == root:
            break
    return found


def _version_2(folder: Path) -> float | None:
    limit, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    return None if limit == "max" else int(limit) / int(period)


def _version_1(folder: Path) -> float | None:
    limit = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
    return limit / int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))  # -1: no limit


def shorten_spin() -> None:
    """Let idle threads release their core after a millisecond. Call it before torch is imported.

    Between two steps of the network they spin, which is fastest as long as nothing else needs the core: with the
    default two runs on the same cores take more than twice as long as one after the other (`benchmarks/together.py`).
    Values of OMP_WAIT_POLICY or GOMP_SPINCOUNT set by the user are kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def same_threads() -> None:
    """Let numba start as many threads as OMP_NUM_THREADS says, unless it has been imported already.

    Without NUMBA_NUM_THREADS it starts one for every processor that it may use, which on a large node exceeds the limit
    of processes per user, in particular if several processes do so. Once its threads run, another number makes numba
    refuse to compile.
    """
    if "numba" in sys.modules:
        return
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if threads.isdecimal() and int(threads) > 0:
        os.environ.setdefault("NUMBA_NUM_THREADS", str(int(threads)))


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for reuse instead of returning them to the system; elsewhere do nothing.

    A refined frame makes hundreds of temporaries of 4 to 33 MB. By default each is mapped, zeroed page by page and
    unmapped again, which costs a tenth to a half of the time. Call it once at the start of a program.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
