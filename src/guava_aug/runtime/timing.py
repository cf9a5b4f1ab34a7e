"""Where the time goes: named stages, added up over a run; and, for who listens, when each thread was busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from guava_aug.runtime.failures import annotate

# In the order in which the table shows them.
MODEL_LOADING = "model loading"
DATA = "data"
SOURCE = "source inference"
GAUSSIAN_SETUP = "Gaussian setup"
PRECOMPUTE = "precompute (pose + background)"
RENDER = "render per view"
ENCODE_WAIT = "encode wait"
STAGES = (MODEL_LOADING, DATA, SOURCE, GAUSSIAN_SETUP, PRECOMPUTE, RENDER, ENCODE_WAIT)

# What other threads do beside the stages; only recorded, never added up.
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
        """Seconds per call."""
        return self.seconds / self.count if self.count else 0.0


@dataclass(frozen=True)
class Interval:
    """A time in which one thread was busy with one kind of work."""

    work: str  # a stage, or DECODE, ENCODE, VERIFY
    thread: str
    start: float  # time.perf_counter(), seconds
    end: float


# Like a log's handler: one for the process, so that threads need not be told; None unless somebody listens.
_listener: list[Interval] | None = None


@contextmanager
def recording() -> Iterator[list[Interval]]:
    """The intervals of all threads of this process, added to the list as they end, until the block is left."""
    global _listener
    before, _listener = _listener, []
    try:
        yield _listener
    finally:
        _listener = before


def record(work: str, start: float, end: float) -> None:
    """Notes that this thread was busy from `start` to `end` (`time.perf_counter()`), if somebody listens."""
    if _listener is not None:
        _listener.append(Interval(work, threading.current_thread().name, start, end))


@contextmanager
def busy(work: str) -> Iterator[None]:
    """Notes the time of the block, if somebody listens."""
    start = time.perf_counter()
    try:
        yield
    finally:
        record(work, start, time.perf_counter())


class StageTimer:
    """A stopwatch with named stages; wall seconds of the main thread.

    GPU work is asynchronous: give `device` a CUDA device and a stage entered with `sync=True` waits for it before its
    clock stops. Stages that end in a copy to the host need no wait of their own.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._seconds: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, name: str, sync: bool = False, count: int = 1) -> Iterator[None]:
        """Adds the time inside the `with` block to the stage `name`, also when the block raises."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            annotate(error, stage=name)
            raise
        finally:
            if sync and self.device.startswith("cuda"):
                import torch

                torch.cuda.synchronize(self.device)
            end = time.perf_counter()
            record(name, start, end)
            self.add(name, end - start, count)

    def add(self, name: str, seconds: float, count: int = 1) -> None:
        """Adds `seconds` and `count` calls to a stage."""
        with self._lock:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
            self._counts[name] = self._counts.get(name, 0) + count

    def rows(self) -> list[StageTime]:
        """The stages that ran: the known ones in their order, then others as they came."""
        names = [n for n in STAGES if n in self._seconds] + [n for n in self._seconds if n not in STAGES]
        return [StageTime(n, self._seconds[n], self._counts[n]) for n in names]
