"""How well a fit agrees with what the detector saw: per part, per frame, and in one word.

The word is for sorting thousands of clips, by numbers that anyone can check in `tracking.json`. It knows nothing of
depth, which a single camera does not show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from guava_aug.body.joints import INDEX
from guava_aug.tracked.detect.landmarks import Landmarks
from guava_aug.tracked.masks import ranges
from guava_aug.tracked.plausibility import jitter_and_far_off
from guava_aug.tracked.report import Quality

UNIT = 1024  # reprojection is in pixels of a crop of this size
SEEN = 0.5  # score of what counts
# Most of the median reprojection, px of 1024, and of the jitter, px of 512, for "good" and for "fair". Joints of the
# body lie some pixels beside the detector's points, so even a perfect fit is not at zero.
LIMITS: dict[str, tuple[float, float]] = {"hands": (10.0, 20.0), "arms": (20.0, 40.0), "eyes": (8.0, 16.0)}
JITTER = (4.0, 8.0)
MISSING = (0.02, 0.2)  # share of the frames without the person
FACELESS = (0.1, 0.5)  # share of the frames without the face
_ARMS = {side: {f"{side}_shoulder": 11 + k, f"{side}_elbow": 13 + k, f"{side}_wrist": 15 + k}
         for k, side in enumerate(("left", "right"))}  # fmt: skip
_FINGERS = {"thumb": 1, "index": 5, "middle": 9, "ring": 13, "pinky": 17}  # first landmark of each, of 21


@dataclass(frozen=True)
class FitQuality:
    """The result of `judge`."""

    word: Quality
    reasons: tuple[str, ...]  # why it is not "good"
    parts: dict[str, Any]  # per part: frames in which it is seen, reprojection (median, 90th percentile), jitter
    frames: dict[str, Any]  # confidence per frame and part, and the frames without the person


def judge(seen: Landmarks, points: np.ndarray, side: float) -> FitQuality:
    """Return how well posed joints agree with landmarks.

    Args:
        seen: landmarks of T frames.
        points: [T, J, 3] posed joints: x, y in pixels of the same picture, and depth.
        side: of the crop, in the same pixels.
    """
    scale = UNIT / side
    errors = {
        "left_hand": _hand_errors(seen, points, 0), "right_hand": _hand_errors(seen, points, 1),
        "arms": _arm_errors(seen, points), "eyes": _eye_errors(seen, points),
    }  # fmt: skip
    count = len(seen)
    jitter, far_off = jitter_and_far_off(points * np.array([512 / side, 512 / side, 1], np.float32))
    parts: dict[str, Any] = {name: _figures(found, scale, count) for name, found in errors.items()}
    parts["body"] = {"jitter_px_of_512": round(float(jitter), 2), "far_off": ranges(far_off)}
    missing = seen.frames_without_person
    faceless = int((seen.face_score <= SEEN).sum())
    marks = [
        _mark("the person is missing in", len(missing) / count, MISSING, percent=True),
        _mark("the face is not seen in", faceless / count, FACELESS, percent=True),
        _mark("joints deviate from smooth motion by", float(jitter), JITTER, " px of 512"),
    ]
    for name, limits in LIMITS.items():
        found = np.concatenate([errors["left_hand"], errors["right_hand"]]) if name == "hands" else errors[name]
        found = found[np.isfinite(found)]
        if len(found):
            marks.append(_mark(f"{name} are off by", float(np.median(found)) * scale, limits, " px of 1024"))
    worst = max(rank for rank, _ in marks)
    word: Quality = ("good", "fair", "poor")[worst]
    return FitQuality(word, tuple(text for rank, text in marks if rank), parts, _frames(seen, missing))


def _mark(
    what: str, value: float, limits: tuple[float, float], unit: str = "", percent: bool = False
) -> tuple[int, str]:
    """Return 0 for good, 1 for fair, 2 for poor, and what is said of it."""
    rank = int(value > limits[0]) + int(value > limits[1])
    shown = f"{value:.0%} of the frames" if percent else f"{value:.1f}{unit}"
    limit = f"{limits[0]:.0%}" if percent else f"{limits[0]:g}"
    return rank, f"{what} {shown} (good: at most {limit})"


def _hand_errors(seen: Landmarks, points: np.ndarray, side: int) -> np.ndarray:
    """Return [T] px, the mean distance of a hand's joints from the landmarks; NaN where the hand is not seen."""
    name = ("left", "right")[side]
    joints = [INDEX[f"{name}_wrist"], *(INDEX[f"{name}_{f}{k}"] for f in _FINGERS for k in (1, 2, 3))]
    marks = [0, *(first + k for first in _FINGERS.values() for k in range(3))]
    apart = np.linalg.norm(points[:, joints, :2] - seen.hands[:, side, marks, :2], axis=-1).mean(1)
    return np.where(seen.hand_score[:, side] > SEEN, apart, np.nan)


def _arm_errors(seen: Landmarks, points: np.ndarray) -> np.ndarray:
    """Return [T] px, the mean over shoulders, elbows and wrists that are seen; NaN where none is."""
    pairs = [pair for arm in _ARMS.values() for pair in arm.items()]
    joints, marks = [INDEX[name] for name, _ in pairs], [mark for _, mark in pairs]
    apart = np.linalg.norm(points[:, joints, :2] - seen.pose[:, marks, :2], axis=-1)
    weight = (seen.pose_score[:, marks] > SEEN).astype(np.float64)
    total = weight.sum(1)
    return np.where(total > 0, (apart * weight).sum(1) / np.maximum(total, 1), np.nan)


def _eye_errors(seen: Landmarks, points: np.ndarray) -> np.ndarray:
    """Return [T] px, the mean distance of the eyes from the irises; NaN where the face is not seen."""
    joints = [INDEX["left_eye"], INDEX["right_eye"]]
    apart = np.linalg.norm(points[:, joints, :2] - seen.iris[:, :, 0], axis=-1).mean(1)
    return np.where(seen.face_score > SEEN, apart, np.nan)


def _figures(errors: np.ndarray, scale: float, count: int) -> dict[str, Any]:
    found = errors[np.isfinite(errors)] * scale
    if not len(found):
        return {"seen": 0.0}
    return {
        "seen": round(len(found) / count, 3),
        "reprojection_px_of_1024": {
            "median": round(float(np.median(found)), 2), "p90": round(float(np.percentile(found, 90)), 2),
        },
    }  # fmt: skip


def _frames(seen: Landmarks, missing: list[int]) -> dict[str, Any]:
    """Return the confidence of every frame, in hundredths, and the frames without the person."""

    def hundredths(values: np.ndarray) -> list[int]:
        return [int(v) for v in np.clip(np.rint(100 * values), 0, 100)]

    arms = [mark for arm in _ARMS.values() for mark in arm.values()]
    return {
        "without_person": ranges(missing),
        "confidence_percent": {
            "body": hundredths(seen.pose_score[:, arms].mean(1)), "face": hundredths(seen.face_score),
            "left_hand": hundredths(seen.hand_score[:, 0]), "right_hand": hundredths(seen.hand_score[:, 1]),
        },
    }  # fmt: skip
