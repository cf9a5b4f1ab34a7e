"""The square of the picture that is tracked: head and shoulders as the tracker has them, and all hands.

Outside of the video's picture nothing is known: nothing is invented there, and a plane says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

SIZE = 1024  # pixels; what the tracker stores
UNKNOWN = 127  # grey of pixels outside of the video's picture

# The framing of the tracker's crops, in sides of the square, measured on its training pictures.
_SHOULDERS = 0.30  # distance of the shoulders
_NOSE = 0.165  # height of the nose above the shoulders; tells the scale of who is turned to the side
_BELOW = 0.17  # of the shoulders' middle above the middle of the square
_MARGIN = 0.03  # around hands and head, in sides
_HAIR = 0.55  # of the face's height, above its landmarks
_MOST_GROWTH = 1.8  # times the side of the framing: more makes the person too small
_SEEN = 0.5  # score of what counts
_NOSE_POINT, _LEFT_SHOULDER, _RIGHT_SHOULDER = 0, 11, 12  # of the 33 of a pose
_OUTLIERS = 0.005  # of the frames, at either end: landmarks that fly away
_FLOWN = 0.15  # of the side, from the frames before and after
_SMALLEST = 16.0  # pixels


class Seen(Protocol):
    """Landmarks of one person over T frames, pixels of the full upright picture."""

    @property
    def pose(self) -> np.ndarray:
        """Return [T, 33, 3]."""

    @property
    def pose_score(self) -> np.ndarray:
        """Return [T, 33] 0..1."""

    @property
    def hands(self) -> np.ndarray:
        """Return [T, 2, 21, 3]."""

    @property
    def hand_score(self) -> np.ndarray:
        """Return [T, 2] 0..1."""

    @property
    def face(self) -> np.ndarray:
        """Return [T, 468, 3]."""

    @property
    def face_score(self) -> np.ndarray:
        """Return [T] 0..1."""

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) of the picture."""


@dataclass(frozen=True)
class Crop:
    """A square of a picture, whole pixels. It may reach beyond the picture."""

    left: int
    top: int
    side: int
    picture: tuple[int, int]  # (height, width) of the picture

    def matrix(self, size: int = SIZE) -> np.ndarray:
        """Return [3, 3] float64: pixel x, y, 1 of the picture -> of the crop at `size`; integers are pixel centres."""
        s = size / self.side
        return np.array(
            [[s, 0, (0.5 - self.left) * s - 0.5], [0, s, (0.5 - self.top) * s - 0.5], [0, 0, 1]], np.float64
        )

    def points(self, xy: np.ndarray, size: int = SIZE) -> np.ndarray:
        """Return points [..., 2 or 3] of the picture in pixels of the crop; a third coordinate is scaled alike."""
        s = size / self.side
        out = np.array(xy, np.float64) * s
        out[..., 0] += (0.5 - self.left) * s - 0.5
        out[..., 1] += (0.5 - self.top) * s - 0.5
        return out

    def take(self, picture: np.ndarray, size: int = SIZE, unknown: int = UNKNOWN) -> np.ndarray:
        """Return the crop of a picture [H, W, ...] uint8, [size, size, ...]; `unknown` where the picture ends."""
        inside, (x, y) = self._inside(picture), self._place
        if inside.shape[:2] != (self.side, self.side):
            square = np.full((self.side, self.side, *picture.shape[2:]), unknown, picture.dtype)
            square[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
            inside = square
        way = cv2.INTER_AREA if self.side > size else cv2.INTER_CUBIC
        scaled: np.ndarray = cv2.resize(np.ascontiguousarray(inside), (size, size), interpolation=way)
        return scaled

    def known(self, size: int = SIZE, valid: np.ndarray | None = None) -> np.ndarray | None:
        """Return what the video shows of the crop, uint8 [size, size], 255 = known, 0 = not; None: all of it.

        A pixel counts as known only if all of it is.

        Args:
            size: Side of the plane.
            valid: [H, W] uint8 of the picture, 255 = known (after undistortion); None: all of it.
        """
        whole = np.full(self.picture, 255, np.uint8) if valid is None else valid
        plane = self.take(whole, size, unknown=0)
        known = np.where(plane >= 255, 255, 0).astype(np.uint8)
        return None if known.all() else known

    @property
    def _place(self) -> tuple[int, int]:
        return max(0, -self.left), max(0, -self.top)

    def _inside(self, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        return picture[
            max(0, self.top) : max(0, min(height, self.top + self.side)),
            max(0, self.left) : max(0, min(width, self.left + self.side)),
        ]


def choose_crop(seen: Seen) -> Crop | None:
    """Return one square for all frames of a clip; None: no frame shows shoulders.

    The tracker's framing of the person's usual place, as large as head and hands of all frames need, with a margin.
    """
    pose, score = seen.pose[..., :2].astype(np.float64), seen.pose_score
    shoulders = (score[:, _LEFT_SHOULDER] >= _SEEN) & (score[:, _RIGHT_SHOULDER] >= _SEEN)
    if not shoulders.any():
        return None
    left, right, nose = (pose[shoulders, i] for i in (_LEFT_SHOULDER, _RIGHT_SHOULDER, _NOSE_POINT))
    middle = (left + right) / 2
    width = np.linalg.norm(left - right, axis=1)
    height = (middle - nose)[:, 1]
    # who turns to the side shows narrower shoulders, who bows a lower nose: the wider frames tell the scale
    side = max(np.percentile(width, 75) / _SHOULDERS, np.median(height) / _NOSE, _SMALLEST)
    x, y = np.median(middle, 0) + (0, _BELOW * side)
    box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])
    needed = _needed(seen, middle, side)
    return _square(box, needed, side, seen.size)


def _needed(seen: Seen, middle: np.ndarray, side: float) -> np.ndarray:
    """Return left, top, right, bottom of what has to be inside: head, shoulders and hands, within the picture."""
    boxes = [np.concatenate([middle, middle], 1) + side * np.array([-0.17, -0.2, 0.17, 0.1])]
    faces = seen.face[seen.face_score >= _SEEN][..., :2].astype(np.float64)
    if len(faces):
        low, high = faces.min(1), faces.max(1)
        tall = (high - low)[:, 1]
        low[:, 1] -= _HAIR * tall
        low[:, 0] -= 0.2 * tall
        high[:, 0] += 0.2 * tall
        boxes.append(_without_outliers(np.concatenate([low, high], 1), side))
    for k in range(2):
        hands = seen.hands[:, k][seen.hand_score[:, k] >= _SEEN][..., :2].astype(np.float64)
        if len(hands):
            boxes.append(_without_outliers(np.concatenate([hands.min(1), hands.max(1)], 1), side))
    low = np.min([b[:, :2].min(0) for b in boxes], 0) - _MARGIN * side
    high = np.max([b[:, 2:].max(0) for b in boxes], 0) + _MARGIN * side
    h, w = seen.size
    return np.concatenate([np.clip(low, 0, (w, h)), np.clip(high, 0, (w, h))])


def _without_outliers(boxes: np.ndarray, side: float) -> np.ndarray:
    """Return boxes [T, 4] without single frames in which a landmark flew away, by more than a hand's width."""
    if len(boxes) >= 3:
        padded = np.pad(boxes, ((1, 1), (0, 0)), mode="edge")
        middle = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), 0)
        spread = np.abs(boxes - middle)
        usual = np.maximum(np.median(spread, 0), 1.0)
        boxes = np.where(spread > np.maximum(20 * usual, _FLOWN * side), middle, boxes)
    low, high = np.quantile(boxes, _OUTLIERS, 0), np.quantile(boxes, 1 - _OUTLIERS, 0)
    reach = np.maximum(high - low, 1.0)
    clipped: np.ndarray = np.clip(boxes, low - 0.25 * reach, high + 0.25 * reach)
    return clipped


def _square(box: np.ndarray, needed: np.ndarray, side: float, picture: tuple[int, int]) -> Crop:
    """Return the square around what is needed that is nearest to the framing `box`."""
    grown = min(max(side, needed[2] - needed[0], needed[3] - needed[1]), _MOST_GROWTH * side)
    at = []
    for low, high, left, right in ((box[0], box[2], needed[0], needed[2]), (box[1], box[3], needed[1], needed[3])):
        middle = (low + high) / 2
        if right - left <= grown:
            middle = min(max(middle, right - grown / 2), left + grown / 2)
        else:  # cut what is the farther from the usual place of the person
            middle = min(max((left + right) / 2, high - grown / 2), low + grown / 2)
        at.append(middle - grown / 2)
    whole = max(2, round(grown))
    return Crop(round(at[0]), round(at[1]), whole, picture)
