"""Triton kernels: front-to-back compositing of sorted splats, forward and backward.

One program draws one 16x16 tile. It processes CHUNK splats at a time: alphas [256, CHUNK], their transmittance by a
cumulative sum of log(1 - alpha), and colour as a matrix product weights [256, CHUNK] x features [CHUNK, C].

Backward, with w_i = T_i a_i the weight of splat i in a pixel, g the gradient at the pixel's C channels, g_A at its
alpha, g_D at its inverse depth and q_i = g . f_i + g_A + g_D / z_i:
dL/df_i += w_i g,   dL/d(1/z_i) += w_i g_D,   dL/da_i = T_i q_i - (sum_{j>i} w_j q_j) / (1 - a_i).
The suffix sum is the whole sum, known from the forward result, less the prefix, so one front-to-back pass is enough.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from guava_aug.render.rasterize_grad import TileLists

_CHUNK = 16
_WARPS = 8


def composite_tiles(
    splats: Tensor,  # [I, N, 6 or 7] centre x, y, conic xx, xy, yy, opacity, and inverse depth where it is wanted
    features: Tensor,  # [B, N, C], C a power of two of at least 16; image i shows person i // (I / B)
    lists: TileLists,
    width: int,
    height: int,
    precision: str = "tf32x3",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return image [I, C, H, W], alpha [I, 1, H, W], and inverse depth [I, 1, H, W], zero where it is not given."""
    C = features.shape[-1]
    if C < 16 or C & (C - 1):
        raise ValueError(f"the kernel needs a power of two of at least 16 channels, found {C}")
    return _Composite.apply(splats.contiguous(), features.contiguous(), lists, width, height, precision)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, splats: Tensor, features: Tensor, lists: TileLists, width: int, height: int, precision: str):
        images, N = splats.shape[:2]
        B, _, C = features.shape
        image = splats.new_empty(images, C, height, width)
        alpha = splats.new_empty(images, 1, height, width)
        nearness = torch.zeros_like(alpha)
        columns, rows = -(-width // 16), -(-height // 16)
        _forward[(images * rows * columns,)](
            lists.order, lists.starts, splats, features, image, alpha, nearness, N, images // B, width, height, columns,
            rows * columns, C=C, ROW=splats.shape[2], CHUNK=_CHUNK, PRECISION=precision, num_warps=_WARPS,
        )  # fmt: skip
        ctx.save_for_backward(splats, features, lists.order, lists.starts, image, alpha, nearness)
        ctx.size, ctx.precision = (width, height), precision
        return image, alpha, nearness

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        splats, features, order, starts, image, alpha, nearness = ctx.saved_tensors
        width, height = ctx.size
        images, N = splats.shape[:2]
        B, _, C = features.shape
        d_image, d_alpha, d_nearness = (g.float().contiguous() for g in grads)
        total = ((d_image * image).sum(1, keepdim=True) + d_alpha * alpha + d_nearness * nearness).contiguous()
        d_splats, d_features = torch.zeros_like(splats), torch.zeros_like(features)
        columns, rows = -(-width // 16), -(-height // 16)
        _backward[(images * rows * columns,)](
            order, starts, splats, features, d_image, d_alpha, d_nearness, total, d_splats, d_features, N, images // B,
            width, height, columns, rows * columns, C=C, ROW=splats.shape[2], CHUNK=_CHUNK, PRECISION=ctx.precision,
            num_warps=_WARPS,
        )  # fmt: skip
        return d_splats, d_features, None, None, None, None


@triton.jit
def _alphas(splats, g, live, px, py, ROW: tl.constexpr):
    """Return alpha [256, CHUNK], the Gaussian, and the offsets and conic it is computed from.

    Alpha is 0 where a splat does not count.
    """
    at = splats + g * ROW
    cx, cy = tl.load(at, live, 0.0), tl.load(at + 1, live, 0.0)
    xx, xy, yy = tl.load(at + 2, live, 0.0), tl.load(at + 3, live, 0.0), tl.load(at + 4, live, 0.0)
    opacity = tl.load(at + 5, live, 0.0)
    dx, dy = cx[None, :] - px[:, None], cy[None, :] - py[:, None]
    power = -0.5 * (xx[None, :] * dx * dx + yy[None, :] * dy * dy) - xy[None, :] * dx * dy
    gauss = tl.exp(power)
    raw = opacity[None, :] * gauss
    counts = (power <= 0) & (tl.minimum(raw, 0.99) >= 1.0 / 255.0) & live[None, :]
    alpha = tl.where(counts, tl.minimum(raw, 0.99), 0.0)
    return alpha, gauss, raw, dx, dy, xx, xy, yy


@triton.jit
def _forward(order, starts, splats, features, image, alpha_out, nearness_out, N, per_person, width, height, columns,
             tiles, C: tl.constexpr, ROW: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    i = program // tiles
    tile = program % tiles
    lane = tl.arange(0, 256)
    x, y = (tile % columns) * 16 + lane % 16, (tile // columns) * 16 + lane // 16
    px, py = x.to(tl.float32), y.to(tl.float32)
    channel = tl.arange(0, C)
    step = tl.arange(0, CHUNK)
    product = tl.full([256], 1.0, tl.float32)  # of all (1 - alpha), whether drawn or not
    left = tl.full([256], 1.0, tl.float32)  # transmittance behind what is drawn
    color = tl.zeros([256, C], tl.float32)
    nearness = tl.zeros([256], tl.float32)
    at, end = tl.load(starts + program), tl.load(starts + program + 1)
    shift = ((i // per_person) - i) * N  # from image * N + splat to person * N + splat
    while at < end:
        live = at + step < end
        g = tl.load(order + at + step, live, 0)
        alpha, _, _, _, _, _, _, _ = _alphas(splats, g, live, px, py, ROW)
        logs = tl.log(1 - alpha)
        behind = product[:, None] * tl.exp(tl.cumsum(logs, 1))
        drawn = behind >= 1e-4
        weight = tl.where(drawn, alpha * behind / (1 - alpha), 0.0)
        f = tl.load(features + (g + shift)[:, None] * C + channel[None, :], live[:, None], 0.0)
        color = tl.dot(weight, f, color, input_precision=PRECISION)
        if ROW > 6:
            nearness += tl.sum(weight * tl.load(splats + g * ROW + 6, live, 0.0)[None, :], 1)
        left = tl.minimum(left, tl.min(tl.where(drawn, behind, 1.0), 1))
        product = product * tl.exp(tl.sum(logs, 1))
        at += CHUNK
        if tl.max(product, 0) < 1e-4:
            at = end
    inside = (x < width) & (y < height)
    pixel = y * width + x
    plane = (width * height).to(tl.int64)
    tl.store(image + (i * C + channel)[None, :] * plane + pixel[:, None], color, inside[:, None])
    tl.store(alpha_out + i * plane + pixel, 1 - left, inside)
    if ROW > 6:
        tl.store(nearness_out + i * plane + pixel, nearness, inside)


@triton.jit
def _backward(order, starts, splats, features, d_image, d_alpha, d_nearness, total, d_splats, d_features, N,
              per_person, width, height, columns, tiles, C: tl.constexpr, ROW: tl.constexpr, CHUNK: tl.constexpr,
              PRECISION: tl.constexpr):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    i = program // tiles
    tile = program % tiles
    lane = tl.arange(0, 256)
    x, y = (tile % columns) * 16 + lane % 16, (tile // columns) * 16 + lane // 16
    px, py = x.to(tl.float32), y.to(tl.float32)
    inside = (x < width) & (y < height)
    pixel = y * width + x
    plane = (width * height).to(tl.int64)
    channel = tl.arange(0, C)
    step = tl.arange(0, CHUNK)
    grad = tl.load(d_image + (i * C + channel)[None, :] * plane + pixel[:, None], inside[:, None], 0.0)  # [256, C]
    grad_alpha = tl.load(d_alpha + i * plane + pixel, inside, 0.0)
    grad_nearness = tl.zeros([256], tl.float32)
    if ROW > 6:
        grad_nearness = tl.load(d_nearness + i * plane + pixel, inside, 0.0)
    rest = tl.load(total + i * plane + pixel, inside, 0.0)  # sum over the splats not yet visited
    product = tl.full([256], 1.0, tl.float32)
    at, end = tl.load(starts + program), tl.load(starts + program + 1)
    shift = ((i // per_person) - i) * N
    while at < end:
        live = at + step < end
        g = tl.load(order + at + step, live, 0)
        alpha, gauss, raw, dx, dy, xx, xy, yy = _alphas(splats, g, live, px, py, ROW)
        logs = tl.log(1 - alpha)
        behind = product[:, None] * tl.exp(tl.cumsum(logs, 1))
        drawn = (behind >= 1e-4) & (alpha > 0)
        ahead = behind / (1 - alpha)
        weight = tl.where(drawn, alpha * ahead, 0.0)
        row = (g + shift)[:, None] * C + channel[None, :]
        f = tl.load(features + row, live[:, None], 0.0)
        q = tl.dot(grad, tl.trans(f), input_precision=PRECISION) + grad_alpha[:, None]
        if ROW > 6:
            q += grad_nearness[:, None] * tl.load(splats + g * ROW + 6, live, 0.0)[None, :]
        wq = weight * q
        after = rest[:, None] - tl.cumsum(wq, 1)
        d_a = tl.where(drawn & (raw < 0.99), ahead * q - after / (1 - alpha), 0.0)
        d_f = tl.dot(tl.trans(weight), grad, input_precision=PRECISION)
        tl.atomic_add(d_features + row, d_f, live[:, None], sem="relaxed")
        d_power = d_a * alpha
        to = d_splats + g * ROW
        tl.atomic_add(to, tl.sum(-d_power * (xx[None, :] * dx + xy[None, :] * dy), 0), live, sem="relaxed")
        tl.atomic_add(to + 1, tl.sum(-d_power * (yy[None, :] * dy + xy[None, :] * dx), 0), live, sem="relaxed")
        tl.atomic_add(to + 2, tl.sum(-0.5 * d_power * dx * dx, 0), live, sem="relaxed")
        tl.atomic_add(to + 3, tl.sum(-d_power * dx * dy, 0), live, sem="relaxed")
        tl.atomic_add(to + 4, tl.sum(-0.5 * d_power * dy * dy, 0), live, sem="relaxed")
        tl.atomic_add(to + 5, tl.sum(d_a * gauss, 0), live, sem="relaxed")
        if ROW > 6:
            tl.atomic_add(to + 6, tl.sum(weight * grad_nearness[:, None], 0), live, sem="relaxed")
        rest = rest - tl.sum(wq, 1)
        product = product * tl.exp(tl.sum(logs, 1))
        at += CHUNK
        if tl.max(product, 0) < 1e-4:
            at = end
