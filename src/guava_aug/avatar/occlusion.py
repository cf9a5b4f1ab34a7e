"""Visibility of body points from the source camera, tested point by point.

The original marks whole faces: one visible pixel makes every texel of a face visible, so the colour of a hand in front
of the chest is also assigned to the chest beside and behind it, and remains there as an artefact when the hand moves
away. Models with `visibility: point` test for each texel and vertex whether anything nearer lies on its pixel or next
to it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from guava_aug.body.surface_normals import area_normals
from guava_aug.views.cameras import camera_center

NEARER = 0.02  # metres: anything this much nearer is another surface, not the slope of the same one
_AROUND = 3  # half-resolution pixels: an edge of the tracked mesh is at most about this uncertain


def nearest_depth(
    depth: Tensor,  # [B, S, S] metres, inf where nothing is visible, S even
) -> Tensor:
    """Return the nearest depth of every 2 x 2 pixels, [B, S/2, S/2]."""
    return -F.max_pool2d(-depth[:, None], 2)[:, 0]


def unhidden(
    xy: Tensor,  # [B, n, 2] image coordinates, -1..1
    z: Tensor,  # [B, n] metres
    nearest: Tensor,  # [B, S/2, S/2] of `nearest_depth`
) -> Tensor:
    """Return [B, n] bool: whether no part of the body lies in front of the point, on its pixel or next to it."""
    around = -F.max_pool2d(-nearest[:, None].float(), _AROUND, stride=1, padding=_AROUND // 2)
    around = around.clamp(max=1e6)  # no infinity times zero
    found = F.grid_sample(around, xy[:, None], mode="nearest", padding_mode="border", align_corners=False)
    return z <= found[:, 0, 0] + NEARER


def facing(
    vertices: Tensor,  # [B, P, 3] world
    faces: Tensor,  # [F, 3]
    viewmats: Tensor,  # [B, 4, 4]
) -> Tensor:
    """Return [B, P] bool: whether the surface at the vertex faces the camera."""
    eye = camera_center(viewmats)  # [B, 3]
    return (area_normals(vertices, faces) * (eye[:, None] - vertices)).sum(-1) > 0


def relative_depth(
    points: Tensor,  # [B, n, 3] world
    viewmats: Tensor,  # [B, 4, 4]
    vertices: Tensor,  # [B, P, 3]
) -> Tensor:
    """Return depths [B, n] relative to that of the mean vertex, metres: small enough for half precision."""
    with torch.autocast(points.device.type, enabled=False):
        axis = viewmats[:, None, 2, :3]
        return ((points - vertices.mean(1, keepdim=True)) * axis).sum(-1)
