"""The recorded clip, read as the original reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from guava_aug.tracked import TrackedVideo, check_videos

pytestmark = pytest.mark.parity

IMAGE_TOLERANCE = 4e-3  # one step of 8 bit: JPEG decoders may differ by that
NUMBER_TOLERANCE = 1e-6
RECORDED = (0, 5, 11)


@pytest.fixture(scope="module")
def record(golden: Path):
    return np.load(golden / "tracked_example.npz")


@pytest.fixture(scope="module")
def video(golden: Path) -> TrackedVideo:
    return TrackedVideo.open(golden / "tracked_example", "synthetic_clip")


def _close(found: torch.Tensor, expected: np.ndarray, tolerance: float = NUMBER_TOLERANCE) -> None:
    assert tuple(found.shape) == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=tolerance)


def _compare_parameters(identity, motion, viewmat, record, prefix: str) -> None:
    smplx, flame = f"{prefix}__smplx_coeffs__", f"{prefix}__flame_coeffs__"
    _close(identity.betas[:200], record[smplx + "shape"][0])
    assert identity.betas.shape == (300,) and not identity.betas[200:].any()
    _close(identity.flame_betas, record[flame + "shape_params"][0])
    for field in ("head_scale", "hand_scale", "joints_offset"):
        _close(getattr(identity, field), record[smplx + field][0])
    _close(motion.global_orient, record[smplx + "global_pose"])
    for field in ("body_pose", "left_hand_pose", "right_hand_pose"):
        _close(getattr(motion, field), record[smplx + field])
    _close(motion.expression, record[smplx + "exp"])
    _close(motion.flame_expression, record[flame + "expression_params"])
    _close(motion.jaw_pose, record[flame + "jaw_params"])
    _close(motion.eye_pose, record[flame + "eye_pose_params"].reshape(1, 2, 3))
    _close(motion.eyelids, record[flame + "eyelid_params"])
    _close(viewmat, record[f"{prefix}__w2c_cam"][0])


def test_source(video: TrackedVideo, record) -> None:
    source = video.source
    assert source.image.shape == (3, 518, 518) and source.image.dtype == torch.float32 and len(source.motion) == 1
    _close(source.image[:, ::14, ::14], record["source__image_stride14"], IMAGE_TOLERANCE)
    _close(source.image.mean(dim=(1, 2)), record["source__image_mean"], IMAGE_TOLERANCE)
    _compare_parameters(source.identity, source.motion, source.viewmat, record, "source")


@pytest.mark.parametrize("frame", RECORDED)
def test_parameters_of_a_frame(video: TrackedVideo, record, frame: int) -> None:
    motion = video.motion[frame : frame + 1]
    _compare_parameters(video.identity, motion, video.viewmats[frame], record, f"target{frame}")


@pytest.mark.parametrize("frame", RECORDED)
def test_part_boxes(video: TrackedVideo, record, frame: int) -> None:
    for part, box in video.part_boxes(frame).items():
        assert box.dtype == np.int64
        np.testing.assert_array_equal(box, record[f"target{frame}__{part}_box"][0])


def test_images_by_chunk(video: TrackedVideo, record) -> None:
    chunks = list(video.chunks(5))
    assert [(c.start, c.stop) for c in chunks] == [(0, 5), (5, 10), (10, 12)]
    images, masks = torch.cat([c.images for c in chunks]), torch.cat([c.masks for c in chunks])
    assert images.shape == (12, 3, 512, 512) and masks.shape == (12, 1, 512, 512)
    for frame in RECORDED:
        _close(images[frame, :, ::8, ::8], record[f"target{frame}__image_stride8"], IMAGE_TOLERANCE)
        _close(masks[frame].expand(3, -1, -1)[:, ::8, ::8], record[f"target{frame}__mask_stride8"], IMAGE_TOLERANCE)


def test_what_the_clip_is(video: TrackedVideo) -> None:
    assert (video.name, video.num_frames, video.image_size) == ("synthetic_clip", 12, 1024)
    assert video.frame_keys[:2] == ("frame_000000", "frame_000001")
    assert video.fps is None and video.source_frames is None


def test_check_finds_nothing_wrong(golden: Path) -> None:
    (row,) = check_videos(golden / "tracked_example")
    assert (row.name, row.frames, row.size, row.problems, row.warnings) == ("synthetic_clip", 12, 1024, (), ())


@pytest.mark.parametrize("kind", ["flat", "merged"])
def test_clips_of_the_generator(shared_golden: Path, golden: Path, tmp_path: Path, kind: str) -> None:
    """Other seeds, both layouts, from the program that made the recorded clip."""
    pytest.importorskip("PIL", reason="the golden generator writes its images with Pillow")
    make = [sys.executable, "-B", str(shared_golden / "make_tracked_example.py"), "--out", str(tmp_path / kind)]
    subprocess.run([*make, "--layout", kind, "--minimal", "--frames", "3", "--seed", "6001"], check=True)
    made = TrackedVideo.open(tmp_path / kind, "synthetic_clip")
    recorded = TrackedVideo.open(golden / "tracked_example", "synthetic_clip")
    assert made.num_frames == 3
    assert torch.equal(made.identity.betas, recorded.identity.betas)  # the smooth tracks depend on the frame count
    np.testing.assert_array_equal(made.read_frame(0)[1] > 127, recorded.read_frame(0)[1] > 127)
    assert check_videos(tmp_path / kind)[0].ok
