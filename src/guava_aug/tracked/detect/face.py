"""The face of a person whose pose is known: 468 landmarks and both irises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guava_aug.tracked.detect import regions
from guava_aug.tracked.detect.boxes import Detector, sigmoid
from guava_aug.tracked.detect.landmarks import FACE_POINTS, IRIS_POINTS
from guava_aug.tracked.detect.pose import detect_in
from guava_aug.tracked.detect.run_nets import NetRunner

DETECTOR = Detector(size=128, strides=(8, 16, 16, 16), num_keypoints=6)
MIN_PRESENCE = 0.5
_POSE_FACE, _POSE_RIGHT_EYE, _POSE_LEFT_EYE = slice(0, 11), 5, 2  # of the pose landmarks
_AROUND_POSE_FACE = 3.0  # growth of their box, to find the face in
_FACE_OF_POSE_BOX = 1.6  # growth of their box to about that of the face, where the face detector finds none
_RIGHT_EYE, _LEFT_EYE = 0, 1  # keypoints of the detection
_AROUND_DETECTION, _DETECTION_SHIFT = 2.0, -0.1
_OUTER_CORNERS = (33, 263)  # of the person's right and left eye
_AROUND_LANDMARKS = 1.5
_TOLERANCE = regions.Tolerance(rotation=np.deg2rad(15.0), translation=0.1, scale=0.3, margin=-0.2)
_EYE_CORNERS = ((362, 263), (33, 133))  # the person's left and right eye; in the picture from left to right
_AROUND_EYE = 2.3


@dataclass(frozen=True)
class Face:
    """The face in one picture, in its pixels."""

    points: np.ndarray  # [468,3] px
    score: float  # presence, 0..1
    iris: np.ndarray  # [2,5,2] px; the person's left and right


class FaceTracker:
    """Finds the face in frame after frame. The region of the last frame is kept while the face hardly moves."""

    def __init__(self, run: NetRunner) -> None:
        self._run = run
        self._anchors = DETECTOR.anchors()
        self._last: np.ndarray | None = None  # [468,2]

    def reset(self) -> None:
        """Forget the last frame."""
        self._last = None

    def step(self, picture: np.ndarray, pose: np.ndarray) -> Face | None:
        """Return the face of the person with the pose landmarks [33, 2 or more] in the next picture, or None."""
        face = None
        for region in self._candidates(picture, pose[_POSE_FACE, :2]):
            face = self._look(picture, region)
            if face is not None:
                break
        self._last = None if face is None else face.points[:, :2]
        return face

    def _candidates(self, picture: np.ndarray, pose_face: np.ndarray) -> list[np.ndarray]:
        """Return the regions to look at, the best first."""
        box = regions.from_box(pose_face, pose_face[_POSE_RIGHT_EYE], pose_face[_POSE_LEFT_EYE])
        around = regions.grow(box, _AROUND_POSE_FACE)
        last = None
        if self._last is not None:
            last = regions.grow(regions.from_box(self._last, *self._last[_OUTER_CORNERS, :]), _AROUND_LANDMARKS)
        if not regions.usable(around):
            return [] if last is None else [last]
        found = detect_in(self._run, "face_detection_short_range", DETECTOR, self._anchors, picture, around)
        if not found:
            return [r for r in (last, regions.grow(box, _FACE_OF_POSE_BOX)) if r is not None]
        eyes = found[0].keypoints
        fresh = regions.from_box(eyes, eyes[_RIGHT_EYE], eyes[_LEFT_EYE])
        fresh = regions.grow(fresh, _AROUND_DETECTION, _DETECTION_SHIFT)
        if last is None or self._last is None:
            return [fresh]
        return [last, fresh] if regions.may_keep(last, self._last, fresh, _TOLERANCE) else [fresh, last]

    def _look(self, picture: np.ndarray, region: np.ndarray) -> Face | None:
        if not regions.usable(region):
            return None
        size = self._run.size("face_landmark")
        out = self._run("face_landmark", [regions.crop(picture, region, size)])
        score = float(sigmoid(out["presence"].reshape(-1)[0]))
        if score < MIN_PRESENCE:
            return None
        points = out["landmarks"].reshape(FACE_POINTS, 3).astype(np.float64) / size
        points = regions.to_picture(points, region)
        return Face(points, score, self._irises(picture, points[:, :2]))

    def _irises(self, picture: np.ndarray, face: np.ndarray) -> np.ndarray:
        """Return [2, 5, 2] px. The net knows right eyes only: a left one is mirrored."""
        size = self._run.size("iris_landmark")
        eyes = np.stack([regions.from_box(face[list(c)], *face[list(c)]) for c in _EYE_CORNERS])
        eyes = regions.grow(eyes, _AROUND_EYE)
        if not regions.usable(eyes).all():
            return np.repeat(face[list(_OUTER_CORNERS[::-1]), None], IRIS_POINTS, 1)
        left, right = (regions.crop(picture, eye, size) for eye in eyes)
        out = self._run("iris_landmark", [np.ascontiguousarray(left[:, ::-1]), right])
        points = out["iris"].reshape(2, IRIS_POINTS, 3)[..., :2].astype(np.float64) / size
        points[0, :, 0] = 1 - points[0, :, 0]
        return regions.to_picture(points, eyes)
