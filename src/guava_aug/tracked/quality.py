"""The fit in a clip's report: figures per part, confidence per frame, and why it is not good.

The word is for sorting thousands of clips, by figures that anyone can check. It knows nothing of depth, which a single
camera does not show.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from guava_aug.tracked.detect.landmarks import Landmarks
from guava_aug.tracked.fit.quality import (
    ARM_PX,
    FACE_PX,
    FACE_SHARE,
    HAND_PX,
    HANDS_SHARE,
    PARTS,
    PERSON_SHARE,
    FitQuality,
)
from guava_aug.tracked.masks import ranges

_SEEN = 0.3  # score from which a part counts as seen


def part_figures(found: FitQuality) -> dict[str, Any]:
    """Return, per part, the share of frames in which it is seen, and its distance from the landmarks in them."""
    figures: dict[str, Any] = {"jitter_px_of_1024": round(found.jitter, 2)}
    for part in PARTS:
        errors = found.reprojection[part][np.isfinite(found.reprojection[part])]
        figures[part] = {"seen": round(float((found.confidence[part] > _SEEN).mean()), 3)}
        if len(errors):
            figures[part]["reprojection_px_of_1024"] = {
                "median": round(float(np.median(errors)), 2), "p90": round(float(np.percentile(errors, 90)), 2),
            }  # fmt: skip
    return figures


def frame_figures(found: FitQuality, landmarks: Landmarks) -> dict[str, Any]:
    """Return the confidence of every frame in hundredths, and the frames without the person."""
    confidence = {p: np.clip(np.rint(100 * found.confidence[p]), 0, 100).astype(int).tolist() for p in PARTS}
    return {"without_person": ranges(landmarks.frames_without_person), "confidence_percent": confidence}


def why_not_good(found: FitQuality, landmarks: Landmarks) -> list[str]:
    """Return the reasons why a fit is not "good"."""
    hands = np.concatenate([found.reprojection["left_hand"], found.reprojection["right_hand"]])
    either = np.maximum(found.confidence["left_hand"], found.confidence["right_hand"]) > _SEEN
    off = (
        ("the face is", found.reprojection["face"], FACE_PX), ("hands are", hands, HAND_PX),
        ("arms are", found.reprojection["arms"], ARM_PX),
    )  # fmt: skip
    rare = (
        ("the person is", landmarks.found, PERSON_SHARE),
        ("the face is", found.confidence["face"] > _SEEN, FACE_SHARE),
        ("a hand is", either, HANDS_SHARE),
    )  # fmt: skip
    said = []
    for what, errors, (limit, _) in off:
        errors = errors[np.isfinite(errors)]
        if len(errors) and np.median(errors) > limit:
            said.append(f"{what} off by {np.median(errors):.1f} px of 1024 (good: at most {limit:g})")
    for what, seen, (limit, _) in rare:
        if seen.mean() < limit:
            said.append(f"{what} found in {seen.mean():.0%} of the frames (good: at least {limit:.0%})")
    return said
