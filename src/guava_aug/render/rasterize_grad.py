"""The Gaussian rasteriser with gradients: many images in one launch.

The rules are those of `rasterize_torch`, which is also the specification for the tests. On CUDA projection is plain
torch under autograd, in float32; lists of splats per tile come from one sort; compositing is a Triton kernel with a
backward pass (`rasterize_grad_triton`). On a CPU all of it is compiled by numba (`rasterize_grad_numba`). Other devices
have the readable reference.

`rasterize` calls this module when an input requires a gradient; `rasterize_grad` renders several people in one launch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guava_aug.render.rasterize_torch import (
    ALPHA_MAX,
    FRUSTUM_MARGIN,
    LOW_PASS,
    MIN_COVERAGE,
    MIN_EIGEN_GAP,
    NEAR,
    RADIUS_LIMIT,
    TILE,
)
from guava_aug.render.rasterize_torch import rasterize_frames as reference_frames

_LEAST_CHANNELS = 16  # of a matrix product in the kernels


@dataclass(frozen=True)
class Drawn:
    """Feature images and alpha of B people in V views."""

    image: Tensor  # [B, K, C, H, W] over black
    alpha: Tensor  # [B, K, 1, H, W]


def rasterize_grad(
    means: Tensor,  # [B, K, N, 3] metres: B people in K poses and views
    quats: Tensor,  # [B, K, N, 4] wxyz, as they are
    scales: Tensor,  # [B, K, N, 3] metres
    opacities: Tensor,  # [B, N]
    features: Tensor,  # [B, N, C]
    viewmats: Tensor,  # [B, K, 4, 4]
    K: Tensor,  # [3, 3], or [B, K, 3, 3] for a lens of each view's own
    width: int,
    height: int,
    *,
    precision: str = "tf32x3",
) -> Drawn:
    """Return feature images and alpha of every person in every view, differentiable in all tensors.

    `precision` is the precision of the kernel's products on CUDA: "tf32x3" (nearly float32), "tf32" (3e-4, too coarse
    for gradients of opaque splats) or "ieee". Depths, weights and transmittance are float32 in all cases.
    """
    B, k, N = means.shape[:3]
    if means.device.type == "cpu":
        from guava_aug.render.rasterize_grad_numba import rasterize_images  # noqa: PLC0415 - numba is slow to import

        lenses = K.to(means).expand(B, k, 3, 3)
        image, alpha, _, _ = rasterize_images(
            means.flatten(0, 1).float(), quats.flatten(0, 1).float(), scales.flatten(0, 1).float(), opacities.float(),
            features.float(), viewmats.flatten(0, 1).float(), lenses.flatten(0, 1).float(), width, height,
        )  # fmt: skip
        return Drawn(image.unflatten(0, (B, k)), alpha.unflatten(0, (B, k)))
    if means.device.type != "cuda":
        return rasterize_reference(means, quats, scales, opacities, features, viewmats, K, width, height)
    from guava_aug.render.rasterize_grad_triton import composite_tiles  # noqa: PLC0415 - needs Triton

    projected = project_batch(means.flatten(0, 1), quats.flatten(0, 1), scales.flatten(0, 1), viewmats.flatten(0, 1),
                              K if K.ndim == 2 else K.flatten(0, 1), width, height)  # fmt: skip
    lists = tile_lists(projected, width, height)
    splats = torch.cat(
        [projected.centers, projected.conics, opacities[:, None, :, None].expand(B, k, N, 1).flatten(0, 1)], -1
    )
    image, alpha, _ = composite_tiles(splats, features, lists, width, height, precision)
    return Drawn(image.unflatten(0, (B, k)), alpha.unflatten(0, (B, k)))


def rasterize_reference(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, features: Tensor, viewmats: Tensor, K: Tensor,
    width: int, height: int,
) -> Drawn:  # fmt: skip
    """Return the same as `rasterize_grad`, by the readable rasteriser.

    For tests and small runs, since it keeps every (splat, pixel) pair in memory.
    """
    B, k = means.shape[:2]
    K = K.expand(B, k, 3, 3)
    black = features.new_zeros(features.shape[-1])
    drawn = [
        reference_frames(
            means[b, i : i + 1], quats[b, i : i + 1], scales[b, i : i + 1], opacities[b], features[b],
            viewmats[b, i : i + 1], K[b, i], black, width=width, height=height, scale_modifier=1.0, antialias=False,
        )
        for b in range(B) for i in range(k)
    ]  # fmt: skip
    image, alpha = (torch.cat([planes[n] for planes in drawn]).unflatten(0, (B, k)) for n in (0, 1))
    return Drawn(image, alpha)


def rasterize_frames(
    means: Tensor,  # [T, N, 3]
    quats: Tensor,  # [T, N, 4]
    scales: Tensor,  # [T, N, 3]
    opacities: Tensor,  # [N]
    features: Tensor,  # [N, C]
    viewmats: Tensor,  # [T, 4, 4]
    K: Tensor,  # [3, 3]
    background: Tensor,  # [C]
    *,
    width: int,
    height: int,
    scale_modifier: float,
    antialias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return image [T,C,H,W], alpha, inverse_depth [T,1,H,W], radii [T,N] int32, with gradients; CUDA only.

    As `rasterize_torch.rasterize_frames`, within 1e-3 of it: projection is float32 throughout. Memory is that of the
    lists of splats per tile and of the images, not of every (splat, pixel) pair.
    """
    from guava_aug.render.rasterize_grad_triton import composite_tiles  # noqa: PLC0415 - needs Triton

    T, N = means.shape[:2]
    C = features.shape[1]
    projected = project_batch(means, quats, scales * scale_modifier, viewmats, K, width, height)
    lists = tile_lists(projected, width, height)
    opacities = opacities.expand(T, N)
    if antialias:
        opacities = opacities * projected.coverage
    splats = torch.cat([projected.centers, projected.conics, opacities[..., None], 1 / projected.depths[..., None]], -1)
    padded = max(_LEAST_CHANNELS, 1 << (C - 1).bit_length())
    image, alpha, inverse_depth = composite_tiles(splats, F.pad(features, (0, padded - C))[None], lists, width, height)
    image = image[:, :C] + (1 - alpha) * background[:, None, None]
    return image, alpha, inverse_depth, projected.radii


@dataclass(frozen=True)
class Projected:
    """I images of N splats."""

    centers: Tensor  # [I, N, 2] pixels
    conics: Tensor  # [I, N, 3] inverse covariance (xx, xy, yy), 1/px^2
    depths: Tensor  # [I, N] metres; 1 for a culled splat
    coverage: Tensor  # [I, N] what antialiasing multiplies opacity with
    radii: Tensor  # [I, N] int32 pixels, 0 = culled
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
    K: Tensor,  # [3, 3], or [I, 3, 3] for a lens of each image's own
    width: int,
    height: int,
) -> Projected:
    """Return the same as `rasterize_torch.project` for many images, in the dtype of its inputs, by component."""
    lens = K.to(means, non_blocking=True)[..., None]
    fx, fy, cx, cy = lens[..., 0, 0, :], lens[..., 1, 1, :], lens[..., 0, 2, :], lens[..., 1, 2, :]  # [1] or [I, 1]
    R, t = viewmats[:, :3, :3], viewmats[:, :3, 3]
    camera = means @ R.transpose(1, 2) + t[:, None]  # [I, N, 3]
    x, y, z = camera.unbind(-1)
    in_front = z > NEAR
    z = torch.where(in_front, z, torch.ones_like(z))
    u, v = x / z, y / z
    centers = torch.stack([fx * u + cx, fy * v + cy], -1)

    limit_x, limit_y = (FRUSTUM_MARGIN * side / (2 * f.detach()) for side, f in ((width, fx), (height, fy)))
    u, v = u.clamp(-limit_x, limit_x), v.clamp(-limit_y, limit_y)
    # rows of J W: the image's gradient in world coordinates, pixels per metre
    row_x = (R[:, None, 0] - u[..., None] * R[:, None, 2]) * (fx / z)[..., None]  # [I, N, 3]
    row_y = (R[:, None, 1] - v[..., None] * R[:, None, 2]) * (fy / z)[..., None]
    a = _rotate_back(quats, row_x) * scales
    b = _rotate_back(quats, row_y) * scales
    xx, xy, yy = (a * a).sum(-1), (a * b).sum(-1), (b * b).sum(-1)
    det_thin = xx * yy - xy * xy
    xx, yy = xx + LOW_PASS, yy + LOW_PASS
    det = xx * yy - xy * xy
    usable = in_front & torch.isfinite(det) & (det > 0)
    det = torch.where(usable, det, torch.ones_like(det))
    conics = torch.stack([yy, -xy, xx], -1) / det[..., None]
    coverage = torch.sqrt((det_thin / det).clamp(min=MIN_COVERAGE))

    with torch.no_grad():
        mid = 0.5 * (xx + yy)
        radii = torch.ceil(3 * torch.sqrt(mid + torch.sqrt((mid * mid - det).clamp(min=MIN_EIGEN_GAP))))[..., None]
        seen = usable & (radii[..., 0] < RADIUS_LIMIT)
        grid = [-(-width // TILE), -(-height // TILE)]
        low, high = (centers - radii) / TILE, (centers + radii + (TILE - 1)) / TILE
        low, high = (
            torch.stack([torch.nan_to_num(e[..., k]).clamp(0, grid[k]) for k in (0, 1)], -1).to(torch.int32)
            for e in (low, high)
        )
        seen = seen & (high > low).all(-1)
        high = torch.where(seen[..., None], high, low)
        radii = torch.where(seen, radii[..., 0], 0).to(torch.int32)
    return Projected(centers, conics, z, coverage, radii, low, high)


def tile_lists(p: Projected, width: int, height: int) -> TileLists:
    """Return every (tile, splat) pair in drawing order."""
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
    near_bits = (
        p.depths.detach().float().flatten().contiguous().view(torch.int32)[splat].long()
    )  # positive: ordered as integers
    key, pick = torch.sort((tile << 32) | near_bits, stable=True)
    bounds = torch.arange(images * rows * columns + 1, device=key.device) << 32
    return TileLists(splat[pick], torch.searchsorted(key, bounds))


def _rotate_back(quats: Tensor, v: Tensor) -> Tensor:
    """Return R(q)^T v, [I, N, 3]; q is used as given, so only unit quaternions rotate."""
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
