"""The loop of one video: order, memory, and what a failure takes with it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import FakeModel, write_clip
from guava_aug.batch.pipeline import ClipVideos, PipelineSettings, _even_length, augment_video
from guava_aug.errors import InputError
from guava_aug.output.sinks import FrameBatch
from guava_aug.output.view_writer import ViewEnd
from guava_aug.runtime.timing import StageTimer
from guava_aug.tracked import TrackedVideo
from guava_aug.views import View, plan_views


@dataclass
class Disk:
    """Stands for the files: notes what happens to them."""

    events: list[str] = field(default_factory=list)
    frames: dict[str, list[np.ndarray]] = field(default_factory=dict)
    open_now: int = 0
    open_most: int = 0
    fail_write: str = ""

    def open(self, view: View) -> File:
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        self.frames[view.label] = []
        return File(self, view.label)


@dataclass
class File:
    disk: Disk
    label: str

    def write(self, batch: FrameBatch) -> None:
        if self.disk.fail_write == self.label:
            raise OSError("disk full")
        self.disk.frames[self.label].append(batch.video)

    def close(self) -> None:
        self.disk.open_now -= 1
        self.disk.events.append(f"complete {self.label}")

    def abort(self) -> None:
        self.disk.open_now -= 1
        self.disk.events.append(f"abort {self.label}")


@pytest.fixture
def video(tmp_path: Path) -> TrackedVideo:
    write_clip(tmp_path, "clip", frames=5)
    return TrackedVideo.open(tmp_path, "clip")


def go(
    model: FakeModel, video: TrackedVideo, disk: Disk, views: int = 3, chunk: int = 2, in_flight: int = 16,
    background: str = "black",
):  # fmt: skip
    plan = plan_views("clip", ["hard"], 42, views)
    events = augment_video(
        model, ClipVideos.of(video), plan, disk.open, PipelineSettings(background, chunk, in_flight),  # type: ignore[arg-type]
        StageTimer(),
    )  # fmt: skip
    return [event for event in events if isinstance(event, ViewEnd)]


def test_chunks_outside_views_inside(video: TrackedVideo):
    model, disk = FakeModel(), Disk()
    go(model, video, disk, views=2)
    assert model.calls == [
        "infer",
        *("pose 2", "render 2", "render 2"),
        *("pose 2", "render 2", "render 2"),
        *("pose 1", "render 1", "render 1"),
    ]
    assert [len(b) for b in disk.frames["hard_001"]] == [2, 2, 1]


def test_never_more_files_than_views_in_flight(video: TrackedVideo):
    model, disk = FakeModel(), Disk()
    ended = go(model, video, disk, views=5, in_flight=2)
    assert disk.open_most == 2
    assert model.calls.count("infer") == 1
    assert [o.view.label for o in ended] == ["hard", "hard_001", "hard_002", "hard_003", "hard_004"]
    assert all(o.error is None for o in ended)


def test_cameras_of_a_video_are_computed_once_for_each_view(video: TrackedVideo, monkeypatch: pytest.MonkeyPatch):
    """Not for each chunk: a list of cameras is as long as the video."""
    asked, cameras = [], View.cameras
    monkeypatch.setattr(View, "cameras", lambda view, *a, **k: asked.append(view.label) or cameras(view, *a, **k))
    go(FakeModel(), video, Disk(), views=3, in_flight=2)
    assert asked == ["hard", "hard_001", "hard_002"]


@pytest.mark.parametrize("chunk", [1, 3, 5, 64])
def test_frames_do_not_depend_on_the_chunks(video: TrackedVideo, chunk: int):
    whole, parts = Disk(), Disk()
    go(FakeModel(), video, whole, chunk=5)
    go(FakeModel(), video, parts, chunk=chunk)
    for label, batches in whole.frames.items():
        assert np.array_equal(np.concatenate(parts.frames[label]), np.concatenate(batches))
        assert len(np.unique([f.mean() for f in np.concatenate(batches)])) == 5  # and the frames differ


def test_a_file_that_fails_fails_alone(video: TrackedVideo):
    disk = Disk(fail_write="hard_001")
    ended = {o.view.label: o.error for o in go(FakeModel(), video, disk)}
    assert [type(ended[label]) for label in ("hard", "hard_001", "hard_002")] == [type(None), OSError, type(None)]
    assert sorted(disk.events) == ["abort hard_001", "complete hard", "complete hard_002"]


def test_when_all_files_have_failed_nothing_more_is_rendered(video: TrackedVideo):
    model = FakeModel(on_render=lambda: (_ for _ in ()).throw(ValueError("no")))
    ended = go(model, video, Disk())
    assert len(ended) == 3
    assert [c for c in model.calls if c.startswith("pose")] == ["pose 2"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_stops_the_video_removes_its_files(video: TrackedVideo, error: type[BaseException]):
    disk, model = Disk(), FakeModel()
    pose = model.avatar(None, video.identity).pose

    def fail(motion):
        if len(motion) == 1:
            raise error
        return pose(motion)

    model.avatar = lambda raw, identity: type("A", (), {"pose": staticmethod(fail)})  # type: ignore[assignment]
    with pytest.raises(error):
        go(model, video, disk)
    assert sorted(disk.events) == ["abort hard", "abort hard_001", "abort hard_002"]


def test_an_interruption_while_files_are_opened_removes_them(video: TrackedVideo):
    class Interrupted(Disk):
        def open(self, view: View) -> File:
            if view.index == 2:
                raise KeyboardInterrupt
            return super().open(view)

    disk = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        go(FakeModel(), video, disk)
    assert disk.events == ["abort hard", "abort hard_001"]


def test_pictures_that_are_not_finite_are_refused(video: TrackedVideo):
    model = FakeModel()
    model.render = lambda posed, cameras, background: torch.full((len(posed), 3, 8, 8), float("nan"))  # type: ignore
    assert all("NaN" in str(o.error) for o in go(model, video, Disk()))


def test_a_picture_nobody_looks_at_is_not_read(video: TrackedVideo, monkeypatch: pytest.MonkeyPatch):
    """With a background that stands still, frame 0 and what the plate was made from are enough."""
    looked_at = []
    read = TrackedVideo.read_frame
    monkeypatch.setattr(TrackedVideo, "read_frame", lambda self, i: looked_at.append(i) or read(self, i))
    go(FakeModel(), video, Disk())
    assert looked_at == [0]


def test_memory_does_not_grow_with_the_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """However long the video, two chunks of decoded pictures are alive: the one in work, and the next."""
    write_clip(tmp_path, "clip", frames=60)
    video = TrackedVideo.open(tmp_path, "clip")
    chunks, most = [], 0
    make = TrackedVideo._chunk

    def noted(self, *arguments):
        nonlocal most
        chunk = make(self, *arguments)
        chunks.append(weakref.ref(chunk))
        most = max(most, sum(ref() is not None for ref in chunks))
        return chunk

    monkeypatch.setattr(TrackedVideo, "_chunk", noted)
    go(FakeModel(), video, Disk(), chunk=2, background="original")
    assert len(chunks) == 30
    assert most <= 3  # the third while the first is let go


@pytest.mark.parametrize("keeps", [False, True])
def test_too_little_gpu_memory_halves_the_batch_and_keeps_the_pictures(video: TrackedVideo, keeps: bool):
    expected = Disk()
    go(FakeModel(), video, expected, chunk=4)
    model, disk = FakeModel(keeps_memory=keeps), Disk()
    render = model.render
    tried = []

    def small(posed, cameras, background):
        tried.append(len(posed))
        if len(posed) > 1 and len(tried) > 1:  # from the second call on
            raise torch.OutOfMemoryError("CUDA out of memory")
        return render(posed, cameras, background)

    model.render = small  # type: ignore[method-assign]
    outcomes = go(model, video, disk, chunk=4)
    assert all(o.error is None for o in outcomes)
    assert model.most_frames == 1
    assert tried[1:5] == ([3, 3, 1, 1] if keeps else [3, 1, 1, 1])  # what is kept for speed is given up first
    for label, frames in expected.frames.items():
        assert np.array_equal(np.concatenate(frames), np.concatenate(disk.frames[label]))


def test_a_bad_frame_in_the_middle_stops_the_video(video: TrackedVideo, monkeypatch: pytest.MonkeyPatch):
    read = TrackedVideo.read_frame

    def broken(self, index):
        if index == 3:
            raise InputError("frame 3 cannot be decoded")
        return read(self, index)

    monkeypatch.setattr(TrackedVideo, "read_frame", broken)
    disk = Disk()
    with pytest.raises(InputError, match="frame 3"):
        go(FakeModel(), video, disk, background="original")
    assert sorted(disk.events) == ["abort hard", "abort hard_001", "abort hard_002"]


@pytest.mark.parametrize(
    ("frames", "most", "length"), [(137, 32, 28), (64, 32, 32), (65, 32, 22), (5, 32, 5), (0, 4, 4)]
)
def test_chunks_are_about_as_long_as_each_other(frames, most, length):
    assert _even_length(frames, most) == length
