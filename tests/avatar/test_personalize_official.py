"""An avatar fitted with a checkpoint and a body in the official layout and of their size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from guava_aug.avatar.model import load_model
from guava_aug.avatar.personalize import PersonalizeConfig
from guava_aug.batch.avatars import AvatarStore
from guava_aug.tracked import TrackedVideo

NAME = "synthetic_clip"


@pytest.mark.slow
@pytest.mark.thorough
def test_an_avatar_is_fitted_with_official_weights_and_body(
    guava_assets: Path, shared_golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of one picture: the weights are seeded, and nothing is to be learnt with them."""
    program = [sys.executable, "-B", str(shared_golden / "make_tracked_example.py"), "--out", str(tmp_path)]
    subprocess.run([*program, "--name", NAME, "--frames", "4", "--minimal"], check=True, capture_output=True)
    config = PersonalizeConfig(steps=1, frames_per_step=1, guess_frames=1, most_frames=3)
    monkeypatch.setattr("guava_aug.avatar.personalize.PRESETS", {"fast": config})
    model, video = load_model(guava_assets / "GUAVA"), TrackedVideo.open(tmp_path, NAME)
    fitted = AvatarStore(tmp_path / "avatars", "fast", "weights").get(model, video)
    assert fitted.is_new and np.isfinite([fitted.before, fitted.after]).all()
    back = AvatarStore(tmp_path / "avatars", "fast", "weights").get(model, video)
    assert not back.is_new and back.avatar.num_gaussians > 100_000
    posed = back.avatar.pose(back.motion[3:4])
    assert len(back.motion) == len(back.viewmats) == 4 and bool(torch.isfinite(posed.means).all())
