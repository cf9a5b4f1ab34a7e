"""One setting of the OpenMP library beneath torch, for machines that do more than one thing at a time."""

from __future__ import annotations

import os

SPINS = "20000"  # about a millisecond; libgomp's default is some ten


def wait_briefly() -> None:
    """Lets threads that have nothing to do give their core away after a millisecond. Call it before torch is imported.

    Between two steps of the network they turn in circles, which is fastest as long as nobody else wants the core: with
    the default two runs on the same cores take more than twice as long as one after the other
    (`benchmarks/together.py`). What the user says in OMP_WAIT_POLICY or GOMP_SPINCOUNT is left as it is.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
