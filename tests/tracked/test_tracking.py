"""From an MP4 to a tracked folder: the bundled clip as a video, against the truth it was rendered from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest

from guava_aug.assets import embedded_path
from guava_aug.avatar.model import load_body
from guava_aug.body.joints import INDEX
from guava_aug.cli import main
from guava_aug.errors import InputError
from guava_aug.runtime.steps import Tick
from guava_aug.tracked import BodyOutline, TrackedVideo, check_videos, tracking
from guava_aug.tracked.check import _reported
from guava_aug.tracked.fit import ClipFit
from guava_aug.tracked.report import clip_names, first_clip_names, read_report, refuse_worse
from guava_aug.tracked.tracking import TrackedClip, Tracker, TrackOptions, _publish

FRAMES = range(20, 32)
NAMES = [f"{side}_{part}" for side in ("left", "right") for part in ("shoulder", "elbow", "wrist", "index1", "pinky1")]


def write_mp4(path: Path, pictures: list[np.ndarray], fps: int = 25) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "12"}
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))


@pytest.fixture(scope="module")
def truth() -> TrackedVideo:
    return TrackedVideo.open(embedded_path("clips"), "signer_a")


@pytest.fixture(scope="module")
def tracked(truth: TrackedVideo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked root of a folder with the clip, placed in a wider picture, and a video without a person."""
    folder = tmp_path_factory.mktemp("videos")
    pictures = []
    for i in FRAMES:
        wide = np.full((512, 720, 3), 90, np.uint8)
        wide[:, 104:616] = cv2.resize(truth.read_frame(i)[0], (512, 512), interpolation=cv2.INTER_AREA)
        pictures.append(wide)
    write_mp4(folder / "signer.mp4", pictures)
    write_mp4(folder / "empty.mp4", [np.full((128, 128, 3), 50 + i, np.uint8) for i in range(6)])
    root = folder / "tracked"
    words = [str(folder / "signer.mp4"), str(folder / "empty.mp4"), "--tracked_root", str(root), "--device", "cpu"]
    assert main(["track", *words, "--overlay", "--quiet"]) == 3  # of one nothing could be made
    return root


def test_the_fit_is_where_the_person_is(tracked: Path, truth: TrackedVideo):
    """Joints within a few pixels of the truth, in the picture of the video; hands above all."""
    clip = TrackedVideo.open(tracked, "signer")
    outline = BodyOutline(load_body("embedded"))
    size = 1024
    found = outline.joints(outline.rest(clip.identity), clip.motion, clip.viewmats, size, clip.lens_at(size))
    chosen = list(FRAMES)
    true = outline.joints(outline.rest(truth.identity), truth.motion[chosen], truth.viewmats[chosen], size)
    ids = [INDEX[name] for name in NAMES]
    # one similarity takes the crop of the tracking to that of the truth
    ones = np.ones((len(ids) * len(chosen), 1))
    a = np.hstack([found[:, ids, :2].reshape(-1, 2), ones])
    b = true[:, ids, :2].reshape(-1, 2)
    fit, *_ = np.linalg.lstsq(a, b, rcond=None)
    off = np.linalg.norm(a @ fit - b, axis=1).reshape(len(chosen), -1)
    hands = [i for i, name in enumerate(NAMES) if "index" in name or "pinky" in name or "wrist" in name]
    assert np.median(off[:, hands]) < 14
    assert np.median(off) < 20
    assert abs(fit[0, 1]) < 0.03  # upright
    assert abs(fit[1, 0]) < 0.03


def test_what_is_written_is_a_tracked_video(tracked: Path, truth: TrackedVideo):
    clip = TrackedVideo.open(tracked, "signer")
    assert clip.num_frames == len(FRAMES)
    assert clip.fps == 25
    assert list(clip.source_frames or ()) == list(range(len(FRAMES)))
    assert clip.K is not None
    (row,) = check_videos(tracked, ["signer"], outline=BodyOutline(load_body("embedded")))
    assert row.problems == ()
    assert row.overlap is not None and row.overlap > 0.7
    mask = clip.read_frame(0)[1]
    assert 0.1 < (mask > 127).mean() < 0.6


def test_the_report_says_how_good_it_is(tracked: Path):
    folder = tracked / "signer"
    report = read_report(folder)
    assert report is not None
    assert report.quality in ("good", "fair")
    assert (report.clip, report.num_clips, report.num_frames) == (0, 1, len(FRAMES))
    assert len(report.frames["confidence_percent"]["face"]) == len(FRAMES)
    assert report.parts["left_hand"]["seen"] > 0.8
    assert report.lens["from"] == "estimate"
    sheet = cv2.imread(str(folder / "tracking.png"))
    assert sheet is not None and sheet.shape[1] > 1000
    with av.open(str(folder / "overlay.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == len(FRAMES)
    refuse_worse(folder, "poor")
    text = (folder / "tracking.json").read_text().replace(f'"quality": "{report.quality}"', '"quality": "poor"')
    other = folder.parent / "other"
    other.mkdir()
    (other / "tracking.json").write_text(text)
    with pytest.raises(InputError, match=r"poor.*--min_tracking"):
        refuse_worse(other, "fair")
    assert "poor" in _reported(other)[0]
    assert _reported(folder) == [] if report.quality == "good" else _reported(folder)
    (other / "tracking.json").unlink()
    other.rmdir()


def test_what_was_there_comes_back_when_its_successor_cannot_be_moved(tmp_path: Path):
    old = tmp_path / "root" / "a"
    old.mkdir(parents=True)
    (old / "videos_info.json").write_text("{}")
    staging = tmp_path / "root" / ".staging"
    staging.mkdir()
    with pytest.raises(FileNotFoundError):  # the new folder is not there
        _publish(staging, tmp_path / "root", "a", [TrackedClip("a", 1, 25, 512, "good")], overwrite=True)
    assert (old / "videos_info.json").read_text() == "{}"


def test_first_names_are_those_of_the_first_clips():
    assert first_clip_names("a") == tuple(clip_names("a", count)[0] for count in (1, 2, 100, 1000))


def test_a_video_without_a_person_is_refused_by_reason(tracked: Path, capsys: pytest.CaptureFixture[str]):
    assert "nobody is in the picture" in (tracked / "empty" / "skipped.txt").read_text()
    capsys.readouterr()
    assert main(["status", str(tracked), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["views"], status["done"], status["failed"]) == (2, 1, 1)
    assert not [entry.name for entry in tracked.iterdir() if ".tmp-" in entry.name]


class JawOpener:
    """Stands for the fit to the pictures."""

    def refine(self, video: TrackedVideo, fitted: ClipFit, tick: Tick) -> Any:
        assert video.num_frames == len(fitted.motion) and video.read_frame(1)[1].any()  # the clip is written already
        tick(video.num_frames)
        motion = replace(fitted.motion, jaw_pose=fitted.motion.jaw_pose + 0.25)
        return SimpleNamespace(
            identity=fitted.identity, motion=motion, viewmats=fitted.viewmats, quality=fitted.quality,
            report={"used": True, "before": fitted.motion.jaw_pose.tolist()},
        )  # fmt: skip


@pytest.mark.thorough
def test_a_refiner_has_the_last_word_on_parameters_report_and_sheet(
    truth: TrackedVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also of a clip whose first frame does not show the person."""
    with_masks = tracking._with_masks

    def late(*args: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i, (picture, mask) in enumerate(with_masks(*args)):
            yield picture, mask if i else np.zeros_like(mask)

    monkeypatch.setattr(tracking, "_with_masks", late)
    write_mp4(tmp_path / "a.mp4", [truth.read_frame(i)[0] for i in FRAMES[:5]])
    tracker = Tracker(load_body("embedded"), "cpu", refiner=JawOpener())
    options = TrackOptions("source", "flags", overlay=True)
    steps = list(tracker.track(tmp_path / "a.mp4", tmp_path / "root", "a", options))
    assert sum(step.frames for step in steps) == steps[-1].total == 4 * 5
    report = read_report(tmp_path / "root" / "a")
    assert report is not None and report.photometric["used"] is True
    before = np.array(report.photometric["before"])
    clip = TrackedVideo.open(tmp_path / "root", "a", source_frame=1)
    np.testing.assert_allclose(clip.motion.jaw_pose, before + 0.25, atol=1e-5)
    assert cv2.imread(str(tmp_path / "root" / "a" / "tracking.png")) is not None
