"""Drawn people are refused, and people on film are not, whatever became of their pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from guava_aug.assets import embedded_path
from guava_aug.errors import InputError
from guava_aug.tracked.detect import detect
from guava_aug.tracked.detect.flatness import face_flatness
from guava_aug.tracked.mdb import MdbFile
from guava_aug.tracked.tracking import _DRAWN, _framing
from tracked.drawn_person import draw_person

FILMED = 0.3  # more than any bundled face has; measured 0.13
FILMED_AT_WORST = 0.55  # measured 0.51, in a single picture of a crf of 51


def changed(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda picture: np.clip(np.rint(change(picture.astype(np.float32))), 0, 255).astype(np.uint8)


def compressed(crf: int) -> Callable[[np.ndarray], np.ndarray]:
    def through_h264(picture: np.ndarray) -> np.ndarray:
        encoder = av.CodecContext.create("libx264", "w")
        encoder.height, encoder.width = picture.shape[:2]
        encoder.pix_fmt, encoder.options = "yuv420p", {"crf": str(crf)}
        packets = [*encoder.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")), *encoder.encode(None)]
        decoder = av.CodecContext.create("h264", "r")
        frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
        return frames[0].to_ndarray(format="rgb24")

    return through_h264


CHANGES = {
    "none": lambda picture: picture,
    "dim": changed(lambda picture: 0.5 * picture),
    "haze": changed(lambda picture: 0.5 * picture + 120),
    "over-exposed": changed(lambda picture: 1.5 * picture),
    "blurred": lambda picture: cv2.GaussianBlur(picture, (0, 0), 3),
    "smoothed": lambda picture: cv2.bilateralFilter(picture, 9, 40, 7),
    "crf 6": compressed(6),
    "crf 23": compressed(23),
    "crf 35": compressed(35),
    "crf 51": compressed(51),
}


@pytest.fixture(scope="module")
def filmed(golden: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures of the bundled people and the landmarks of their faces that mediapipe found."""
    found = []
    with np.load(golden / "landmarks.npz") as recorded:
        for clip in ("signer_a", "signer_b", "signer_c"):
            file = MdbFile(embedded_path("clips", clip, "img_lmdb", "data.mdb"))
            slots = [slot for key, slot in sorted(dict(file.scan(b"")).items()) if key.endswith(b"/body_image")]
            numbers, faces = recorded[f"{clip}|single|frames"], recorded[f"{clip}|single|face"]
            for number, face in zip(numbers[::2], faces[::2], strict=True):
                coded = np.frombuffer(file.read(slots[number]), np.uint8)
                found.append((cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1].copy(), face))
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_a_filmed_face_is_not_flat(filmed: list[tuple[np.ndarray, np.ndarray]], change: str):
    found = [face_flatness(CHANGES[change](picture), face) for picture, face in filmed]
    assert len(found) >= 6
    assert not any(value > FILMED_AT_WORST for value in found), found  # NaN: too little contrast to say anything
    assert FILMED_AT_WORST < _DRAWN
    if change == "none":
        assert max(found) < FILMED


OVAL = np.array([256, 150]) + np.array([52, 68]) * [[np.cos(a), np.sin(a)] for a in np.linspace(0, 6, 40)]  # [40, 2]


@pytest.mark.parametrize("change", ["none", "dim", "haze", "smoothed", "crf 6"])
@pytest.mark.parametrize("outline", [0, 3])
@pytest.mark.parametrize("skin", [(255, 219, 172), (198, 134, 66), (141, 85, 36)])
def test_a_drawn_face_is_flat(skin: tuple[int, int, int], outline: int, change: str):
    picture = CHANGES[change](draw_person(skin=skin, outline=outline))
    assert face_flatness(picture, OVAL) > _DRAWN


def test_nothing_is_said_of_faces_that_say_nothing():
    picture = draw_person()
    grey = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    assert np.isnan(face_flatness(grey, OVAL))
    assert np.isnan(face_flatness(np.full_like(picture, 255), OVAL))
    assert np.isnan(face_flatness((picture // 10 + 100).astype(np.uint8), OVAL))
    small = cv2.resize(picture, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    assert np.isnan(face_flatness(small, OVAL / 4))
    assert np.isnan(face_flatness(picture, OVAL + (1000, 0)))
    assert face_flatness(picture[:, 256:].copy(), OVAL - (256, 0)) > _DRAWN  # half of it outside


@pytest.mark.parametrize("options", [{}, {"skin": (255, 219, 172)}, {"hair": (150, 110, 60), "shaded": False}])
def test_a_drawing_that_the_nets_take_for_a_person_is_refused_by_reason(options: dict):
    landmarks = detect([draw_person(step, **options) for step in (0, 2, 4)])
    assert landmarks.found.any()
    with pytest.raises(InputError, match=r"drawn, not filmed: three flat colours make up \d+% of the face"):
        _framing(landmarks)
