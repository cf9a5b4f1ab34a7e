"""One Euro smoothing: a low-pass filter whose cutoff rises with speed, so that rest is calm and motion is not late.

Source: Casiez, Roussel, Vogel, "1 Euro Filter" (CHI 2012). The constants are those of MediaPipe's pose graph. The fit
takes landmarks as they are found; `smoothed` is for what is shown, or used without a fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from guava_aug.tracked.detect.landmarks import LEFT, RIGHT, Landmarks

_SMALLEST = 1e-6  # px; nothing is smoothed below this size


@dataclass(frozen=True)
class OneEuroConstants:
    """Constants of the filter; speeds are in sizes of the object per second."""

    min_cutoff: float  # Hz, at rest
    beta: float  # rise of the cutoff with speed
    derivative_cutoff: float = 1.0  # Hz


LANDMARKS = OneEuroConstants(0.05, 80.0)
WORLD_LANDMARKS = OneEuroConstants(0.1, 40.0)
REGION_POINTS = OneEuroConstants(0.01, 10.0)


class OneEuroFilter:
    """Filters arrays of one shape, element by element."""

    def __init__(self, constants: OneEuroConstants) -> None:
        self._constants = constants
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._raw: np.ndarray | None = None
        self._value = self._speed = np.zeros(())

    def __call__(self, values: np.ndarray, seconds: float, size: float = 1.0) -> np.ndarray:
        """Return the filtered values.

        Args:
            values: The newest, of any shape.
            seconds: Since the last ones.
            size: Of the object, in the unit of the values.
        """
        values = values.astype(np.float64)
        if size < _SMALLEST:
            return values
        if self._raw is None:
            self._raw = self._value = values
            self._speed = np.zeros_like(values)
            return values
        c = self._constants
        speed = (values - self._raw) / (size * seconds)
        self._speed = self._speed + _alpha(c.derivative_cutoff, seconds) * (speed - self._speed)
        alpha = _alpha(c.min_cutoff + c.beta * np.abs(self._speed), seconds)
        self._raw, self._value = values, self._value + alpha * (values - self._value)
        return np.asarray(self._value)


def smoothed(landmarks: Landmarks, fps: float) -> Landmarks:
    """Return the landmarks after One Euro smoothing of every part. A part that was lost starts anew.

    Args:
        landmarks: As `detect` found them.
        fps: Frames per second.
    """
    pose = _smooth(landmarks.pose, landmarks.found, fps)
    world = _smooth(landmarks.pose_world, landmarks.found, fps, WORLD_LANDMARKS, scaled=False)
    hands, hands_world = landmarks.hands.copy(), landmarks.hands_world.copy()
    for side in (LEFT, RIGHT):
        seen = landmarks.hand_score[:, side] > 0
        hands[:, side] = _smooth(hands[:, side], seen, fps)
        hands_world[:, side] = _smooth(hands_world[:, side], seen, fps, WORLD_LANDMARKS, scaled=False)
    seen = landmarks.face_score > 0
    face, iris = _smooth(landmarks.face, seen, fps), landmarks.iris.copy()
    for side in (LEFT, RIGHT):
        iris[:, side] = _smooth(iris[:, side], seen, fps)
    return replace(landmarks, pose=pose, pose_world=world, hands=hands, hands_world=hands_world, face=face, iris=iris)


def _smooth(
    points: np.ndarray,
    seen: np.ndarray,
    fps: float,
    constants: OneEuroConstants = LANDMARKS,
    *,
    scaled: bool = True,
) -> np.ndarray:
    """Return points [T, N, C] smoothed over the frames that are `seen` [T]; others are left as they are."""
    out = np.array(points)
    euro = OneEuroFilter(constants)
    for t in range(len(points)):
        if not seen[t]:
            euro.reset()
            continue
        size = float((points[t, :, :2].max(0) - points[t, :, :2].min(0)).mean()) if scaled else 1.0
        out[t] = euro(points[t], 1 / fps, size)
    return out


def _alpha(cutoff: np.ndarray | float, seconds: float) -> np.ndarray:
    return np.asarray(1 / (1 + 1 / (2 * np.pi * np.asarray(cutoff) * seconds)))
