"""Number of processors this process may use."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

_ROOT, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


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
