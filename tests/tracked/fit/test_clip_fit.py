"""From landmarks of a known body back to its parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from perfect import SIZE, fitter, joints_about_neck, landmarks_of, signing

from guava_aug.errors import InputError, UsageError
from guava_aug.tracked import TrackedVideo, check_videos, write_tracked
from guava_aug.tracked.fit import ClipFit, Crop, Lens, poses
from guava_aug.tracked.fit.clean import repair_hands
from guava_aug.tracked.fit.landmark_points import NUM_LANDMARKS, LandmarkPoints, observed, projected, quality_of
from guava_aug.tracked.fit.quality import PARTS
from guava_aug.tracked.write import rewrite_parameters

WHOLE = Crop(0.0, 0.0, float(SIZE))
FRAMES = 12
UPPER, HANDS = [15, 16, 17, 18, 19], list(range(25, 55))


@pytest.fixture(scope="module")
def fit() -> ClipFit:
    return fitter().fit(landmarks_of(signing(FRAMES)[1]), crop=WHOLE)


def _errors(found: ClipFit, frames: int = FRAMES) -> torch.Tensor:
    identity, motion = signing(frames)
    return (joints_about_neck(identity, motion) - joints_about_neck(found.identity, found.motion)).norm(dim=-1)


def test_known_parameters_come_back(fit: ClipFit) -> None:
    error = _errors(fit)
    assert error[:, UPPER].mean() < 12
    assert error[:, HANDS].mean() < 25
    assert fit.quality.word == "good"
    assert np.nanmedian(fit.quality.reprojection["left_hand"]) < 3
    gaze = (fit.motion.eye_pose - signing(FRAMES)[1].eye_pose).abs().mean()
    assert gaze < 0.05
    assert (fit.motion.eyelids - signing(FRAMES)[1].eyelids).abs().mean() < 0.1
    assert fit.K is None, "the format's own lens is not stored"


def test_swapped_hands_are_exchanged() -> None:
    landmarks = landmarks_of(signing(FRAMES)[1])
    frames = [3, 4, 8]
    hands, world = landmarks.hands.copy(), landmarks.hands_world.copy()
    hands[frames], world[frames] = hands[frames, ::-1], world[frames, ::-1]
    repaired, repairs = repair_hands(replace(landmarks, hands=hands, hands_world=world))
    assert np.flatnonzero(repairs.swapped).tolist() == frames
    np.testing.assert_array_equal(repaired.hands, landmarks.hands)
    np.testing.assert_array_equal(repaired.hands_world, landmarks.hands_world)


def test_one_hand_found_twice_is_dropped_once() -> None:
    landmarks = landmarks_of(signing(FRAMES)[1])
    hands = landmarks.hands.copy()
    hands[5, 0] = hands[5, 1] + 2
    _, repairs = repair_hands(replace(landmarks, hands=hands))
    assert repairs.dropped[5].tolist() == [True, False]
    assert not repairs.dropped[[4, 6]].any()


@pytest.mark.slow
def test_missing_hands_are_bridged(fit: ClipFit) -> None:
    landmarks = landmarks_of(signing(FRAMES)[1])
    score = landmarks.hand_score.copy()
    score[5:7, 0] = 0
    hands = landmarks.hands.copy()
    hands[5:7, 0] = 0
    found = fitter().fit(replace(landmarks, hands=hands, hand_score=score), crop=WHOLE)
    assert torch.isfinite(found.motion.left_hand_pose).all()
    assert _errors(found)[5:7, 25:40].mean() < 60
    assert np.isnan(found.quality.reprojection["left_hand"][5:7]).all()
    assert np.isfinite(found.quality.reprojection["right_hand"]).all()


@pytest.mark.slow
def test_windows_join_without_seams(fit: ClipFit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poses, "_WINDOW", 8)
    monkeypatch.setattr(poses, "_AHEAD", 3)
    pieces = fitter().fit(landmarks_of(signing(FRAMES)[1]), crop=WHOLE)
    whole, joined = (joints_about_neck(f.identity, f.motion) for f in (fit, pieces))
    assert (whole - joined).norm(dim=-1).max() < 12
    bend = [(j[2:] - 2 * j[1:-1] + j[:-2]).norm(dim=-1)[:, HANDS].mean(1) for j in (whole, joined)]
    assert (bend[1] < 2 * bend[0] + 3).all()


@pytest.mark.slow
@pytest.mark.thorough
def test_the_lens_of_a_near_camera_is_found() -> None:
    focal = 1.1 * SIZE
    landmarks = landmarks_of(signing(FRAMES)[1], Lens(focal, (255.5, 255.5)), 1.25, noise=0.1)
    found = fitter().fit(landmarks, crop=WHOLE, estimate_lens=True)
    assert found.lens.focal == pytest.approx(focal, rel=0.2)
    assert found.K is not None
    assert found.K[0, 0] == pytest.approx(found.lens.focal * 1024 / SIZE, rel=1e-6)
    assert _errors(found)[:, HANDS].mean() < 40


def test_a_written_fit_is_accepted_by_check(fit: ClipFit, tmp_path: Path) -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    frames = ((grey, np.full((64, 64), 255, np.uint8)) for _ in range(FRAMES))
    write_tracked(tmp_path, "clip", fit.identity, fit.motion, fit.viewmats, frames, fps=25)
    video = TrackedVideo.open(tmp_path, "clip")
    torch.testing.assert_close(video.motion.body_pose, fit.motion.body_pose)
    (row,) = check_videos(tmp_path, ["clip"])
    assert row.ok, row.problems


def test_no_person_is_refused() -> None:
    landmarks = landmarks_of(signing(FRAMES)[1])
    with pytest.raises(InputError, match="no person in any frame"):
        fitter().fit(replace(landmarks, pose_score=np.zeros_like(landmarks.pose_score)))


def test_landmarks_on_the_posed_body_are_those_of_the_fit(fit: ClipFit) -> None:
    """The fit's rig and the body model put them at the same places, and the latter can be differentiated."""
    points, model = LandmarkPoints(fitter().body), fitter().model
    orient = fit.motion.global_orient.clone().requires_grad_()
    motion = replace(fit.motion, global_orient=orient)
    posed = model(fit.identity, motion)
    at = projected(fit.clip, points(fit.identity, motion, posed.joints, posed.joint_transforms), fit.viewmats)
    found = quality_of(fit.clip, at.detach(), WHOLE.side)
    for part in PARTS:
        np.testing.assert_allclose(found.reprojection[part], fit.quality.reprojection[part], atol=0.1)
    pixels, weights = observed(fit.clip)
    assert pixels.shape == (FRAMES, NUM_LANDMARKS, 2) and weights.shape == (FRAMES, NUM_LANDMARKS)
    assert ((at.detach() - pixels).norm(dim=-1)[weights > 0]).median() < 2
    ((at - pixels).square().sum(-1) * weights).sum().backward()
    assert orient.grad is not None and torch.isfinite(orient.grad).all() and orient.grad.any()


def test_other_parameters_of_a_written_clip_keep_its_pictures(fit: ClipFit, tmp_path: Path) -> None:
    pictures = [(np.full((32, 32, 3), 9 * i, np.uint8), np.full((32, 32), 255, np.uint8)) for i in range(FRAMES)]
    folder = write_tracked(tmp_path, "clip", fit.identity, fit.motion, fit.viewmats, pictures, fps=25)
    identity = replace(fit.identity, betas=fit.identity.betas + 0.1)
    motion, viewmats = replace(fit.motion, jaw_pose=fit.motion.jaw_pose + 0.1), fit.viewmats.clone()
    viewmats[:, 0, 3] += 0.5
    rewrite_parameters(folder, identity, motion, viewmats)
    clip = TrackedVideo.open(tmp_path, "clip")
    torch.testing.assert_close(clip.motion.jaw_pose, motion.jaw_pose)
    torch.testing.assert_close(clip.viewmats, viewmats)
    torch.testing.assert_close(clip.identity.betas[:20], identity.betas[:20])
    assert abs(int(clip.read_frame(3)[0].mean()) - 27) <= 1
    with pytest.raises(UsageError, match="12 frames, found 3 poses"):
        rewrite_parameters(folder, identity, motion[:3], viewmats[:3])
