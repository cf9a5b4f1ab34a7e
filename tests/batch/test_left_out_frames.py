"""Runs over videos some of whose masks miss the person: what is said, and what becomes of the digests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import person_clip as clip
from fakes import FakeModel
from guava_aug import augment
from guava_aug.output.metadata import tag_of_file
from guava_aug.output.tree import video_path
from run_outputs import frames_of, logged, tree


def model() -> FakeModel:
    fake = FakeModel()
    fake.body = clip.outline().body  # type: ignore[assignment]
    return fake


@pytest.fixture
def tracked(tmp_path: Path) -> Path:
    root = tmp_path / "tracked"
    clip.write_person(root, "good")
    clip.write_person(root, "lost", masks=dict.fromkeys((4, 5, 6, 9), clip.shifted))
    return root


def made_with(root: Path, name: str, label: str = "easy") -> dict:
    tag = tag_of_file(video_path(root, label, name))
    assert tag is not None and tag.made_with is not None
    return tag.made_with


def test_only_the_affected_video_has_another_digest_and_is_named(
    tracked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    assert augment(tracked, out, None, ["easy"], model=model()).ok
    assert made_with(out, "lost")["plate_without"] == "4-6,9"
    assert "plate_without" not in made_with(out, "good")
    assert set(made_with(out, "good")) == {"weights", "background", "crf", "preset", "render", "fps", "input"}
    said = [r.getMessage() for r in caplog.records if "clean plate is made without" in r.getMessage()]
    assert len(said) == 1 and said[0].startswith("lost: ")
    assert "4 frames (4-6,9, from 'frame_000004' to 'frame_000009')" in said[0]
    assert logged(out)["lost"]["easy"]["status"] == "success"
    before = tree(out)
    assert augment(tracked, out, None, ["easy"], model=model()).count() == {"skipped": 2}
    assert augment(tracked, tmp_path / "black", None, ["easy"], model=model(), background="black").ok
    assert "plate_without" not in made_with(tmp_path / "black", "lost")  # nothing depends on it
    assert tree(out) == before
    pictures = frames_of(video_path(out, "easy", "lost"))[0]
    red = (pictures[0].astype(int)[..., 0] - pictures[0].astype(int)[..., 1]).max()
    assert red < 60  # the fake model's grey over the plate: no shirt in it


def test_views_of_an_earlier_version_stay_and_are_named(
    tracked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:  # as it was: nothing is left out
        patch.setattr("guava_aug.batch.pipeline.left_out", lambda video, frames, masks, outline: ())
        assert augment(tracked, out, None, ["easy"], model=model(), views_per_difficulty=2).ok
    before = tree(out)
    video_path(out, "easy", "lost").unlink()
    video_path(out, "easy", "good").unlink()
    result = augment(tracked, out, None, ["easy"], model=model(), views_per_difficulty=2)
    assert result.count() == {"skipped": 2, "success": 2}
    after = tree(out)
    changed = [path for path in before if before[path] != after[path]]
    assert [Path(path).name for path in changed] == ["lost_fixed_viewpoint_video.mp4"]
    assert "plate_without" in made_with(out, "lost") and "plate_without" not in made_with(out, "lost", "easy_001")
    said = [r.getMessage() for r in caplog.records if "may show the person" in r.getMessage()]
    assert len(said) == 1 and said[0].startswith("lost: 1 view made before (easy_001)")
    assert augment(tracked, out, None, ["easy"], model=model(), views_per_difficulty=2).count() == {"skipped": 4}
    assert json.loads((out / "augmentation_params.json").read_text(encoding="utf-8"))["lost"].keys() == {
        "easy", "easy_001"
    }  # fmt: skip


def test_a_model_without_body_still_leaves_out_empty_masks(tmp_path: Path) -> None:
    clip.write_person(tmp_path / "tracked", "v", masks={3: np.zeros_like})
    assert augment(tmp_path / "tracked", tmp_path / "out", None, ["easy"], model=FakeModel()).ok
    assert made_with(tmp_path / "out", "v")["plate_without"] == "3"
