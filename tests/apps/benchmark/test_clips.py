"""Videos cut and repeated to a length: pictures byte for byte, poses and cameras with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import write_clip
from guava_aug.apps.benchmark.clips import clip_of_length
from guava_aug.errors import UsageError
from guava_aug.tracked import TrackedVideo


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_frames_come_from_the_front_again(tmp_path: Path, frames: int):
    write_clip(tmp_path / "in", "three", frames=3)
    clip_of_length(tmp_path / "in", "three", frames, tmp_path / "out", "other")
    old, new = TrackedVideo.open(tmp_path / "in", "three"), TrackedVideo.open(tmp_path / "out", "other")
    assert (new.num_frames, new.image_size, new.fps) == (frames, old.image_size, old.fps)
    assert torch.equal(new.identity.betas[:10], old.identity.betas[:10])
    for i in range(frames):
        assert all(np.array_equal(a, b) for a, b in zip(new.read_frame(i), old.read_frame(i % 3), strict=True))
        assert torch.equal(new.motion.body_pose[i], old.motion.body_pose[i % 3])
        assert torch.allclose(new.viewmats[i], old.viewmats[i % 3])


def test_no_frames_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="expected 1 or more"):
        clip_of_length(tmp_path, "x", 0, tmp_path / "out")
