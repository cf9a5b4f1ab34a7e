"""The Gaussian rasteriser with gradients: many images in one launch.

The rules are those of `rasterize_torch`, which is also the specification for the tests. Compiled kernels project and
composite, forward and backward: by Triton on CUDA (`rasterize_grad_triton`; lists of splats per tile come from one sort
in torch), by numba on a CPU (`rasterize_grad_numba`). Other devices have the readable reference.

`rasterize` calls this module when an input requires a gradient; `rasterize_grad` renders several people in one launch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guava_aug.render.rasterize_torch import ALPHA_MAX, ALPHA_MIN, TILE
from guava_aug.render.rasterize_torch import rasterize_frames as reference_frames

_FAINT = 0.99 * ALPHA_MIN  # a margin for the rounding of alpha in the kernels


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
    if means.device.type not in ("cpu", "cuda"):
        return rasterize_reference(means, quats, scales, opacities, features, viewmats, K, width, height)
    B, k = means.shape[:2]
    image, alpha, _, _ = rasterize_images(
        means.flatten(0, 1), quats.flatten(0, 1), scales.flatten(0, 1), opacities, features, viewmats.flatten(0, 1),
        K.to(means, non_blocking=True).expand(B, k, 3, 3).flatten(0, 1), width, height, precision=precision,
    )  # fmt: skip
    return Drawn(image.unflatten(0, (B, k)), alpha.unflatten(0, (B, k)))


def rasterize_images(
    means: Tensor,  # [I, N, 3]
    quats: Tensor,  # [I, N, 4]
    scales: Tensor,  # [I, N, 3]
    opacities: Tensor,  # [B, N]; image i shows person i // (I / B)
    features: Tensor,  # [B, N, C]
    viewmats: Tensor,  # [I, 4, 4]
    K: Tensor,  # [I, 3, 3]
    width: int,
    height: int,
    *,
    scale_modifier: float = 1.0,
    antialias: bool = False,
    precision: str = "tf32x3",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return image [I,C,H,W] over black, alpha and inverse depth [I,1,H,W], radii [I,N] int32, with gradients.

    By the kernels of the tensors' device, a CPU or CUDA; `precision` as in `rasterize_grad`.
    """
    m, q, s, o, f, views, k = (x.float() for x in (means, quats, scales, opacities, features, viewmats, K))
    if means.device.type == "cpu":
        from guava_aug.render import rasterize_grad_numba  # noqa: PLC0415 - numba is slow to import

        return rasterize_grad_numba.rasterize_images(
            m, q, s, o, f, views, k, width, height, scale_modifier=scale_modifier, antialias=antialias
        )
    from guava_aug.render import rasterize_grad_triton  # noqa: PLC0415 - needs Triton

    return rasterize_grad_triton.rasterize_images(
        m, q, s, o, f, views, k, width, height, scale_modifier=scale_modifier, antialias=antialias, precision=precision
    )


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


@dataclass(frozen=True)
class TileLists:
    """The splats of every tile of every image, nearest first."""

    order: Tensor  # [L] int64, image * N + splat
    starts: Tensor  # [I * tiles + 1] int64 into `order`


@torch.no_grad()
def tile_lists(splats: Tensor, boxes: Tensor, depths: Tensor, width: int, height: int) -> TileLists:
    """Return every (tile, splat) pair that can be seen, in drawing order.

    The rule's tiles are those of a square around the splat. Where its alpha is under the threshold in the whole tile
    nothing is drawn and nothing is learnt, so such pairs are left out.

    Args:
        splats: [I, N, 6 or more] centre x, y in pixels, conic xx, xy, yy in 1/px^2, opacity.
        boxes: [I, N, 4] int32 tiles: first column, first row, one past the last column, and row; empty: culled.
        depths: [I, N] float32 metres.
        width: Of the picture, pixels.
        height: Of the picture, pixels.
    """
    columns, rows = -(-width // TILE), -(-height // TILE)
    images, N = depths.shape
    boxes = boxes.flatten(0, 1).long()
    wide = boxes[:, 2] - boxes[:, 0]
    count = wide * (boxes[:, 3] - boxes[:, 1])
    splat = torch.repeat_interleave(torch.arange(images * N, device=count.device), count)
    rank = torch.arange(len(splat), device=count.device) - (torch.cumsum(count, 0) - count)[splat]
    row = boxes[splat, 1] + torch.div(rank, wide[splat], rounding_mode="floor")
    column = boxes[splat, 0] + rank % wide[splat]
    seen = _reaches(splats.flatten(0, 1)[splat], column * TILE, row * TILE)
    splat, row, column = splat[seen], row[seen], column[seen]
    tile = (torch.div(splat, N, rounding_mode="floor") * rows + row) * columns + column
    near_bits = depths.flatten().view(torch.int32)[splat].long()  # positive: ordered as integers
    key, pick = torch.sort((tile << 32) | near_bits, stable=True)
    bounds = torch.arange(images * rows * columns + 1, device=key.device) << 32
    return TileLists(splat[pick], torch.searchsorted(key, bounds))


def _reaches(splats: Tensor, left: Tensor, top: Tensor) -> Tensor:
    """[L] bool: whether alpha of splats [L, 6] may reach its threshold in the tile with this first pixel."""
    x, y, a, b, c, opacity = splats.unbind(-1)[:6]
    left, top = left - x, top - y
    right, bottom = left + (TILE - 1), top + (TILE - 1)
    # the power is convex, so its least is at the centre, or on a side that faces it, where one of both is fixed
    dx, dy = torch.zeros_like(x).clamp(left, right), torch.zeros_like(y).clamp(top, bottom)
    along_y = torch.minimum(torch.maximum(-b * dx / c, top), bottom)
    along_x = torch.minimum(torch.maximum(-b * dy / a, left), right)
    least = torch.minimum(
        0.5 * (a * dx * dx + c * along_y * along_y) + b * dx * along_y,
        0.5 * (a * along_x * along_x + c * dy * dy) + b * along_x * dy,
    )
    return opacity * torch.exp(-least) > _FAINT


assert ALPHA_MAX == 0.99  # the kernels have it as a literal
