"""Hand shapes of a signing-like motion, as joint angles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guava_aug.body.joints import FINGERS

Array = NDArray[np.float64]
Flexion = tuple[float, float, float]  # of the three joints of a finger, radians
_LONG = ("index", "middle", "ring", "pinky")
# flexion of the three joints, radians
_STRAIGHT = (0.04, 0.06, 0.03)
_RELAXED = (0.30, 0.38, 0.22)
_CURLED = (1.32, 1.50, 0.85)
_BENT = (1.15, 0.12, 0.05)
_HOOK = (0.10, 1.25, 0.75)
_CLAW = (0.30, 0.85, 0.55)
_ROUND = (0.62, 0.72, 0.45)
_SPREAD = {"index": 0.16, "middle": 0.03, "ring": -0.10, "pinky": -0.24}  # radians at full spread, towards the thumb


@dataclass(frozen=True)
class HandShape:
    """Flexion per finger joint (radians), spread 0..1, and the thumb: across the palm, flexion."""

    flexion: dict[str, tuple[float, float, float]]
    spread: float
    thumb: tuple[float, float]

    def vector(self) -> Array:
        """Return [15] twelve flexions, spread, thumb across, thumb flexion: what is blended between shapes."""
        return np.array([*(a for f in _LONG for a in self.flexion[f]), self.spread, *self.thumb])


def _shape(
    index: Flexion, middle: Flexion, ring: Flexion, pinky: Flexion, spread: float = 0.0,
    thumb: tuple[float, float] = (0.15, 0.15),
) -> HandShape:  # fmt: skip
    return HandShape({"index": index, "middle": middle, "ring": ring, "pinky": pinky}, spread, thumb)


S, R, C, B, H, K, N = _STRAIGHT, _RELAXED, _CURLED, _BENT, _HOOK, _CLAW, _ROUND
SHAPES: dict[str, HandShape] = {
    "rest": _shape(R, R, R, R, 0.15, (0.15, 0.15)),
    "flat": _shape(S, S, S, S, 0.0, (0.35, 0.1)),
    "five": _shape(S, S, S, S, 1.0, (-0.25, 0.0)),
    "fist": _shape(C, C, C, C, 0.0, (0.75, 0.75)),
    "point": _shape(S, C, C, C, 0.0, (0.75, 0.7)),
    "vee": _shape(S, S, C, C, 0.8, (0.85, 0.75)),
    "three": _shape(S, S, S, C, 0.6, (0.95, 0.8)),
    "claw": _shape(K, K, K, K, 0.8, (0.05, 0.35)),
    "round": _shape(N, N, N, N, 0.1, (0.35, 0.35)),
    "bent": _shape(B, B, B, B, 0.0, (0.35, 0.15)),
    "hook": _shape(H, C, C, C, 0.0, (0.75, 0.7)),
    "ell": _shape(S, C, C, C, 0.0, (-0.45, 0.0)),
    "why": _shape(C, C, C, S, 0.3, (-0.45, 0.0)),
    "little": _shape(C, C, C, S, 0.0, (0.8, 0.75)),
    "thumb": _shape(C, C, C, C, 0.0, (-0.45, -0.05)),
    "pinch": _shape(N, S, S, S, 0.6, (0.45, 0.45)),
}


def hand_rotations(vectors: Array, side: float) -> Array:
    """Return [T, 15, 3] axis-angles of one hand in SMPL-X's finger order from blended shape vectors [T, 15].

    side +1: left. In the T pose fingers point along side * x, palm down: flexion turns about z, spread about y.
    """
    out = np.zeros((len(vectors), 15, 3))
    for f, finger in enumerate(FINGERS):
        for k in range(3):
            if finger == "thumb":
                across, flex = vectors[:, 13], vectors[:, 14]
                angle = across * 0.75 if k == 0 else flex * (0.55 if k == 1 else 0.75)
                axis = np.array([0.60, 0.80 * side, 0.0]) if k == 0 else np.array([0.35, 0.90 * side, 0.15 * side])
                out[:, 3 * f + k] = angle[:, None] * axis / np.linalg.norm(axis)
            else:
                out[:, 3 * f + k, 2] = -side * vectors[:, 3 * _LONG.index(finger) + k]
                if k == 0:
                    out[:, 3 * f, 1] = -side * _SPREAD[finger] * vectors[:, 12]
    return out
