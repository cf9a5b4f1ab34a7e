"""Rotated regions of a picture: where a net looks, and the way back from its input to the picture.

A region is an array [5]: centre x, y, width, height in pixels of the picture, and rotation in radians, clockwise as
seen, so that a region of rotation 0 is upright. Functions take any leading dimensions. The rules (from two points, from
a box, growing, keeping the last one) and their constants are those of MediaPipe's graphs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guava_aug.tracked.detect.sampling_numba import sample

UP, RIGHTWARDS = np.pi / 2, 0.0  # direction, counterclockwise from x, that a vector has in an upright region

# Landmarks of a hand that span its palm (no fingertips), and those that give its direction.
_PALM = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)
_WRIST, _INDEX, _MIDDLE, _RING = 0, 5, 9, 13  # the roots of the fingers

_OBLONG = 1.25  # sides of a picture that is looked at in tiles


@dataclass(frozen=True)
class Tolerance:
    """How far a region may be from the one found afresh and still be kept (fractions of the latter's side)."""

    rotation: float  # radians
    translation: float
    scale: float
    margin: float  # the kept landmarks lie within the fresh region grown by this fraction


def whole_picture(height: int, width: int) -> np.ndarray:
    """Return the square region [5] around the whole picture."""
    side = max(height, width)
    return np.array([width / 2, height / 2, side, side, 0.0])


def tiles(height: int, width: int) -> list[np.ndarray]:
    """Return the region around the whole picture, and overlapping squares of its shorter side if it is not square."""
    whole = whole_picture(height, width)
    short, long = min(height, width), max(height, width)
    if long < _OBLONG * short:
        return [whole]
    count = int(np.ceil((long - short) / (short / 2))) + 1  # they overlap by half or more
    centres = np.linspace(short / 2, long - short / 2, count)
    places = [(c, height / 2) if width > height else (width / 2, c) for c in centres]
    return [whole] + [np.array([x, y, short, short, 0.0]) for x, y in places]


def rotation_of(start: np.ndarray, end: np.ndarray, target: float) -> np.ndarray:
    """Return the rotation (rad, in -pi..pi) of the region in which the vector from `start` to `end` points at `target`.

    Args:
        start: [..., 2] px.
        end: [..., 2] px.
        target: Angle counterclockwise from x: `UP` or `RIGHTWARDS`, or another.
    """
    d = end - start
    angle = target - np.arctan2(-d[..., 1], d[..., 0])
    return np.asarray(angle - 2 * np.pi * np.floor((angle + np.pi) / (2 * np.pi)))


def from_centre_and_rim(centre: np.ndarray, rim: np.ndarray, target: float = UP) -> np.ndarray:
    """Return the square region [..., 5] of the circle around `centre` [..., 2] through `rim` [..., 2]."""
    side = 2 * np.linalg.norm(rim - centre, axis=-1)
    return np.concatenate([centre, np.stack([side, side, rotation_of(centre, rim, target)], -1)], -1)


def from_box(points: np.ndarray, start: np.ndarray, end: np.ndarray, target: float = RIGHTWARDS) -> np.ndarray:
    """Return the box [..., 5] of points [..., N, 2], turned about its centre as `start` to `end` says."""
    low, high = points.min(-2), points.max(-2)
    return np.concatenate([(low + high) / 2, high - low, rotation_of(start, end, target)[..., None]], -1)


def from_hand(hand: np.ndarray) -> np.ndarray:
    """Return the region [..., 5] of a hand's palm, fingers upwards, from its landmarks [..., 21, 2 or more]."""
    hand = hand[..., :2]
    knuckles = (hand[..., _INDEX, :] + hand[..., _RING, :]) / 4 + hand[..., _MIDDLE, :] / 2
    rotation = rotation_of(hand[..., _WRIST, :], knuckles, UP)
    palm = hand[..., _PALM, :]
    middle = (palm.min(-2) + palm.max(-2)) / 2
    upright = _rotate(palm - middle[..., None, :], -rotation[..., None])
    low, high = upright.min(-2), upright.max(-2)
    centre = middle + _rotate((low + high) / 2, rotation)
    return np.concatenate([centre, high - low, rotation[..., None]], -1)


def grow(region: np.ndarray, scale: float, shift_y: float = 0.0) -> np.ndarray:
    """Return the square region [..., 5] on the longer side, moved along its own y axis and scaled.

    Args:
        region: [..., 5].
        scale: Factor of the longer side.
        shift_y: Fraction of the height before scaling; negative is towards the region's top.
    """
    centre, height, rotation = region[..., :2], region[..., 3], region[..., 4]
    shift = np.stack([np.zeros_like(height), height * shift_y], -1)
    side = scale * region[..., 2:4].max(-1)
    return np.concatenate([centre + _rotate(shift, rotation), np.stack([side, side, rotation], -1)], -1)


def usable(region: np.ndarray) -> np.ndarray:
    """Return [...] bool: whether all numbers are finite and the region has at least one pixel of width and height."""
    return np.asarray(np.isfinite(region).all(-1) & (region[..., 2:4] >= 1).all(-1))


def crop(picture: np.ndarray, region: np.ndarray, size: int, *, replicate: bool = True) -> np.ndarray:
    """Return the region [size, size, 3] uint8 of a picture [H, W, 3] uint8, sampled bilinearly.

    Places are rounded to 1/32 pixel. OpenCV's warps did so before version 5, and MediaPipe with them; the nets answer
    to the difference, so that the same picture would give other landmarks with another OpenCV.

    Args:
        picture: RGB.
        region: [5].
        size: Pixels of a side of the result.
        replicate: Outside the picture its rim is continued; else it is black.
    """
    out = np.empty((size, size, 3), np.uint8)
    sample(picture, _matrix(region, size), replicate, out)
    return out


def to_picture(points: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return points of regions in pixels of the picture.

    Args:
        points: [..., N, 2 or 3], in fractions of the region's width and height; z in fractions of the width.
        region: [..., 5].

    Returns:
        [..., N, 2 or 3] px.
    """
    xy = (points[..., :2] - 0.5) * region[..., None, 2:4]
    xy = _rotate(xy, region[..., None, 4]) + region[..., None, :2]
    return np.concatenate([xy, points[..., 2:] * region[..., None, 2:3]], -1)


def from_picture(points: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return points [..., N, 2] px of the picture in fractions of regions [..., 5]; the inverse of `to_picture`."""
    xy = _rotate(points - region[..., None, :2], -region[..., None, 4])
    return np.asarray(xy / region[..., None, 2:4] + 0.5)


def turn_world(points: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return points [..., N, 3] in metres of a region's own axes in those of the picture."""
    return np.concatenate([_rotate(points[..., :2], region[..., None, 4]), points[..., 2:]], -1)


def may_keep(last: np.ndarray, landmarks: np.ndarray, fresh: np.ndarray, tolerance: Tolerance) -> bool:
    """Return whether the region of the last frame's landmarks may be used instead of the one found afresh.

    Args:
        last: [5], from the last frame's landmarks.
        landmarks: [N, 2] px, of the last frame.
        fresh: [5], found in this frame.
        tolerance: The allowed differences.
    """
    turn = abs((last[4] - fresh[4] + np.pi) % (2 * np.pi) - np.pi)
    shift = np.abs(_rotate(last[:2] - fresh[:2], -fresh[4]))
    inside = np.abs(from_picture(landmarks, fresh) - 0.5) < 0.5 * (1 + tolerance.margin)
    return bool(
        turn <= tolerance.rotation
        and (shift <= tolerance.translation * fresh[2:4]).all()
        and (np.abs(last[2:4] - fresh[2:4]) <= tolerance.scale * fresh[2:4]).all()
        and inside.all()
    )


def _rotate(xy: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = xy[..., 0], xy[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], -1)


def _matrix(region: np.ndarray, size: int) -> np.ndarray:
    """Return the matrix [2, 3] from pixels of a crop to pixels of the picture."""
    corners = to_picture(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), region)
    return np.stack([(corners[1] - corners[0]) / size, (corners[2] - corners[0]) / size, corners[0]], -1)
