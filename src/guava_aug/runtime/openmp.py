"""Settings of the thread pools of torch and numba, for machines that run more than one process."""

from __future__ import annotations

import os

SPINS = "20000"  # about a millisecond; libgomp's default is some ten


def shorten_spin() -> None:
    """Let idle threads release their core after a millisecond. Call it before torch is imported.

    Between two steps of the network they spin, which is fastest as long as nothing else needs the core: with the
    default two runs on the same cores take more than twice as long as one after the other (`benchmarks/together.py`).
    Values of OMP_WAIT_POLICY or GOMP_SPINCOUNT set by the user are kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def same_threads() -> None:
    """Let numba start as many threads as OMP_NUM_THREADS says. Call it before numba is imported.

    Without NUMBA_NUM_THREADS it starts one for every processor that it may use, which on a large node exceeds the limit
    of processes per user, in particular if several processes do so.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if threads.isdecimal() and int(threads) > 0:
        os.environ.setdefault("NUMBA_NUM_THREADS", str(int(threads)))
