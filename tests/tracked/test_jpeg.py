"""Damage in the middle of a JPEG, which OpenCV decodes to a wrong picture without an error."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_clip import encoded, put_images, small_frames  # type: ignore[import-not-found]

from guava_aug.errors import InputError
from guava_aug.tracked import TrackedVideo, check_videos, images
from guava_aug.tracked.images import decode_image, is_damaged_jpeg, read_jpeg_header

SIDE = 256
NO_CODE = b"\xff\x00" * 256  # ones: no Huffman code of a JPEG has so many
SAMPLINGS = [getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}") for name in ("411", "420", "422", "440", "444")]


def noisy(side: int = SIDE, channels: int = 3) -> np.ndarray:
    picture = np.random.default_rng(0).normal(128, 30, (side, side, channels)).clip(0, 255)
    return cv2.GaussianBlur(picture.astype(np.uint8), (0, 0), 1.0)


def overwritten(data: bytes, new: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + new + data[at + len(new) :]


def broken(data: bytes, *, strict: bool) -> bool:
    header = read_jpeg_header(data)
    assert header is not None
    return is_damaged_jpeg(data, header, strict=strict)


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("channels", [3, 1])
def test_no_good_picture_is_called_damaged(channels: int, progressive: int) -> None:
    flat = np.zeros((SIDE, SIDE), np.uint8)
    for side, quality, restart, optimised, sampling in product((64, 61), (30, 95), (0, 3), (0, 1), SAMPLINGS):
        flags = [
            cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive,
            cv2.IMWRITE_JPEG_RST_INTERVAL, restart, cv2.IMWRITE_JPEG_OPTIMIZE, optimised,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling,
        ]  # fmt: skip
        for picture in (noisy(side, channels), flat):
            data = cv2.imencode(".jpg", picture, flags)[1].tobytes()
            assert not broken(data, strict=True) and not broken(data + bytes(9), strict=True), flags


def test_a_picture_with_a_thumbnail_is_whole() -> None:
    """As cameras write it: a small JPEG, with its own headers and end, within a segment of the large one."""
    data, thumbnail = encoded(noisy()), b"Exif\0\0" + encoded(noisy(32))
    segment = b"\xff\xe1" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    header = read_jpeg_header(whole)
    assert header is not None and (header.width, header.height) == (SIDE, SIDE)
    assert not broken(whole, strict=True)
    assert broken(overwritten(whole, NO_CODE), strict=True)


def test_damage_that_costs_nothing_to_see() -> None:
    data = encoded(noisy())
    random = np.random.default_rng(1).integers(0, 256, 4096, np.uint8).tobytes()
    for new in (b"\xff\xe1", random, bytes(4096)):
        with pytest.raises(ValueError, match="its JPEG data are broken"):
            decode_image(overwritten(data, new), 3)
    assert images._HOLE in (
        black := cv2.imencode(".jpg", np.zeros((512, 512)), [cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1].tobytes()
    )
    assert not broken(black, strict=False)  # zeros alone are no damage


def test_damage_that_decoding_again_shows() -> None:
    data = encoded(noisy())
    bad = overwritten(data, NO_CODE)
    decode_image(bad, 3)
    with pytest.raises(ValueError, match="its JPEG data are broken"):
        decode_image(bad, 3, strict=True)


def test_a_damaged_picture_is_named(write, tmp_path: Path) -> None:
    path = write("v", count=4, frames=small_frames(4, SIDE))
    random = np.random.default_rng(1).integers(0, 256, 4096, np.uint8).tobytes()
    data = encoded(noisy())
    put_images(path, {"frame_000002/body_image": overwritten(data, random)})
    put_images(path, {"frame_000003/body_image": overwritten(data, NO_CODE)})
    (row,) = check_videos(tmp_path)
    for frame, problem in zip(("frame_000002", "frame_000003"), row.problems, strict=True):
        assert f"video 'v', frame '{frame}', body_image in" in problem and "JPEG data are broken" in problem
    with pytest.raises(InputError, match=r"video 'v', frame 'frame_000002', body_image in .*are broken"):
        list(TrackedVideo.open(tmp_path, "v").chunks(4))


def test_the_source_picture_is_looked_at_closely(write, tmp_path: Path) -> None:
    path = write("v", count=2, frames=small_frames(2, SIDE))
    put_images(path, {"frame_000000/body_image": overwritten(encoded(noisy()), NO_CODE)})
    with pytest.raises(InputError, match=r"frame 'frame_000000', body_image.*are broken"):
        TrackedVideo.open(tmp_path, "v")
