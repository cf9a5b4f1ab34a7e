"""All events of a run in one stream, however many jobs its executor works on at a time."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from guava_aug.batch.executors.base import (
    FATAL,
    Event,
    Events,
    Executor,
    FramesDone,
    JobBegun,
    JobDone,
    LogLine,
    StageTimed,
    ViewDone,
)
from guava_aug.batch.failures import failed_record
from guava_aug.batch.jobs import VideoJob
from guava_aug.batch.results import ViewRecord
from guava_aug.errors import InputError, OutputError
from guava_aug.runtime.shutdown import Check, ShutdownRequested
from guava_aug.runtime.text import pluralize
from guava_aug.runtime.timing import StageTimer

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # between two looks whether the run is to end


def dispatch(executor: Executor, jobs: Sequence[VideoJob], stop: Check, *, retries: int = 0) -> Events:
    """Work through jobs, `executor.capacity` at a time, and give their events one by one.

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


def run_job(executor: Executor, job: VideoJob, retries: int = 0) -> Events:
    """Give the events of one job and of the further tries of its failed views; every view ends in a `ViewDone`."""
    begun = time.monotonic()
    latest: dict[str, ViewRecord] = {}
    views = job.views
    for attempt in range(1 + retries):
        if attempt:
            yield LogLine(logging.INFO, f"{job.name}: trying {pluralize(len(views), 'failed view')} again")
        yield JobBegun(replace(job, views=views), attempt)
        with contextlib.closing(_every_view_ends(executor, replace(job, views=views))) as events:
            for event in events:
                if isinstance(event, ViewDone):
                    latest[event.record.view] = event.record
                elif isinstance(event, FramesDone):
                    event = replace(event, video=job.name)
                yield event
        again = [latest[view.label].status == "failed" and not latest[view.label].permanent for view in views]
        views = tuple(view for view, failed in zip(views, again, strict=True) if failed)
        if not views:
            break
    yield JobDone(job, time.monotonic() - begun, tuple(latest[view.label] for view in job.views))


def run_alone(executor: Executor, job: VideoJob, stages: StageTimer | None = None) -> list[ViewRecord]:
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


def _every_view_ends(executor: Executor, job: VideoJob) -> Events:
    """Give the events of one try; views that are left when the executor ends or raises have failed for its reason."""
    left = {view.label: view for view in job.views}
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
        for view in left.values():
            yield ViewDone(replace(failed_record(job, view, failure), permanent=job.refused is not None))


class _Closed(BaseException):
    """The reader of the stream has left."""


@dataclass
class _Handed:
    """An event on its way to the reader of the stream."""

    event: Event
    is_dealt_with: bool = False


class _Stream:
    """Events of several threads for one reader; a thread goes on when its event has been dealt with."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Handed | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._is_closed = False

    def hand(self, event: Event) -> None:
        """Hand over an event, and wait until it has been dealt with. Raises _Closed when nobody will."""
        handed = _Handed(event)
        self._queue.put(handed)
        with self._changed:
            while not (handed.is_dealt_with or self._is_closed):
                self._changed.wait(POLL_SECONDS)
        if not handed.is_dealt_with:
            raise _Closed

    def wake_up(self) -> None:
        """Let the reader look at its threads."""
        self._queue.put(None)

    def read(self) -> Events:
        """Give the next event, if one comes within `POLL_SECONDS`."""
        with contextlib.suppress(queue.Empty):
            handed = self._queue.get(timeout=POLL_SECONDS)
            if handed is not None:
                yield handed.event
                with self._changed:
                    handed.is_dealt_with = True
                    self._changed.notify_all()

    def close(self) -> None:
        """Let the waiting threads end."""
        self._is_closed = True
        with self._changed:
            self._changed.notify_all()


def _end(pool: ThreadPoolExecutor, prefix: str) -> None:
    """Wait until no thread of the pool is left, also where Ctrl-C comes now or came while one was being started.

    Such a thread may work without being among those that the pool itself waits for.
    """
    try:
        pool.shutdown(cancel_futures=True)
    finally:  # a second Ctrl-C goes through
        for thread in threading.enumerate():
            if thread.name.startswith(prefix):
                while thread.ident is None and thread in threading.enumerate():
                    time.sleep(0.001)  # `join` refuses a thread that has not begun
                if thread.ident is not None:
                    thread.join()


def _in_threads(executor: Executor, jobs: Sequence[VideoJob], stop: Check, retries: int) -> Events:
    stream = _Stream()

    def work(job: VideoJob) -> None:
        with contextlib.closing(run_job(executor, job, retries)) as events:
            for event in events:
                stream.hand(event)

    waiting, running = list(reversed(jobs)), set[Future[None]]()
    request: ShutdownRequested | None = None  # what `stop` raised
    unfinished = False  # because of it
    pool = ThreadPoolExecutor(executor.capacity, thread_name_prefix=f"job of {id(stream)}")
    try:
        while waiting or running:
            if request is None:
                try:
                    stop()
                except ShutdownRequested as raised:
                    request, unfinished = raised, bool(waiting)
                    waiting.clear()
                    executor.request_stop()
            while waiting and len(running) < executor.capacity:
                future = pool.submit(work, waiting.pop())
                running.add(future)
                future.add_done_callback(lambda _: stream.wake_up())
            if not running:
                break
            yield from stream.read()
            for future in [future for future in running if future.done()]:
                running.remove(future)
                try:
                    future.result()
                except ShutdownRequested:  # this job was left half done as asked; the others may end as well
                    if request is None:
                        raise
                    unfinished = True
    finally:
        try:
            executor.stop()  # first: whoever waits for a worker is told that none comes
        finally:
            try:
                stream.close()
            finally:
                _end(pool, f"job of {id(stream)}")
    if request is not None and unfinished:
        raise request
