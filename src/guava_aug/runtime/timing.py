"""Time per named stage of a run; and, on request, the intervals in which each thread was busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from guava_aug.errors import annotate

# In the order in which the table shows them.
MODEL_LOADING = "model loading"
DATA = "data"
AVATAR_FIT = "avatar fit"
SOURCE = "source inference"
GAUSSIAN_SETUP = "Gaussian setup"
PRECOMPUTE = "precompute (pose + background)"
RENDER = "render per view"
ENCODE_WAIT = "encode wait"
STAGES = (MODEL_LOADING, DATA, AVATAR_FIT, SOURCE, GAUSSIAN_SETUP, PRECOMPUTE, RENDER, ENCODE_WAIT)

# Work of other threads during the stages; only recorded, never added up.
DECODE = "decode"  # pictures of the tracked video
ENCODE = "encode"  # frames of a view
VERIFY = "verify"  # decoding a finished file back


@dataclass(frozen=True)
class StageTime:
    """One row of the timing table."""

    name: str
    seconds: float  # all calls together
    count: int  # how often (for `render per view`: views; else calls)

    @property
    def mean(self) -> float:
        """Return seconds per call."""
        return self.seconds / self.count if self.count else 0.0


def stage_rows(stages: Iterable[StageTime]) -> list[dict[str, Any]]:
    """Return the timing table as plain values, seconds."""
    return [
        {"stage": s.name, "seconds": round(s.seconds, 4), "count": s.count, "mean": round(s.mean, 4)} for s in stages
    ]


@dataclass(frozen=True)
class Interval:
    """An interval in which one thread was busy with one kind of work."""

    work: str  # a stage, or DECODE, ENCODE, VERIFY
    thread: str
    start: float  # time.perf_counter(), seconds
    end: float


# One for the process, as a log's handler, so that threads need no argument; None while recording is off.
_listener: list[Interval] | None = None


@contextmanager
def recording() -> Iterator[list[Interval]]:
    """Yield a list to which the intervals of all threads of this process are added as they end."""
    global _listener
    before, _listener = _listener, []
    try:
        yield _listener
    finally:
        _listener = before


def record(work: str, start: float, end: float) -> None:
    """Record that this thread was busy from `start` to `end` (`time.perf_counter()`), if recording is on."""
    if _listener is not None:
        _listener.append(Interval(work, threading.current_thread().name, start, end))


@contextmanager
def busy(work: str) -> Iterator[None]:
    """Record the time of the block, if recording is on."""
    start = time.perf_counter()
    try:
        yield
    finally:
        record(work, start, time.perf_counter())


class StageTimer:
    """A stopwatch with named stages; wall seconds of the main thread.

    GPU work is asynchronous: with a CUDA `device`, a stage entered with `sync=True` waits for it before its clock
    stops. Stages that end in a copy to the host need no synchronisation.
    """

    def __init__(self, device: str = "cpu", listener: Callable[[str, float, int], None] | None = None) -> None:
        self.device = device
        self._listener = listener  # gets every (stage, seconds, count) that is added
        self._seconds: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, name: str, sync: bool = False, count: int = 1) -> Iterator[None]:
        """Add the time of the `with` block to the stage `name`, also if the block raises."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            annotate(error, stage=name)
            raise
        finally:
            if sync and self.device.startswith("cuda"):
                import torch  # noqa: PLC0415 - slow, and only for GPUs

                torch.cuda.synchronize(self.device)
            end = time.perf_counter()
            record(name, start, end)
            self.add(name, end - start, count)

    def add(self, name: str, seconds: float, count: int = 1) -> None:
        """Add `seconds` and `count` calls to a stage."""
        with self._lock:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
            self._counts[name] = self._counts.get(name, 0) + count
        if self._listener is not None:
            self._listener(name, seconds, count)

    def rows(self) -> list[StageTime]:
        """Return the stages that ran: the known ones in their order, then others by first use."""
        names = [n for n in STAGES if n in self._seconds] + [n for n in self._seconds if n not in STAGES]
        return [StageTime(n, self._seconds[n], self._counts[n]) for n in names]
