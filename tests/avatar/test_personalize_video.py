"""Which frames of a video an avatar is fitted to, what is taken of them, and what the frames between them get."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import roma
import torch

from guava_aug.avatar.personalize import PRESETS
from guava_aug.avatar.personalize.video import carry_over, choose_frames, observe_video
from guava_aug.body import Motion
from guava_aug.errors import InputError
from guava_aug.tracked import TrackedVideo
from guava_aug.views.cameras import intrinsics
from person_clip import EMPTY, outline, person, write_person

T = 9


def _motion(frames: int = T) -> Motion:
    r = lambda *shape: 0.3 * torch.randn(frames, *shape, generator=torch.Generator().manual_seed(1))
    return Motion(r(3), r(21, 3), r(15, 3), r(15, 3), r(50), r(50), r(3), r(2, 3), r(2))


def test_frames_are_spread_by_time_and_by_pose() -> None:
    _, motion, _ = person(100)
    motion.body_pose.zero_()
    motion.body_pose[41:44, 16, 2] = torch.tensor([0.5, 1.0, 0.6])  # an arm goes up, quickly
    motion.left_hand_pose[70, 3] = 1.0
    chosen = choose_frames(motion, 12)
    assert len(chosen) == len(set(chosen)) == 12 and chosen == sorted(chosen)
    assert {0, 99, 42, 70} <= set(chosen)
    assert max(np.diff(chosen)) <= 20  # evenly spread, half of them
    assert choose_frames(motion, 100) == choose_frames(motion, 1000) == list(range(100))
    still = choose_frames(person(50)[1][[0] * 50], 8)  # all alike
    assert len(set(still)) == 8


def test_presets_look_at_a_bounded_number_of_frames_and_fast_does_less() -> None:
    fast, full = PRESETS["fast"], PRESETS["full"]
    assert fast.most_frames < full.most_frames <= 128
    assert fast.steps * fast.frames_per_step < full.steps * full.frames_per_step


def test_frames_between_change_as_their_neighbours_whatever_the_angles_are_written_as() -> None:
    motion, viewmats = _motion(), torch.eye(4).repeat(T, 1, 1)
    motion.global_orient[:] = torch.tensor([math.pi, 0.0, 0.0])
    motion.global_orient[4] *= -1  # the same turn
    turn = lambda angle: torch.tensor([0.0, 0.0, angle])
    frames = [2, 6]
    fitted = motion[frames]
    for k, angle in enumerate((0.1, 0.3)):
        fitted.global_orient[k] = roma.rotvec_composition([turn(angle), motion.global_orient[frames[k]]])
        fitted.eyelids[k] += angle
    moved = viewmats[frames].clone()
    moved[:, 0, 3] = torch.tensor([0.01, 0.05])
    found, cameras = carry_over(frames, motion, viewmats, fitted, moved)
    expected = torch.tensor([0.1, 0.1, 0.1, 0.15, 0.2, 0.25, 0.3, 0.3, 0.3])
    change = roma.rotvec_composition([found.global_orient, -motion.global_orient])
    torch.testing.assert_close(change, torch.stack([turn(float(a)) for a in expected]), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.eyelids - motion.eyelids, expected[:, None].expand(T, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.body_pose, motion.body_pose, atol=1e-5, rtol=0)
    torch.testing.assert_close(cameras[:, 0, 3], (expected - 0.05) / 5, atol=1e-6, rtol=0)
    assert torch.equal(found.global_orient[frames], fitted.global_orient) and torch.equal(cameras[frames], moved)
    assert float(viewmats[:, 0, 3].abs().max()) == 0  # what went in is as it was


def test_turns_of_about_half_a_turn_keep_the_way_they_are_written() -> None:
    """As trackers write bodies: more than half a turn, too, so that frames follow on each other smoothly."""
    motion, viewmats = _motion(), torch.eye(4).repeat(T, 1, 1)
    motion.global_orient[:, 0] = torch.linspace(math.pi - 0.05, math.pi + 0.05, T)
    motion.global_orient[:, 1] = 0.02
    frames = [0, 4, 8]
    fitted = motion[frames]
    fitted.global_orient[:, 0] += 0.01
    found, _ = carry_over(frames, motion, viewmats, fitted, viewmats[frames])
    assert float((found.global_orient - motion.global_orient).norm(dim=1).max()) < 0.02


def test_all_frames_fitted_are_taken_as_they_are() -> None:
    motion, viewmats = _motion(), torch.eye(4).repeat(T, 1, 1)
    found, cameras = carry_over(list(range(T)), motion, viewmats, _motion(T), viewmats + 0.1)
    assert all(torch.equal(getattr(found, k), v) for k, v in vars(_motion(T)).items())
    assert torch.equal(cameras, viewmats + 0.1)
    alone, _ = carry_over([3], motion, viewmats, motion[[3]], viewmats[[3]])
    torch.testing.assert_close(alone.body_pose, motion.body_pose, atol=1e-5, rtol=0)


def test_observations_are_pictures_masks_lens_and_what_is_known(tmp_path: Path) -> None:
    K = intrinsics(128, 128, 0.3)
    known = np.full((128, 128), 255, np.uint8)
    known[:, :40] = 0
    write_person(tmp_path, "clip", 6, masks={2: EMPTY}, K=K.numpy(), known=known)
    video = TrackedVideo.open(tmp_path, "clip")
    frames, seen = observe_video(video, 64, [0, 1, 2, 4, 5])
    assert frames == [0, 1, 4, 5]  # without the one that has no mask
    assert seen.images.shape == (4, 3, 64, 64) and seen.images.dtype == seen.masks.dtype == torch.uint8
    assert seen.frames.tolist() == [0, 1, 2, 3] and seen.cameras.tolist() == [0] * 4
    assert seen.known.shape == (1, 1, 64, 64) and not seen.known[..., :20].any() and seen.known[..., 20:].all()
    torch.testing.assert_close(seen.K[0], video.lens_at(64), atol=1e-4, rtol=0)
    rgb, _ = video.read_frame(4)
    whole = torch.from_numpy(rgb.copy()).float().view(64, 2, 64, 2, 3).mean((1, 3)).permute(2, 0, 1)
    assert (seen.images[2].float() - whole).abs().mean() < 3
    with pytest.raises(InputError, match=r"clip: .*3 frames at least .*has 2, of 3 frames"):
        observe_video(video, 64, [0, 2, 4])


def test_a_clip_without_a_lens_has_the_formats_own_and_bad_masks_are_left_out(tmp_path: Path) -> None:
    write_person(tmp_path, "clip", 6, masks={3: lambda mask: np.roll(mask, 40, axis=1)})
    video = TrackedVideo.open(tmp_path, "clip")
    frames, seen = observe_video(video, 128, list(range(6)), outline())
    assert frames == [0, 1, 2, 4, 5] and bool(seen.known.all())
    assert torch.allclose(seen.K[0], intrinsics(128, 128))
