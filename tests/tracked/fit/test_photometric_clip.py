"""The fit of a written clip to its pictures, from end to end, with a model that has learnt nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from perfect import SIZE, fitter, landmarks_of, signing

from guava_aug.avatar.model import GuavaModel, load_model
from guava_aug.avatar.personalize import Rates
from guava_aug.avatar.personalize.config import FitConfig
from guava_aug.avatar.personalize.photometric import PhotometricConfig, PhotometricFitter
from guava_aug.tracked import BodyOutline, TrackedVideo, write_tracked
from guava_aug.tracked.fit import ClipFit, Crop
from tiny_model import write_tiny_model

FRAMES = 6
pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GuavaModel:
    return load_model(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture(scope="module")
def fit() -> ClipFit:
    return fitter().fit(landmarks_of(signing(FRAMES)[1]), crop=Crop(0.0, 0.0, float(SIZE)))


@pytest.fixture(scope="module")
def video(model: GuavaModel, fit: ClipFit, tmp_path_factory: pytest.TempPathFactory) -> TrackedVideo:
    outline, size = BodyOutline(model.body), 128
    shapes = outline.silhouettes(outline.rest(fit.identity), fit.motion, fit.viewmats, size)
    pictures = [(np.where(m[..., None], (180, 120, 60), 30).astype(np.uint8), np.uint8(255) * m) for m in shapes]
    root = tmp_path_factory.mktemp("tracked")
    write_tracked(root, "clip", fit.identity, fit.motion, fit.viewmats, pictures, fps=25)
    return TrackedVideo.open(root, "clip")


def config(refined: bool, rates: Rates) -> PhotometricConfig:
    few = FitConfig(steps=2, frames_per_step=1, warmup=0, rates=rates)
    return PhotometricConfig(
        refined=refined, size=None if refined else 64, shape_frames=4, window=4, overlap=2, visits=1, shape=few
    )


@pytest.mark.parametrize("refined", [True, False])
def test_a_fit_that_goes_astray_leaves_the_clip_as_it_was(
    model: GuavaModel, video: TrackedVideo, fit: ClipFit, refined: bool
) -> None:
    ticks: list[int] = []
    wild = Rates(pose=1.0, hands=1.0, face=1.0, camera=0.5, shape=1.0)
    found = PhotometricFitter(model, config(refined, wild)).refine(video, fit, ticks.append)
    assert sum(ticks) == FRAMES
    assert found.report["used"] is False and found.report["why_not"]
    assert found.identity is fit.identity and found.motion is fit.motion and found.quality is fit.quality


def test_what_changes_next_to_nothing_is_measured_all_the_same(
    model: GuavaModel, video: TrackedVideo, fit: ClipFit
) -> None:
    still = Rates(pose=1e-7, hands=1e-7, face=1e-7, camera=1e-7, shape=1e-7)
    found = PhotometricFitter(model, config(False, still)).refine(video, fit)
    report: dict[str, Any] = found.report
    # opacities of this model all lie at a threshold, and its avatars differ by rounding
    assert report["psnr_on_person"]["after"] == pytest.approx(report["psnr_on_person"]["before"], abs=1)
    assert 0 < report["iou"]["after"] < 1
    assert len(found.motion) == FRAMES and found.viewmats.shape == (FRAMES, 4, 4)
    torch.testing.assert_close(found.motion.body_pose, fit.motion.body_pose, atol=1e-4, rtol=0)


def test_a_clip_without_a_person_is_left_alone(
    model: GuavaModel, fit: ClipFit, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("empty")
    black, nothing = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    pictures = [(black, nothing + 255), *[(black, nothing)] * (FRAMES - 1)]
    write_tracked(root, "clip", fit.identity, fit.motion, fit.viewmats, pictures, fps=25)
    found = PhotometricFitter(model, config(False, Rates())).refine(TrackedVideo.open(root, "clip"), fit)
    assert found.report == {"used": False, "why_not": "too few frames show the person"}
    assert found.motion is fit.motion
