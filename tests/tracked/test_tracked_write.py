"""Writing tracked videos, read back by our reader and by the LMDB library."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_clip import small_frames, small_identity, small_motion, small_viewmats  # type: ignore[import-not-found]

from guava_aug.errors import InputError, OutputError, UsageError
from guava_aug.tracked import TrackedVideo, list_videos, write_tracked

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=20)


def _equal(a, b) -> bool:
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in a.__dataclass_fields__)


@settings(max_examples=25, deadline=None)
@given(
    name=NAMES.filter(lambda n: n not in (".", "..")),
    count=st.integers(1, 6),
    size=st.sampled_from([16, 33, 64]),
    betas=st.integers(0, 300),
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["flat", "nested", "merged"]),
    fps=st.none() | st.floats(0.5, 240),
)
def test_round_trip(tmp_path_factory, name, count, size, betas, seed, kind, fps) -> None:
    root = tmp_path_factory.mktemp("root")
    identity, motion, viewmats = small_identity(seed, betas), small_motion(count, seed), small_viewmats(count)
    write_tracked(
        root, name, identity, motion, viewmats, iter(small_frames(count, size)),
        layout_kind=kind, fps=fps, source_frames=range(3, 3 + count),
    )  # fmt: skip
    video = TrackedVideo.open(root, name)
    assert (video.name, video.num_frames, video.image_size, video.fps) == (name, count, size, fps)
    assert video.source_frames == list(range(3, 3 + count))
    assert torch.equal(video.identity.betas[:betas], identity.betas) and not video.identity.betas[betas:].any()
    assert _equal(video.motion, motion) and torch.equal(video.viewmats, viewmats)
    for i, (rgb, mask) in enumerate(small_frames(count, size)):
        got_rgb, got_mask = video.read_frame(i)
        assert np.abs(got_rgb.astype(int) - rgb).mean() < 3  # JPEG of small smooth pictures
        assert ((got_mask > 127) == (mask > 127)).mean() > 0.97


def test_the_files_are_the_trackers(write, tmp_path: Path) -> None:
    path = write("clip", count=3, size=128)
    assert sorted(p.name for p in path.iterdir()) == [
        "id_share_params.pkl", "img_lmdb", "optim_tracking_ehm.pkl", "videos_info.json",
    ]  # fmt: skip
    assert json.loads((path / "videos_info.json").read_text()) == {
        "clip": {"frames_num": 3, "frames_keys": ["frame_000000", "frame_000001", "frame_000002"]}
    }
    frame = pickle.loads((path / "optim_tracking_ehm.pkl").read_bytes())["frame_000001"]
    shapes = {k: v.shape for k, v in frame["smplx_coeffs"].items()}
    assert shapes == {
        "exp": (50,), "global_pose": (3,), "body_pose": (21, 3), "body_cam": (3,), "camera_RT_params": (3, 4),
        "left_hand_pose": (15, 3), "right_hand_pose": (15, 3),
    }  # fmt: skip
    np.testing.assert_allclose(frame["smplx_coeffs"]["camera_RT_params"][:, :3], np.diag([-1, -1, 1]))
    np.testing.assert_allclose(frame["smplx_coeffs"]["body_cam"], [24 / 22, 0.01, 0], rtol=1e-6)
    shared = pickle.loads((path / "id_share_params.pkl").read_bytes())
    assert shared["smplx_shape"].shape == (1, 200) and shared["joints_offset"].shape == (1, 55, 3)
    with lmdb.open(str(path / "img_lmdb"), readonly=True, lock=False) as env, env.begin() as transaction:
        data = dict(transaction.cursor())
    assert len(data) == 6
    mask, image = data[b"frame_000001/body_mask"], data[b"frame_000001/body_image"]
    assert cv2.imdecode(np.frombuffer(mask, np.uint8), cv2.IMREAD_UNCHANGED).ndim == 2
    start = image.index(b"\xff\xc0")  # frame header: components and their sampling
    assert image[start + 9] == 3 and image[start + 11] == 0x22 and image[start + 14] == 0x11  # 4:2:0


def test_the_map_grows_and_the_file_does_not(tmp_path: Path) -> None:
    """About 25 MB of noise in a map that starts at 16 MiB."""
    rng = np.random.default_rng(0)
    frames = ((rng.integers(0, 255, (512, 512, 3), np.uint8), np.full((512, 512), 255, np.uint8)) for _ in range(90))
    path = write_tracked(tmp_path, "big", small_identity(), small_motion(90), small_viewmats(90), frames)
    file = path / "img_lmdb" / "data.mdb"
    content = sum(len(v) for v in _values(path))
    assert content > 2**24
    assert file.stat().st_size < 1.1 * content + 2**20
    assert TrackedVideo.open(tmp_path, "big").num_frames == 90


def _values(path: Path) -> list[bytes]:
    with lmdb.open(str(path / "img_lmdb"), readonly=True, lock=False) as env, env.begin() as transaction:
        return [v for _, v in transaction.cursor()]


def test_a_merged_set_of_several_videos(write, tmp_path: Path) -> None:
    for i, name in enumerate(["b", "a", "ab"]):
        write(name, count=2 + i, layout_kind="merged", identity=small_identity(i), motion=small_motion(2 + i, i))
    assert list_videos(tmp_path) == ["a", "ab", "b"]
    for i, name in enumerate(["b", "a", "ab"]):
        video = TrackedVideo.open(tmp_path, name)
        assert video.num_frames == 2 + i and _equal(video.motion, small_motion(2 + i, i))
        assert torch.equal(video.identity.head_scale, small_identity(i).head_scale)
    with pytest.raises(OutputError, match="has a video 'a' already"):
        write("a", layout_kind="merged")


def test_nothing_is_overwritten_and_nothing_half_done_stays(write, tmp_path: Path) -> None:
    write("v", count=2)
    with pytest.raises(OutputError, match="exists already"):
        write("v", count=2)

    def failing():
        yield small_frames(1)[0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write("w", count=2, frames=failing())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v"]


def test_a_single_video_is_no_set_to_add_to(write, tmp_path: Path) -> None:
    path = write("v", count=2)
    with pytest.raises(OutputError, match="not a merged set"):
        write_tracked(
            path, "w", small_identity(), small_motion(1), small_viewmats(1), small_frames(1), layout_kind="merged"
        )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"frames": small_frames(4)}, UsageError),
        ({"frames": small_frames(6)}, UsageError),
        ({"viewmats": small_viewmats(4)}, UsageError),
        ({"frame_keys": ["a"] * 5}, UsageError),
        ({"frames": [(np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9), np.uint8))] * 5}, UsageError),
        ({"frames": [(np.zeros((8, 8, 3)), np.zeros((8, 8)))] * 5}, UsageError),
        ({"frames": small_frames(4) + small_frames(1, 32)}, UsageError),
        ({"name": "a/b"}, InputError),
        ({"fps": 0}, InputError),
        ({"source_frames": [1]}, InputError),
    ],
)
def test_arguments_that_do_not_fit(write, tmp_path: Path, change: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        write(**change)
    assert list(tmp_path.iterdir()) == []
