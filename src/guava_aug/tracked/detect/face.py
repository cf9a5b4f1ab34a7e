"""The face of a person whose pose is known: 468 landmarks and both irises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from guava_aug.tracked.detect import regions
from guava_aug.tracked.detect.boxes import Detection, Detector, sigmoid
from guava_aug.tracked.detect.landmarks import FACE_POINTS, IRIS_POINTS
from guava_aug.tracked.detect.pose import Pose, detect_in
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

    def window(self, pictures: Sequence[np.ndarray], poses: Sequence[Pose | None]) -> list[Face | None]:
        """Return the face of the person in each of the next pictures, or None.

        Args:
            pictures: [H, W, 3] uint8 each.
            poses: The person in each; None: nobody, and nothing is known of the frames before any more.
        """
        boxes = [None if pose is None else _box_of_pose(pose.points[_POSE_FACE, :2]) for pose in poses]
        found = self._detections(pictures, boxes)
        seen: list[tuple[np.ndarray, float] | None] = []
        for i, (picture, box) in enumerate(zip(pictures, boxes, strict=True)):
            looks = (self._look(picture, r) for r in self._candidates(box, found.get(i)))
            seen.append(None if box is None else next((one for one in looks if one is not None), None))
            self._last = None if seen[-1] is None else seen[-1][0][:, :2]
        return self._with_irises(pictures, seen)

    def _detections(self, pictures: Sequence[np.ndarray], boxes: Sequence[np.ndarray | None]) -> dict[int, Detection]:
        """Return, by the number of the picture, the face that the detector finds around the pose's face."""
        around = {i: regions.grow(box, _AROUND_POSE_FACE) for i, box in enumerate(boxes) if box is not None}
        around = {i: region for i, region in around.items() if regions.usable(region)}
        places = [(pictures[i], region) for i, region in around.items()]
        found = detect_in(self._run, "face_detection_short_range", DETECTOR, self._anchors, places)
        return {i: faces[0] for i, faces in zip(around, found, strict=True) if faces}

    def _candidates(self, box: np.ndarray | None, found: Detection | None) -> list[np.ndarray]:
        """Return the regions to look at, the best first.

        Args:
            box: [5], of the pose's face; None: there is no person.
            found: What the detector found around it.
        """
        if box is None:
            return []
        last = None
        if self._last is not None:
            last = regions.grow(regions.from_box(self._last, *self._last[_OUTER_CORNERS, :]), _AROUND_LANDMARKS)
        if found is None:
            return [r for r in (last, regions.grow(box, _FACE_OF_POSE_BOX)) if r is not None]
        eyes = found.keypoints
        fresh = regions.from_box(eyes, eyes[_RIGHT_EYE], eyes[_LEFT_EYE])
        fresh = regions.grow(fresh, _AROUND_DETECTION, _DETECTION_SHIFT)
        if last is None or self._last is None:
            return [fresh]
        return [last, fresh] if regions.may_keep(last, self._last, fresh, _TOLERANCE) else [fresh, last]

    def _look(self, picture: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, float] | None:
        """Return the landmarks [468, 3] px and the score of the face in a region, or None."""
        if not regions.usable(region):
            return None
        size = self._run.size("face_landmark")
        out = self._run("face_landmark", [regions.crop(picture, region, size)])
        score = float(sigmoid(out["presence"].reshape(-1)[0]))
        if score < MIN_PRESENCE:
            return None
        points = out["landmarks"].reshape(FACE_POINTS, 3).astype(np.float64) / size
        return regions.to_picture(points, region), score

    def _with_irises(
        self, pictures: Sequence[np.ndarray], seen: Sequence[tuple[np.ndarray, float] | None]
    ) -> list[Face | None]:
        """Return the faces with their irises. The net knows right eyes only: a left one is mirrored."""
        size = self._run.size("iris_landmark")
        irises: dict[int, np.ndarray] = {}  # by the number of the picture, [2, 5, 2] px
        eyes: dict[int, np.ndarray] = {}  # [2, 5] regions
        crops: list[np.ndarray] = []
        for i, (picture, one) in enumerate(zip(pictures, seen, strict=True)):
            if one is None:
                continue
            face = one[0][:, :2]
            around = np.stack([regions.from_box(face[list(c)], *face[list(c)]) for c in _EYE_CORNERS])
            around = regions.grow(around, _AROUND_EYE)
            if not regions.usable(around).all():
                irises[i] = np.repeat(face[list(_OUTER_CORNERS[::-1]), None], IRIS_POINTS, 1)
                continue
            left, right = (regions.crop(picture, eye, size) for eye in around)
            crops += [np.ascontiguousarray(left[:, ::-1]), right]
            eyes[i] = around
        if crops:
            out = self._run("iris_landmark", crops)
            points = out["iris"].reshape(-1, 2, IRIS_POINTS, 3)[..., :2].astype(np.float64) / size
            points[:, 0, :, 0] = 1 - points[:, 0, :, 0]
            for (i, around), found in zip(eyes.items(), points, strict=True):
                irises[i] = regions.to_picture(found, around)
        return [None if one is None else Face(*one, irises[i]) for i, one in enumerate(seen)]


def _box_of_pose(face: np.ndarray) -> np.ndarray:
    """Return the box [5] around the pose's landmarks of the face [11, 2] px."""
    return regions.from_box(face, face[_POSE_RIGHT_EYE], face[_POSE_LEFT_EYE])
