"""The stream of events of all jobs: interrupted at every event, stopped at every moment, with executors that fail."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.base import (
    Event,
    Events,
    FramesDone,
    JobBegun,
    JobDone,
    LogLine,
    StageTimed,
    ViewDone,
)
from guava_aug.batch.executors.dispatch import dispatch, run_alone
from guava_aug.batch.executors.worker import Ended, Ready
from guava_aug.batch.executors.worker_pool import WorkerDied, WorkerPool
from guava_aug.batch.jobs import Clip, VideoJob
from guava_aug.batch.results import ViewRecord
from guava_aug.errors import AssetError, DeviceError, DiskFullError, InputError, OutputError, UsageError
from guava_aug.runtime.shutdown import INTERRUPTED, ShutdownRequested
from guava_aug.runtime.timing import StageTimer
from guava_aug.views import plan_views

NAMES = ("a", "b", "c")
EVENTS_PER_JOB = 2 + 2 * 3  # begun and done; of each of the two views a stage, frames and its end


def job(name: str, refused: str | None = None) -> VideoJob:
    return VideoJob(name, tuple(plan_views(name, ["easy", "hard"])), Clip.of(name), refused=refused)


JOBS = [job(name) for name in NAMES]


class FakeExecutor:
    """Makes views of nothing, and keeps a list of the jobs whose files are open."""

    def __init__(self, in_main_thread: bool, on_step: Callable[[str], None] = lambda step: None) -> None:
        self.in_main_thread, self.capacity = in_main_thread, 1 if in_main_thread else 2
        self.on_step = on_step  # called before each event of `execute`, with "video view kind"
        self.open: set[str] = set()
        self.begun: list[str] = []
        self.stopping = threading.Event()
        self.stops = self.requests = 0

    def check(self) -> None: ...

    def start(self, num_jobs: int) -> None: ...

    def execute(self, job: VideoJob) -> Events:
        self.begun.append(job.name)
        self.open.add(job.name)
        try:
            for view in job.views:
                for event in (StageTimed("render per view", 1.0, 1), FramesDone(5, 5), success(job.name, view.label)):
                    self.on_step(f"{job.name} {view.label} {type(event).__name__}")
                    if self.stopping.is_set():
                        raise ShutdownRequested
                    yield event
        finally:
            try:
                time.sleep(0.001)  # removing files takes its time
            finally:
                self.open.discard(job.name)

    def request_stop(self) -> None:
        self.requests += 1

    def stop(self) -> None:
        self.stops += 1
        self.stopping.set()

    def describe(self) -> dict:
        return {}


def success(video: str, label: str) -> ViewDone:
    return ViewDone(ViewRecord(video, label, "success", {}, seconds=1.0, frames=5))


@contextlib.contextmanager
def deadline(seconds: float = 120) -> Iterator[None]:
    """Fails the test instead of letting it hang."""

    def over(number: int, frame: object) -> None:
        raise AssertionError(f"it is still there after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again: it may have been in a place that waits for threads
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_clean(executor: FakeExecutor) -> bool:
    """Whether no file is open: no job is in work."""
    return not executor.open


def records(events: list[Event]) -> dict[tuple[str, str], ViewRecord]:
    return {event.record.key: event.record for event in events if isinstance(event, ViewDone)}


in_both = pytest.mark.parametrize("in_main_thread", [True, False], ids=["main thread", "threads"])


@in_both
def test_every_job_has_its_events_in_their_order(in_main_thread: bool):
    executor = FakeExecutor(in_main_thread)
    with deadline():
        events = list(dispatch(executor, JOBS, lambda: None))
    assert len(events) == len(NAMES) * EVENTS_PER_JOB
    assert is_clean(executor)
    for name in NAMES:
        of_job = [
            e
            for e in events
            if (isinstance(e, JobBegun | JobDone) and e.job.name == name)
            or (isinstance(e, FramesDone) and e.video == name)
            or (isinstance(e, ViewDone) and e.record.video == name)
        ]
        assert [type(e) for e in of_job] == [JobBegun, FramesDone, ViewDone, FramesDone, ViewDone, JobDone]
        last = of_job[-1]
        assert isinstance(last, JobDone)
        assert [record.view for record in last.records] == ["easy", "hard"]


@in_both
def test_an_executor_goes_on_when_its_event_was_dealt_with(in_main_thread: bool):
    """So that a view is noted before anything else happens to its job."""
    steps: list[str] = []
    executor = FakeExecutor(in_main_thread, steps.append)
    with deadline():
        for event in dispatch(executor, JOBS[:1], lambda: None):
            if isinstance(event, ViewDone):
                before = len(steps)
                time.sleep(0.05)
                assert len(steps) == before


@in_both
@pytest.mark.parametrize("how", ["close", KeyboardInterrupt, OutputError], ids=str)
def test_the_reader_leaves_at_every_event(in_main_thread: bool, how: str | type[BaseException]):
    for at in range(len(NAMES) * EVENTS_PER_JOB):
        executor = FakeExecutor(in_main_thread)

        def read(executor: FakeExecutor = executor, at: int = at) -> None:
            with contextlib.closing(dispatch(executor, JOBS, lambda: None)) as events:
                for i, _ in enumerate(events):
                    if i == at:
                        if how == "close":
                            return
                        raise how  # type: ignore[misc]

        with deadline(), contextlib.suppress(KeyboardInterrupt, OutputError):
            read()
        assert is_clean(executor), at
        assert in_main_thread or executor.stops


STEPS = [f"b {view} {kind}" for view in ("easy", "hard") for kind in ("StageTimed", "FramesDone", "ViewDone")]


@in_both
@pytest.mark.parametrize("error", [ValueError("no"), InputError("no"), OSError(5, "no"), MemoryError("no")], ids=repr)
def test_a_job_that_fails_at_any_step_fails_alone(in_main_thread: bool, error: Exception):
    for failing in STEPS:

        def fail(step: str, failing: str = failing) -> None:
            if step == failing:
                raise error

        executor = FakeExecutor(in_main_thread, fail)
        with deadline():
            events = list(dispatch(executor, JOBS, lambda: None))
        found = records(events)
        failed = {key for key, record in found.items() if record.status == "failed"}
        assert len(found) == 6
        assert failed == ({("b", "easy"), ("b", "hard")} if " easy " in failing else {("b", "hard")})
        assert all("no" in str(found[key].error) for key in failed)
        assert sum(isinstance(event, JobDone) for event in events) == 3
        assert is_clean(executor)


@in_both
@pytest.mark.parametrize(
    "error", [UsageError, AssetError, DeviceError, DiskFullError, KeyboardInterrupt, ShutdownRequested]
)
def test_what_every_job_would_fail_of_ends_them_all(in_main_thread: bool, error: type[BaseException]):
    for failing in STEPS:

        def fail(step: str, failing: str = failing) -> None:
            if step == failing:
                raise error

        executor = FakeExecutor(in_main_thread, fail)
        with deadline(), pytest.raises(error):
            list(dispatch(executor, JOBS, lambda: None))
        assert is_clean(executor), failing
        assert "b" in executor.begun


@in_both
def test_asked_to_stop_at_every_event(in_main_thread: bool):
    """Jobs in flight end, no other one is begun, and the request is raised unless everything was made."""
    for at in range(len(NAMES) * EVENTS_PER_JOB):
        executor, seen = FakeExecutor(in_main_thread), []

        def stop(seen: list[Event] = seen, at: int = at) -> None:
            if len(seen) > at:
                raise ShutdownRequested(INTERRUPTED)

        raised: ShutdownRequested | None = None
        with deadline():
            try:
                seen.extend(event for event in _noting(dispatch(executor, JOBS, stop), seen))
            except ShutdownRequested as error:
                raised = error
        assert is_clean(executor)
        made = {video for video, _ in records(seen)}
        assert made == set(executor.begun)  # what was begun has ended
        assert (raised is None) == (made == set(NAMES))
        assert raised is None or raised.code == INTERRUPTED
        assert executor.requests <= 1


def _noting(events: Events, seen: list[Event]) -> Iterator[Event]:
    for event in events:
        seen.append(event)
    return
    yield


def test_a_job_that_stops_as_asked_does_not_cut_off_the_others():
    asked = threading.Event()

    class Pool(FakeExecutor):
        def request_stop(self) -> None:
            super().request_stop()
            asked.set()

    def step(at: str) -> None:
        if at == "a hard StageTimed":  # between two groups of views
            assert asked.wait(10)
            raise ShutdownRequested
        if at == "b easy StageTimed":  # longer in flight than the other one
            assert asked.wait(10)
            time.sleep(0.3)

    def stop() -> None:
        raise_now = executor.begun[1:]
        if raise_now:
            raise ShutdownRequested(INTERRUPTED)

    executor, seen = Pool(False, step), []
    with deadline(), pytest.raises(ShutdownRequested) as raised:
        seen.extend(_noting(dispatch(executor, JOBS[:2], stop), seen))
    assert raised.value.code == INTERRUPTED
    assert set(records(seen)) == {("a", "easy"), ("b", "easy"), ("b", "hard")}
    assert is_clean(executor)


@in_both
def test_signals_at_any_moment(in_main_thread: bool):
    """Ctrl-C wherever the main thread is: in the reader, in the stream, between two jobs."""
    rng = random.Random(0)
    interrupted = 0
    for _ in range(60):
        executor = FakeExecutor(in_main_thread, lambda step: time.sleep(0.001))
        timer = threading.Timer(rng.uniform(0, 0.03), signal.raise_signal, [signal.SIGINT])
        with deadline():
            try:
                try:
                    timer.start()
                    with contextlib.closing(dispatch(executor, JOBS, lambda: None)) as events:
                        for _ in events:
                            pass
                finally:
                    timer.join()
                    time.sleep(0.001)  # it may come as late as here
            except KeyboardInterrupt:
                interrupted += 1
        assert is_clean(executor)
    assert interrupted >= 50


def test_jobs_that_hang_until_they_are_stopped():
    """The main thread is interrupted while no event comes."""
    executor = FakeExecutor(False)
    executor.on_step = lambda step: None if step.startswith("a easy") else bool(executor.stopping.wait())  # type: ignore
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with deadline(), pytest.raises(KeyboardInterrupt):
        list(dispatch(executor, JOBS, lambda: None))
    assert is_clean(executor)


@in_both
def test_a_view_of_which_nothing_is_heard_has_failed(in_main_thread: bool):
    class Forgetful(FakeExecutor):
        def execute(self, job: VideoJob) -> Events:
            yield success(job.name, "easy")

    with deadline():
        events = list(dispatch(Forgetful(in_main_thread), JOBS, lambda: None))
    assert {key for key, record in records(events).items() if record.status == "failed"} == {(n, "hard") for n in NAMES}


@in_both
def test_only_what_failed_is_tried_again(in_main_thread: bool):
    tries: dict[str, int] = {}

    class Flaky(FakeExecutor):
        def execute(self, job: VideoJob) -> Events:
            tries[job.name] = tries.get(job.name, 0) + 1
            for view in job.views:
                if view.label == "hard" and tries[job.name] < 3:
                    status = ViewRecord(job.name, "hard", "failed", {}, error="no", permanent=job.name == "c")
                    yield ViewDone(status)
                else:
                    yield success(job.name, view.label)

    with deadline():
        events = list(dispatch(Flaky(in_main_thread), JOBS, lambda: None, retries=2))
    assert tries == {"a": 3, "b": 3, "c": 1}
    begun = [(e.job.name, e.attempt, [v.label for v in e.job.views]) for e in events if isinstance(e, JobBegun)]
    assert sorted(begun)[:3] == [("a", 0, ["easy", "hard"]), ("a", 1, ["hard"]), ("a", 2, ["hard"])]
    assert next(e.text for e in events if isinstance(e, LogLine)).endswith("trying 1 failed view again")
    statuses = {(e.job.name, r.view): r.status for e in events if isinstance(e, JobDone) for r in e.records}
    assert [key for key, status in statuses.items() if status == "failed"] == [("c", "hard")]


@in_both
def test_a_refused_job_is_not_begun(in_main_thread: bool):
    executor = FakeExecutor(in_main_thread)
    jobs = [job("x", refused="it was tracked again"), JOBS[0]]
    with deadline():
        found = records(list(dispatch(executor, jobs, lambda: None, retries=3)))
    assert executor.begun == ["a"]
    assert found["x", "easy"].permanent and found["x", "easy"].error == "it was tracked again"


def test_one_job_alone():
    executor, stages = FakeExecutor(True), StageTimer()
    assert [record.view for record in run_alone(executor, JOBS[0], stages)] == ["easy", "hard"]
    assert [(row.name, row.seconds, row.count) for row in stages.rows()] == [("render per view", 2.0, 2)]


class Handle:
    """A worker that dies on video a, and plays its part on the others."""

    def __init__(self, name: str, starts: bool, both_at_work: threading.Barrier) -> None:
        self.name, self.starts, self.both_at_work = name, starts, both_at_work
        self.asked = threading.Event()

    def ready(self) -> Iterator:
        if not self.starts:
            raise WorkerDied("no room")
        yield Ready()

    def execute(self, job: VideoJob) -> Iterator:
        self.both_at_work.wait(10)
        if job.name == "a":
            raise WorkerDied("gone")
        yield success(job.name, "easy")
        assert self.asked.wait(10)
        yield Ended(("ShutdownRequested", "asked to end"))

    def request_stop(self) -> None:
        self.asked.set()

    def stop(self) -> None:
        self.asked.set()


def test_who_waits_for_a_worker_is_released(tmp_path: Path):
    """One of two workers is lost for good, and the other one ends as asked: no worker will ever be free."""
    started: list[int] = []
    seen: list[Event] = []
    both_at_work = threading.Barrier(2)

    def start_worker(number: int) -> Handle:
        started.append(number)
        return Handle(f"worker {number}", len(started) <= 2, both_at_work)

    def stop() -> None:
        if any(isinstance(event, ViewDone) for event in seen) and len(started) >= 5:
            raise ShutdownRequested

    pool = WorkerPool(RunConfig(tmp_path, tmp_path / "out"), 2, start_worker)
    pool.start(2)
    with deadline(), pytest.raises(ShutdownRequested):
        seen.extend(_noting(dispatch(pool, JOBS[:2], stop), seen))
    assert set(records(seen)) == {("b", "easy")}
    for thread in threading.enumerate():
        if thread.name == "job":
            thread.join(10)
            assert not thread.is_alive()
