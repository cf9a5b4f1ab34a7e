"""Where the time goes: named stages, added up over a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# In the order in which the table shows them.
MODEL_LOADING = "model loading"
DATA = "data"
SOURCE = "source inference"
GAUSSIAN_SETUP = "Gaussian setup"
PRECOMPUTE = "precompute (pose + background)"
RENDER = "render per view"
ENCODE_WAIT = "encode wait"
STAGES = (MODEL_LOADING, DATA, SOURCE, GAUSSIAN_SETUP, PRECOMPUTE, RENDER, ENCODE_WAIT)


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


class Stages:
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
        finally:
            if sync and self.device.startswith("cuda"):
                import torch

                torch.cuda.synchronize(self.device)
            self.add(name, time.perf_counter() - start, count)

    def add(self, name: str, seconds: float, count: int = 1) -> None:
        """Adds `seconds` and `count` calls to a stage."""
        with self._lock:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
            self._counts[name] = self._counts.get(name, 0) + count

    def rows(self) -> list[StageTime]:
        """The stages that ran: the known ones in their order, then others as they came."""
        names = [n for n in STAGES if n in self._seconds] + [n for n in self._seconds if n not in STAGES]
        return [StageTime(n, self._seconds[n], self._counts[n]) for n in names]
