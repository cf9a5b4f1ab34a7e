"""The Gaussian rasteriser with gradients: many images in one launch.

The rules are those of `render.rasterize_torch`, which is also the specification the tests hold this to. Projection is
plain torch under autograd; lists of splats per tile come from one sort; compositing is a Triton kernel with a backward
pass (`raster_kernels`) on CUDA and the readable reference elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..render.rasterize_torch import (
    ALPHA_MAX,
    FRUSTUM_MARGIN,
    LOW_PASS,
    MIN_EIGEN_GAP,
    NEAR,
    TILE,
    rasterize_frames,
)


@dataclass(frozen=True)
class Drawn:
    image: Tensor  # [B, K, C, H, W] over black
    alpha: Tensor  # [B, K, 1, H, W]


def rasterize_grad(
    means: Tensor,  # [B, K, N, 3] metres: B people in K poses and views
    quats: Tensor,  # [B, K, N, 4] wxyz, as they are
    scales: Tensor,  # [B, K, N, 3] metres
    opacities: Tensor,  # [B, N]
    features: Tensor,  # [B, N, C]
    viewmats: Tensor,  # [B, K, 4, 4]
    K: Tensor,  # [3, 3]
    width: int,
    height: int,
    *,
    precision: str = "tf32x3",
) -> Drawn:
    """Feature images and alpha of every person in every view, differentiable in all of the first five arguments.

    `precision` is how the kernel multiplies on CUDA: "tf32x3" (nearly float32), "tf32" (3e-4, too coarse for gradients
    of opaque splats) or "ieee". Depths, weights and transmittance are float32 either way.
    """
    if means.device.type != "cuda":
        return rasterize_reference(means, quats, scales, opacities, features, viewmats, K, width, height)
    from .raster_kernels import composite_tiles

    B, k, N = means.shape[:3]
    projected = project_batch(means.flatten(0, 1), quats.flatten(0, 1), scales.flatten(0, 1), viewmats.flatten(0, 1),
                              K, width, height)  # fmt: skip
    lists = tile_lists(projected, width, height)
    splats = torch.cat(
        [projected.centers, projected.conics, opacities[:, None, :, None].expand(B, k, N, 1).flatten(0, 1)], -1
    )
    image, alpha = composite_tiles(splats, features, lists, width, height, precision)
    return Drawn(image.unflatten(0, (B, k)), alpha.unflatten(0, (B, k)))


def rasterize_reference(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, features: Tensor, viewmats: Tensor, K: Tensor,
    width: int, height: int,
) -> Drawn:  # fmt: skip
    """As `rasterize_grad`, by the readable rasteriser; for tests and tiny runs, since it keeps every (splat, pixel)."""
    images, alphas = [], []
    for b in range(len(means)):
        image, alpha, _, _ = rasterize_frames(
            means[b], quats[b], scales[b], opacities[b], features[b], viewmats[b], K,
            features.new_zeros(features.shape[-1]), width=width, height=height, scale_modifier=1.0, antialias=False,
        )  # fmt: skip
        images.append(image)
        alphas.append(alpha)
    return Drawn(torch.stack(images), torch.stack(alphas))


@dataclass(frozen=True)
class Projected:
    """I images of N splats."""

    centers: Tensor  # [I, N, 2] pixels
    conics: Tensor  # [I, N, 3] inverse covariance (xx, xy, yy), 1/px^2
    depths: Tensor  # [I, N] metres
    tile_min: Tensor  # [I, N, 2] int32 (column, row)
    tile_max: Tensor  # [I, N, 2] int32, one past; equal to tile_min for a culled splat


@dataclass(frozen=True)
class TileLists:
    """The splats of every tile of every image, nearest first."""

    order: Tensor  # [L] int64, image * N + splat
    starts: Tensor  # [I * tiles + 1] int64 into `order`


def project_batch(
    means: Tensor,  # [I, N, 3]
    quats: Tensor,  # [I, N, 4]
    scales: Tensor,  # [I, N, 3]
    viewmats: Tensor,  # [I, 4, 4]
    K: Tensor,  # [3, 3]
    width: int,
    height: int,
) -> Projected:
    """`render.rasterize_torch.project` for many images, in the dtype of its inputs and component by component."""
    fx, fy = float(K[0, 0]), float(K[1, 1])
    R, t = viewmats[:, :3, :3], viewmats[:, :3, 3]
    camera = means @ R.transpose(1, 2) + t[:, None]  # [I, N, 3]
    x, y, z = camera.unbind(-1)
    in_front = z > NEAR
    z = torch.where(in_front, z, torch.ones_like(z))
    u, v = x / z, y / z
    centers = torch.stack([fx * u + float(K[0, 2]), fy * v + float(K[1, 2])], -1)

    limit_x, limit_y = FRUSTUM_MARGIN * width / (2 * fx), FRUSTUM_MARGIN * height / (2 * fy)
    u, v = u.clamp(-limit_x, limit_x), v.clamp(-limit_y, limit_y)
    # rows of J W: the image's gradient in world coordinates, pixels per metre
    row_x = (R[:, None, 0] - u[..., None] * R[:, None, 2]) * (fx / z)[..., None]  # [I, N, 3]
    row_y = (R[:, None, 1] - v[..., None] * R[:, None, 2]) * (fy / z)[..., None]
    a = _rotate_back(quats, row_x) * scales
    b = _rotate_back(quats, row_y) * scales
    xx, xy, yy = (a * a).sum(-1) + LOW_PASS, (a * b).sum(-1), (b * b).sum(-1) + LOW_PASS
    det = xx * yy - xy * xy
    usable = in_front & torch.isfinite(det) & (det > 0)
    conics = torch.stack([yy, -xy, xx], -1) / torch.where(usable, det, torch.ones_like(det))[..., None]

    with torch.no_grad():
        mid = 0.5 * (xx + yy)
        radii = torch.ceil(3 * torch.sqrt(mid + torch.sqrt((mid * mid - det).clamp(min=MIN_EIGEN_GAP))))[..., None]
        grid = centers.new_tensor([-(-width // TILE), -(-height // TILE)])
        low = torch.minimum(((centers - radii) / TILE).clamp(min=0), grid)
        high = torch.minimum(((centers + radii + (TILE - 1)) / TILE).clamp(min=0), grid)
        low, high = (torch.nan_to_num(e).to(torch.int32) for e in (low, high))
        high = torch.where(usable[..., None], high, low)
    return Projected(centers, conics, z.detach(), low, high)


def tile_lists(p: Projected, width: int, height: int) -> TileLists:
    """Every (tile, splat) pair in the order it is drawn."""
    columns, rows = -(-width // TILE), -(-height // TILE)
    images, N = p.depths.shape
    size = (p.tile_max - p.tile_min).clamp(min=0).flatten(0, 1).long()  # [I * N, 2]
    count = size[:, 0] * size[:, 1]
    splat = torch.repeat_interleave(torch.arange(images * N, device=count.device), count)
    rank = torch.arange(len(splat), device=count.device) - (torch.cumsum(count, 0) - count)[splat]
    wide = size[splat, 0]
    low = p.tile_min.flatten(0, 1)[splat].long()
    row = low[:, 1] + torch.div(rank, wide, rounding_mode="floor")
    column = low[:, 0] + rank % wide
    tile = (torch.div(splat, N, rounding_mode="floor") * rows + row) * columns + column
    near_bits = p.depths.float().flatten().contiguous().view(torch.int32)[splat].long()  # positive: ordered as integers
    key, pick = torch.sort((tile << 32) | near_bits, stable=True)
    bounds = torch.arange(images * rows * columns + 1, device=key.device) << 32
    return TileLists(splat[pick], torch.searchsorted(key, bounds))


def _rotate_back(quats: Tensor, v: Tensor) -> Tensor:
    """R(q)^T v, [I, N, 3]; q as it is, so only unit ones rotate."""
    w, x, y, z = quats.unbind(-1)
    a, b, c = v.unbind(-1)
    return torch.stack(
        [
            (1 - 2 * (y * y + z * z)) * a + 2 * (x * y + w * z) * b + 2 * (x * z - w * y) * c,
            2 * (x * y - w * z) * a + (1 - 2 * (x * x + z * z)) * b + 2 * (y * z + w * x) * c,
            2 * (x * z + w * y) * a + 2 * (y * z - w * x) * b + (1 - 2 * (x * x + y * y)) * c,
        ],
        -1,
    )


assert ALPHA_MAX == 0.99  # the kernels have it as a literal
