"""Which masks are told to miss the person, and that ordinary clips have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import person_clip as clip
from guava_aug.apps.synthetic import demo_root
from guava_aug.tracked import TrackedVideo
from guava_aug.tracked.masks import in_words, left_out, masks_that_miss, plate_frames, ranges, small_mask


def missed(root: Path, name: str, *, with_body: bool = True) -> tuple[int, ...]:
    video = TrackedVideo.open(root, name)
    frames = plate_frames(video.num_frames)
    masks = np.stack([small_mask(video.read_frame(i)[1]) for i in frames])
    return left_out(video, frames, masks, clip.outline() if with_body else None)


@pytest.mark.parametrize(
    ("kind", "by_area"),
    [
        (clip.EMPTY, True),
        (clip.left_half_only, None),  # about half of the area: either
        (clip.shifted, False),
        (clip.specks, True),
        (clip.inverted, False),
        (clip.without_waving_arm, False),
    ],
)
def test_wrong_masks_are_found_in_one_frame_and_in_some_that_follow_each_other(tmp_path: Path, kind, by_area) -> None:
    for lost in ((5,), (5, 6, 7, 8)):
        clip.write_person(tmp_path, f"v{len(lost)}", masks=dict.fromkeys(lost, kind))
        assert missed(tmp_path, f"v{len(lost)}") == lost
        if by_area is not None:
            assert missed(tmp_path, f"v{len(lost)}", with_body=False) == (lost if by_area else ())


def test_wrong_masks_may_be_most(tmp_path: Path) -> None:
    lost = tuple(range(2, 10))
    for name, kind in (("empty", clip.EMPTY), ("shifted", clip.shifted)):
        clip.write_person(tmp_path, name, masks=dict.fromkeys(lost, kind))
        assert missed(tmp_path, name) == lost
    assert missed(tmp_path, "empty", with_body=False) == lost


def test_masks_that_are_too_large_take_nothing_for_background(tmp_path: Path) -> None:
    clip.write_person(tmp_path, "v", masks={4: lambda mask: np.full_like(mask, 255)})
    assert missed(tmp_path, "v") == ()


def test_an_empty_mask_is_right_when_the_body_has_left_the_picture(tmp_path: Path) -> None:
    _, _, viewmats = clip.person(12)
    viewmats[8:, 0, 3] = 5.0  # metres to the side
    clip.write_person(tmp_path, "v", viewmats=viewmats, filmed=viewmats)
    video = TrackedVideo.open(tmp_path, "v")
    assert not video.read_frame(9)[1].any() and video.read_frame(2)[1].any()
    assert missed(tmp_path, "v") == ()


@pytest.mark.parametrize("name", ["signer_a", "signer_b", "signer_c"])
def test_nothing_is_left_out_of_the_bundled_clips(name: str) -> None:
    assert missed(demo_root(), name) == missed(demo_root(), name, with_body=False) == ()


def test_nothing_is_left_out_where_body_and_masks_do_not_belong_together(golden: Path) -> None:
    assert missed(golden / "tracked_example", "synthetic_clip") == ()


def test_without_anybody_nothing_is_missed() -> None:
    nobody = np.zeros((5, 128, 128), bool)
    assert not masks_that_miss(nobody, None).any()
    assert not masks_that_miss(nobody, nobody).any()


def test_words() -> None:
    assert ranges([3, 7, 8, 9, 11]) == "3,7-9,11"
    keys = [f"frame_{i:06d}" for i in range(12)]
    assert in_words([3], keys) == "1 frame (3, 'frame_000003')"
    assert in_words([3, 4, 9], keys) == "3 frames (3-4,9, from 'frame_000003' to 'frame_000009')"
