"""All events of a run in one stream, however many jobs its executor works on at a time."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from guava_aug.batch.executors.base import (
    FATAL,
    Event,
    Events,
    Executor,
    FramesDone,
    JobBegun,
    JobDone,
    JobEvent,
    LogLine,
    StageTimed,
    ViewDone,
)
from guava_aug.batch.failures import failed_record
from guava_aug.batch.jobs import Job, Part, VideoJob
from guava_aug.batch.results import ViewRecord
from guava_aug.errors import InputError, OutputError
from guava_aug.runtime.progress import Progress
from guava_aug.runtime.shutdown import Check, ShutdownRequested
from guava_aug.runtime.text import pluralize
from guava_aug.runtime.timing import StageTimer

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # between two looks whether the run is to end


def dispatch(executor: Executor, jobs: Sequence[Job], stop: Check, *, retries: int = 0) -> Events:
    """Work through jobs, `executor.capacity` at a time, and yield their events one by one.

    An executor goes on with a job when its last event has been dealt with, so that a view is noted before anything
    else happens to its job. When the generator is closed, or raises, no job is in work any more and no unfinished file
    is left.

    Args:
        executor: makes the views; it has been started.
        jobs: in the order in which they are begun.
        stop: called between jobs and now and then; when it raises, nothing more is begun. What is in flight may end
            where `ShutdownRequested` was raised, which is then raised in the end if any view was not made for it.
        retries: how often a view that failed, but not for good, is tried again.

    Raises:
        UsageError, AssetError, DeviceError, DiskFullError: every other job would fail too.
    """
    if executor.in_main_thread:
        for job in jobs:
            stop()
            yield from run_job(executor, job, retries)
    else:
        yield from _in_threads(executor, jobs, stop, retries)


def run_job(executor: Executor, job: Job, retries: int = 0) -> Events:
    """Yield the events of one job and of the retries of its failed parts; every part ends in a `ViewDone`."""
    begun = time.monotonic()
    latest: dict[str, ViewRecord] = {}
    parts: tuple[Any, ...] = job.parts
    for attempt in range(1 + retries):
        if attempt:
            yield LogLine(logging.INFO, f"{job.name}: trying {_named(len(parts), job)} again")
        yield JobBegun(job.with_parts(parts), attempt)
        with contextlib.closing(_every_part_ends(executor, job.with_parts(parts))) as events:
            for event in events:
                if isinstance(event, ViewDone):
                    latest[event.record.view] = event.record
                elif isinstance(event, FramesDone):
                    event = replace(event, video=job.name)
                yield event
        again = [latest[part.label].status == "failed" and not latest[part.label].permanent for part in parts]
        parts = tuple(part for part, failed in zip(parts, again, strict=True) if failed)
        if not parts:
            break
    yield JobDone(job, time.monotonic() - begun, tuple(latest[part.label] for part in job.parts))


def _named(count: int, job: Job) -> str:
    return pluralize(count, "failed view") if isinstance(job, VideoJob) else "a video that failed"


def run_jobs(
    executor: Executor,
    jobs: Sequence[Job],
    stop: Check,
    *,
    begin: Callable[[], None],
    take: Callable[[JobEvent], None],
    stages: StageTimer,
    progress: Progress,
    retries: int = 0,
) -> None:
    """Start an executor, work through jobs, and stop it, whatever happens.

    Args:
        executor: Makes the parts of the jobs; it is started only if any job is possible.
        jobs: In the order in which they are begun.
        stop: As for `dispatch`.
        begin: Called when the executor is ready, before the first job.
        take: Gets the events but for stages, log lines and frames; their jobs wait meanwhile.
        stages: Gets the time that the stages took.
        progress: Told of frames, and closed in the end.
        retries: How often a part that failed, but not for good, is tried again.
    """
    try:
        if (possible := sum(job.refused is None for job in jobs)) > 0:
            stop()
            executor.start(possible)
        begin()
        with contextlib.closing(dispatch(executor, jobs, stop, retries=retries)) as events:
            _take_events(events, take, stages, progress)  # a loop here could pass by the handlers: see `_in_threads`
    finally:
        try:
            executor.stop()
        finally:
            progress.close()


def _take_events(events: Events, take: Callable[[JobEvent], None], stages: StageTimer, progress: Progress) -> None:
    for event in events:
        if isinstance(event, FramesDone):
            progress.frames(event.video, event.done, event.total)
        elif isinstance(event, StageTimed):
            stages.add(event.name, event.seconds, event.count)
        elif isinstance(event, LogLine):
            log.log(event.level, "%s%s", f"{event.source}: " if event.source else "", event.text)
        else:
            take(event)


def run_alone(executor: Executor, job: Job, stages: StageTimer | None = None) -> list[ViewRecord]:
    """Make the views of one job outside of a run, and return how they ended.

    Args:
        executor: makes the views; it has been started.
        job: what is to be made.
        stages: gets the time that the stages took.
    """
    records = []
    with contextlib.closing(executor.execute(job)) as events:
        for event in events:
            if isinstance(event, ViewDone):
                records.append(event.record)
            elif isinstance(event, StageTimed) and stages is not None:
                stages.add(event.name, event.seconds, event.count)
    return records


def _every_part_ends(executor: Executor, job: Job) -> Events:
    """Yield the events of one attempt; parts that are left when the executor ends or raises have failed."""
    left: dict[str, Part] = {part.label: part for part in job.parts}
    failure: Exception | None = None
    try:
        if job.refused is not None:
            raise InputError(job.refused)
        with contextlib.closing(executor.execute(job)) as events:  # so that files are removed before anything else
            for event in events:
                if isinstance(event, ViewDone):
                    left.pop(event.record.view, None)
                yield event
        if left:
            failure = OutputError(f"{job.name}: nothing was reported of {', '.join(left)}; run it again")
    except FATAL:
        raise
    except Exception as error:
        log.debug("video %s failed", job.name, exc_info=True)
        failure = error
    if failure is not None:
        for part in left.values():
            yield ViewDone(replace(failed_record(job, part, failure), permanent=job.refused is not None))


class _Closed(BaseException):
    """The reader of the stream has left."""


@dataclass(eq=False)
class _Handed:
    """An event on its way to the reader of the stream."""

    event: Event
    is_dealt_with: bool = False
    woken: queue.SimpleQueue[None] = field(default_factory=queue.SimpleQueue)


@dataclass(eq=False)
class _JobEnded:
    """A thread is free again."""

    error: BaseException | None


class _Stream:
    """Events of the jobs of several threads for one reader; a thread goes on when its event has been dealt with.

    Ctrl-C raises an exception wherever the reader is, also between taking a lock and the block that gives it back, and
    `Thread.join` takes a thread for ended when it is interrupted (CPython issue 90882). So the reader neither takes
    locks of Python nor joins threads: it puts into and gets from queues, and the threads say themselves that they work.
    """

    def __init__(self, run: Callable[[Job], Events], num_threads: int) -> None:
        self._run = run
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # None: a thread may end
        self._queue: queue.SimpleQueue[_Handed | _JobEnded] = queue.SimpleQueue()
        self._handed: set[_Handed] = set()  # those whose threads wait
        self._in_work: set[_JobEnded] = set()  # a thread adds and removes its own
        self._is_closed = False
        self._num_threads = num_threads

    def start(self) -> None:
        """Start the threads, which wait for jobs."""
        for _ in range(self._num_threads):
            threading.Thread(target=self._serve, name="job", daemon=True).start()

    def begin(self, job: Job) -> None:
        """Let a free thread begin a job."""
        self._jobs.put(job)

    def read(self) -> _Handed | _JobEnded | None:
        """Return what comes next, None if nothing comes within `POLL_SECONDS`."""
        try:
            return self._queue.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return None

    def dealt_with(self, handed: _Handed) -> None:
        """Let the thread of an event go on."""
        handed.is_dealt_with = True
        handed.woken.put(None)

    def close(self) -> None:
        """Let the threads that wait end their jobs, and return when no job is in work any more."""
        self._is_closed = True
        for handed in list(self._handed):
            handed.woken.put(None)
        while self._in_work:
            self.read()
        for _ in range(self._num_threads):
            self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            ended = _JobEnded(None)
            self._in_work.add(ended)
            try:
                if not self._is_closed:  # looked at when `close` knows of this job
                    with contextlib.closing(self._run(job)) as events:
                        for event in events:
                            self._hand(event)
            except BaseException as error:  # for the reader, who raises it
                ended.error = error
            finally:
                self._in_work.discard(ended)
                self._queue.put(ended)

    def _hand(self, event: Event) -> None:
        """Hand over an event, and wait until it has been processed. Raises _Closed when the stream was closed."""
        handed = _Handed(event)
        self._handed.add(handed)
        try:
            self._queue.put(handed)
            while not (handed.is_dealt_with or self._is_closed):
                with contextlib.suppress(queue.Empty):
                    handed.woken.get(timeout=POLL_SECONDS)
        finally:
            self._handed.discard(handed)
        if not handed.is_dealt_with:
            raise _Closed


def _in_threads(executor: Executor, jobs: Sequence[Job], stop: Check, retries: int) -> Events:
    stream = _Stream(lambda job: run_job(executor, job, retries), min(executor.capacity, len(jobs)))
    # No loop within this block: where CPython 3.12 and 3.13 jump back in a loop, they look for signals, and an
    # exception from there passes by the handlers of the function that holds the loop.
    try:
        stream.start()
        yield from _events_of_threads(stream, executor, jobs, stop)
    finally:
        try:
            executor.stop()  # first: whoever waits for a worker is told that none comes
        finally:
            try:
                stream.close()
            finally:
                stream.close()  # again: Ctrl-C may have come before it began, or while it waited


def _events_of_threads(stream: _Stream, executor: Executor, jobs: Sequence[Job], stop: Check) -> Events:
    waiting, running = list(reversed(jobs)), 0
    request: ShutdownRequested | None = None  # what `stop` raised
    unfinished = False  # because of it
    while waiting or running:
        if request is None:
            try:
                stop()
            except ShutdownRequested as raised:
                request, unfinished = raised, bool(waiting)
                waiting.clear()
                executor.request_stop()
        while waiting and running < executor.capacity:
            stream.begin(waiting.pop())
            running += 1
        if not running:
            break
        came = stream.read()
        if isinstance(came, _Handed):
            yield came.event
            stream.dealt_with(came)
        elif came is not None:
            running -= 1
            if isinstance(came.error, ShutdownRequested) and request is not None:
                unfinished = True  # this job was left half done as asked; the others may end as well
            elif came.error is not None:
                raise came.error
    if request is not None and unfinished:
        raise request
