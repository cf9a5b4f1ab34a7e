"""Drawings of a person: flat colours with hard edges, as in an animated film."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

SIZE = 512  # pixels, side of a drawing
_FINER = 4  # the drawing is made this much larger, and averaged
_FINGERS = ((-14, 30), (-5, 35), (4, 33), (13, 26))  # offset across the palm, length
_OUTLINE = (30, 20, 20)


class _Sheet:
    """Shapes with an outline; places and lengths are pixels of the finished drawing."""

    def __init__(self, background: Sequence[float], outline: float) -> None:
        self.picture = np.full((SIZE * _FINER, SIZE * _FINER, 3), np.asarray(background), np.uint8)
        self._outline = outline

    def ellipse(self, centre: Sequence[float], axes: Sequence[float], colour: Sequence[float]) -> None:
        for more, shown in ((self._outline, _OUTLINE), (0, colour)):
            size = tuple(int((a + more) * _FINER) for a in axes)
            cv2.ellipse(self.picture, _place(centre), size, 0, 0, 360, _colour(shown), -1)

    def line(self, start: Sequence[float], end: Sequence[float], width: float, colour: Sequence[float]) -> None:
        for more, shown in ((2 * self._outline, _OUTLINE), (0, colour)):
            cv2.line(self.picture, _place(start), _place(end), _colour(shown), int((width + more) * _FINER))

    def polygon(self, corners: Sequence[Sequence[float]], colour: Sequence[float]) -> None:
        places = np.array([_place(corner) for corner in corners])
        cv2.fillPoly(self.picture, [places], _colour(colour))


def draw_person(
    step: int = 0, *, skin: Sequence[float] = (241, 194, 125), shirt: Sequence[float] = (90, 40, 45),
    hair: Sequence[float] = (60, 45, 40), shaded: bool = True, outline: float = 0.0,
) -> np.ndarray:  # fmt: skip
    """Return [SIZE, SIZE, 3] uint8: a person from the front with both hands raised, which move with `step`.

    Args:
        step: Number of the frame.
        skin: RGB, as are the other colours.
        shirt: Likewise.
        hair: Likewise.
        shaded: Whether one side of the face is darker.
        outline: Width of the outlines, pixels.
    """
    sheet = _Sheet((125, 140, 220), outline)
    face, axes = np.array([256.0, 150.0]), np.array([52.0, 68.0])
    sheet.ellipse(face - (0, 12), axes + (12, 6), hair)
    sheet.line((256, 203), (256, 250), 34, skin)
    sheet.polygon([(190, 262), (215, 245), (297, 245), (322, 262), (330, 512), (182, 512)], shirt)
    for side in (-1, 1):
        wrist = np.array([256 + side * (45 + 10 * np.sin(step / 4 + side)), 330 + 14 * np.cos(step / 3 + side)])
        elbow = (256 + side * 88, 385)
        sheet.line((256 + side * 62, 275), elbow, 38, np.multiply(shirt, 0.93))
        sheet.line(elbow, wrist, 28, np.multiply(shirt, 0.93))
        _draw_hand(sheet, wrist, side, skin)
        sheet.ellipse(face + (side * axes[0], 5), (9, 14), skin)
    sheet.ellipse(face, axes, skin)
    if shaded:
        whole, lit = (np.zeros(sheet.picture.shape[:2], np.uint8) for _ in range(2))
        for area, shift in ((whole, 0), (lit, -14)):
            size = tuple(int(a * _FINER) for a in axes)
            cv2.ellipse(area, _place(face + (shift, shift / 2)), size, 0, 0, 360, 1, -1)
        sheet.picture[(whole > 0) & (lit == 0)] = np.multiply(skin, 0.85)
    top, size = _place(face - (0, 0.62 * axes[1])), (int(1.02 * axes[0] * _FINER), int(0.42 * axes[1] * _FINER))
    cv2.ellipse(sheet.picture, top, size, 0, 180, 360, _colour(hair), -1)
    _draw_features(sheet, face, axes, skin, hair, step)
    return cv2.resize(sheet.picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def _draw_hand(sheet: _Sheet, wrist: np.ndarray, side: int, skin: Sequence[float]) -> None:
    along = np.array([-0.35 * side, -1.0]) / np.hypot(0.35, 1)
    across = np.array([-along[1], along[0]])
    palm = wrist + 20 * along
    for offset, length in _FINGERS:
        root = palm + offset * across + 8 * along
        sheet.line(root, root + length * along + 0.25 * offset * across, 8.5, skin)
    thumb = palm + 15 * side * across
    sheet.line(thumb, thumb + 14 * side * across + 12 * along, 9, skin)
    sheet.ellipse(palm, (18, 21), skin)
    cv2.line(sheet.picture, _place(wrist), _place(palm), _colour(skin), 24 * _FINER)


def _draw_features(
    sheet: _Sheet, face: np.ndarray, axes: np.ndarray, skin: Sequence[float], hair: Sequence[float], step: int
) -> None:
    width, height = axes
    for side in (-1, 1):
        eye = face + (side * 0.42 * width, -0.08 * height)
        sheet.ellipse(eye, (0.2 * width, 0.095 * height), (255, 255, 255))
        for axis, colour in ((0.09, (70, 90, 110)), (0.045, (10, 10, 10))):
            cv2.circle(sheet.picture, _place(eye), int(axis * width * _FINER), colour, -1)
        size = (int(0.24 * width * _FINER), int(0.09 * height * _FINER))
        brow = _place(eye - (0, 0.14 * height))
        cv2.ellipse(sheet.picture, brow, size, 0, 200, 340, _colour(np.multiply(hair, 0.7)), int(3.5 * _FINER))
    nose = [_place(face + place) for place in ((2, 2), (6, 0.27 * height), (-5, 0.29 * height))]
    cv2.polylines(sheet.picture, [np.array(nose)], False, _colour(np.multiply(skin, 0.75)), 3 * _FINER)
    mouth = 0.05 + 0.04 * abs(np.sin(step / 2))
    sheet.ellipse(face + (0, 0.55 * height), (0.3 * width, mouth * height), (170, 60, 60))


def _place(point: Sequence[float] | np.ndarray) -> tuple[int, int]:
    x, y = (round(float(v) * _FINER) for v in point)
    return x, y


def _colour(colour: Sequence[float] | np.ndarray) -> tuple[int, int, int]:
    r, g, b = (int(v) for v in colour)
    return r, g, b
