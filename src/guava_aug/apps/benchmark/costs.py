"""What N parameter sets cost: measured for some N, from these for all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WANTED = (1, 3, 10, 50, 100)  # the original document's rows


@dataclass(frozen=True)
class Cost:
    """Wall seconds of one mode for N parameter sets of one video."""

    views: int
    seconds: float  # everything, from the shell
    without_loading: float  # less process start, imports and model loading
    measured: bool  # else extrapolated


def subprocess_costs(
    measured: Mapping[int, float],  # N -> seconds of the command
    loading: float,  # seconds of process start, imports and model loading, per process
    wanted: Sequence[int] = WANTED,
) -> list[Cost]:
    """Return the cost of a process per set: N times what one of the largest measured N cost."""
    most = max(measured)
    return [_cost(n, measured.get(n), n * measured[most] / most, n * loading) for n in _rows(wanted, measured)]


def batch_costs(
    measured: Mapping[int, float],
    loading: float,
    marginal: float,  # seconds of one more set
    again: float,  # seconds of reading and posing the video, done once per group of sets
    group: int,  # sets in flight at once
    wanted: Sequence[int] = WANTED,
) -> list[Cost]:
    """Return the cost of one process: that of the nearest measured N below (or the least), plus the difference."""

    def guess(n: int) -> float:
        base = max((m for m in measured if m <= n), default=min(measured))
        groups = -(-n // group) - -(-base // group)
        return measured[base] + (n - base) * marginal + groups * again

    return [_cost(n, measured.get(n), guess(n), loading) for n in _rows(wanted, measured)]


def _rows(wanted: Sequence[int], measured: Mapping[int, float]) -> list[int]:
    return sorted({*wanted, *measured})


def _cost(views: int, measured: float | None, guess: float, loading: float) -> Cost:
    seconds = guess if measured is None else measured
    return Cost(views, seconds, max(seconds - loading, 0.0), measured is not None)
