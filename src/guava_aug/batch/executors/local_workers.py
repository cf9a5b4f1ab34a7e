"""Worker processes on this machine: `--gpus 0,1,2,3`, `--workers N`, and the watch of `--timeout`."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.worker_pool import Patience, WorkerDied, WorkerPool, WorkerTimeout
from guava_aug.errors import DeviceError
from guava_aug.runtime.cpus import usable_cpus
from guava_aug.runtime.processes import child_environment
from guava_aug.runtime.progress import Progress
from guava_aug.runtime.text import pluralize
from guava_aug.runtime.timing import StageTimer

if TYPE_CHECKING:
    from guava_aug.batch.executors.worker import Event

log = logging.getLogger(__name__)

ENDING = 8.0  # seconds a worker has to remove its unfinished files
TAIL = 20  # lines of a dead worker's standard error that are kept
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class WorkerSlot:
    """Where a worker works."""

    name: str
    device: str  # as --device
    environment: dict[str, str]


class LocalWorkerPool(WorkerPool):
    """`--gpus`, `--workers`, `--timeout`: worker processes on this machine."""

    def __init__(self, config: RunConfig, stages: StageTimer, progress: Progress) -> None:
        size = (config.workers or 1) * len(config.gpus or ("",))
        super().__init__(config, stages, progress, size, self._start)
        self._places: Sequence[WorkerSlot] = ()

    def prepare(self) -> None:
        """Starts the workers. Raises DeviceError, UsageError for GPUs that are not there; AssetError."""
        self._places = worker_slots(self.config, self.parallel)
        super().prepare()

    def _start(self, number: int) -> LocalWorkerHandle:
        return LocalWorkerHandle(self.config, self._places[number], self.patience)


def worker_slots(config: RunConfig, size: int) -> list[WorkerSlot]:
    """Where `size` workers work: on the run's device, or spread over its GPUs, at most `config.workers` on each.

    Raises:
        DeviceError: a GPU is not there.
    """
    if config.gpus is None:
        threads = str(max(1, usable_cpus() // size))
        shared = {name: threads for name in _THREADS if name not in os.environ} if size > 1 else {}
        return [WorkerSlot(f"worker {i}", config.device, shared) for i in range(size)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = _visible_names(config.gpus, visible)
    found = []
    for i in range(config.workers or 1):  # the first of every GPU, then the second: there may be fewer than asked for
        for gpu, name in zip(config.gpus, names, strict=True):
            label = f"GPU {gpu}" + (f" worker {i}" if (config.workers or 1) > 1 else "")
            found.append(WorkerSlot(label, "0", {"CUDA_VISIBLE_DEVICES": name}))
    return found[:size]


def _visible_names(gpus: Sequence[str], visible: str | None) -> list[str]:
    """What CUDA_VISIBLE_DEVICES must be for each of `--gpus`: numbers count among the GPUs that this process sees."""
    import torch

    from guava_aug.runtime.device import advice, gpu_usable, why_unusable

    if not gpu_usable():
        raise DeviceError(
            f"--gpus {','.join(gpus)}: there is no GPU that torch can use ({why_unusable()}); {advice()}; "
            "to use the CPU, give --device cpu instead"
        )
    count = torch.cuda.device_count()
    names = [name.strip() for name in visible.split(",")] if visible else [str(i) for i in range(count)]
    found = []
    for gpu in gpus:
        if not gpu.isdecimal():
            found.append(gpu)  # a UUID
        elif int(gpu) < min(count, len(names)):
            found.append(names[int(gpu)])
        else:
            there = "GPU 0" if count == 1 else f"GPUs 0 to {count - 1}"
            raise DeviceError(f"--gpus {','.join(gpus)}: there is no GPU {gpu}; torch finds {there} on this machine")
    return found


class LocalWorkerHandle:
    """One `python -m guava_aug worker`."""

    def __init__(self, config: RunConfig, place: WorkerSlot, patience: Patience) -> None:
        self.name, self._patience = place.name, patience
        self._process = subprocess.Popen(  # Ctrl-C reaches it through this process alone
            [sys.executable, "-m", "guava_aug", "worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**child_environment(), **place.environment}, start_new_session=True,
        )  # fmt: skip
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._last_words: deque[str] = deque(maxlen=TAIL)
        self._hearing = threading.Thread(target=self._hear, name=f"hear {self.name}", daemon=True)
        self._errors = threading.Thread(target=self._hear_errors, name=f"errors of {self.name}", daemon=True)
        self._hearing.start()
        self._errors.start()
        self._ending = threading.Lock()
        required = config.require_gpu or config.gpus is not None
        self._tell(replace(config, device=place.device, require_gpu=required, gpus=None, workers=None, timeout=None))

    def ready(self) -> Iterator[Event]:
        """What it says until its model is loaded. Raises MemberDied."""
        yield from self._said(None)

    def make(self, video: str, labels: Mapping[str, int]) -> Iterator[Event]:
        """What it says about one video. Raises MemberDied, also when it says nothing for too long (`Patience`)."""
        self._tell((video, labels))
        yield from self._said(self._patience)

    def ask_to_end(self) -> None:
        """See `Member`."""
        self._tell(None)

    def end(self) -> None:
        """See `Member`."""
        with self._ending:
            with contextlib.suppress(OSError):
                assert self._process.stdin is not None
                self._process.stdin.close()  # it takes this as the end of its work
            try:
                self._process.wait(ENDING)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _tell(self, what: Any) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it died, which whoever listens finds out
            pickle.dump(what, self._process.stdin)
            self._process.stdin.flush()

    def _said(self, patience: Patience | None) -> Iterator[Event]:
        last = "nothing"
        while True:
            begun = time.monotonic()
            try:
                event = self._events.get(timeout=None if patience is None else patience.seconds)
            except queue.Empty:
                self._process.kill()  # it may hang where no signal reaches it
                raise WorkerTimeout(
                    f"nothing happened for {patience} after {last}: reading, rendering or encoding hangs"
                ) from None
            if patience is not None and event is not None:
                patience.seen(time.monotonic() - begun)
            if event is None:
                raise WorkerDied(self._how_it_ended())
            kind, content = event
            if kind in ("stage", "frames"):
                rendered = kind == "frames"
                last = f"{pluralize(content[0], 'frame')} of {content[1]}" if rendered else f"the stage {content[0]!r}"
            yield event

    def _hear(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                self._events.put(pickle.load(self._process.stdout))
        self._events.put(None)

    def _hear_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._last_words.append(text)
            log.debug("%s: %s", self.name, text)

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        self._errors.join(1)
        words = " ".join(" ".join(self._last_words).split())[-1000:]
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = str(-code)
            hint = "; the system kills so when memory runs out" if -code == 9 else ""
            return f"the process was ended by {name}{hint}" + (f": {words}" if words else "")
        return f"the process ended with code {code}: {words or 'it said nothing'}"
