"""Where the detector's landmarks are on a body that is posed by its own model, differentiable."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from guava_aug.body.joints import INDEX
from guava_aug.body.params import Identity, Motion
from guava_aug.tracked.fit.body_points import FittedBody
from guava_aug.tracked.fit.calibration import NUM_FACE, NUM_HAND, NUM_POSE
from guava_aug.tracked.fit.face import FaceModel
from guava_aug.tracked.fit.observe import Clip, face_weights, observations, pixels
from guava_aug.tracked.fit.quality import FitQuality, measure
from guava_aug.tracked.fit.rig import Points

NUM_LANDMARKS = NUM_POSE + 2 * NUM_HAND + NUM_FACE
_NEAREST = 0.05  # metres
R = TypeVar("R", Points, FaceModel)


class LandmarkPoints:
    """33 landmarks of the body, 21 of each hand, 468 of the face, on bodies that `EhmModel` poses. float32.

    The fit has a rig of its own, whose fingers bend about hinges; this takes any `Motion`.

    Args:
        body: The body model with the landmarks on it.
        device: Of torch.
    """

    def __init__(self, body: FittedBody, device: torch.device | str = "cpu") -> None:
        self._space = body.rig.rest.space
        self._joints = body.rig.rest.joints.to(device, torch.float32)
        self._by_shape = body.rig.rest.joints_by_shape.to(device, torch.float32)
        self._points = _moved(body.points, device)
        self._face = replace(_moved(body.face, device), points=_moved(body.face.points, device))
        self._head = INDEX["head"]

    def __call__(self, identity: Identity, motion: Motion, joints: Tensor, transforms: Tensor) -> Tensor:
        """Return where the landmarks are [T, 543, 3], metres in the body's world.

        Args:
            identity: Of the body.
            motion: T frames.
            joints: [T, J, 3] as posed.
            transforms: [T, J, 4, 4] of the joints, from rest.
        """
        shape = self._space.vector(identity)
        rest_joints = self._joints + self._by_shape @ shape
        face = torch.cat([motion.flame_expression, motion.jaw_pose, motion.eyelids], 1)
        body = self._points.rest + self._points.rest_by_shape @ shape - rest_joints[self._points.joints]
        head = self._face.points.rest + self._face.points.rest_by_shape @ shape - rest_joints[self._head]
        local = torch.cat([body.expand(len(motion), -1, -1), head + self._face.local(face)], 1)
        ids = torch.cat([self._points.joints, self._face.points.joints])
        turned: Tensor = (transforms[:, ids, :3, :3] @ local[..., None])[..., 0]
        return joints[:, ids] + turned


def observed(clip: Clip) -> tuple[Tensor, Tensor]:
    """Return pixels [T, 543, 2] and weights [T, 543], 1 / px^2, of the landmarks; pixels of the whole picture. float32.

    Weights are those of the fit: by score, scatter and blur; 0 where nothing was seen.
    """
    seen, count = observations(clip), NUM_POSE + 2 * NUM_HAND
    at = torch.cat([seen.pixels[:, :count], pixels(clip.landmarks.face)], 1)
    return at.float(), torch.cat([seen.weights[:, :count], face_weights(clip)], 1).float()


def quality_of(clip: Clip, at: Tensor, side: float) -> FitQuality:
    """Return how well landmarks that lie at [T, 543, 2], pixels of the whole picture, agree with what was seen.

    Args:
        clip: What was seen.
        at: Where the landmarks are; integer coordinates are pixel centres.
        side: Pixels of the crop.
    """
    body, hands, face = (at.cpu() + 0.5).split([NUM_POSE, 2 * NUM_HAND, NUM_FACE], 1)
    return measure(clip.landmarks, body.numpy(), hands.unflatten(1, (2, NUM_HAND)).numpy(), face.numpy(), side)


def projected(clip: Clip, points: Tensor, viewmats: Tensor) -> Tensor:
    """Return pixels [T, N, 2] of the whole picture where a clip's lens sees points [T, N, 3]; viewmats [T, 4, 4]."""
    camera = points @ viewmats[:, :3, :3].transpose(1, 2) + viewmats[:, None, :3, 3]
    center = points.new_tensor(clip.lens.center)
    return camera[..., :2] / camera[..., 2:].clamp(min=_NEAREST) * clip.lens.focal + center


def _moved(record: R, device: torch.device | str) -> R:
    """Return a record whose tensors are on a device, floating-point ones in float32."""
    changes: dict[str, Any] = {}
    for f in fields(record):
        value = getattr(record, f.name)
        if isinstance(value, Tensor):
            changes[f.name] = value.to(device, torch.float32 if value.is_floating_point() else value.dtype)
    return replace(record, **changes)
