"""What is told of tracking that cannot be right, by `check` and by a run alike."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import person_clip as clip
from fakes import FakeModel
from guava_aug import augment
from guava_aug.apps.synthetic import demo_root
from guava_aug.tracked import CheckRow, TrackedVideo, check_videos, examine
from guava_aug.tracked.outline import BodyOutline
from guava_aug.tracked.plausibility import jitter_and_far_off


def check(root: Path, **options) -> CheckRow:
    (row,) = check_videos(root, outline=clip.outline(), **options)
    return row


def model() -> FakeModel:
    fake = FakeModel()
    fake.body = clip.outline().body  # type: ignore[assignment]
    return fake


def rendered(root: Path, out: Path, **options):
    return augment(root, out, None, ["easy"], model=model(), **options)


def camera(change) -> torch.Tensor:
    _, _, viewmats = clip.person(12)
    change(viewmats)
    return viewmats


def mirrored(v: torch.Tensor) -> None:
    v[:, 0, :3] *= -1


def mirrored_in_one_frame(v: torch.Tensor) -> None:
    v[7, 1, :3] *= -1


def scaled(v: torch.Tensor) -> None:
    v[:, :3, :3] *= 2


def skewed(v: torch.Tensor) -> None:
    v[:, 0, 1] = 0.3


def behind(v: torch.Tensor) -> None:
    v[:, 2, 3] *= -1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (mirrored, "mirrored"),
        (mirrored_in_one_frame, "mirrored"),
        (scaled, "scaled or skewed"),
        (skewed, "scaled or skewed"),
        (behind, "behind the camera"),
    ],
)
def test_impossible_cameras_are_refused_alike(tmp_path: Path, change, word: str) -> None:
    root = tmp_path / "tracked"
    clip.write_person(root, "v", viewmats=camera(change))
    row = check(root)
    assert not row.ok and word in row.problems[0] and "frame_0000" in row.problems[0]
    assert not check_videos(root, decode=False)[0].ok  # needs neither body nor pictures
    (failed,) = rendered(root, tmp_path / "out").failed
    assert row.problems[0] in failed.error and "--accept_tracking" in failed.error and "'v'" in failed.error
    assert "not tried again" in rendered(root, tmp_path / "out").failed[0].error
    assert rendered(root, tmp_path / "out", accept_tracking=True).ok  # is tried, though nothing else has changed
    accepted = check(root, accept_tracking=True)
    assert accepted.ok and row.problems[0] in accepted.warnings


def test_rotations_that_are_not_quite_orthonormal_are_odd(tmp_path: Path) -> None:
    clip.write_person(tmp_path, "v", viewmats=camera(lambda v: v[:, 0, 1].fill_(0.01)))
    row = check(tmp_path)
    assert row.ok and any("orthonormal to 0.010" in warning for warning in row.warnings)


@pytest.mark.parametrize("kind", [clip.inverted, clip.specks])
def test_masks_of_somebody_else_are_refused_only_in_all_three_frames(tmp_path: Path, kind) -> None:
    root = tmp_path / "all"
    clip.write_person(root, "v", masks=dict.fromkeys(range(12), kind))
    row = check(root)
    assert row.overlap is not None and row.overlap < 0.1
    assert not row.ok and "intersection over union" in row.problems[0]
    (failed,) = rendered(root, tmp_path / "out").failed
    assert row.problems[0] in failed.error
    root = tmp_path / "two"
    clip.write_person(root, "v", masks=dict.fromkeys((0, 11), kind))  # of the first, middle and last frame
    row = check(root)
    assert row.ok and row.overlap is not None and row.overlap < 0.1
    assert any("expected 0.4 or more" in warning for warning in row.warnings)
    assert rendered(root, tmp_path / "out2").ok


def test_a_right_clip_has_its_figures_and_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "tracked"
    clip.write_person(root, "v")
    row = check(root)
    assert (row.problems, row.warnings) == ((), ())
    assert row.overlap is not None and 0.7 < row.overlap < 1 and row.jitter is not None and row.jitter < 0.5
    assert rendered(root, tmp_path / "out").ok
    assert not [r for r in caplog.records if r.levelname == "WARNING" and "v:" in r.getMessage()]


@pytest.mark.parametrize("name", ["signer_a", "signer_b", "signer_c"])
def test_bundled_clips_have_no_warning(name: str) -> None:
    found = examine(TrackedVideo.open(demo_root(), name), clip.outline())
    assert (found.impossible, found.odd, found.far_off) == ((), (), ())
    assert found.overlap is not None and found.overlap > 0.8


def test_masks_that_have_nothing_to_do_with_the_body_are_rendered_with_a_warning(golden: Path) -> None:
    """The recorded clip's mask is drawn by hand: half of it lies on the body."""
    found = examine(TrackedVideo.open(golden / "tracked_example", "synthetic_clip"), clip.outline())
    assert found.impossible == () and len(found.odd) == 1 and "overlap by 0.3" in found.odd[0]


def test_degrees_full_masks_and_a_black_source(tmp_path: Path) -> None:
    _, motion, _ = clip.person(12)
    motion.body_pose.mul_(180 / math.pi)
    clip.write_person(tmp_path / "degrees", "v", motion=motion)
    (warning,) = [w for w in check(tmp_path / "degrees").warnings if "degrees" in w]
    assert warning.startswith("body_pose has rotations of") and "radians" in warning

    clip.write_person(tmp_path / "full", "v", masks=dict.fromkeys(range(12), lambda m: np.full_like(m, 255)))
    row = check(tmp_path / "full")
    assert row.ok and any("covers the whole picture" in warning for warning in row.warnings)

    clip.write_person(tmp_path / "black", "v", black=(0,))
    row = check(tmp_path / "black")
    (failed,) = rendered(tmp_path / "black", tmp_path / "out", accept_tracking=True).failed
    assert not row.ok and "shows no person" in row.problems[0]
    assert "shows no person" in failed.error  # of nothing nothing can be made


def test_jitter_and_frames_far_off_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "tracked"
    _, motion, viewmats = clip.person(12)
    viewmats[6, 0, 3] += 0.2  # metres: 56 pixels of 512
    clip.write_person(root, "jump", motion=motion, viewmats=viewmats)
    row = check(root)
    assert row.far_off == (6,) and any("frame_000006" in warning for warning in row.warnings)
    assert rendered(root, tmp_path / "out").ok
    assert "far off from the frames before and after: 1 frame (6, 'frame_000006')" in caplog.text

    root = tmp_path / "shaking"
    _, _, viewmats = clip.person(12)
    viewmats[::2, 0, 3] += 0.02
    clip.write_person(root, "v", viewmats=viewmats)
    row = check(root)
    assert row.jitter is not None and abs(row.jitter - 0.02 / 22 * 12 * 512) < 0.3  # focal length: 12 sizes
    assert any("jitters" in warning for warning in row.warnings) and row.far_off == ()


def test_motion_is_neither_jitter_nor_far_off() -> None:
    t = np.arange(40)[:, None, None]
    steady = np.broadcast_to(np.concatenate([3.0 * t, 200 - 2.0 * t], -1), (40, 55, 2))
    assert jitter_and_far_off(steady) == (0.0, ())
    waving = steady.copy()
    waving[:, 18:22] += 60 * np.sin(t * 2 * np.pi * 3 / 25)  # two arms, three times a second
    assert jitter_and_far_off(waving)[1] == ()
    assert jitter_and_far_off(steady[:2]) == (0.0, ())
    assert jitter_and_far_off(np.full((5, 55, 2), np.inf))[1] == ()


def test_the_outline_is_that_of_the_whole_body(tmp_path: Path) -> None:
    """Its vertices lie where the body model has them."""
    identity, motion, viewmats = clip.person(3)
    outline: BodyOutline = clip.outline()
    posed = outline.body(identity, motion).vertices
    seen = (posed @ viewmats[:, :3, :3].transpose(1, 2) + viewmats[:, None, :3, 3]).numpy()
    x = np.rint(seen[..., 0] / seen[..., 2] * 12 * 128 + 63.5).astype(int)
    y = np.rint(seen[..., 1] / seen[..., 2] * 12 * 128 + 63.5).astype(int)
    inside = (x >= 0) & (x < 128) & (y >= 0) & (y < 128)
    shown = outline.silhouettes(outline.rest(identity), motion, viewmats)
    for k in range(3):
        rim = cv2.dilate(shown[k].astype(np.uint8), np.ones((3, 3), np.uint8))  # rounding ends a pixel outside
        assert rim[y[k, inside[k]], x[k, inside[k]]].mean() > 0.99
        drawn = np.zeros((128, 128), bool)
        drawn[y[k, inside[k]], x[k, inside[k]]] = True
        assert (shown[k] & drawn).sum() > 0.5 * shown[k].sum()
    assert not outline.silhouettes(outline.rest(identity), motion, -viewmats).any()  # behind the camera
