"""Where a posed body is in the pictures of a video, as a detector would give it: for the choice of the crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guava_aug.body import Identity, Motion
from guava_aug.body.joints import FINGERS, INDEX, SIDES
from guava_aug.tracked.outline import NEAREST, BodyOutline

_POSE_POINTS = 33
_NOSE, _SHOULDERS = 0, (11, 12)  # of BlazePose's points
_BELOW_EYES, _REACH = 0.03, 0.09  # metres: the middle of the face, and its farthest points from there
_BEHIND_EYES = 0.03  # metres: what lies farther back is no face
_TIP = 0.9  # of the last bone but one of a finger: the length of the last


@dataclass(frozen=True)
class ProjectedBody:
    """Points of a posed body over T frames, pixels of the picture; see `reading.crop.Seen`."""

    pose: np.ndarray  # [T, 33, 3]: nose and shoulders; the others are zero
    pose_score: np.ndarray  # [T, 33]
    hands: np.ndarray  # [T, 2, 21, 3]
    hand_score: np.ndarray  # [T, 2]
    face: np.ndarray  # [T, n, 3]
    face_score: np.ndarray  # [T]
    size: tuple[int, int]  # (height, width) of the picture
    person_in_first: tuple[float, float] | None  # a point on the body in the first frame, if that is in the picture


@torch.inference_mode()
def project_body(
    outline: BodyOutline,
    identity: Identity,
    motion: Motion,
    viewmats: Tensor,  # [T, 4, 4] world to camera
    K: Tensor,  # [3, 3] pixels of the picture
    size: tuple[int, int],  # (height, width)
) -> ProjectedBody:
    """Return where the body is in the picture. Parts that are behind the camera or outside of the picture score 0."""
    vertices, joints = outline.rest(identity)
    posed, relative = outline.body.pose_joints(joints, motion)
    head = relative[:, INDEX["head"]]
    face_world = _face(vertices, joints) @ head[:, :3, :3].transpose(1, 2) + head[:, None, :3, 3]
    body, face = (_project(points, viewmats, K) for points in (posed, face_world))

    shoulders = body[:, [INDEX["left_shoulder"], INDEX["right_shoulder"]]]
    nose = face[:, :1]
    in_front = ((np.concatenate([shoulders, nose], 1)[..., 2] > NEAREST).all(1)) & _inside(shoulders.mean(1), size)
    pose = np.zeros((len(motion), _POSE_POINTS, 3))
    pose[:, [_NOSE, *_SHOULDERS]] = np.concatenate([nose, shoulders], 1)
    hands = np.stack([_hand(body, side) for side in SIDES], 1)
    chest = body[0, INDEX["spine3"]]
    return ProjectedBody(
        pose, np.repeat(in_front[:, None], _POSE_POINTS, 1).astype(float),
        hands, ((hands[..., 2] > NEAREST).all(-1) & _inside(hands.mean(2), size)).astype(float),
        face, ((face[..., 2] > NEAREST).all(-1) & _inside(face.mean(1), size)).astype(float), size,
        (float(chest[0]), float(chest[1])) if _inside(chest, size) and chest[2] > NEAREST else None,
    )  # fmt: skip


def _face(vertices: Tensor, joints: Tensor) -> Tensor:
    """Return points of the face at rest [n, 3], the tip of the nose first."""
    eyes = joints[[INDEX["left_eye"], INDEX["right_eye"]]].mean(0)
    middle = eyes - torch.tensor([0.0, _BELOW_EYES, 0.0])
    near = ((vertices - middle).norm(dim=1) < _REACH) & (vertices[:, 2] > eyes[2] - _BEHIND_EYES)
    points = vertices[near]
    return points[points[:, 2].argsort(descending=True)]


def _hand(body: np.ndarray, side: str) -> np.ndarray:
    """Return 21 points [T, 21, 3] of a hand: the wrist, and four of every finger."""
    points = [body[:, INDEX[f"{side}_wrist"]]]
    for finger in FINGERS:
        bones = [body[:, INDEX[f"{side}_{finger}{k}"]] for k in (1, 2, 3)]
        points += [*bones, bones[2] + _TIP * (bones[2] - bones[1])]
    return np.stack(points, 1)


def _project(points: Tensor, viewmats: Tensor, K: Tensor) -> np.ndarray:
    """Return pixel x, y (the corner of the picture is 0, 0) and depth [T, n, 3] of world points [T, n, 3]."""
    seen = (points @ viewmats[:, :3, :3].transpose(1, 2) + viewmats[:, None, :3, 3]).double()
    z = seen[..., 2:].clamp(min=NEAREST)
    xy = (seen / z)[..., :2] * K.double().diagonal()[:2] + K.double()[:2, 2] + 0.5
    return torch.cat([xy, seen[..., 2:]], -1).numpy()


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return whether points [..., 2 or more] are in the picture."""
    inside: np.ndarray = (points[..., :2] > 0).all(-1) & (points[..., 0] < size[1]) & (points[..., 1] < size[0])
    return inside
