"""Worker processes on this machine: `--gpus 0,1,2,3`, `--workers N`, and the limit of `--timeout`."""

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from guava_aug.batch.executors.base import FramesDone, StageTimed
from guava_aug.batch.executors.work import WorkConfig
from guava_aug.batch.executors.worker_pool import STOP_SECONDS, Timeout, WorkerDied, WorkerPool, WorkerTimeout
from guava_aug.errors import DeviceError
from guava_aug.runtime.cpus import usable_cpus
from guava_aug.runtime.processes import child_environment
from guava_aug.runtime.text import pluralize

if TYPE_CHECKING:
    from guava_aug.batch.executors.worker import Message
    from guava_aug.batch.jobs import Job

log = logging.getLogger(__name__)

TAIL = 20  # lines of a dead worker's standard error that are kept
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class WorkerSlot:
    """The device and the environment of a worker process."""

    name: str
    device: str  # as --device
    environment: dict[str, str]


class LocalWorkerPool(WorkerPool):
    """`--gpus`, `--workers`, `--timeout`: worker processes on this machine."""

    def __init__(self, config: WorkConfig) -> None:
        super().__init__(config, (config.workers or 1) * len(config.gpus or ("",)), self._start_worker)
        self._slots: Sequence[WorkerSlot] = ()

    def start(self, num_jobs: int) -> None:
        """Start the workers. Raises DeviceError, UsageError for GPUs that are not there; AssetError."""
        self._limit_workers(num_jobs)
        self._slots = worker_slots(self.config, self.capacity)
        super().start(num_jobs)

    def _start_worker(self, number: int) -> LocalWorkerHandle:
        return LocalWorkerHandle(self.config, self._slots[number], self.timeout)


def worker_slots(config: WorkConfig, size: int) -> list[WorkerSlot]:
    """Return slots for `size` workers: on the run's device, or spread over its GPUs, at most `config.workers` on each.

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
    for i in range(config.workers or 1):  # one on every GPU, then a second on each: there may be fewer than requested
        for gpu, name in zip(config.gpus, names, strict=True):
            label = f"GPU {gpu}" + (f" worker {i}" if (config.workers or 1) > 1 else "")
            found.append(WorkerSlot(label, "0", {"CUDA_VISIBLE_DEVICES": name}))
    return found[:size]


def _visible_names(gpus: Sequence[str], visible: str | None) -> list[str]:
    """Return CUDA_VISIBLE_DEVICES for each of `--gpus`, whose numbers count among the GPUs that this process sees."""
    import torch  # noqa: PLC0415 - imports torch, which is slow

    from guava_aug.runtime.device import advice, gpu_usable, why_unusable  # noqa: PLC0415 - imports torch, which is slow

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
    """One process `python -m guava_aug worker`. See `WorkerHandle`."""

    def __init__(self, config: WorkConfig, slot: WorkerSlot, timeout: Timeout) -> None:
        self.name, self._timeout = slot.name, timeout
        self._process = subprocess.Popen(  # Ctrl-C reaches it through this process alone
            [sys.executable, "-m", "guava_aug", "worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**child_environment(), **slot.environment}, start_new_session=True,
        )  # fmt: skip
        self._received: queue.Queue[Message | None] = queue.Queue()
        self._stderr_tail: deque[str] = deque(maxlen=TAIL)
        self._reader = threading.Thread(target=self._read, name=f"messages of {self.name}", daemon=True)
        self._error_reader = threading.Thread(target=self._read_errors, name=f"errors of {self.name}", daemon=True)
        self._reader.start()
        self._error_reader.start()
        self._stopping, self._sending = threading.Lock(), threading.Lock()
        required = config.require_gpu or config.gpus is not None
        self._send(replace(config, device=slot.device, require_gpu=required, gpus=None, workers=None, timeout=None))

    def ready(self) -> Iterator[Message]:
        """Yield its messages until its model is loaded. Raises WorkerDied."""
        yield from self._messages(None)

    def execute(self, job: Job) -> Iterator[Message]:
        """Yield its messages about one job. Raises WorkerDied, also when none comes for too long (`Timeout`)."""
        self._send(job)
        yield from self._messages(self._timeout)

    def request_stop(self) -> None:
        """See `WorkerHandle`."""
        self._send(None)

    def stop(self) -> None:
        """See `WorkerHandle`."""
        with self._stopping:
            kill = threading.Timer(STOP_SECONDS, self._process.kill)  # also ends a write that it does not read
            kill.start()
            try:
                with contextlib.suppress(OSError):
                    assert self._process.stdin is not None
                    self._process.stdin.close()  # it takes this as the end of its work
                self._process.wait()
            finally:
                kill.cancel()

    def _send(self, what: Any) -> None:
        data = pickle.dumps(what)
        assert self._process.stdin is not None
        with self._sending, contextlib.suppress(OSError, ValueError):  # it died, which the reader of messages finds out
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def _messages(self, timeout: Timeout | None) -> Iterator[Message]:
        last = "the beginning"
        while True:
            begun = time.monotonic()
            try:
                event = self._received.get(timeout=None if timeout is None else timeout.seconds)
            except queue.Empty:
                self._process.kill()  # it may hang where it handles no other signal
                raise WorkerTimeout(
                    f"nothing happened for {timeout} after {last}: reading, rendering or encoding hangs"
                ) from None
            if event is None:
                raise WorkerDied(self._exit_reason())
            if timeout is not None:
                timeout.seen(time.monotonic() - begun)
            if isinstance(event, FramesDone):
                last = f"{pluralize(event.done, 'frame')} of {event.total}"
            elif isinstance(event, StageTimed):
                last = f"the stage {event.name!r}"
            yield event

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                self._received.put(pickle.load(self._process.stdout))
        except EOFError:
            pass
        except Exception:  # a message that was cut off by its death can raise almost anything
            log.debug("%s: the messages end with one that cannot be read", self.name, exc_info=True)
        finally:
            self._received.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._stderr_tail.append(text)
            log.debug("%s: %s", self.name, text)

    def _exit_reason(self) -> str:
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:  # it has closed its output, but does not end
            self._process.kill()
            code = self._process.wait()
        self._error_reader.join(1)
        words = " ".join(" ".join(self._stderr_tail).split())[-1000:]
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = str(-code)
            hint = "; the system kills so when memory runs out" if -code == 9 else ""
            return f"the process was ended by {name}{hint}" + (f": {words}" if words else "")
        return f"the process ended with code {code}: {words or 'it wrote no message'}"
