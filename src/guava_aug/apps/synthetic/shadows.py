"""Cast shadows: what a light does not see, by a z-buffer from the light with a soft edge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guava_aug.apps.synthetic.raster import Surface, rasterize

_SIZE = 640  # pixels of the light's picture
_MARGIN = 0.06  # metres around what is looked up
_BIAS = 0.004  # metres a point may lie behind what the light sees
_LIFT = 0.006  # metres points are lifted along their normals before they are looked up
_TAPS = 16
_LEAST_RADIUS = 1.2  # texels: below, the edge would show the light's pixels


def lit_share(
    points: Tensor, normals: Tensor, vertices: Tensor, surface: Surface, direction: Tensor, penumbra: Tensor
) -> Tensor:
    """Return [n] how much of a directional light reaches points of one frame: 0 in shadow, 1 lit.

    points, normals: [n, 3] of what is shaded. vertices: [P, 3] of what casts shadows. direction: [3] unit, to the
    light, in the frame of the points. penumbra: [] metres, radius of the soft edge.
    """
    if not len(points):
        return points.new_zeros(0)
    helper = direction.new_tensor([0.0, 1.0, 0.0] if abs(float(direction[1])) < 0.9 else [1.0, 0.0, 0.0])
    right = torch.nn.functional.normalize(torch.linalg.cross(helper, direction), dim=0)
    frame = torch.stack([right, torch.linalg.cross(direction, right), -direction])  # depth grows away from the light
    at = (points + _LIFT * normals) @ frame.T
    low, high = at[:, :2].amin(0) - _MARGIN, at[:, :2].amax(0) + _MARGIN
    texel = (high - low).amax() / _SIZE
    seen = vertices @ frame.T
    screen = torch.cat([(seen[:, :2] - low) / texel - 0.5, seen[:, 2:]], 1)
    ids, bary = rasterize(surface, screen[None], _SIZE, _SIZE)
    corner = surface.faces[ids[0].clamp(min=0)]
    depth = torch.where(ids[0] >= 0, (seen[:, 2][corner] * bary[0]).sum(-1), torch.inf)
    spot = (at[:, :2] - low) / texel - 0.5
    radius = (penumbra / texel).clamp(min=_LEAST_RADIUS)
    total = torch.zeros_like(at[:, 2])
    for k in range(_TAPS):  # a spiral that fills the disc evenly
        r, a = math.sqrt((k + 0.5) / _TAPS), 2.399963 * k
        tap = spot + radius * spot.new_tensor([r * math.cos(a), r * math.sin(a)])
        x, y = tap.round().long().clamp(0, _SIZE - 1).unbind(1)
        total += at[:, 2] <= depth[y, x] + _BIAS + 0.6 * r * radius * texel
    return total / _TAPS
