"""Worker processes as one executor, with workers that are no processes: who makes what, who is replaced, what stops."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.base import FramesDone, JobDone, LogLine, StageTimed, ViewDone
from guava_aug.batch.executors.dispatch import dispatch
from guava_aug.batch.executors.worker import Ended, Ready, Used, Worker
from guava_aug.batch.executors.worker_pool import MAX_ATTEMPTS, STARTS, Timeout, WorkerDied, WorkerPool, WorkerTimeout
from guava_aug.batch.jobs import Clip, VideoJob
from guava_aug.batch.results import ViewRecord
from guava_aug.errors import AssetError, DeviceError, DiskFullError
from guava_aug.output.tree import png_dir, view_dir
from guava_aug.runtime.processes import host_id
from guava_aug.runtime.shutdown import ShutdownRequested
from guava_aug.runtime.timing import StageTimer
from guava_aug.views import plan_views

Script = Callable[["Actor", VideoJob], Iterator]


class Actor:
    """A worker that plays a script."""

    def __init__(self, script: Script, starts: bool = True) -> None:
        self.script, self.starts, self.name = script, starts, "actor"
        self.asked = self.ended = False

    def ready(self) -> Iterator:
        if not self.starts:
            raise WorkerDied("no such GPU")
        yield Used({"machine": {"device": "cpu"}, "backgrounds": {"plate": 1}})
        yield Ready()

    def execute(self, job: VideoJob) -> Iterator:
        yield from self.script(self, job)

    def request_stop(self) -> None:
        self.asked = True

    def stop(self) -> None:
        self.ended = True


def job(video: str) -> VideoJob:
    return VideoJob(video, tuple(plan_views(video, ["easy", "hard"])), Clip.of(video))


def done(video: str, label: str) -> ViewDone:
    return ViewDone(ViewRecord(video, label, "success", {}, seconds=1.0, frames=5))


def well(actor: Actor, job: VideoJob) -> Iterator:
    """Makes everything."""
    for view in job.views:
        yield StageTimed("render per view", 1.0, 1)
        yield FramesDone(5, 5)
        yield done(job.name, view.label)
    yield Ended(None)


def test_messages_of_a_worker_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stages are sent when they end, not with the next event: the watch of --timeout must see a slow step end."""
    sent: list = []
    logger = logging.getLogger("guava_aug")
    for name in ("handlers", "propagate", "level"):  # a worker takes the log of its process
        monkeypatch.setattr(logger, name, getattr(logger, name))
    worker = Worker(RunConfig(tmp_path, tmp_path / "out"), sent.append)
    with worker.executor.stages("source inference"):
        pass
    assert [type(message) for message in sent] == [StageTimed]


class Run:
    """What `run` does with a pool, in short."""

    def __init__(self, tmp_path: Path, size: int, new_worker: Callable[[int], Actor]) -> None:
        self.stages = StageTimer()
        self.pool = WorkerPool(RunConfig(tmp_path, tmp_path / "out"), size, new_worker)
        self.made: list[tuple[str, str]] = []
        self.failed: dict[str, str] = {}
        self.ended: list[str] = []

    def go(self, videos: Sequence[str], stop: Callable[[], None] = lambda: None) -> None:
        self.pool.start(len(videos))
        for event in dispatch(self.pool, [job(video) for video in videos], stop):
            assert threading.current_thread() is threading.main_thread()
            if isinstance(event, ViewDone) and event.record.error is None:
                self.made.append(event.record.key)
            elif isinstance(event, ViewDone):
                self.failed[event.record.video] = str(event.record.error)
            elif isinstance(event, StageTimed):
                self.stages.add(event.name, event.seconds, event.count)
            elif isinstance(event, JobDone):
                self.ended.append(event.job.name)


def test_everything_is_made_once(tmp_path: Path):
    actors: list[Actor] = []
    run = Run(tmp_path, 3, lambda i: actors.append(Actor(well)) or actors[-1])
    run.go([f"v{i}" for i in range(20)])
    assert sorted(run.made) == sorted((f"v{i}", label) for i in range(20) for label in ("easy", "hard"))
    assert len(actors) == 3
    assert all(actor.ended for actor in actors)
    assert run.stages.rows()[0].seconds == 40
    assert run.pool.describe() == {"machine": {"device": "cpu"}, "backgrounds": {"plate": 3}, "workers": 3}


def test_there_are_no_more_workers_than_videos(tmp_path: Path):
    actors: list[Actor] = []
    run = Run(tmp_path, 3, lambda i: actors.append(Actor(well)) or actors[-1])
    run.go(["a", "b"])
    assert run.pool.capacity == 2
    assert len(actors) == 2 and len(run.made) == 4


def test_only_what_is_left_of_a_video_is_made_again(tmp_path: Path):
    deaths, asked = [], []

    def dies_once(actor: Actor, job: VideoJob) -> Iterator:
        asked.append([view.label for view in job.views])
        if job.name == "b" and not deaths:
            deaths.append(job.name)
            yield done("b", "easy")
            raise WorkerDied("out of memory")
        yield from well(actor, job)

    run = Run(tmp_path, 1, lambda i: Actor(dies_once))
    run.go(["a", "b", "c"])
    assert len(run.made) == 6
    assert asked == [["easy", "hard"], ["easy", "hard"], ["hard"], ["easy", "hard"]]
    assert run.failed == {}


def test_what_a_dead_worker_left_is_removed(tmp_path: Path):
    """Also where PNGs are: nobody else knows of them when the run ends well."""
    left = []

    def dies_once(actor: Actor, job: VideoJob) -> Iterator:
        if not left:
            dead = subprocess.Popen([sys.executable, "-c", ""])
            dead.wait()
            for folder in (view_dir(tmp_path / "out", "easy", "a"), png_dir(tmp_path / "out", "easy", "a")):
                folder.mkdir(parents=True, exist_ok=True)
                left.append(folder / f".x.tmp-{host_id()}-{dead.pid}-01234567")
                left[-1].touch()
            raise WorkerDied("out of memory")
        yield from well(actor, job)

    run = Run(tmp_path, 1, lambda i: Actor(dies_once))
    run.go(["a"])
    assert len(run.made) == 2 and len(left) == 2
    assert not any(path.exists() for path in left)


def test_a_video_that_kills_is_given_up(tmp_path: Path):
    def kills(actor: Actor, job: VideoJob) -> Iterator:
        if job.name == "b":
            raise WorkerDied("it was ended by SIGSEGV")
        yield from well(actor, job)

    actors: list[Actor] = []
    run = Run(tmp_path, 2, lambda i: actors.append(Actor(kills)) or actors[-1])
    run.go(["a", "b", "c"])
    assert set(run.failed) == {"b"}
    assert "SIGSEGV" in run.failed["b"]
    assert len(actors) == 2 + MAX_ATTEMPTS


def test_a_video_that_hangs_is_given_up_at_once(tmp_path: Path):
    def hangs(actor: Actor, job: VideoJob) -> Iterator:
        raise WorkerTimeout("nothing happened for 9 s")
        yield

    run = Run(tmp_path, 1, lambda i: Actor(hangs))
    run.go(["a"])
    assert "nothing happened" in run.failed["a"]


def test_an_error_of_a_video_and_a_lost_gpu(tmp_path: Path):
    lost: list[str] = []

    def script(actor: Actor, job: VideoJob) -> Iterator:
        if job.name == "bad":
            yield Ended(("ValueError", "ValueError: no such thing"))
        elif not lost:
            lost.append(job.name)
            yield Ended(("DeviceLostError", "the GPU failed"))
        else:
            yield from well(actor, job)

    actors: list[Actor] = []
    run = Run(tmp_path, 1, lambda i: actors.append(Actor(script)) or actors[-1])
    run.go(["bad", "good"])
    assert run.failed == {"bad": "ValueError: no such thing"}
    assert len(run.made) == 2
    assert (len(actors), actors[0].ended) == (2, True)
    assert run.ended == ["bad", "good"]


def test_what_stops_a_run_stops_all(tmp_path: Path):
    begun: list[str] = []

    def full(actor: Actor, job: VideoJob) -> Iterator:
        begun.append(job.name)
        yield Ended(("DiskFullError", "no space"))

    actors: list[Actor] = []
    run = Run(tmp_path, 2, lambda i: actors.append(Actor(full)) or actors[-1])
    with pytest.raises(DiskFullError, match="no space"):
        run.go([f"v{i}" for i in range(50)])
    assert len(begun) < 10
    assert all(actor.ended for actor in actors)


def test_a_pool_that_cannot_start(tmp_path: Path):
    started: list[int] = []
    with pytest.raises(DeviceError, match="no such GPU"):
        Run(tmp_path, 2, lambda i: started.append(i) or Actor(well, starts=False)).go(["a", "b"])
    assert sorted(started) == [0] * STARTS + [1] * STARTS

    class NoModel(Actor):
        def ready(self) -> Iterator:
            yield Ended(("AssetError", "no such model"))

    actors: list[Actor] = []
    with pytest.raises(AssetError, match="no such model"):
        Run(tmp_path, 2, lambda i: actors.append(NoModel(well)) or actors[-1]).go(["a", "b"])
    assert len(actors) == 2 and all(actor.ended for actor in actors)


@pytest.mark.parametrize(("fails", "workers"), [(1, 3), (STARTS - 1, 3), (STARTS, 2)])
def test_a_worker_that_dies_while_it_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture, fails: int, workers: int):
    """It is started again, and then the others go on without it; also when the system cannot start a process."""
    left = {1: fails}

    def new_worker(i: int) -> Actor:
        left[i] = left.get(i, 0) - 1
        if left[i] == 0:
            raise OSError(12, "Cannot allocate memory")
        return Actor(well, starts=left[i] < 0)

    run = Run(tmp_path, 3, new_worker)
    run.go([f"v{i}" for i in range(6)])
    assert len(run.made) == 12 and run.failed == {}
    assert run.pool.describe()["workers"] == run.pool.capacity == workers
    assert ("go on without it" in caplog.text) == (workers == 2)
    assert ("is started again" in caplog.text) == (fails > 1)  # the first of all is tried without a word


def test_what_workers_say_while_they_start(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Their log lines are logged once, and the stage of loading is in the table however few jobs follow."""
    caplog.set_level("INFO")

    class Speaks(Actor):
        def ready(self) -> Iterator:
            yield LogLine(20, "model on cpu")
            yield StageTimed("model loading", 2.0, 1)
            yield from super().ready()

    run = Run(tmp_path, 3, lambda i: Speaks(well))
    run.go(["a", "b", "c"])
    assert [r.levelname for r in caplog.records if "model on cpu" in r.getMessage()] == ["INFO"]
    loading = run.stages.rows()[0]
    assert (loading.name, loading.seconds, loading.count) == ("model loading", 6.0, 3)


def test_a_limit_of_time():
    """Without --timeout it grows with the longest step that was seen."""
    fixed, grows = Timeout(30.0), Timeout(None)
    for timeout in (fixed, grows):
        timeout.seen(5.0)
        timeout.seen(100.0)
        timeout.seen(1.0)
    assert (fixed.seconds, grows.seconds, Timeout(None).seconds) == (30, 2000, 600)
    assert str(grows) == "2000 s (--timeout auto)"


def dies(actor: Actor, job: VideoJob) -> Iterator:
    """A video in whose middle the worker dies."""
    raise WorkerDied("gone")
    yield


def test_the_last_worker_is_lost(tmp_path: Path):
    started: list[int] = []

    def new_worker(i: int) -> Actor:
        started.append(i)
        return Actor(dies, starts=len(started) == 1)

    with pytest.raises(DeviceError, match="no worker is left"):
        Run(tmp_path, 1, new_worker).go(["a", "b"])


def test_the_system_has_no_room_for_a_new_worker(tmp_path: Path):
    started: list[int] = []

    def new_worker(i: int) -> Actor:
        started.append(i)
        if len(started) > 1:
            raise OSError(12, "Cannot allocate memory")
        return Actor(dies)

    with pytest.raises(DeviceError, match=r"no worker is left, and none can be started: .*Cannot allocate"):
        Run(tmp_path, 1, new_worker).go(["a", "b"])


def test_asked_to_end(tmp_path: Path):
    """What is in flight ends, or says that it stopped; nothing else is begun."""
    asked = threading.Event()

    def stop() -> None:
        if asked.is_set():
            raise ShutdownRequested

    def script(actor: Actor, job: VideoJob) -> Iterator:
        if job.name == "a":
            asked.set()
            while not actor.asked:
                threading.Event().wait(0.01)
        yield from well(actor, job)

    run = Run(tmp_path, 1, lambda i: Actor(script))
    with pytest.raises(ShutdownRequested):
        run.go(["a", "b"], stop)
    assert {video for video, _ in run.made} == {"a"}

    run = Run(tmp_path, 1, lambda i: Actor(script))
    asked.clear()
    run.go(["a"], stop)  # it was the last one: the run has ended well
    assert len(run.made) == 2
