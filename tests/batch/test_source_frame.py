"""--source_frame: the avatar is made from another frame than the first, and only then does anything say so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_input_faults import put_images

from fakes import FakeModel, write_clip
from guava_aug import augment
from guava_aug.apps.estimate import _cut
from guava_aug.batch.config import RunConfig
from guava_aug.batch.fingerprint import RenderSettings
from guava_aug.errors import InputError, UsageError
from guava_aug.tracked import TrackedVideo, check_videos
from run_outputs import logged


def test_what_the_avatar_is_made_from(tmp_path: Path) -> None:
    write_clip(tmp_path, "v", frames=4)
    first, third = TrackedVideo.open(tmp_path, "v"), TrackedVideo.open(tmp_path, "v", source_frame=2)
    rgb, mask = first.read_frame(2)
    expected = torch.from_numpy(rgb.transpose(2, 0, 1) * (mask[None] / np.float32(255)) / np.float32(255))
    assert torch.allclose(third.source_at(64).image, expected.float(), atol=1e-6)
    assert not torch.equal(first.source_at(64).image, third.source_at(64).image)
    assert torch.equal(third.source.motion.body_pose[0], first.motion.body_pose[2])
    assert torch.equal(third.source.viewmat, first.viewmats[2]) and (first.source_frame, third.source_frame) == (0, 2)


@pytest.mark.parametrize("number", [4, 10**9, -1])
def test_a_number_out_of_range(tmp_path: Path, number: int) -> None:
    write_clip(tmp_path, "v", frames=4)
    with pytest.raises(InputError, match=rf"'v': the source frame asked for is {number} .*expected 0 to 3.* 4 frames"):
        TrackedVideo.open(tmp_path, "v", source_frame=number)
    with pytest.raises(UsageError, match="--source_frame is -1; expected the number of a frame, 0 or more"):
        RunConfig(tmp_path, tmp_path, source_frame=-1)


def test_a_video_whose_first_frame_shows_nobody(tmp_path: Path) -> None:
    """It can be made from another one; a video that is too short for it fails alone."""
    root = tmp_path / "tracked"
    clip = write_clip(root, "late", frames=5)
    put_images(clip, {"frame_000000/body_mask": np.zeros((64, 64), np.uint8)})
    write_clip(root, "short", frames=2)
    assert "another frame as the source (--source_frame)" in check_videos(root, ["late"])[0].problems[0]
    late, short = check_videos(root, source_frame=3)
    assert late.ok and late.warnings[0] == "frame 'frame_000000': the mask is empty"
    assert len(late.warnings) == 2 and "nothing of the clean plate is taken from it" in late.warnings[1]
    assert "expected 0 to 1, as it has 2 frames" in short.problems[0]
    result = augment(root, tmp_path / "out", None, ["easy"], model=FakeModel(), source_frame=3, background="black")
    assert [(view.video, view.status) for view in result.views] == [("late", "success"), ("short", "failed")]
    assert logged(tmp_path / "out")["short"]["easy"]["error"].endswith("as it has 2 frames.")
    _cut(RunConfig(root, tmp_path, source_frame=3), "late", {"few": 4}, tmp_path / "clips")
    cut = TrackedVideo.open(tmp_path / "clips" / "few", "late")  # begins with the source frame, and comes round
    assert torch.equal(
        cut.motion.body_pose, TrackedVideo.open(root, "late", source_frame=3).motion.body_pose[[3, 4, 0, 1]]
    )


def test_it_is_part_of_the_fingerprint_unless_it_is_the_first(tmp_path: Path) -> None:
    same = {
        "weights": "w",
        "background": "plate",
        "crf": 10,
        "preset": "veryfast",
        "render": 1,
        "fps": 30.0,
        "input": "i",
    }
    assert RenderSettings("w", "plate", 10, "veryfast").made_with(30, "i") == same
    assert RenderSettings("w", "plate", 10, "veryfast", source_frame=2).made_with(30, "i") == {
        **same,
        "source_frame": 2,
    }
    assert repr(RenderSettings("w", "plate", 10, "veryfast")) == repr(
        RenderSettings("w", "plate", 10, "veryfast", source_frame=2)
    )
    root, out = tmp_path / "tracked", tmp_path / "out"
    write_clip(root, "v", frames=3)
    make = lambda **more: augment(root, out, ["v"], ["easy"], model=FakeModel(), **more)
    assert make().ok
    with pytest.raises(UsageError, match=r"--source_frame: made with 0, this run 2 \(v / easy\)"):
        make(source_frame=2)
    assert make(source_frame=2, overwrite=True).ok
    with pytest.raises(UsageError, match="--source_frame: made with 2, this run 0"):
        make()
    assert [view.status for view in make(source_frame=2).views] == ["skipped"]
    (beside,) = out.glob("easy/v/*/v/*.json")
    assert json.loads(beside.read_text())["made_with"]["source_frame"] == 2
