"""Worker processes as one engine, with members that are no processes: who makes what, who is replaced, what stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.in_process import Made
from guava_aug.batch.executors.worker_pool import (
    MAX_ATTEMPTS,
    STARTS,
    Patience,
    WorkerDied,
    WorkerPool,
    WorkerTimeout,
    dispatch,
)
from guava_aug.errors import AssetError, DeviceError, DiskFullError, InputError, OutputError
from guava_aug.runtime.progress import NoProgress, ProgressEstimate
from guava_aug.runtime.shutdown import ShutdownRequested
from guava_aug.runtime.timing import StageTimer
from guava_aug.views import plan_views

Script = Callable[["Actor", str, Sequence[str]], Iterator]


class Actor:
    """A member that plays a script."""

    def __init__(self, script: Script, starts: bool = True) -> None:
        self.script, self.starts, self.name = script, starts, "actor"
        self.asked = self.ended = False

    def ready(self) -> Iterator:
        if not self.starts:
            raise WorkerDied("no such GPU")
        yield "used", {"machine": {"device": "cpu"}, "backgrounds": {"plate": 1}}
        yield "ready", None

    def make(self, video: str, labels: Sequence[str]) -> Iterator:
        yield from self.script(self, video, labels)

    def ask_to_end(self) -> None:
        self.asked = True

    def end(self) -> None:
        self.ended = True


def views(video: str) -> list:
    return plan_views(video, ["easy", "hard"])


def well(actor: Actor, video: str, labels: Sequence[str]) -> Iterator:
    """Makes everything."""
    for view in views(video):
        if view.label in labels:
            yield "stage", ("render per view", 1.0, 1)
            yield "frames", (5, 5)
            yield "view", Made(view, None, 1.0, 5)
    yield "end", None


class Run:
    """What `jobs` does with a crew, in short."""

    def __init__(self, tmp_path: Path, size: int, new_member: Callable[[int], Actor]) -> None:
        self.stages = StageTimer()
        self.crew = WorkerPool(RunConfig(tmp_path, tmp_path / "out"), self.stages, NoProgress(), size, new_member)
        self.made: list[tuple[str, str]] = []
        self.failed: dict[str, str] = {}
        self.alone = threading.Lock()

    def one(self, video: str) -> None:
        assert self.alone.acquire(blocking=False)  # nobody else is in this code
        self.alone.release()
        try:
            self.crew.make(video, views(video), lambda made: self.made.append((video, made.view.label)))
        except (InputError, OutputError) as error:
            if isinstance(error, DiskFullError):
                raise
            self.failed[video] = str(error)

    def go(self, videos: Sequence[str], stop: Callable[[], None] = lambda: None) -> None:
        self.crew.prepare()
        dispatch(self.crew, self.one, videos, stop)


def test_everything_is_made_once(tmp_path: Path):
    actors: list[Actor] = []
    run = Run(tmp_path, 3, lambda i: actors.append(Actor(well)) or actors[-1])
    run.go([f"v{i}" for i in range(20)])
    assert sorted(run.made) == sorted((f"v{i}", label) for i in range(20) for label in ("easy", "hard"))
    assert len(actors) == 3
    assert all(actor.ended for actor in actors)
    assert run.stages.rows()[0].seconds == 40
    assert run.crew.describe() == {"machine": {"device": "cpu"}, "backgrounds": {"plate": 3}, "workers": 3}


def test_there_are_no_more_members_than_videos(tmp_path: Path):
    actors: list[Actor] = []
    run = Run(tmp_path, 3, lambda i: actors.append(Actor(well)) or actors[-1])
    run.crew.at_most(5)
    assert run.crew.parallel == 3
    run.crew.at_most(2)
    run.go(["a", "b"])
    assert len(actors) == 2 and len(run.made) == 4


def test_only_what_is_left_of_a_video_is_made_again(tmp_path: Path):
    deaths, asked = [], []

    def dies_once(actor: Actor, video: str, labels: Sequence[str]) -> Iterator:
        asked.append(list(labels))
        if video == "b" and not deaths:
            deaths.append(video)
            yield "view", Made(views("b")[0], None, 1.0, 5)
            raise WorkerDied("out of memory")
        yield from well(actor, video, labels)

    run = Run(tmp_path, 1, lambda i: Actor(dies_once))
    run.go(["a", "b", "c"])
    assert len(run.made) == 6
    assert asked == [["easy", "hard"], ["easy", "hard"], ["hard"], ["easy", "hard"]]
    assert run.failed == {}


def test_a_video_that_kills_is_given_up(tmp_path: Path):
    def kills(actor: Actor, video: str, labels: Sequence[str]) -> Iterator:
        if video == "b":
            raise WorkerDied("it was ended by SIGSEGV")
        yield from well(actor, video, labels)

    actors: list[Actor] = []
    run = Run(tmp_path, 2, lambda i: actors.append(Actor(kills)) or actors[-1])
    run.go(["a", "b", "c"])
    assert set(run.failed) == {"b"}
    assert "SIGSEGV" in run.failed["b"]
    assert len(actors) == 2 + MAX_ATTEMPTS


def test_a_video_that_hangs_is_given_up_at_once(tmp_path: Path):
    def hangs(actor: Actor, video: str, labels: Sequence[str]) -> Iterator:
        raise WorkerTimeout("nothing happened for 9 s")
        yield

    run = Run(tmp_path, 1, lambda i: Actor(hangs))
    run.go(["a"])
    assert "nothing happened" in run.failed["a"]


def test_an_error_of_a_video_and_a_lost_gpu(tmp_path: Path):
    lost: list[str] = []

    def script(actor: Actor, video: str, labels: Sequence[str]) -> Iterator:
        if video == "bad":
            yield "end", ("ValueError", "ValueError: no such thing")
        elif not lost:
            lost.append(video)
            yield "end", ("DeviceLostError", "the GPU failed")
        else:
            yield from well(actor, video, labels)

    actors: list[Actor] = []
    run = Run(tmp_path, 1, lambda i: actors.append(Actor(script)) or actors[-1])
    run.go(["bad", "good"])
    assert run.failed == {"bad": "ValueError: no such thing"}
    assert len(run.made) == 2
    assert (len(actors), actors[0].ended) == (2, True)


def test_what_stops_a_run_stops_all(tmp_path: Path):
    begun: list[str] = []

    def full(actor: Actor, video: str, labels: Sequence[str]) -> Iterator:
        begun.append(video)
        yield "end", ("DiskFullError", "no space")

    actors: list[Actor] = []
    run = Run(tmp_path, 2, lambda i: actors.append(Actor(full)) or actors[-1])
    with pytest.raises(DiskFullError, match="no space"):
        run.go([f"v{i}" for i in range(50)])
    assert len(begun) < 10
    assert all(actor.ended for actor in actors)


def test_a_crew_that_cannot_start(tmp_path: Path):
    started: list[int] = []
    with pytest.raises(DeviceError, match="no such GPU"):
        Run(tmp_path, 2, lambda i: started.append(i) or Actor(well, starts=False)).go(["a"])
    assert sorted(started) == [0] * STARTS + [1] * STARTS

    class NoModel(Actor):
        def ready(self) -> Iterator:
            yield "end", ("AssetError", "no such model")

    with pytest.raises(AssetError, match="no such model"):
        Run(tmp_path, 1, lambda i: NoModel(well)).go(["a"])


@pytest.mark.parametrize(("fails", "workers"), [(1, 3), (STARTS - 1, 3), (STARTS, 2)])
def test_a_member_that_dies_while_it_starts(tmp_path: Path, caplog, fails: int, workers: int):
    """It is started again, and then the others go on without it; also when the system cannot start a process."""
    left = {1: fails}

    def new_member(i: int) -> Actor:
        left[i] = left.get(i, 0) - 1
        if left[i] == 0:
            raise OSError(12, "Cannot allocate memory")
        return Actor(well, starts=left[i] < 0)

    run = Run(tmp_path, 3, new_member)
    run.go([f"v{i}" for i in range(6)])
    assert len(run.made) == 12 and run.failed == {}
    assert run.crew.describe()["workers"] == run.crew.parallel == workers
    assert ("go on without it" in caplog.text) == (workers == 2)
    assert ("is started again" in caplog.text) == (fails > 1)  # the first of all is tried without a word


def test_patience():
    """Without --timeout it grows with the longest step that was seen."""
    fixed, grows = Patience(30.0), Patience(None)
    for patience in (fixed, grows):
        patience.seen(5.0)
        patience.seen(100.0)
        patience.seen(1.0)
    assert (fixed.seconds, grows.seconds, Patience(None).seconds) == (30, 2000, 600)
    assert str(grows) == "2000 s (--timeout auto)"


def dies(actor: Actor, video: str, labels: Sequence[str]) -> Iterator:
    """A video in whose middle the member dies."""
    raise WorkerDied("gone")
    yield


def test_the_last_member_is_lost(tmp_path: Path):
    started: list[int] = []

    def new_member(i: int) -> Actor:
        started.append(i)
        return Actor(dies, starts=len(started) == 1)

    with pytest.raises(DeviceError, match="no worker is left"):
        Run(tmp_path, 1, new_member).go(["a", "b"])


def test_the_system_has_no_room_for_a_new_member(tmp_path: Path):
    started: list[int] = []

    def new_member(i: int) -> Actor:
        started.append(i)
        if len(started) > 1:
            raise OSError(12, "Cannot allocate memory")
        return Actor(dies)

    with pytest.raises(DeviceError, match=r"no worker is left, and none can be started: .*Cannot allocate"):
        Run(tmp_path, 1, new_member).go(["a", "b"])


def test_asked_to_end(tmp_path: Path):
    """What is in flight ends, or says that it stopped; nothing else is begun."""
    asked = threading.Event()

    def stop() -> None:
        if asked.is_set():
            raise ShutdownRequested

    def script(actor: Actor, video: str, labels: Sequence[str]) -> Iterator:
        if video == "a":
            asked.set()
            while not actor.asked:
                threading.Event().wait(0.01)
        yield from well(actor, video, labels)

    run = Run(tmp_path, 1, lambda i: Actor(script))
    with pytest.raises(ShutdownRequested):
        run.go(["a", "b"], stop)
    assert {video for video, _ in run.made} == {"a"}

    run = Run(tmp_path, 1, lambda i: Actor(script))
    asked.clear()
    run.go(["a"], stop)  # it was the last one: the run has ended well
    assert len(run.made) == 2


def test_a_clock_for_several_videos():
    clock = ProgressEstimate()
    clock.start(2, 4)
    clock.video("here", 2)
    clock.frames(5, 10)

    def other() -> None:
        clock.video("there", 2)
        clock.frames(10, 10)
        assert (clock.name, clock.video_index) == ("there", 2)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert clock.done == 1.5
    assert clock.name == "here"
    clock.finish_video()
    assert clock.done == 3
