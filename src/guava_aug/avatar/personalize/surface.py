"""The surface of the body at rest: its normals, smooth functions over it, where clothes and hair may stand off it."""

from __future__ import annotations

import torch
from torch import Tensor

from guava_aug.avatar.source_pixels import vertex_cosines
from guava_aug.body import EhmAssets

_FREE_ON_HANDS, _FREE_ON_FACE = 0.2, 0.5


def facing(vertices: Tensor, faces: Tensor, viewmat: Tensor) -> Tensor:
    """[P] cosine between the surface's normal and the way to the camera; 0 where it is turned away."""
    return vertex_cosines(vertices[None], faces, viewmat[None])[0].clamp(min=0)


def smooth_basis(points: Tensor, spacing: float, *, symmetric: bool) -> Tensor:
    """[n, B] smooth functions over points [n, 3] at rest, spread about `spacing` metres apart; every row sums to 1.

    In the rest pose limbs are apart, so that a function of the arm does not reach the chest, while front and back of a
    limb move together. `symmetric`: every function is the same on both sides of the body (x is the axis).
    """
    if symmetric:
        points = torch.cat([points[:, :1].abs(), points[:, 1:]], 1)
    centers = torch.unique((points / spacing).round(), dim=0) * spacing
    near = torch.cdist(points, centers).square() / (2 * (0.6 * spacing) ** 2)
    return torch.softmax(-near, 1)


def offset_freedom(a: EhmAssets) -> Tensor:
    """[P] how far clothes and hair may move a vertex off the body, 0..1: not at all at eyes and teeth."""
    free = torch.ones(len(a.body.v_template), device=a.faces.device)
    head = torch.full_like(a.head.v_template[:, 0], 1.0)
    head = torch.where(a.head.exprdirs.norm(dim=1).amax(-1) > 1e-3, _FREE_ON_FACE, head)
    head = torch.where(a.head.lbs_weights[:, 3:].sum(1) > 0.5, 0.0, head)
    free[a.head_to_body] = head
    for ids in (a.left_hand, a.right_hand):
        free[ids] = _FREE_ON_HANDS
    used = torch.zeros_like(free).index_fill_(0, a.faces.unique(), 1.0)
    return free * used
