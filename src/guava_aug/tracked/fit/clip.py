"""From the landmarks of a clip to what `write_tracked` needs: shape, motion, cameras, lens.

1. Hands are given to the arms they are at; scores and blur become weights (`clean`, `observe`).
2. Shape, lens and depth from some frames spread over the clip, all unknowns at once (`shape`).
3. Poses and faces of every frame, window after window (`poses`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guava_aug.body.ehm import EhmModel
from guava_aug.body.params import Identity, Motion
from guava_aug.errors import InputError
from guava_aug.tracked.detect.landmarks import Landmarks
from guava_aug.tracked.fit.body_points import fitted_body
from guava_aug.tracked.fit.calibration import Calibration
from guava_aug.tracked.fit.carry import calibration_for
from guava_aug.tracked.fit.clean import HandRepairs, repair_hands
from guava_aug.tracked.fit.face import face_motion
from guava_aug.tracked.fit.observe import Clip
from guava_aug.tracked.fit.poses import head_transform, solve_poses
from guava_aug.tracked.fit.problem import Lens
from guava_aug.tracked.fit.quality import FitQuality, measure
from guava_aug.tracked.fit.rig import axis_angle, rotation_vector
from guava_aug.tracked.fit.shape import first_poses, shape_and_lens

FORMAT_FOCAL = 12.0  # of the tracked format's nearly orthographic lens, in sides of the crop
_SHOULDERS_OF_CROP, _CROP_DROP = 0.30, 0.17  # shoulder width and drop of the crop's middle below them, of its side
_ITERATIONS = 10


@dataclass(frozen=True)
class Crop:
    """The square of the picture that is stored: left, top and side in px; 0, 0 is the corner of the first pixel."""

    x: float
    y: float
    side: float


@dataclass(frozen=True)
class ClipFit:
    """What `write_tracked` takes, and how good it is."""

    identity: Identity
    motion: Motion
    viewmats: Tensor  # [T, 4, 4] world to camera, OpenCV axes
    lens: Lens  # px of the whole picture
    K: Tensor | None  # [3, 3] the lens in px of the crop at `size`; None: the format's own, which is not stored
    crop: Crop
    repairs: HandRepairs
    quality: FitQuality
    clip: Clip  # the landmarks as they were fitted


class ClipFitter:
    """A body model with the detector's landmarks on it, ready to fit any number of clips."""

    def __init__(self, model: EhmModel, calibration: Calibration | None = None):
        self.model = model
        self.body = fitted_body(model, calibration or calibration_for(model.assets))

    def fit(
        self,
        landmarks: Landmarks,
        *,
        fps: float = 25.0,
        crop: Crop | None = None,
        lens: Lens | None = None,
        estimate_lens: bool = False,
        size: int = 1024,
        done: Callable[[int], None] | None = None,
    ) -> ClipFit:
        """Return the fit of one person's landmarks over a clip.

        Args:
            landmarks: T frames, in px of the whole picture.
            fps: Frames per second.
            crop: What will be stored; default: the tracker's framing (`framing`).
            lens: The lens in px of the whole picture; default: the format's nearly orthographic one over the crop.
            estimate_lens: Find the lens from the clip, where none is given.
            size: Side of the stored crop in px, for `K`.
            done: Told how many more frames are fitted; raises to stop.

        Raises:
            InputError: No frame shows a person.
        """
        if not landmarks.found.any():
            raise InputError(
                "the landmarks show no person in any frame, expected one; choose another video, or another person in it"
            )
        landmarks, repairs = repair_hands(landmarks)
        crop = crop or framing(landmarks)
        own_lens = lens is not None or estimate_lens
        given = lens if own_lens else format_lens(crop)
        with torch.no_grad():
            shape, found, depth = shape_and_lens(self.body, landmarks, fps, given)
            clip = Clip(self.body, landmarks, fps, found, depth)
            x, faces, eyes = solve_poses(clip, shape, first_poses, _ITERATIONS, done)
            return self._result(
                clip, x, shape, faces, eyes, crop, crop_K(found, crop, size) if own_lens else None, repairs
            )

    def _result(
        self, clip: Clip, x: Tensor, shape: Tensor, faces: Tensor, eyes: Tensor, crop: Crop, K: Tensor | None,
        repairs: HandRepairs,
    ) -> ClipFit:  # fmt: skip
        rig, T = self.body.rig, len(x)
        vectors = rig.space_vectors(x)
        viewmats = torch.eye(4).repeat(T, 1, 1)
        viewmats[:, :3, 3] = (clip.problem(None).root(x) - rig.rest_joints(shape)[0]).float()
        v = vectors.float()
        motion = Motion(
            _format_orient(axis_angle(vectors[:, 0]) @ rig.flip).float(), v[:, 1:22].contiguous(),
            v[:, 25:40].contiguous(), v[:, 40:55].contiguous(), torch.zeros(T, 50), torch.zeros(T, 50),
            torch.zeros(T, 3), torch.zeros(T, 2, 3), torch.zeros(T, 2),
        )  # fmt: skip
        return ClipFit(
            rig.rest.space.identity(shape), face_motion(motion, faces, eyes), viewmats, clip.lens, K, crop, repairs,
            self._quality(clip, x, shape, faces, crop), clip,
        )  # fmt: skip

    def _quality(self, clip: Clip, x: Tensor, shape: Tensor, faces: Tensor, crop: Crop) -> FitQuality:
        problem = clip.problem(None)
        at = (problem.project(problem.positions(x, shape)) + 0.5).numpy()
        turn, place, _ = head_transform(clip, x, shape)
        points = self.body.face.points
        local = points.rest + points.rest_by_shape @ shape - self.body.rig.rest_joints(shape)[points.joints]
        face = place[:, None] + (local + self.body.face.local(faces)) @ turn.transpose(1, 2)
        face_px = (problem.project(face) + 0.5).numpy()
        return measure(clip.landmarks, at[:, :33], at[:, 33:75].reshape(len(x), 2, 21, 2), face_px, crop.side)


def _format_orient(R: Tensor) -> Tensor:
    """Return rotation vectors [T, 3] of about half a turn about +x, which move smoothly beyond half a turn."""
    out = rotation_vector(R)
    length = out.norm(dim=1, keepdim=True).clamp(min=1e-9)
    return torch.where(out[:, :1] < 0, out * (1 - 2 * math.pi / length), out)


def framing(landmarks: Landmarks) -> Crop:
    """Return the tracker's framing of a whole clip: the shoulders are 0.3 of the square's side apart."""
    sure = landmarks.pose_score[:, 11:13].min(1) > 0.5
    sure = sure if sure.any() else landmarks.found
    left, right = (np.median(landmarks.pose[sure, k, :2], 0) for k in (11, 12))
    side = max(1.0, float(np.linalg.norm(left - right))) / _SHOULDERS_OF_CROP
    middle = (left + right) / 2
    return Crop(float(middle[0]) - side / 2, float(middle[1]) + (_CROP_DROP - 0.5) * side, side)


def format_lens(crop: Crop) -> Lens:
    """Return the format's nearly orthographic lens in px of the whole picture."""
    return Lens(FORMAT_FOCAL * crop.side, (crop.x + crop.side / 2 - 0.5, crop.y + crop.side / 2 - 0.5))


def crop_K(lens: Lens, crop: Crop, size: int) -> Tensor:
    """Return K [3, 3] float32 of a lens of the whole picture in px of the crop stored at `size`."""
    k = size / crop.side
    cx, cy = ((c + 0.5 - o) * k - 0.5 for c, o in zip(lens.center, (crop.x, crop.y), strict=True))
    return torch.tensor([[lens.focal * k, 0.0, cx], [0.0, lens.focal * k, cy], [0.0, 0.0, 1.0]])
