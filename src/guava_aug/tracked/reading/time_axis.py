"""When every frame of a video is shown, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from guava_aug.runtime.frame_rate import LARGEST_PART, Rate, check_rate

_DENOMINATOR = 1001  # largest of a rate that is computed from times
_COARSEST_TICK = Fraction(1, 500)  # seconds; a clock in milliseconds rounds 1/30 s to 33 and 34 ticks
_DEFAULT_RATE = Fraction(25)  # of a single frame that nothing says a rate of


@dataclass(frozen=True)
class TimeAxis:
    """The times of N frames, in ticks of a clock.

    Frame i is shown at `ticks[i] * time_base` seconds of the file's own clock; `seconds` counts from the first frame.
    """

    ticks: np.ndarray  # [N] int64, ascending
    time_base: Fraction  # seconds per tick
    fps: Rate  # exact where the rate is constant, else the mean
    constant: bool  # every frame is where `fps` expects it, to a tick

    def __len__(self) -> int:
        """Return the number of frames N."""
        return len(self.ticks)

    @property
    def start(self) -> Fraction:
        """Return the time of the first frame on the file's clock, seconds."""
        return int(self.ticks[0]) * self.time_base

    def seconds(self, index: int) -> Fraction:
        """Return the time of a frame, seconds after the first one."""
        return int(self.ticks[index] - self.ticks[0]) * self.time_base

    def of(self, frames: Sequence[int]) -> TimeAxis:
        """Return the times of some of the frames, in ascending order; the rate is theirs."""
        ticks = self.ticks[np.asarray(frames, np.int64)]
        if self.constant and len(frames) == frames[-1] - frames[0] + 1:
            return TimeAxis(ticks, self.time_base, self.fps, True)
        return axis_of(ticks, self.time_base, (self.fps,))


def axis_of(ticks: np.ndarray, time_base: Fraction, rates: Iterable[Rate | None] = ()) -> TimeAxis:
    """Return the time axis of N >= 1 ascending ticks.

    Args:
        ticks: [N] time stamps.
        time_base: Seconds per tick.
        rates: Frames per second as the file gives them, the most reliable first; the first that all times agree with is
            taken, then the mean rate.
    """
    ticks = np.asarray(ticks, np.int64)
    said = [Fraction(rate) for rate in rates if rate and _is_rate(rate)]
    if len(ticks) < 2:
        return TimeAxis(ticks, time_base, _plain(said[0] if said else _DEFAULT_RATE), True)
    mean = Fraction(len(ticks) - 1) / (int(ticks[-1] - ticks[0]) * time_base)
    for rate in (*said, mean.limit_denominator(_DENOMINATOR)):
        if _is_rate(rate) and _agrees(ticks, time_base, rate):
            return TimeAxis(ticks, time_base, _plain(rate), True)
    return TimeAxis(ticks, time_base, _plain(_nearest_rate(mean)), False)


def _agrees(ticks: np.ndarray, time_base: Fraction, rate: Fraction) -> bool:
    """Return whether every frame is within a tick of its place, or at it where the clock is too coarse to tell."""
    step = float(1 / (rate * time_base))  # ticks
    is_coarse = time_base > _COARSEST_TICK
    due = np.arange(len(ticks)) * step
    return bool(np.abs(ticks - ticks[0] - due).max() <= (1e-3 if is_coarse else 1.01))


def _nearest_rate(mean: Fraction) -> Fraction:
    for denominator in (_DENOMINATOR, 100, 1):
        rate = mean.limit_denominator(denominator)
        if _is_rate(rate):
            return rate
    return min(max(mean, Fraction(1, _DENOMINATOR)), Fraction(1000)).limit_denominator(1)


def _is_rate(rate: Rate) -> bool:
    try:
        check_rate(Fraction(rate) if not isinstance(rate, float) else rate)
    except (ValueError, OverflowError):
        return False
    return Fraction(rate).denominator <= LARGEST_PART


def _plain(rate: Fraction) -> Rate:
    """Return whole rates as numbers, others as fractions, as the rest of the package does."""
    return float(rate) if rate.denominator == 1 else rate
