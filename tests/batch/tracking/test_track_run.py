"""The tracking run around a tracker that makes nothing of pictures: work list, resume, failures, journal, status."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from guava_aug.batch.executors import track_in_process
from guava_aug.batch.journal.history import History
from guava_aug.batch.status import run_status
from guava_aug.batch.tracking import load
from guava_aug.batch.tracking.config import TrackConfig
from guava_aug.batch.tracking.inputs import find_sources, source_signature
from guava_aug.batch.tracking.plan import accepted_fingerprints, track_fingerprint
from guava_aug.batch.tracking.retry import failed_tracking
from guava_aug.batch.tracking.run import track
from guava_aug.cli import main
from guava_aug.cli.parsing import parse
from guava_aug.cli.track import DESCRIPTION, EXAMPLES, POSITIONALS, TrackFlags
from guava_aug.errors import DiskFullError, InputError, UsageError
from guava_aug.runtime.shutdown import ShutdownRequested
from guava_aug.tracked.layout import scan_videos
from guava_aug.tracked.report import TrackingReport, clip_names, read_report

pytestmark = pytest.mark.fast


@dataclass(frozen=True)
class Step:
    """What a tracker gives while it works."""

    frames: int
    total: int


@dataclass(frozen=True)
class MadeClip:
    """What a tracker gives of a clip in the end."""

    name: str
    num_frames: int = 5
    fps: float = 25.0
    size: int = 512
    quality: str = "good"
    rank: int = 0


@dataclass
class FakeTracker:
    """Writes folders with a report; a video whose content is a reason fails for it."""

    device: str = "cpu"
    body_name: str = "embedded"
    refiner: object | None = None
    tracked: list[str] = field(default_factory=list)

    def track(self, source: Path, root: Path, name: str, options: Any, stages: Any) -> Iterator[Step]:
        text = source.read_text()
        yield Step(5, 10)
        if text.startswith("bad"):
            raise InputError("nobody is in the picture.")
        if text.startswith("full"):
            raise DiskFullError("no space left")
        yield Step(5, 10)
        count = 3 if text.startswith("cuts") else 1
        self.tracked.append(name)
        for i in range(count):
            folder = root / clip_names(name, count)[i]
            folder.mkdir(parents=True, exist_ok=True)
            report = TrackingReport(
                str(source), options.source_signature, options.fingerprint, i, count, 5, "good",
            )  # fmt: skip
            (folder / "tracking.json").write_text(report.to_text())
            (folder / "videos_info.json").write_text("{}")
        return [MadeClip(clip_names(name, count)[i]) for i in range(count)]


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> FakeTracker:
    fake = FakeTracker()
    monkeypatch.setattr(load, "load_tracker", lambda config, device: fake)
    monkeypatch.setattr(track_in_process.TrackExecutor, "_options", _options)
    return fake


def _options(self: track_in_process.TrackExecutor, source: Path) -> Any:

    @dataclass
    class Options:
        source_signature: str
        fingerprint: str

    return Options(source_signature(source), self._fingerprint())


def videos(folder: Path, **contents: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        (folder / f"{name}.mp4").write_text(text)
    return folder


def statuses(result: Any) -> dict[str, str]:
    return {record.video: record.status for record in result.records}


def test_one_bad_video_stops_nothing_and_is_not_tried_again(tmp_path: Path, tracker: FakeTracker):
    folder = videos(tmp_path / "in", a="good", b="bad", c="cuts")
    config = TrackConfig((str(folder),), tmp_path / "tracked", device="cpu")
    first = track(config)
    assert statuses(first) == {"a": "success", "b": "failed", "c": "success"}
    assert first.clips["c"] == ("c_01", "c_02", "c_03")
    assert "nobody is in the picture" in str(first.failed[0].error)
    found = scan_videos(config.tracked_root)
    assert (found.tracked, found.skipped) == (["a", "c_01", "c_02", "c_03"], ["b"])

    again = track(config)
    assert statuses(again) == {"a": "skipped", "b": "failed", "c": "skipped"}
    assert "not tried again" in str(again.failed[0].error)
    assert again.clips["c"] == first.clips["c"]
    assert tracker.tracked == ["a", "c"]

    (folder / "b.mp4").write_text("good now")
    assert statuses(track(config)) == {"a": "skipped", "b": "success", "c": "skipped"}
    assert scan_videos(config.tracked_root).skipped == []


def test_status_and_retry_know_videos(tmp_path: Path, tracker: FakeTracker):
    folder = videos(tmp_path / "in", clip_a="good", clip_b="bad", clip_c="bad")
    root = tmp_path / "tracked"
    track(TrackConfig((str(folder),), root, device="cpu", fov="60"))
    standing = run_status(History(root))
    assert (standing.views, standing.done, standing.failed, standing.missing) == (3, 1, 2, 0)
    assert standing.of_tracking
    assert [reason.views for reason in standing.reasons] == [2]
    (config,) = failed_tracking(History(root))
    assert (config.fov, config.tracked_root) == ("60", root)
    assert [Path(video).name for video in config.videos] == ["clip_b.mp4", "clip_c.mp4"]
    (folder / "clip_c.mp4").write_text("good")
    assert statuses(track(config, again=True)) == {"clip_b": "failed", "clip_c": "success"}
    os.remove(root / "clip_a" / "videos_info.json")
    assert run_status(History(root)).missing == 1


def test_other_flags_and_other_videos_are_refused_by_name(tmp_path: Path, tracker: FakeTracker):
    folder = videos(tmp_path / "in", a="good", b="good")
    config = TrackConfig((str(folder),), tmp_path / "tracked", device="cpu")
    track(config)
    other = track(replace(config, fov="50"))
    assert all(
        "with other flags" in str(record.error) and "--overwrite" in str(record.error) for record in other.failed
    )
    (folder / "a.mp4").write_text("good, but another one")
    changed = track(config)
    assert statuses(changed) == {"a": "failed", "b": "skipped"}
    assert "has changed" in str(changed.failed[0].error)
    assert statuses(track(replace(config, overwrite=True))) == {"a": "success", "b": "success"}
    assert tracker.tracked == ["a", "b", "a", "b"]


def test_a_copied_video_is_still_the_same(tmp_path: Path):
    one = tmp_path / "a.mp4"
    one.write_bytes(bytes(range(256)) * 1000)
    before = source_signature(one)
    os.utime(one, (1, 1))
    assert source_signature(one) == before
    one.write_bytes(one.read_bytes()[:-1] + b"x")
    assert source_signature(one) != before
    with pytest.raises(InputError, match="cannot be read"):
        source_signature(tmp_path / "b.mp4")


def test_folders_of_another_tracker_are_left_alone(tmp_path: Path, tracker: FakeTracker):
    folder = videos(tmp_path / "in", a="good", b="good")
    root = tmp_path / "tracked"
    (root / "a").mkdir(parents=True)
    (root / "a" / "videos_info.json").write_text("{}")
    (root / "b").mkdir()
    (root / "b" / "notes.txt").write_text("mine")
    result = track(TrackConfig((str(folder),), root, device="cpu"))
    assert ["another program" in str(record.error) for record in result.failed] == [True, False]
    assert "no tracked video" in str(result.failed[1].error)
    assert tracker.tracked == []


def test_a_full_disk_ends_the_run(tmp_path: Path, tracker: FakeTracker):
    folder = videos(tmp_path / "in", a="good", b="full", c="good")
    root = tmp_path / "tracked"
    with pytest.raises(DiskFullError):
        track(TrackConfig((str(folder),), root, device="cpu"))
    assert tracker.tracked == ["a"]
    record = json.loads((root / ".guava-aug" / "last_run.json").read_text())
    assert "no space" in record["stopped"]
    assert run_status(History(root)).left == 2


def test_interrupted_and_resumed(tmp_path: Path, tracker: FakeTracker):
    folder = videos(tmp_path / "in", a="good", b="good", c="good")
    config = TrackConfig((str(folder),), tmp_path / "tracked", device="cpu")

    def stop() -> None:
        if tracker.tracked:
            raise ShutdownRequested

    with pytest.raises(ShutdownRequested):
        track(config, stop=stop)
    assert tracker.tracked == ["a"]
    assert statuses(track(config)) == {"a": "skipped", "b": "success", "c": "success"}


def test_shards_and_limits_share_the_work(tmp_path: Path, tracker: FakeTracker):
    folder = videos(tmp_path / "in", **{f"v{i}": "good" for i in range(9)})
    root = tmp_path / "tracked"
    config = TrackConfig((str(folder),), root, device="cpu")
    parts = [statuses(track(replace(config, shard=f"{i}/3", part_id=None))) for i in range(3)]
    assert sorted(name for part in parts for name in part) == [f"v{i}" for i in range(9)]
    more = videos(tmp_path / "more", w0="good", w1="good", w2="good")
    few = track(TrackConfig((str(folder), str(more)), root, device="cpu", limit=2))
    assert few.count() == {"skipped": 9, "success": 2}


def test_damaged_reports_are_told(tmp_path: Path, tracker: FakeTracker):
    folder = videos(tmp_path / "in", a="good")
    config = TrackConfig((str(folder),), tmp_path / "tracked", device="cpu")
    track(config)
    path = config.tracked_root / "a" / "tracking.json"
    whole = path.read_text()
    for text in ("", "[]", "{", whole.replace('"num_clips": 1', '"num_clips": 1e400'), whole.replace("good", "best")):
        path.write_text(text)
        with pytest.raises(InputError, match=r"tracking\.json"):
            read_report(path.parent)
        assert statuses(track(config)) == {"a": "failed"}


def test_what_can_be_named_as_a_video(tmp_path: Path):
    folder = videos(tmp_path / "in", b="x", a="x")
    (folder / "notes.txt").write_text("no video")
    (folder / ".hidden.mp4").write_text("x")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "0001.png").write_bytes(b"x")
    found = find_sources([folder, pictures, folder / "a.mp4"])
    assert list(found) == ["a", "b", "pictures"]
    other = videos(tmp_path / "other", a="y")
    with pytest.raises(UsageError, match=r"'a'.*rename"):
        find_sources([folder, other])
    for upper in ({"A": "y"}, {"pi\u0301": "y", "P\u00cd": "z"}):  # one folder for some file systems
        with pytest.raises(UsageError, match=r"case or Unicode form.*rename"):
            find_sources([folder, videos(tmp_path / next(iter(upper)), **upper)])
    with pytest.raises(UsageError, match="is not there"):
        find_sources([tmp_path / "nothing.mp4"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match=r"neither videos \(\.mp4, "):
        find_sources([empty])


def test_a_fit_to_pictures_is_part_of_what_counts_as_the_same(tmp_path: Path, tracker: FakeTracker):
    """As before the flag where it is off; auto takes either, on and off ask for their own."""
    folder = videos(tmp_path / "in", a="good")
    config = TrackConfig((str(folder),), tmp_path / "tracked", device="cpu", photometric="off")
    assert statuses(track(config)) == {"a": "success"}
    assert statuses(track(replace(config, photometric="auto"))) == {"a": "skipped"}
    refused = track(replace(config, photometric="on"))
    assert "with other flags" in str(refused.failed[0].error)

    tracker.refiner = object()
    again = replace(config, photometric="on", overwrite=True)
    assert statuses(track(again)) == {"a": "success"}
    for photometric, status in (("on", "skipped"), ("auto", "skipped"), ("off", "failed")):
        assert statuses(track(replace(again, photometric=photometric, overwrite=False))) == {"a": status}
    assert tracker.tracked == ["a", "a"]


def test_a_fit_to_pictures_is_told_apart_by_weights_and_settings(tmp_path: Path):
    """And the digest of clips without it does not know of either."""
    config = TrackConfig(("a",), tmp_path, photometric="on")
    model = tmp_path / "other.safetensors"
    model.write_bytes(b"other weights")
    other = replace(config, model_path=model)
    digests = [track_fingerprint(c, photometric=way) for c in (config, other) for way in ("gpu", "cpu")]
    assert len(set(digests)) == 4
    assert track_fingerprint(config, photometric=None) == track_fingerprint(other, photometric=None)
    assert set(accepted_fingerprints(config)) == set(digests[:2])  # either will do
    assert accepted_fingerprints(replace(config, photometric="auto"))[1:] == accepted_fingerprints(config)
    assert track_fingerprint(replace(other, body="embedded"), photometric="gpu") != digests[2]


@pytest.mark.parametrize(
    ("photometric", "device", "wanted"),
    [("auto", "cpu", False), ("auto", "cuda:1", True), ("on", "cpu", True), ("off", "cuda:0", False)],
)
def test_auto_fits_to_pictures_on_a_gpu(photometric: str, device: str, wanted: bool):
    assert load.wants_photometric(TrackConfig(("a",), photometric=photometric), device) is wanted  # type: ignore[arg-type]


def test_the_flag_of_the_fit_to_pictures(capsys: pytest.CaptureFixture[str]):
    parsed = parse(TrackFlags, ["--photometric", "on"], "guava-aug track", DESCRIPTION, EXAMPLES, POSITIONALS)
    assert parsed.config(["a.mp4"]).photometric == "on"
    assert (
        parse(TrackFlags, [], "guava-aug track", DESCRIPTION, EXAMPLES, POSITIONALS).config(["a"]).photometric == "off"
    )
    assert main(["track", "a.mp4", "--photometric", "maybe"]) == 2
    assert "--photometric" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output_root", "FILE"], "--output_root"),
        (["--output_root", "out", "--preset", "quick"], "--preset"),
        (["--output_root", "out", "--model_path", "nowhere"], "--model_path nowhere does not exist"),
        (["--output_root", "out", "--background", "nowhere.png"], "nowhere.png"),
    ],
)
def test_augment_refuses_what_cannot_be_rendered_before_it_tracks(
    tmp_path: Path, tracker: FakeTracker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    words: list[str], said: str,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    folder = videos(tmp_path / "in", a="good")
    assert main(["augment", str(folder), "--device", "cpu", *words]) in (1, 2)
    assert said in capsys.readouterr().err
    assert tracker.tracked == []
