"""A body model prepared for fitting: its rig and the detector's landmarks on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guava_aug.body.ehm import EhmModel
from guava_aug.body.joints import INDEX, SIDES
from guava_aug.tracked.fit.branches import Branch, branches
from guava_aug.tracked.fit.calibration import PAIRS, Calibration
from guava_aug.tracked.fit.face import PRECISION, FaceModel, face_model
from guava_aug.tracked.fit.limits import Limits, limits_of
from guava_aug.tracked.fit.problem import Prior
from guava_aug.tracked.fit.rig import NUM_EXPRESSION, Points, RestBody, Rig, rest_body
from guava_aug.tracked.fit.silhouette import Surface

_NEAR = 6  # vertices whose mean moves a point when the shape changes
_FOLLOWS = 0.3  # skinning weight from which a vertex goes with a joint
_FACE_POINTS = 60  # of the head while the body is fitted
_JAW_WOBBLE = 0.004  # metres that the jaw moves what rides on it, usually
_FACES = 0.0015  # metres that faces of real people differ from the calibration


@dataclass(frozen=True)
class FittedBody:
    """What all clips share: made once per body model."""

    calibration: Calibration
    rig: Rig
    points: Points  # 33 of the body, 21 of each hand
    face: FaceModel
    fast_face: FaceModel  # the same, for derivatives
    steady: Tensor  # [60] face landmarks that hold the head
    wobble: Tensor  # [468] metres that face landmarks move on the head, usually
    size_slope: Tensor  # [S] of the logarithm of a person's size
    pose_prior: Prior
    face_prior: Prior
    surface: Surface  # trunk and upper arms
    limits: Limits
    branches: Sequence[Branch]  # of `points` with the steady points of the head, and of `PAIRS`


def fitted_body(model: EhmModel, calibration: Calibration) -> FittedBody:
    """Return a body model with the landmarks on it."""
    c = calibration
    skin = Surface.ids(model)
    rest, points = _points(
        model, torch.cat([c.pose_joints, c.hand_joints.flatten()]),
        torch.cat([c.pose_offsets, c.hand_offsets.flatten(0, 1)]), skin,
    )  # fmt: skip
    face = face_model(model, c)
    by_expression = face.by_expression
    spread = (by_expression @ c.expression_covariance[:NUM_EXPRESSION, :NUM_EXPRESSION]) * by_expression
    moves = (spread.sum((1, 2)) + c.face_sigma**2).sqrt() + _JAW_WOBBLE * face.jaw_weight
    rig, steady = Rig(rest), _spread_points(face.points.rest, moves, _FACE_POINTS)
    return FittedBody(
        c, rig, points, face, face.to(PRECISION), steady,
        (moves**2 + _FACES**2).sqrt(), _size_slope(rest), Prior(c.pose_mean, torch.linalg.inv(c.pose_covariance)),
        Prior(c.expression_mean, torch.linalg.inv(c.expression_covariance)),
        Surface.of(model, rest, skin, _NEAR * len(points)), limits_of(rig.space),
        branches(rig, torch.cat([points.joints, face.points.joints[steady]]), torch.tensor(PAIRS)),
    )  # fmt: skip


def _points(model: EhmModel, joints: Tensor, offsets: Tensor, more: Tensor) -> tuple[RestBody, Points]:
    """Return the rest body, and points at offsets from joints that grow with the flesh around them.

    The rest body has the vertices around the points, then those numbered `more`.
    """
    assets = model.assets
    template, weights = assets.body.v_template, assets.body.lbs_weights
    at = (assets.body.J_regressor @ template)[joints].double() + offsets
    near = []
    for j, p in zip(joints.tolist(), at, strict=True):
        ids = (weights[:, j] > _FOLLOWS).nonzero()[:, 0]
        ids = ids if len(ids) >= _NEAR else weights[:, j].topk(_NEAR).indices
        near.append(ids[(template[ids].double() - p).norm(dim=1).topk(_NEAR, largest=False).indices])
    rest = rest_body(model, torch.cat([*near, more]))
    by_shape = rest.vertices_by_shape[: _NEAR * len(joints)].unflatten(0, (-1, _NEAR)).mean(1)
    return rest, Points(joints, rest.joints[joints] + offsets, by_shape)


def _spread_points(at: Tensor, scatter: Tensor, count: int) -> Tensor:
    """Return the numbers of `count` points that are steady and far from each other."""
    usable = (scatter < scatter.quantile(0.6)).nonzero()[:, 0]
    chosen = [int(usable[scatter[usable].argmin()])]
    apart = (at[usable] - at[chosen[0]]).norm(dim=1)
    while len(chosen) < min(count, len(usable)):
        k = int(usable[apart.argmax()])
        chosen.append(k)
        apart = torch.minimum(apart, (at[usable] - at[k]).norm(dim=1))
    return torch.tensor(chosen)


def _size_slope(rest: RestBody) -> Tensor:
    """Return how the size of a body grows with its shape [S]: the mean logarithm of some bones' lengths."""
    bones = [("left_shoulder", "right_shoulder"), ("left_eye", "right_eye"), ("neck", "head")]
    for side in SIDES:
        bones += [(f"{side}_{a}", f"{side}_{b}") for a, b in _ARM_BONES]
    a, b = torch.tensor([[INDEX[n] for n in bone] for bone in bones]).unbind(1)
    along = rest.joints[b] - rest.joints[a]
    grow = rest.joints_by_shape[b] - rest.joints_by_shape[a]
    slope: Tensor = ((along[..., None] * grow).sum(1) / (along**2).sum(1, keepdim=True)).mean(0)
    return slope


_ARM_BONES = (("shoulder", "elbow"), ("elbow", "wrist"), ("wrist", "middle1"))
