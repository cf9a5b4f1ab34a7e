"""Triton kernels: projection and front-to-back compositing of sorted splats, forward and backward.

One program draws a strip of 32 pixels, two rows of a 16x16 tile. It processes CHUNK splats at a time: alphas
[PIXELS, CHUNK], their transmittance by a cumulative sum of log(1 - alpha), and colour as a matrix product weights
[PIXELS, CHUNK] x features [CHUNK, C]. Strips of the longest lists start first, so that none is left over at the end.

Backward, with w_i = T_i a_i the weight of splat i in a pixel, g the gradient at the pixel's C channels, g_A at its
alpha, g_D at its inverse depth and q_i = g . f_i + g_A + g_D / z_i:
dL/df_i += w_i g,   dL/d(1/z_i) += w_i g_D,   dL/da_i = T_i q_i - (sum_{j>i} w_j q_j) / (1 - a_i).
The suffix sum is the whole sum, known from the forward result, less the prefix, so one front-to-back pass is enough.
What a splat's centre and conic get are sums over pixels of dL/da_i a_i times 1, x, y, x^2, xy, y^2: another product.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from guava_aug.render.rasterize_grad import TileLists, tile_lists
from guava_aug.render.rasterize_triton import _row as on_row

_CHUNK, _PIXELS, _WARPS = 16, 32, 2
_BLOCK = 128  # splats that a program projects
_ROW = 7  # centre x, y, conic xx, xy, yy, opacity, inverse depth
_LEAST_CHANNELS = 16  # of a matrix product


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
    """Return image [I,C,H,W] over black, alpha and inverse depth [I,1,H,W], radii [I,N] int32 of float32 CUDA tensors.

    Differentiable in all of them; `precision` as in `rasterize_grad`. Memory for the way back: 28 bytes a splat and 8 a
    (splat, tile) pair that can be seen.
    """
    C = features.shape[-1]
    features = F.pad(features, (0, max(_LEAST_CHANNELS, 1 << (C - 1).bit_length()) - C))
    image, alpha, nearness, radii = _Images.apply(
        means, quats, scales, opacities, features, viewmats, K, width, height, scale_modifier, antialias, precision
    )
    return image[:, :C], alpha, nearness, radii


class _Images(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, features: Tensor, viewmats: Tensor,
        K: Tensor, width: int, height: int, scale_modifier: float, antialias: bool, precision: str,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        inputs = [x.detach().contiguous() for x in (means, quats, scales, opacities, features, viewmats)]
        lenses = torch.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], 1).to(means)
        (images, N), (B, _, C) = means.shape[:2], features.shape
        share = max(1, images // max(1, B))
        splats, boxes = means.new_empty(images, N, _ROW), means.new_empty(images, N, 4, dtype=torch.int32)
        depths, radii = means.new_empty(images, N), means.new_empty(images, N, dtype=torch.int32)
        columns, rows = -(-width // 16), -(-height // 16)
        blocks = -(-N // _BLOCK)
        if images * N:
            _project[(blocks, images)](
                *inputs[:4], inputs[5], lenses, splats, boxes, depths, radii, N, share, width, height, columns, rows,
                scale_modifier, ANTIALIAS=antialias, BLOCK=_BLOCK,
            )  # fmt: skip
        lists = tile_lists(splats, boxes, depths, width, height)
        image, alpha = means.new_empty(images, C, height, width), means.new_empty(images, 1, height, width)
        nearness = torch.empty_like(alpha)
        order = _longest_first(lists)
        if images:
            _forward[(images * rows * columns * (256 // _PIXELS),)](
                order, lists.order, lists.starts, splats, inputs[4], image, alpha, nearness, N, share, width, height,
                columns, rows * columns, C=C, ROW=_ROW, CHUNK=_CHUNK, PIXELS=_PIXELS, PRECISION=precision,
                num_warps=_WARPS,
            )  # fmt: skip
        ctx.save_for_backward(*inputs, lenses, splats, radii, order, lists.order, lists.starts, image, alpha, nearness)
        ctx.settings = width, height, scale_modifier, antialias, precision
        ctx.mark_non_differentiable(radii)
        ctx.set_materialize_grads(False)
        return image, alpha, nearness, radii

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, lenses, splats, radii, schedule, order, starts, image, alpha, nearness = ctx.saved_tensors
        width, height, scale_modifier, antialias, precision = ctx.settings
        (images, N), (B, _, C) = splats.shape[:2], inputs[4].shape
        share = max(1, images // max(1, B))
        d_image, d_alpha = (
            torch.zeros_like(x) if g is None else g.float().contiguous()
            for g, x in zip(grads[:2], (image, alpha), strict=True)
        )
        total = (d_image * image).sum(1, keepdim=True) + d_alpha * alpha
        d_nearness = None if grads[2] is None else grads[2].float().contiguous()
        if d_nearness is not None:
            total = total + d_nearness * nearness
        d_splats, d_features = torch.zeros_like(splats), torch.zeros_like(inputs[4])
        columns, rows, blocks = -(-width // 16), -(-height // 16), -(-N // _BLOCK)
        d_means, d_quats, d_scales = (torch.zeros_like(x) for x in inputs[:3])
        d_opacities = splats.new_zeros(images, N)
        camera = splats.new_zeros(images, blocks, 16, dtype=torch.float64)
        if images * N:
            _backward[(images * rows * columns * (256 // _PIXELS),)](
                schedule, order, starts, splats, inputs[4], d_image, d_alpha, d_nearness, total, d_splats, d_features,
                N, share, width, height, columns, rows * columns, C=C, ROW=_ROW, CHUNK=_CHUNK, PIXELS=_PIXELS,
                NEARNESS=d_nearness is not None, PRECISION=precision, num_warps=_WARPS,
            )  # fmt: skip
            _project_back[(blocks, images)](
                *inputs[:4], inputs[5], lenses, d_splats, radii, d_means, d_quats, d_scales, d_opacities, camera, N,
                share, blocks, width, height, scale_modifier, ANTIALIAS=antialias, BLOCK=_BLOCK,
            )  # fmt: skip
        moved = camera.sum(1).float()
        d_viewmats, d_K = torch.zeros_like(inputs[5]), moved.new_zeros(images, 3, 3)
        d_viewmats[:, :3] = moved[:, :12].view(images, 3, 4)
        d_K[:, 0, 0], d_K[:, 1, 1], d_K[:, 0, 2], d_K[:, 1, 2] = moved[:, 12:].unbind(1)
        d_opacities = d_opacities.view(B, images // max(1, B), N).sum(1)
        return d_means, d_quats, d_scales, d_opacities, d_features, d_viewmats, d_K, *(None,) * 5


def _longest_first(lists: TileLists) -> Tensor:
    """Return [I * tiles] int64: which tile of which image is drawn when."""
    return torch.argsort(lists.starts.diff(), descending=True)


@triton.jit
def _splat(means, quats, scales, viewmats, lenses, g, i, live, modifier, width, height):
    """Return what the covariance of a splat is made of, in double; names as in `rasterize_grad_numba._splat_back`."""
    m, r, lens = means + g * 3, viewmats + i * 16, lenses + i * 4
    x = tl.load(m, live, 0.0).to(tl.float64)
    y = tl.load(m + 1, live, 0.0).to(tl.float64)
    z = tl.load(m + 2, live, 0.0).to(tl.float64)
    r00, r01, r02 = tl.load(r).to(tl.float64), tl.load(r + 1).to(tl.float64), tl.load(r + 2).to(tl.float64)
    r10, r11, r12 = tl.load(r + 4).to(tl.float64), tl.load(r + 5).to(tl.float64), tl.load(r + 6).to(tl.float64)
    r20, r21, r22 = tl.load(r + 8).to(tl.float64), tl.load(r + 9).to(tl.float64), tl.load(r + 10).to(tl.float64)
    depth = r20 * x + r21 * y + r22 * z + tl.load(r + 11).to(tl.float64)
    depth = tl.where(depth > 0.2, depth, 1.0)
    fx, fy = tl.load(lens).to(tl.float64), tl.load(lens + 1).to(tl.float64)
    middle_x = ((width - 1) / 2 - tl.load(lens + 2).to(tl.float64)) / fx
    middle_y = ((height - 1) / 2 - tl.load(lens + 3).to(tl.float64)) / fy
    limit_x, limit_y = 1.3 * width / (2 * fx), 1.3 * height / (2 * fy)
    ray_x = (r00 * x + r01 * y + r02 * z + tl.load(r + 3).to(tl.float64)) / depth
    ray_y = (r10 * x + r11 * y + r12 * z + tl.load(r + 7).to(tl.float64)) / depth
    slope_x = tl.minimum(tl.maximum(ray_x, middle_x - limit_x), middle_x + limit_x)
    slope_y = tl.minimum(tl.maximum(ray_y, middle_y - limit_y), middle_y + limit_y)
    gx, gy = fx / depth, fy / depth
    u0, u1, u2 = gx * (r00 - slope_x * r20), gx * (r01 - slope_x * r21), gx * (r02 - slope_x * r22)
    v0, v1, v2 = gy * (r10 - slope_y * r20), gy * (r11 - slope_y * r21), gy * (r12 - slope_y * r22)
    q, s = quats + g * 4, scales + g * 3
    qw, qx = tl.load(q, live, 0.0).to(tl.float64), tl.load(q + 1, live, 0.0).to(tl.float64)
    qy, qz = tl.load(q + 2, live, 0.0).to(tl.float64), tl.load(q + 3, live, 0.0).to(tl.float64)
    s0 = tl.load(s, live, 0.0).to(tl.float64) * modifier
    s1 = tl.load(s + 1, live, 0.0).to(tl.float64) * modifier
    s2 = tl.load(s + 2, live, 0.0).to(tl.float64) * modifier
    m00, m01, m02 = 1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy - qw * qz), 2 * (qx * qz + qw * qy)
    m10, m11, m12 = 2 * (qx * qy + qw * qz), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz - qw * qx)
    m20, m21, m22 = 2 * (qx * qz - qw * qy), 2 * (qy * qz + qw * qx), 1 - 2 * (qx * qx + qy * qy)
    a0, a1, a2 = u0 * m00 + u1 * m10 + u2 * m20, u0 * m01 + u1 * m11 + u2 * m21, u0 * m02 + u1 * m12 + u2 * m22
    b0, b1, b2 = v0 * m00 + v1 * m10 + v2 * m20, v0 * m01 + v1 * m11 + v2 * m21, v0 * m02 + v1 * m12 + v2 * m22
    xx = s0 * s0 * a0 * a0 + s1 * s1 * a1 * a1 + s2 * s2 * a2 * a2
    xy = s0 * s0 * a0 * b0 + s1 * s1 * a1 * b1 + s2 * s2 * a2 * b2
    yy = s0 * s0 * b0 * b0 + s1 * s1 * b1 * b1 + s2 * s2 * b2 * b2
    return (
        x, y, z, depth, ray_x, ray_y, slope_x, slope_y, gx, gy, u0, u1, u2, v0, v1, v2, qw, qx, qy, qz, s0, s1, s2,
        m00, m01, m02, m10, m11, m12, m20, m21, m22, a0, a1, a2, b0, b1, b2, xx, xy, yy,
    )  # fmt: skip


@triton.jit
def _project(
    means, quats, scales, opacities, viewmats, lenses, splats, boxes, depths, radii, N, share, width, height, columns,
    rows, modifier, ANTIALIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = n < N
    g = i * N + n
    # depth and centre are rounded as the reference rounds them, which decides order and tiles
    m, r, lens = means + g * 3, viewmats + i * 16, lenses + i * 4
    px, py, pz = tl.load(m, live, 0.0), tl.load(m + 1, live, 0.0), tl.load(m + 2, live, 0.0)
    z = on_row(r + 8, 1.0, px, py, pz)
    in_front = z > 0.2
    z = tl.where(in_front, z, 1.0)
    w = tl.div_rn(z * 0 + 1.0, z + 1e-7)
    wide, tall = z * 0 + width, z * 0 + height
    to_x, to_y = tl.div_rn(2 * tl.load(lens) + z * 0, wide), tl.div_rn(2 * tl.load(lens + 1) + z * 0, tall)
    cx = 0.5 * ((on_row(r, to_x, px, py, pz) * w + 1.0) * width - 1.0) + (tl.load(lens + 2) - (width - 1) / 2)
    cy = 0.5 * ((on_row(r + 4, to_y, px, py, pz) * w + 1.0) * height - 1.0) + (tl.load(lens + 3) - (height - 1) / 2)
    (
        _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _,
        _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, xx, xy, yy,
    ) = _splat(means, quats, scales, viewmats, lenses, g, i, live, modifier, width, height)  # fmt: skip
    thin = xx * yy - xy * xy
    xx += 0.3
    yy += 0.3
    det = xx * yy - xy * xy
    middle = 0.5 * (xx + yy)
    root = tl.sqrt(tl.maximum(middle * middle - det, 0.1))
    radius = tl.ceil(3.0 * tl.sqrt(middle + root)).to(tl.float32)
    finite = (tl.abs(cx) < 3.0e38) & (tl.abs(cy) < 3.0e38) & (tl.abs(det) < 1.0e300) & (radius < 1073741824.0)
    usable = live & in_front & finite & (det != 0)
    cx, cy, radius = tl.where(usable, cx, 0.0), tl.where(usable, cy, 0.0), tl.where(usable, radius, 0.0)
    x0 = tl.minimum(tl.maximum((cx - radius) / 16, 0.0), columns * 1.0).to(tl.int32)
    y0 = tl.minimum(tl.maximum((cy - radius) / 16, 0.0), rows * 1.0).to(tl.int32)
    x1 = tl.minimum(tl.maximum((cx + radius + 15) / 16, 0.0), columns * 1.0).to(tl.int32)
    y1 = tl.minimum(tl.maximum((cy + radius + 15) / 16, 0.0), rows * 1.0).to(tl.int32)
    usable = usable & (x1 > x0) & (y1 > y0)
    det = tl.where(usable, det, 1.0)
    opacity = tl.load(opacities + (i // share) * N + n, live, 0.0)
    if ANTIALIAS:
        opacity = opacity * tl.sqrt(tl.maximum(thin / det, 0.000025)).to(tl.float32)
    at = splats + g * 7
    tl.store(at, cx, live)
    tl.store(at + 1, cy, live)
    tl.store(at + 2, tl.where(usable, yy / det, 1.0).to(tl.float32), live)
    tl.store(at + 3, tl.where(usable, -xy / det, 0.0).to(tl.float32), live)
    tl.store(at + 4, tl.where(usable, xx / det, 1.0).to(tl.float32), live)
    tl.store(at + 5, opacity, live)
    tl.store(at + 6, tl.div_rn(z * 0 + 1.0, z), live)
    tl.store(boxes + g * 4, x0, live)
    tl.store(boxes + g * 4 + 1, y0, live)
    tl.store(boxes + g * 4 + 2, tl.where(usable, x1, x0), live)
    tl.store(boxes + g * 4 + 3, tl.where(usable, y1, y0), live)
    tl.store(depths + g, z, live)
    tl.store(radii + g, tl.where(usable, radius, 0.0).to(tl.int32), live)


@triton.jit
def _project_back(
    means, quats, scales, opacities, viewmats, lenses, d_splats, radii, d_means, d_quats, d_scales, d_opacities,
    camera, N, share, blocks, width, height, modifier, ANTIALIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    g = i * N + n
    live = (n < N) & (tl.load(radii + g, n < N, 0) > 0)
    (
        x, y, z, depth, ray_x, ray_y, slope_x, slope_y, gx, gy, u0, u1, u2, v0, v1, v2, qw, qx, qy, qz, s0, s1, s2,
        m00, m01, m02, m10, m11, m12, m20, m21, m22, a0, a1, a2, b0, b1, b2, xx, xy, yy,
    ) = _splat(means, quats, scales, viewmats, lenses, g, i, live, modifier, width, height)  # fmt: skip
    at = d_splats + g * 7
    on_x, on_y = tl.load(at, live, 0.0).to(tl.float64), tl.load(at + 1, live, 0.0).to(tl.float64)
    on_a, on_b = tl.load(at + 2, live, 0.0).to(tl.float64), tl.load(at + 3, live, 0.0).to(tl.float64)
    on_c, on_opacity = tl.load(at + 4, live, 0.0).to(tl.float64), tl.load(at + 5, live, 0.0).to(tl.float64)
    on_near = tl.load(at + 6, live, 0.0).to(tl.float64)
    thin = xx * yy - xy * xy
    wide, tall = xx + 0.3, yy + 0.3
    det = tl.where(live, wide * tall - xy * xy, 1.0)

    # conic (tall, -xy, wide) / det, and opacity
    d_xx, d_xy, d_yy = on_c / det, -on_b / det, on_a / det
    d_det = (on_b * xy - on_a * tall - on_c * wide) / (det * det)
    coverage = on_opacity * 0 + 1.0
    if ANTIALIAS:
        ratio = thin / det
        coverage = tl.sqrt(tl.maximum(ratio, 0.000025))
        opacity = tl.load(opacities + (i // share) * N + n, live, 0.0).to(tl.float64)
        d_ratio = tl.where(ratio > 0.000025, on_opacity * opacity / (2 * coverage), 0.0)
        d_det -= d_ratio * thin / (det * det)
        d_xx += d_ratio / det * yy
        d_yy += d_ratio / det * xx
        d_xy -= 2 * d_ratio / det * xy
    tl.store(d_opacities + g, (on_opacity * coverage).to(tl.float32), live)
    d_xx += d_det * tall
    d_yy += d_det * wide
    d_xy -= 2 * d_det * xy

    # covariance A A^T, whose rows are s (u R) and s (v R)
    da0, db0 = s0 * (2 * d_xx * a0 + d_xy * b0), s0 * (2 * d_yy * b0 + d_xy * a0)
    da1, db1 = s1 * (2 * d_xx * a1 + d_xy * b1), s1 * (2 * d_yy * b1 + d_xy * a1)
    da2, db2 = s2 * (2 * d_xx * a2 + d_xy * b2), s2 * (2 * d_yy * b2 + d_xy * a2)
    to = d_scales + g * 3
    tl.store(to, (modifier * (da0 * a0 + db0 * b0)).to(tl.float32), live)
    tl.store(to + 1, (modifier * (da1 * a1 + db1 * b1)).to(tl.float32), live)
    tl.store(to + 2, (modifier * (da2 * a2 + db2 * b2)).to(tl.float32), live)
    da0, da1, da2, db0, db1, db2 = s0 * da0, s1 * da1, s2 * da2, s0 * db0, s1 * db1, s2 * db2
    g00, g01, g02 = u0 * da0 + v0 * db0, u0 * da1 + v0 * db1, u0 * da2 + v0 * db2
    g10, g11, g12 = u1 * da0 + v1 * db0, u1 * da1 + v1 * db1, u1 * da2 + v1 * db2
    g20, g21, g22 = u2 * da0 + v2 * db0, u2 * da1 + v2 * db1, u2 * da2 + v2 * db2
    to = d_quats + g * 4
    dw = 2 * (qx * (g21 - g12) + qy * (g02 - g20) + qz * (g10 - g01))
    dx = 2 * (qy * (g01 + g10) + qz * (g02 + g20) + qw * (g21 - g12)) - 4 * qx * (g11 + g22)
    dy = 2 * (qx * (g01 + g10) + qz * (g12 + g21) + qw * (g02 - g20)) - 4 * qy * (g00 + g22)
    dz = 2 * (qx * (g02 + g20) + qy * (g12 + g21) + qw * (g10 - g01)) - 4 * qz * (g00 + g11)
    tl.store(to, dw.to(tl.float32), live)
    tl.store(to + 1, dx.to(tl.float32), live)
    tl.store(to + 2, dy.to(tl.float32), live)
    tl.store(to + 3, dz.to(tl.float32), live)

    # u = fx / z (row 0 - slope row 2), v alike, and the centre
    r, lens = viewmats + i * 16, lenses + i * 4
    r00, r01, r02 = tl.load(r).to(tl.float64), tl.load(r + 1).to(tl.float64), tl.load(r + 2).to(tl.float64)
    r10, r11, r12 = tl.load(r + 4).to(tl.float64), tl.load(r + 5).to(tl.float64), tl.load(r + 6).to(tl.float64)
    r20, r21, r22 = tl.load(r + 8).to(tl.float64), tl.load(r + 9).to(tl.float64), tl.load(r + 10).to(tl.float64)
    fx, fy = tl.load(lens).to(tl.float64), tl.load(lens + 1).to(tl.float64)
    du0, du1, du2 = (
        m00 * da0 + m01 * da1 + m02 * da2,
        m10 * da0 + m11 * da1 + m12 * da2,
        m20 * da0 + m21 * da1 + m22 * da2,
    )
    dv0, dv1, dv2 = (
        m00 * db0 + m01 * db1 + m02 * db2,
        m10 * db0 + m11 * db1 + m12 * db2,
        m20 * db0 + m21 * db1 + m22 * db2,
    )
    d_slope_x, d_slope_y = -gx * (r20 * du0 + r21 * du1 + r22 * du2), -gy * (r20 * dv0 + r21 * dv1 + r22 * dv2)
    on_u, on_v = u0 * du0 + u1 * du1 + u2 * du2, v0 * dv0 + v1 * dv1 + v2 * dv2
    d_cam_z = -(on_u + on_v) / depth - on_near / (depth * depth)
    d_ray_x = fx * on_x + tl.where(slope_x == ray_x, d_slope_x, 0.0)
    d_ray_y = fy * on_y + tl.where(slope_y == ray_y, d_slope_y, 0.0)
    d_cam_x, d_cam_y = d_ray_x / depth, d_ray_y / depth
    d_cam_z -= (d_ray_x * ray_x + d_ray_y * ray_y) / depth
    to = d_means + g * 3
    tl.store(to, (d_cam_x * r00 + d_cam_y * r10 + d_cam_z * r20).to(tl.float32), live)
    tl.store(to + 1, (d_cam_x * r01 + d_cam_y * r11 + d_cam_z * r21).to(tl.float32), live)
    tl.store(to + 2, (d_cam_x * r02 + d_cam_y * r12 + d_cam_z * r22).to(tl.float32), live)
    to = camera + (i * blocks + tl.program_id(0)) * 16
    tl.store(to, tl.sum(gx * du0 + d_cam_x * x, 0))
    tl.store(to + 1, tl.sum(gx * du1 + d_cam_x * y, 0))
    tl.store(to + 2, tl.sum(gx * du2 + d_cam_x * z, 0))
    tl.store(to + 3, tl.sum(d_cam_x, 0))
    tl.store(to + 4, tl.sum(gy * dv0 + d_cam_y * x, 0))
    tl.store(to + 5, tl.sum(gy * dv1 + d_cam_y * y, 0))
    tl.store(to + 6, tl.sum(gy * dv2 + d_cam_y * z, 0))
    tl.store(to + 7, tl.sum(d_cam_y, 0))
    tl.store(to + 8, tl.sum(-gx * slope_x * du0 - gy * slope_y * dv0 + d_cam_z * x, 0))
    tl.store(to + 9, tl.sum(-gx * slope_x * du1 - gy * slope_y * dv1 + d_cam_z * y, 0))
    tl.store(to + 10, tl.sum(-gx * slope_x * du2 - gy * slope_y * dv2 + d_cam_z * z, 0))
    tl.store(to + 11, tl.sum(d_cam_z, 0))
    tl.store(to + 12, tl.sum(on_u / fx + on_x * ray_x, 0))
    tl.store(to + 13, tl.sum(on_v / fy + on_y * ray_y, 0))
    tl.store(to + 14, tl.sum(on_x, 0))
    tl.store(to + 15, tl.sum(on_y, 0))


@triton.jit
def _alphas(splats, g, live, px, py, ROW: tl.constexpr):
    """Return alpha [PIXELS, CHUNK], 0 where a splat does not count, alpha without limits, conic, centre, opacity."""
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
    return alpha, raw, xx, xy, yy, cx, cy, opacity


@triton.jit
def _column(table, index, k: tl.constexpr):
    """Return column k of [CHUNK, 16]."""
    return tl.sum(tl.where(index[None, :] == k, table, 0.0), 1)


@triton.jit
def _forward(schedule, order, starts, splats, features, image, alpha_out, nearness_out, N, per_person, width, height,
             columns, tiles, C: tl.constexpr, ROW: tl.constexpr, CHUNK: tl.constexpr, PIXELS: tl.constexpr,
             PRECISION: tl.constexpr):  # fmt: skip
    strip = tl.program_id(0) % (256 // PIXELS)
    program = tl.load(schedule + tl.program_id(0) // (256 // PIXELS))
    i = program // tiles
    tile = program % tiles
    lane = strip * PIXELS + tl.arange(0, PIXELS)
    x, y = (tile % columns) * 16 + lane % 16, (tile // columns) * 16 + lane // 16
    px, py = x.to(tl.float32), y.to(tl.float32)
    channel = tl.arange(0, C)
    step = tl.arange(0, CHUNK)
    product = tl.full([PIXELS], 1.0, tl.float32)  # of all (1 - alpha), whether drawn or not
    left = tl.full([PIXELS], 1.0, tl.float32)  # transmittance behind what is drawn
    color = tl.zeros([PIXELS, C], tl.float32)
    nearness = tl.zeros([PIXELS], tl.float32)
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
    tl.store(nearness_out + i * plane + pixel, nearness, inside)


@triton.jit
def _backward(schedule, order, starts, splats, features, d_image, d_alpha, d_nearness, total, d_splats, d_features, N,
              per_person, width, height, columns, tiles, C: tl.constexpr, ROW: tl.constexpr, CHUNK: tl.constexpr,
              PIXELS: tl.constexpr, NEARNESS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    strip = tl.program_id(0) % (256 // PIXELS)
    program = tl.load(schedule + tl.program_id(0) // (256 // PIXELS))
    i = program // tiles
    tile = program % tiles
    lane = strip * PIXELS + tl.arange(0, PIXELS)
    x, y = (tile % columns) * 16 + lane % 16, (tile // columns) * 16 + lane // 16
    px, py = x.to(tl.float32), y.to(tl.float32)
    inside = (x < width) & (y < height)
    pixel = y * width + x
    plane = (width * height).to(tl.int64)
    channel = tl.arange(0, C)
    step = tl.arange(0, CHUNK)
    grad = tl.load(d_image + (i * C + channel)[None, :] * plane + pixel[:, None], inside[:, None], 0.0)
    grad_alpha = tl.load(d_alpha + i * plane + pixel, inside, 0.0)
    grad_nearness = tl.zeros([PIXELS], tl.float32)
    if NEARNESS:
        grad_nearness = tl.load(d_nearness + i * plane + pixel, inside, 0.0)
    rest = tl.load(total + i * plane + pixel, inside, 0.0)  # sum over the splats not yet visited
    product = tl.full([PIXELS], 1.0, tl.float32)
    # pixels as seen from the tile's centre, so that squares stay small and exact
    center_x, center_y = ((tile % columns) * 16).to(tl.float32) + 7.5, ((tile // columns) * 16).to(tl.float32) + 7.5
    term = tl.arange(0, 16)
    qx, qy, c = (px - center_x)[:, None], (py - center_y)[:, None], term[None, :]
    basis = tl.where(c == 0, 1.0, tl.where(c == 1, qx, tl.where(c == 2, qy, tl.where(
        c == 3, qx * qx, tl.where(c == 4, qx * qy, tl.where(c == 5, qy * qy, 0.0))))))  # fmt: skip
    at, end = tl.load(starts + program), tl.load(starts + program + 1)
    shift = ((i // per_person) - i) * N
    while at < end:
        live = at + step < end
        g = tl.load(order + at + step, live, 0)
        alpha, raw, xx, xy, yy, cx, cy, opacity = _alphas(splats, g, live, px, py, ROW)
        logs = tl.log(1 - alpha)
        behind = product[:, None] * tl.exp(tl.cumsum(logs, 1))
        drawn = (behind >= 1e-4) & (alpha > 0)
        ahead = behind / (1 - alpha)
        weight = tl.where(drawn, alpha * ahead, 0.0)
        row = (g + shift)[:, None] * C + channel[None, :]
        f = tl.load(features + row, live[:, None], 0.0)
        q = tl.dot(grad, tl.trans(f), input_precision=PRECISION) + grad_alpha[:, None]
        if NEARNESS:
            q += grad_nearness[:, None] * tl.load(splats + g * ROW + 6, live, 0.0)[None, :]
        wq = weight * q
        after = rest[:, None] - tl.cumsum(wq, 1)
        d_a = tl.where(drawn & (raw < 0.99), ahead * q - after / (1 - alpha), 0.0)
        d_f = tl.dot(tl.trans(weight), grad, input_precision=PRECISION)
        tl.atomic_add(d_features + row, d_f, live[:, None], sem="relaxed")
        # sums over pixels of d_power times 1, x, y, x^2, xy, y^2 by one product; dx = ex - x
        moments = tl.dot(tl.trans(d_a * alpha), basis, input_precision=PRECISION)  # [CHUNK, 16]
        m0, mx, my = _column(moments, term, 0), _column(moments, term, 1), _column(moments, term, 2)
        mxx, mxy, myy = _column(moments, term, 3), _column(moments, term, 4), _column(moments, term, 5)
        ex, ey = cx - center_x, cy - center_y
        sx, sy = ex * m0 - mx, ey * m0 - my
        to = d_splats + g * ROW
        tl.atomic_add(to, -(xx * sx + xy * sy), live, sem="relaxed")
        tl.atomic_add(to + 1, -(yy * sy + xy * sx), live, sem="relaxed")
        tl.atomic_add(to + 2, -0.5 * (ex * (sx - mx) + mxx), live, sem="relaxed")
        tl.atomic_add(to + 3, -(ex * sy - ey * mx + mxy), live, sem="relaxed")
        tl.atomic_add(to + 4, -0.5 * (ey * (sy - my) + myy), live, sem="relaxed")
        tl.atomic_add(to + 5, m0 / tl.maximum(opacity, 1e-30), live, sem="relaxed")
        if NEARNESS:
            tl.atomic_add(to + 6, tl.sum(weight * grad_nearness[:, None], 0), live, sem="relaxed")
        rest = rest - tl.sum(wq, 1)
        product = product * tl.exp(tl.sum(logs, 1))
        at += CHUNK
        if tl.max(product, 0) < 1e-4:
            at = end
