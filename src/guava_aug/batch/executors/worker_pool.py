"""Several processes that make videos at the same time, as one executor: one that dies is replaced, its job repeated."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

from guava_aug.batch.executors.base import Event, Events, LogLine, StageTimed, ViewDone
from guava_aug.batch.executors.work import WorkConfig, check_config, remove_unfinished
from guava_aug.batch.executors.worker import Ended, Message, Ready, Used
from guava_aug.batch.jobs import Job, Part
from guava_aug.errors import (
    AssetError,
    DeviceError,
    DeviceLostError,
    DiskFullError,
    InputError,
    OutputError,
    UsageError,
)
from guava_aug.runtime.shutdown import ShutdownRequested
from guava_aug.runtime.text import pluralize

log = logging.getLogger(__name__)

STOP_SECONDS = 8.0  # seconds a worker has to remove its unfinished files
MAX_ATTEMPTS = 2  # workers that may die on one video before the video is given up
STARTS = 3  # times in a row that a worker may die while it starts before the others go on without it
LEAST_TIMEOUT = 600.0  # seconds without a message while a worker makes a video, if --timeout is not given
TIMEOUT_FACTOR = 20.0  # and how many times as long as the longest time between two messages
_KINDS = {kind.__name__: kind for kind in (InputError, OutputError, UsageError, AssetError, DeviceError, DiskFullError)}


class WorkerDied(Exception):
    """A worker process has ended, hangs or cannot go on; the message says how it ended."""


class WorkerTimeout(WorkerDied):
    """A worker process sent no message for the time of --timeout, and was ended."""


class Timeout:
    """How long a worker may send no message while it makes a video: --timeout, or by what was seen in this run."""

    def __init__(self, seconds: float | None) -> None:
        self._given, self._longest = seconds, 0.0

    @property
    def seconds(self) -> float:
        """Return the time without a message after which a worker counts as hanging, seconds."""
        return max(LEAST_TIMEOUT, TIMEOUT_FACTOR * self._longest) if self._given is None else self._given

    def seen(self, seconds: float) -> None:
        """Note a time between two messages, in seconds. From any thread."""
        self._longest = max(self._longest, seconds)

    def __str__(self) -> str:
        return f"{self.seconds:g} s (--timeout{' auto' if self._given is None else ''})"


class WorkerHandle(Protocol):
    """One worker process, wherever it is."""

    name: str  # for the log: "worker 3 (GPU 3)"

    def ready(self) -> Iterator[Message]:
        """Yield its messages until it is ready. Raises WorkerDied."""

    def execute(self, job: Job) -> Iterator[Message]:
        """Yield its messages until the job is over. Raises WorkerDied."""

    def request_stop(self) -> None:
        """Let it finish the views in flight and no more. From any thread."""

    def stop(self) -> None:
        """End it now; it removes its unfinished files if it still can. From any thread, any number of times."""


class WorkerPool:
    """Makes as many videos at a time as it has workers. See `Executor`; `execute` is iterated by a thread per job.

    Args:
        capacity: number of workers.
        start_worker: starts the worker with this number; called again with the same number to replace it.
    """

    in_main_thread = False

    def __init__(self, config: WorkConfig, capacity: int, start_worker: Callable[[int], WorkerHandle]) -> None:
        self.config, self.capacity = config, capacity
        self._start_worker = start_worker
        self.timeout = Timeout(config.timeout)
        self._free: queue.Queue[tuple[int, WorkerHandle] | Exception] = queue.Queue()
        self._workers: dict[int, WorkerHandle] = {}
        self._lock = threading.Lock()  # of what follows
        self._stopping = False
        self._described: dict[str, Any] = {}
        self._backgrounds: dict[WorkerHandle, Counter[str]] = {}  # also of workers that were replaced
        self._logged: set[str] = set()
        self._timed: deque[StageTimed] = deque()  # while workers were started

    def check(self) -> None:
        """Raise UsageError, InputError or AssetError for flags that cannot work with any video."""
        check_config(self.config)

    def _limit_workers(self, num_jobs: int) -> None:
        if num_jobs < self.capacity:
            log.info(
                "%s for %s, not %d", pluralize(max(num_jobs, 1), "worker"), pluralize(num_jobs, "video"), self.capacity
            )
            self.capacity = max(num_jobs, 1)

    def start(self, num_jobs: int) -> None:
        """Start all workers; one that dies while it starts is started again, and left out when it dies `STARTS` times.

        Raises:
            AssetError, DeviceError: no worker can be started.
        """
        self._limit_workers(num_jobs)
        begun, reason = time.monotonic(), ""
        try:
            for number in range(self.capacity):
                with contextlib.suppress(OSError):  # no memory for a process, no free handle: tried again below
                    self._workers[number] = self._start_worker(number)
            for number in range(self.capacity):
                try:
                    self._free.put((number, self._bring_up(number, self._workers.get(number))))
                except (WorkerDied, OSError) as death:
                    reason = str(death)
                    self._workers.pop(number, None)
                    log.error("worker %d cannot be started: %s; the others go on without it", number, reason)
            if not self._workers:
                raise DeviceError(f"no worker could be started: {reason}")
        except BaseException:
            self.stop()
            raise
        self.capacity = len(self._workers)
        log.info("%s ready after %.1f s", pluralize(self.capacity, "worker"), time.monotonic() - begun)

    def execute(self, job: Job) -> Events:
        """See `Executor`. A job whose worker dies is given to another one, once.

        Raises:
            ShutdownRequested: the pool was stopped.
        """
        left: dict[str, Part] = {part.label: part for part in job.parts}
        reason = ""
        for _ in range(MAX_ATTEMPTS):
            yield from self._take_timed()
            number, worker = self._take()
            try:
                messages = worker.execute(job.with_parts(tuple(left.values())))
                error = yield from self._listen(worker, messages, left)
            except WorkerDied as death:
                reason = str(death)
                self._replace_later(number, worker, f"{job.name}: {reason}")
                for label in left:  # it could not remove its unfinished files itself
                    remove_unfinished(self.config, job, label)
                if not left:
                    return
                if isinstance(death, WorkerTimeout):  # it would again: `--retries` decides
                    raise InputError(f"{job.name}: {reason}") from None
                continue
            except BaseException:  # the reader has left: this worker still sends messages of a job that is over
                self._replace_later(number, worker, f"{job.name}: it was interrupted")
                raise
            self._free.put((number, worker))
            if error is not None:
                raise error
            return
        raise InputError(f"{job.name}: {MAX_ATTEMPTS} workers in a row ended while they made it: {reason}")

    def request_stop(self) -> None:
        """Let every worker finish the views in flight and no more; then `execute` raises `ShutdownRequested`."""
        self._release_waiting()
        for worker in list(self._workers.values()):
            worker.request_stop()

    def stop(self) -> None:
        """End all workers; jobs in work end with `ShutdownRequested` in their threads."""
        self._release_waiting()
        stopping = [threading.Thread(target=worker.stop) for worker in list(self._workers.values())]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()

    def _release_waiting(self) -> None:
        """Stop waiting for a free worker: workers that are ending are never free again."""
        self._stopping = True
        self._free.put(WorkerDied("the workers were stopped"))

    def describe(self) -> dict[str, Any]:
        """Return what the workers reported to have used."""
        backgrounds: Counter[str] = Counter()
        with self._lock:
            for counts in self._backgrounds.values():
                backgrounds.update(counts)
            return {**self._described, "backgrounds": dict(backgrounds), "workers": self.capacity}

    def _take(self) -> tuple[int, WorkerHandle]:
        found = self._free.get()
        if isinstance(found, Exception):
            self._free.put(found)  # for the other threads
            if self._stopping:
                raise ShutdownRequested
            raise found
        return found

    def _replace_later(self, number: int, worker: WorkerHandle, why: str) -> None:
        """Put a new worker in the place of one that failed, in a thread: meanwhile another one can take over its job.

        Raises:
            ShutdownRequested: the pool is to end, and needs no new workers.
        """
        worker.stop()
        if self._stopping:
            raise ShutdownRequested
        log.warning("%s ended (%s); another one takes its place", worker.name, why)
        threading.Thread(target=self._replace, args=(number, worker), name="replace", daemon=True).start()

    def _bring_up(self, number: int, worker: WorkerHandle | None) -> WorkerHandle:
        """Return a worker that is ready: `worker`, a new one if it dies while it starts, and so on.

        Raises:
            WorkerDied, OSError: `STARTS` in a row died, or could not be made. ShutdownRequested: the pool is to end.
        """
        for start in range(1, STARTS + 1):
            try:
                if worker is None:
                    worker = self._workers[number] = self._start_worker(number)
                if self._stopping:
                    worker.stop()
                self._wait_until_ready(worker)
                return worker
            except (WorkerDied, OSError) as death:
                if worker is not None:
                    worker.stop()
                if self._stopping:
                    raise ShutdownRequested from None
                if start == STARTS:
                    raise
                log.warning("worker %d ended while it started (%s); it is started again", number, death)
                worker = None
        raise AssertionError  # the loop has returned or raised

    def _replace(self, number: int, worker: WorkerHandle) -> None:
        try:
            self._free.put((number, self._bring_up(number, None)))
        except (Exception, ShutdownRequested) as error:  # also the system's: no memory for a process, no free handle
            if self._stopping:
                return
            log.error("%s cannot be started again: %s", worker.name, error)
            self._workers.pop(number, None)
            if not self._workers:  # whoever waits for a worker must know that none comes
                self._free.put(DeviceError(f"no worker is left, and none can be started: {error}"))

    def _wait_until_ready(self, worker: WorkerHandle) -> None:
        """Read the messages of a worker while it starts. Raises what stopped it."""
        messages = self._listen(worker, worker.ready(), {})
        while True:
            try:
                event = next(messages)
            except StopIteration as end:
                if end.value is not None:
                    raise end.value from None
                return
            if isinstance(event, LogLine):
                log.log(event.level, "%s: %s", event.source, event.text)
            elif isinstance(event, StageTimed):
                self._timed.append(event)

    def _listen(
        self, worker: WorkerHandle, messages: Iterator[Message], left: dict[str, Part]
    ) -> Generator[Event, None, Exception | None]:
        """Yield the events of a worker; return the error that ended its job. Raises WorkerDied.

        Args:
            worker: the sender.
            messages: what it sends, until its job is over or it is ready.
            left: the parts of the job, by label; those that end are removed.
        """
        with contextlib.closing(messages):  # type: ignore[type-var]  # generators
            for message in messages:
                if isinstance(message, Ready):
                    return None
                if isinstance(message, Ended):
                    return None if message.error is None else self._error(*message.error)
                if isinstance(message, Used):
                    self._describe(worker, message.content)
                    continue
                if isinstance(message, ViewDone):
                    left.pop(message.record.view, None)
                elif isinstance(message, LogLine):
                    message = self._once(worker, message)
                yield message
        raise WorkerDied("it stopped without saying why")

    def _take_timed(self) -> Iterator[StageTimed]:
        """Yield the stages of workers that were started meanwhile; several threads do."""
        with contextlib.suppress(IndexError):
            while True:
                yield self._timed.popleft()

    def _error(self, kind: str, text: str) -> Exception:
        if kind == ShutdownRequested.__name__:  # by a signal to the worker alone, or because all are to end
            if self._stopping:
                raise ShutdownRequested
            raise WorkerDied("it was asked to end by a signal")
        if kind == DeviceLostError.__name__:  # another process can go on
            raise WorkerDied(text)
        return _KINDS.get(kind, InputError)(text)

    def _once(self, worker: WorkerHandle, line: LogLine) -> LogLine:
        """Return a worker's line with its name, at level DEBUG when any worker has logged the same before."""
        with self._lock:
            is_new = line.text not in self._logged
            self._logged.add(line.text)
        return LogLine(line.level if is_new else logging.DEBUG, line.text, worker.name)

    def _describe(self, worker: WorkerHandle, used: dict[str, Any]) -> None:
        with self._lock:
            self._backgrounds[worker] = Counter(used.pop("backgrounds", {}))
            self._described = used
