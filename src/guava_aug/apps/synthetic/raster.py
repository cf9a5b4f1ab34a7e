"""Which triangle is seen in every pixel: a z-buffer with alpha-tested textures.

Two programs of one rule: a numba loop (CPU) and fragments scattered with `amin` over packed depth | face (any
torch device). A pixel belongs to the nearest face that covers its centre and, for cut-out faces, whose texture is
opaque there. Depth is affine in the picture, which is exact enough for the near-orthographic lens of the tracker.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

ALPHA_CUT = 128  # of 255
_EDGE = -1e-5  # barycentrics this far outside still count
_DEGENERATE = 1e-12  # twice the area, square pixels
_DEPTH_STEPS = 2.0**30


@dataclass(frozen=True)
class Surface:
    """What of a mesh does not change with the pose."""

    faces: Tensor  # [F, 3] int64
    corners: Tensor  # [F, 3, 2] float32 atlas coordinates of the corners, 0..1, v down
    cutout: Tensor  # [F] bool: look at the texture's alpha
    bias: Tensor  # [F] float32 metres a face is drawn nearer (brows on skin)
    alpha: Tensor  # [A, A] uint8 of the atlas

    def to(self, device: torch.device | str) -> Surface:
        """Return a copy with all tensors on `device`."""
        return Surface(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def rasterize(surface: Surface, screen: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Return face ids [B, H, W] int64 (-1: none) and barycentrics [B, H, W, 3] of the seen faces.

    screen [B, P, 3]: x, y in pixels (integer coordinates are pixel centres), depth in metres.
    """
    compiled = screen.device.type == "cpu" and importlib.util.find_spec("numba") is not None
    ids = (rasterize_numba if compiled else rasterize_torch)(surface, screen, width, height)
    return ids, _barycentrics(surface, screen, ids)


def _barycentrics(surface: Surface, screen: Tensor, ids: Tensor) -> Tensor:
    B, H, W = ids.shape
    out = torch.zeros(B, H, W, 3, device=screen.device)
    b, y, x = torch.nonzero(ids >= 0, as_tuple=True)
    p = screen[b[:, None], surface.faces[ids[b, y, x]], :2]  # [n, 3, 2]
    out[b, y, x] = _edge_weights(p[:, 0], p[:, 1], p[:, 2], x.float(), y.float())
    return out


def _edge_weights(a: Tensor, b: Tensor, c: Tensor, x: Tensor, y: Tensor) -> Tensor:
    d = (b[:, 1] - c[:, 1]) * (a[:, 0] - c[:, 0]) + (c[:, 0] - b[:, 0]) * (a[:, 1] - c[:, 1])
    d = torch.where(d.abs() < 1e-12, torch.full_like(d, torch.inf), d)
    w0 = ((b[:, 1] - c[:, 1]) * (x - c[:, 0]) + (c[:, 0] - b[:, 0]) * (y - c[:, 1])) / d
    w1 = ((c[:, 1] - a[:, 1]) * (x - c[:, 0]) + (a[:, 0] - c[:, 0]) * (y - c[:, 1])) / d
    return torch.stack([w0, w1, 1 - w0 - w1], -1)


def rasterize_torch(surface: Surface, screen: Tensor, width: int, height: int) -> Tensor:
    """Return face ids [B, H, W]: every covered pixel of every face's box is a fragment; the nearest wins by `amin`."""
    B, F = len(screen), len(surface.faces)
    device = screen.device
    tri = screen[:, surface.faces].flatten(0, 1)  # [B F, 3, 3]
    limit = torch.tensor([width - 1, height - 1], device=device)
    low = tri[..., :2].amin(1).ceil().long().clamp(min=0)
    high = torch.minimum(tri[..., :2].amax(1).floor().long(), limit)
    size = (high - low + 1).clamp(min=0)
    a, b, c = tri.unbind(1)
    d = (b[:, 1] - c[:, 1]) * (a[:, 0] - c[:, 0]) + (c[:, 0] - b[:, 0]) * (a[:, 1] - c[:, 1])
    count = size[:, 0] * size[:, 1] * (d.abs() > _DEGENERATE)
    drawn = torch.nonzero(count)[:, 0]  # boxes without a pixel centre go at once
    tri, low, size, count, d = tri[drawn], low[drawn], size[drawn], count[drawn], d[drawn]
    # barycentrics 0 and 1 as planes over the box: value at its corner, step in x, step in y
    a, b, c = tri.unbind(1)
    steps = torch.stack([b[:, 1] - c[:, 1], c[:, 0] - b[:, 0], c[:, 1] - a[:, 1], a[:, 0] - c[:, 0]], 1) / d[:, None]
    corner = low - c[:, :2]
    start = torch.stack([(steps[:, :2] * corner).sum(1), (steps[:, 2:] * corner).sum(1)], 1)
    planes = torch.cat([start, steps], 1)  # [n, 6]

    box = torch.repeat_interleave(torch.arange(len(count), device=device), count)
    k = torch.arange(len(box), device=device) - (torch.cumsum(count, 0) - count)[box]
    w = size[:, 0][box]
    dy = torch.div(k, w, rounding_mode="floor")
    dx = k - dy * w
    plane = planes[box]
    w0 = plane[:, 0] + plane[:, 2] * dx + plane[:, 3] * dy
    w1 = plane[:, 1] + plane[:, 4] * dx + plane[:, 5] * dy
    inside = torch.nonzero((w0 >= _EDGE) & (w1 >= _EDGE) & (w0 + w1 <= 1 - _EDGE))[:, 0]
    box, dx, dy = box[inside], dx[inside], dy[inside]
    bary = torch.stack([w0[inside], w1[inside], 1 - w0[inside] - w1[inside]], 1)
    face = (drawn % F)[box]
    cut = torch.nonzero(surface.cutout[face])[:, 0]
    if len(cut):
        A = surface.alpha.shape[0]
        texel = ((surface.corners[face[cut]] * bary[cut, :, None]).sum(1) * A).long().clamp(0, A - 1)
        keep = torch.ones(len(face), dtype=torch.bool, device=device)
        keep[cut] = surface.alpha[texel[:, 1], texel[:, 0]] >= ALPHA_CUT
        box, dx, dy, bary, face = box[keep], dx[keep], dy[keep], bary[keep], face[keep]
    z = (bary * tri[:, :, 2][box]).sum(1) - surface.bias[face]
    near, far = screen[..., 2].min() - 1, screen[..., 2].max() + 1
    depth = ((z - near) / (far - near) * _DEPTH_STEPS).long()
    picture = torch.div(drawn, F, rounding_mode="floor")
    pixel = (picture[box] * height + low[:, 1][box] + dy) * width + low[:, 0][box] + dx
    none = torch.iinfo(torch.int64).max
    best = torch.full((B * height * width,), none, device=device)
    best.scatter_reduce_(0, pixel, (depth << 32) | face, "amin")
    return torch.where(best == none, -1, best & 0xFFFFFFFF).view(B, height, width)


def rasterize_numba(surface: Surface, screen: Tensor, width: int, height: int) -> Tensor:
    """Return face ids [B, H, W] by a loop over faces, parallel over bands of rows (CPU tensors)."""
    from guava_aug.apps.synthetic.raster_numba import fill  # noqa: PLC0415 - numba is slow, and a GPU needs none

    ids = np.full((len(screen), height, width), -1, np.int64)
    s = surface
    for picture, out in zip(screen.float().numpy(), ids, strict=True):
        fill(
            np.ascontiguousarray(picture), s.faces.numpy(), s.corners.numpy(), s.cutout.numpy(), s.bias.numpy(),
            s.alpha.numpy(), ALPHA_CUT, out,
        )  # fmt: skip
    return torch.from_numpy(ids)
