"""The clean plate: the background of a fixed camera, combined over time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from guava_aug.render.inpaint import grow, smooth_fill
from guava_aug.runtime.cpus import usable_cpus
from guava_aug.runtime.numba_cache import cached_njit
from guava_aug.runtime.text import pluralize

SURE_SAMPLES = 5  # with this many samples at twice the margin from the person, nearer ones are not used
FEW_SAMPLES = (
    3  # fewer than this of at least MANY_FRAMES may be a mask that lacks a hand: compared with the surroundings
)
MANY_FRAMES = 8
FEW_TOLERANCE = 0.12  # a few-sample pixel may differ this much (0..1) from its surroundings and be accepted
MOVING_SPREAD = 8 / 255  # half the interquartile range over time; noise and codecs stay below 3/255
MOVING_FRACTION = 0.15  # of the pixels seen often enough
MIN_JUDGED = 0.01  # of the picture must be seen often enough to judge movement
THREADS = min(16, usable_cpus())


@dataclass(frozen=True)
class TemporalPlate:
    """A plate with the remaining hole: [H, W, 3] float32 0..1, [H, W] bool."""

    picture: np.ndarray
    hole: np.ndarray
    frames: int  # looked at
    moving_fraction: float  # of the judged pixels
    moving: bool

    def describe(self) -> str:
        """Return one line for the run's record."""
        return (
            f"{pluralize(self.frames, 'frame')}, {100 * self.hole.mean():.1f} % never seen, "
            f"{100 * self.moving_fraction:.1f} % of the seen pixels change"
        )


def temporal_plate(
    frames: np.ndarray, people: np.ndarray, margin: int, doubtful: int = 0, unknown: np.ndarray | None = None
) -> TemporalPlate:
    """Return the median over time of the pixels outside the person, and the pixels without one.

    A pixel with five samples at twice the margin uses only those: errors of a mask (shadow, blur) lie next to it. A
    pixel with one or two samples of many frames (or no more than are doubtful) is accepted only if it resembles its
    surroundings, as a mask that lacks a hand in one frame would leave a ghost. The background counts as moving when
    over 15 % of the pixels change.

    Args:
        frames: [T, H, W, 3] uint8, T <= 64.
        people: [T, H, W] bool without margin.
        margin: Pixels kept away from the people.
        doubtful: Number of masks that may be wrong without being identified.
        unknown: [H, W] bool, where the frames show nothing; it becomes a hole, without a margin.
    """
    trust = np.empty(people.shape, np.uint8)  # 0 person or margin, 1 near, 2 sure

    def place(t: int) -> None:
        trust[t] = 2 - grow(people[t], margin).astype(np.uint8) - grow(people[t], 2 * margin).astype(np.uint8)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(place, range(len(people))))
    if unknown is not None:
        trust[:, unknown] = 0

    picture, spread, samples = _masked_median(frames, trust)
    hole = samples == 0
    if len(frames) >= MANY_FRAMES:
        enough = max(FEW_SAMPLES, min(doubtful + 1, len(frames) // 4))  # what is right must outvote what may be wrong
        few = (samples > 0) & (samples < enough)
        if few.any() and not (few | hole).all():
            surroundings = smooth_fill(picture, few | hole)
            strange = few & (np.abs(picture - surroundings).max(axis=-1) > FEW_TOLERANCE)
            hole |= few & grow(strange, margin)  # with its soft rim

    judged = samples >= max(2, min(MANY_FRAMES, len(frames) // 2))
    moving_fraction = float((spread[judged] > MOVING_SPREAD).mean()) if judged.mean() >= MIN_JUDGED else 0.0
    return TemporalPlate(picture, hole, len(frames), moving_fraction, moving_fraction > MOVING_FRACTION)


def _masked_median(frames: np.ndarray, trust: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return median [H, W, 3] float32 0..1, half interquartile range [H, W], and number of samples [H, W].

    The interquartile range is that of the widest channel.
    """
    height, width = trust.shape[1:]
    median = np.zeros((height, width, 3), np.float32)
    spread = np.zeros((height, width), np.float32)
    samples = np.zeros((height, width), np.int32)
    # Threads over rows of a nogil kernel: numba's own thread layer must not be entered from several threads.
    rows = np.linspace(0, height, THREADS * 4 + 1).astype(int)
    with ThreadPoolExecutor(THREADS) as pool:
        jobs = [pool.submit(_median_rows, frames, trust, a, b, median, spread, samples) for a, b in pairwise(rows)]
        for job in jobs:
            job.result()
    return median / 255, spread / 255, samples


@cached_njit(nogil=True)
def _median_rows(  # noqa: C901 - one compiled loop  # pragma: no cover
    frames: np.ndarray,
    trust: np.ndarray,
    first: int,
    last: int,
    median: np.ndarray,
    spread: np.ndarray,
    samples: np.ndarray,
) -> None:
    """Compute rows first .. last - 1 of the masked median, by a histogram of the at most 256 grey values of a pixel."""
    total, _, width = trust.shape
    histogram = np.zeros((width, 3, 256), np.uint8)
    low, high = np.empty((width, 3), np.int32), np.empty((width, 3), np.int32)
    level, count = np.empty(width, np.uint8), np.empty(width, np.int32)
    for y in range(first, last):
        for x in range(width):
            sure = 0
            near = 0
            for t in range(total):
                if trust[t, y, x] == 2:
                    sure += 1
                elif trust[t, y, x] == 1:
                    near += 1
            level[x] = 2 if sure >= SURE_SAMPLES else 1
            count[x] = sure if sure >= SURE_SAMPLES else sure + near
            samples[y, x] = count[x]
            low[x] = 255
            high[x] = 0
        for t in range(total):
            for x in range(width):
                if trust[t, y, x] >= level[x]:
                    for c in range(3):
                        v = frames[t, y, x, c]
                        histogram[x, c, v] += 1
                        low[x, c] = min(low[x, c], v)
                        high[x, c] = max(high[x, c], v)
        for x in range(width):
            n = count[x]
            if n == 0:
                continue
            widest = 0
            for c in range(3):
                before, lower_half, upper_half, q1, q3 = 0, -1, -1, -1, -1
                for v in range(low[x, c], high[x, c] + 1):
                    before += histogram[x, c, v]
                    histogram[x, c, v] = 0
                    if q1 < 0 and before > (n - 1) // 4:
                        q1 = v
                    if lower_half < 0 and before > (n - 1) // 2:
                        lower_half = v
                    if upper_half < 0 and before > n // 2:
                        upper_half = v
                    if q3 < 0 and before > (3 * (n - 1) + 3) // 4:
                        q3 = v
                median[y, x, c] = 0.5 * (lower_half + upper_half)
                widest = max(widest, q3 - q1)
            spread[y, x] = 0.5 * widest
