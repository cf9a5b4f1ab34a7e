"""From the intervals of all threads to a few lanes: what worked when, and how many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from guava_aug.apps.benchmark.clock import union_seconds
from guava_aug.apps.benchmark.gpu_trace import COPIES, KERNELS
from guava_aug.runtime import timing
from guava_aug.runtime.timing import Interval

Spans = list[tuple[float, float]]

# lane -> the kinds of work in it; the GPU's own record comes first where there is one
LANES: dict[str, tuple[str, ...]] = {
    KERNELS: (KERNELS,),
    COPIES: (COPIES,),
    "render": (timing.RENDER,),
    "decode input": (timing.DECODE,),
    "avatar, pose, plate": (timing.SOURCE, timing.GAUSSIAN_SETUP, timing.PRECOMPUTE),
    "encode": (timing.ENCODE,),
    "verify (decode back)": (timing.VERIFY,),
    "main thread waits": (timing.DATA, timing.ENCODE_WAIT),
}
HOST_RENDER = "render (host side)"  # the name of `render` beside a GPU's lane: launching, mostly


@dataclass(frozen=True)
class Lane:
    """One kind of work. Times in seconds from the start of the record."""

    name: str
    spans: Spans  # of all threads
    total: float  # length of the record

    @property
    def busy_seconds(self) -> float:
        """Return time in which at least one thread was busy."""
        return union_seconds(self.spans)

    @property
    def busy_share(self) -> float:
        """Return the busy part of the whole time, 0..1."""
        return self.busy_seconds / self.total if self.total else 0.0

    @property
    def mean_threads(self) -> float:
        """Return how many were busy at once, over the whole record."""
        return sum(end - start for start, end in self.spans) / self.total if self.total else 0.0

    @property
    def most(self) -> int:
        """Return the most that were busy at once."""
        # an end before a start at the same instant: one after the other
        steps = sorted([(start, 1) for start, _ in self.spans] + [(end, -1) for _, end in self.spans])
        return int(max(np.cumsum([step for _, step in steps]), default=0))

    def profile(self, bins: int) -> np.ndarray:
        """Return [bins] mean number of busy threads in equal parts of the record."""
        edges = np.linspace(0, self.total, bins + 1)
        if not self.spans or self.total <= 0:
            return np.zeros(bins)
        starts, ends = (np.array(column) for column in zip(*self.spans, strict=True))
        # thread-seconds before each edge: sum of max(0, edge - start) - max(0, edge - end)
        before = _ramp_sum(edges, starts) - _ramp_sum(edges, ends)
        return np.maximum(np.diff(before), 0) / (self.total / bins)

    def to_json(self) -> dict[str, Any]:
        """Return figures, without the spans."""
        return {
            "lane": self.name, "busy_seconds": self.busy_seconds, "busy_share": self.busy_share,
            "mean_at_once": self.mean_threads, "most_at_once": self.most, "seconds": self.total,
        }  # fmt: skip


def lanes_of(intervals: Sequence[Interval]) -> list[Lane]:
    """Return the lanes that have work in them, of a record from its first start to its last end."""
    if not intervals:
        return []
    zero, end = min(i.start for i in intervals), max(i.end for i in intervals)
    by_work: dict[str, Spans] = {}
    for i in intervals:
        by_work.setdefault(i.work, []).append((i.start - zero, i.end - zero))
    # a view's render time has its waiting for the encoder inside
    if timing.RENDER in by_work:
        by_work[timing.RENDER] = without(by_work[timing.RENDER], by_work.get(timing.ENCODE_WAIT, []))
    lanes = []
    for name, kinds in LANES.items():
        spans = sorted(span for kind in kinds for span in by_work.get(kind, []))
        if spans:
            shown = HOST_RENDER if name == "render" and KERNELS in by_work else name
            lanes.append(Lane(shown, spans, end - zero))
    return lanes


def without(spans: Spans, holes: Spans) -> Spans:
    """Return the spans less what the holes cover; both of one thread, so neither overlaps itself."""
    out, holes = [], sorted(holes)
    at = 0
    for start, end in sorted(spans):
        while at < len(holes) and holes[at][1] <= start:
            at += 1
        k = at
        while k < len(holes) and holes[k][0] < end:
            if holes[k][0] > start:
                out.append((start, holes[k][0]))
            start = max(start, holes[k][1])
            k += 1
        if start < end:
            out.append((start, end))
    return out


def _ramp_sum(at: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Return sum over knots of max(0, at - knot), for every `at`."""
    knots = np.sort(knots)
    sums = np.concatenate([[0.0], np.cumsum(knots)])
    count = np.searchsorted(knots, at, side="right")
    return count * at - sums[count]
