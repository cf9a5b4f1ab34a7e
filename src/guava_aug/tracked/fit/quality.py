"""How well a fit agrees with what was seen, by frame and part, and in one word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from guava_aug.tracked.detect.landmarks import Landmarks

Word = Literal["good", "fair", "poor"]
PARTS = ("face", "left_hand", "right_hand", "arms")
_SEEN = 0.3  # score from which a part counts as seen
_ARM_POINTS = (11, 12, 13, 14, 15, 16)
# Limits of (good, fair): px of a crop of 1024, shares of frames.
FACE_PX, HAND_PX, ARM_PX = (4.0, 8.0), (7.0, 14.0), (18.0, 36.0)
PERSON_SHARE, FACE_SHARE, HANDS_SHARE = (0.97, 0.85), (0.9, 0.6), (0.5, 0.2)


@dataclass(frozen=True)
class FitQuality:
    """The quality of a fit of T frames; `word` by the limits above, the worst of all parts decides.

    Hands are judged by the frames in which either is seen: many people sign with one.
    """

    reprojection: dict[str, np.ndarray]  # part -> [T] mean px of a crop of 1024; NaN where the part was not seen
    confidence: dict[str, np.ndarray]  # part -> [T] scores 0..1
    jitter: float  # px of 1024: median distance of wrists and head from the middle of the frames beside
    word: Word

    def summary(self) -> dict[str, float | str]:
        """Return medians over the clip and the word, for a record."""
        out: dict[str, float | str] = {"word": self.word, "jitter_px": round(self.jitter, 2)}
        for part in PARTS:
            seen = self.reprojection[part][np.isfinite(self.reprojection[part])]
            out[f"{part}_px"] = round(float(np.median(seen)), 2) if len(seen) else -1.0
            out[f"{part}_seen"] = round(float((self.confidence[part] > _SEEN).mean()), 3)
        return out


def measure(
    landmarks: Landmarks,
    pose_px: np.ndarray,  # [T, 33, 2] where the fitted points of the body are, px of the picture
    hands_px: np.ndarray,  # [T, 2, 21, 2]
    face_px: np.ndarray,  # [T, 468, 2]
    side: float,  # px of the crop
) -> FitQuality:
    """Return the quality of a fit whose points lie at these pixels (corner of the first pixel at 0, 0)."""
    to_1024 = 1024 / side
    confidence = {
        "face": landmarks.face_score, "left_hand": landmarks.hand_score[:, 0], "right_hand": landmarks.hand_score[:, 1],
        "arms": landmarks.pose_score[:, _ARM_POINTS].mean(1),
    }  # fmt: skip
    ids = list(_ARM_POINTS)
    apart = {
        "face": _distance(face_px, landmarks.face[..., :2]).mean(1),
        "left_hand": _distance(hands_px[:, 0], landmarks.hands[:, 0, :, :2]).mean(1),
        "right_hand": _distance(hands_px[:, 1], landmarks.hands[:, 1, :, :2]).mean(1),
        "arms": _distance(pose_px[:, ids], landmarks.pose[:, ids, :2]).mean(1),
    }
    reprojection = {p: np.where(confidence[p] > _SEEN, apart[p] * to_1024, np.nan) for p in PARTS}
    moving = np.concatenate([hands_px[:, :, 0], face_px[:, :1]], 1) * to_1024
    between = moving[1:-1] - (moving[:-2] + moving[2:]) / 2
    jitter = float(np.median(np.linalg.norm(between, axis=-1))) if len(moving) > 2 else 0.0
    return FitQuality(reprojection, confidence, jitter, _word(reprojection, confidence, landmarks.found))


def _word(reprojection: dict[str, np.ndarray], confidence: dict[str, np.ndarray], found: np.ndarray) -> Word:
    hands = np.concatenate([reprojection["left_hand"], reprojection["right_hand"]])
    either = np.maximum(confidence["left_hand"], confidence["right_hand"]) > _SEEN
    at_most = [
        (_median(reprojection["face"]), FACE_PX),
        (_median(hands), HAND_PX),
        (_median(reprojection["arms"]), ARM_PX),
    ]
    at_least = [
        (float(found.mean()), PERSON_SHARE), (float((confidence["face"] > _SEEN).mean()), FACE_SHARE),
        (float(either.mean()), HANDS_SHARE),
    ]  # fmt: skip
    for k, word in enumerate(("good", "fair")):
        if all(v <= limit[k] for v, limit in at_most) and all(v >= limit[k] for v, limit in at_least):
            return "good" if word == "good" else "fair"
    return "poor"


def _median(values: np.ndarray) -> float:
    seen = values[np.isfinite(values)]
    return float(np.median(seen)) if len(seen) else float("inf")


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out: np.ndarray = np.linalg.norm(a - b, axis=-1)
    return out
