"""The outline of the person's mask as observations of the body's shape.

Landmarks lie in the middle of limbs and say little about how thick a body is. Vertices of trunk and upper arms whose
surface is seen edge-on lie on the outline of the body, so they should lie on the edge of the mask: a little inside of
it, because people are dressed. What is outside of the video's picture is unknown, not empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from guava_aug.body.ehm import EhmModel
from guava_aug.body.joints import INDEX, SIDES
from guava_aug.tracked.detect.landmarks import Landmarks
from guava_aug.tracked.fit.branches import Branch, branches
from guava_aug.tracked.fit.rig import Points, RestBody, Rig

_PARTS = ("spine1", "spine2", "spine3", *(f"{side}_{n}" for side in SIDES for n in ("collar", "shoulder")))
_CELL = 0.035  # metres: of the vertices in a cube of this side one is used
_EDGE_ON = 0.2  # sine of the angle between surface and line of sight
_REACH = 0.05  # metres: an edge farther away is another one
_STEPS = 25  # places in which the mask is looked up on each side of a vertex
_LOOSE = 0.006  # metres that clothes usually stand off
_CLOTHES, _SKIN = 0.025, 0.012  # metres of scatter: of clothes beyond the body, of a body beyond its mask
_SHARE = 2.0  # of what independent points would tell: the shape has few other witnesses
_BORDER = 2.0  # pixels of the mask and of the picture that are not trusted


@dataclass(frozen=True)
class Surface:
    """Vertices of trunk and upper arms."""

    rest: Tensor  # [V, 3]
    rest_by_shape: Tensor  # [V, 3, S]
    normals: Tensor  # [V, 3] at rest
    weights: Tensor  # [V, J] of skinning
    joints: Tensor  # [V] that each vertex goes with most

    @staticmethod
    def ids(model: EhmModel) -> Tensor:
        """Return the numbers [V] of the body vertices that are used."""
        weights, at = model.assets.body.lbs_weights, model.assets.v_canonical
        ids = (weights[:, [INDEX[n] for n in _PARTS]].sum(1) > 0.7).nonzero()[:, 0]
        _, first = np.unique(np.floor(at[ids].numpy() / _CELL).astype(np.int64), axis=0, return_index=True)
        return ids[torch.from_numpy(first)]

    @staticmethod
    def of(model: EhmModel, rest: RestBody, ids: Tensor, first: int) -> Surface:
        """Return the surface; `rest` has its vertices `ids` from number `first`."""
        faces, at = model.assets.faces, model.assets.v_canonical.double()
        a, b, c = at[faces].unbind(1)
        across = torch.linalg.cross(b - a, c - a)
        normals = torch.zeros_like(at)
        for corner in faces.unbind(1):
            normals.index_add_(0, corner, across)
        weights = model.assets.body.lbs_weights[ids].double()
        return Surface(
            rest.vertices[first : first + len(ids)], rest.vertices_by_shape[first : first + len(ids)],
            torch.nn.functional.normalize(normals[ids], dim=1), weights, weights.argmax(1),
        )  # fmt: skip


@dataclass(frozen=True)
class Outline:
    """Points on the outline of the body, each with the place on a line across the outline where it should be."""

    points: Points
    across: Tensor  # [T, V, 2] unit, out of the body, picture axes
    target: Tensor  # [T, V] px along `across`
    weights: Tensor  # [T, V] 1 / px^2; zero where the point is not on the outline, or no edge is near
    branches: Sequence[Branch]

    def frames(self, index: slice | Tensor) -> Outline:
        """Return some of the frames."""
        return replace(
            self, points=self.points.in_frames(index), across=self.across[index], target=self.target[index],
            weights=self.weights[index],
        )  # fmt: skip


def outline(
    rig: Rig,
    surface: Surface,
    landmarks: Landmarks,
    shape: Tensor,  # [S]
    world: Tensor,  # [T, J, 3, 3] rotations
    place: Tensor,  # [T, J, 3] camera axes
    focal: float,
    center: tuple[float, float],
) -> Outline:
    """Return the outline of the body at poses near the right ones, and the edges of the masks near it."""
    joints = rig.rest_joints(shape)
    rest = surface.rest + surface.rest_by_shape @ shape
    w = surface.weights
    about = rest - joints[:, None]  # [J, V, 3]
    posed = place[:, :, None] + about @ world.transpose(2, 3)  # [T, J, V, 3]
    at = torch.einsum("vj,tjvi->tvi", w, posed)
    normals = torch.einsum("vj,tjik,vk->tvi", w, world, surface.normals)
    ray = at / at.norm(dim=-1, keepdim=True)
    edge_on = (normals * ray).sum(-1).abs() < _EDGE_ON * normals.norm(dim=-1)
    z = at[..., 2].clamp(min=0.05)
    px = at[..., :2] / z[..., None] * focal + at.new_tensor(center)
    # what is across the outline in the picture: the normal without its part along the line of sight
    flat = normals - (normals * ray).sum(-1, keepdim=True) * ray
    across = torch.nn.functional.normalize(flat[..., :2] - at[..., :2] / z[..., None] * flat[..., 2:], dim=-1)
    per_metre = focal / z
    away = _edges(landmarks, px, across, per_metre * _REACH)  # [T, V] px; NaN where there is none
    seen = edge_on & ~away.isnan()
    away = torch.where(seen, away, torch.zeros_like(away)) - _LOOSE * per_metre
    sigma = torch.where(away > 0, _CLOTHES, _SKIN) * per_metre
    weights = seen.double() * _SHARE / sigma**2
    # rides on one joint from here on, through the place where all of its joints put it
    used = seen.any(0)
    rides = surface.joints[used]
    turn = world[:, rides].transpose(2, 3)
    local = (turn @ (at[:, used] - place[:, rides])[..., None])[..., 0] + joints[rides]
    by_shape = surface.rest_by_shape[used]
    points = Points(rides, local - by_shape @ shape, by_shape)
    target = (px * across).sum(-1) + away
    none = torch.zeros(0, 2, dtype=torch.int64)
    return Outline(points, across[:, used], target[:, used], weights[:, used], branches(rig, rides, none))


def _edges(landmarks: Landmarks, px: Tensor, across: Tensor, reach: Tensor) -> Tensor:
    """Return how far [T, V] px from points [T, V, 2] the mask ends, negative: inwards; NaN: nowhere within `reach`."""
    height, width = landmarks.size
    steps = np.linspace(-1, 1, 2 * _STEPS + 1)
    out = np.full(px.shape[:2], np.nan)
    for t, (mask, region) in enumerate(zip(landmarks.person_mask, landmarks.mask_region, strict=True)):
        x, y, across_region, down_region, turn = (float(v) for v in region)
        if across_region <= 0 or down_region <= 0:
            continue
        along = steps * reach[t].numpy()[:, None]  # [V, n] px
        at = px[t].numpy()[:, None] + along[..., None] * across[t].numpy()[:, None]  # [V, n, 2]
        cos, sin = np.cos(turn), np.sin(turn)
        dx, dy = at[..., 0] - (x - 0.5), at[..., 1] - (y - 0.5)
        h, w = mask.shape
        u = (cos * dx + sin * dy) * w / across_region + (w - 1) / 2
        v = (-sin * dx + cos * dy) * h / down_region + (h - 1) / 2
        values = cv2.remap(mask, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR) - 127.5
        known = (u > _BORDER) & (u < w - 1 - _BORDER) & (v > _BORDER) & (v < h - 1 - _BORDER)
        known &= (at > _BORDER).all(-1) & (at[..., 0] < width - 1 - _BORDER) & (at[..., 1] < height - 1 - _BORDER)
        ends = (values[:, :-1] > 0) & (values[:, 1:] <= 0) & known[:, :-1] & known[:, 1:]
        share = values[:, :-1] / np.where(ends, values[:, :-1] - values[:, 1:], 1)
        place = along[:, :-1] + share * np.diff(along, axis=1)
        place = np.where(ends, place, np.inf)
        nearest = np.abs(place).argmin(1)
        found = place[np.arange(len(place)), nearest]
        out[t] = np.where(np.isfinite(found), found, np.nan)
    return torch.from_numpy(out)
