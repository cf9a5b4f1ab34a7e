"""What the detector gives: the landmarks of one person in every frame of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

POSE_POINTS, HAND_POINTS, FACE_POINTS, IRIS_POINTS = 33, 21, 468, 5
MASK_SIZE = 256  # pixels; side of the person mask
LEFT, RIGHT = 0, 1  # the person's own sides


@dataclass(frozen=True)
class Landmarks:
    """The landmarks of one person over T frames.

    Pixels are those of the whole upright picture (x right, y down; the corner of the first pixel is 0, 0). Left and
    right are the person's own. Where a score is zero, the part was not seen and its landmarks are zero.
    """

    pose: np.ndarray  # [T,33,3] float32 px, topology of BlazePose; z relative to the hips, negative towards the camera
    pose_score: np.ndarray  # [T,33] float32, visibility 0..1; zero where no person was found
    pose_world: np.ndarray  # [T,33,3] float32 metres, origin between the hips
    hands: np.ndarray  # [T,2,21,3] float32 px; left, right; z relative to the wrist
    hand_score: np.ndarray  # [T,2] float32, presence 0..1
    hands_world: np.ndarray  # [T,2,21,3] float32 metres, origin near the middle of the hand
    face: np.ndarray  # [T,468,3] float32 px, topology of MediaPipe's face mesh
    face_score: np.ndarray  # [T] float32, presence 0..1
    iris: np.ndarray  # [T,2,5,2] float32 px; left, right; centre and four points of the rim
    person_mask: np.ndarray  # [T,256,256] uint8, probability of the person * 255, in `mask_region`
    mask_region: np.ndarray  # [T,5] float32: centre x, y, width, height (px), rotation (rad, clockwise)
    size: tuple[int, int]  # height, width of the picture
    face_flatness: np.ndarray | None = None  # [T] float32 0..1, see `face_flatness`; NaN where it was not measured

    def __len__(self) -> int:
        return len(self.pose)

    @property
    def found(self) -> np.ndarray:
        """Return [T] bool: the frames in which the person was found."""
        return np.asarray(self.pose_score.any(1))

    @property
    def frames_without_person(self) -> list[int]:
        """Return the numbers, from 0, of the frames in which the person was not found."""
        return [int(i) for i in np.flatnonzero(~self.found)]
