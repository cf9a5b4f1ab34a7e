"""The Gaussian rasteriser with gradients on the CPU, compiled by numba: the rules of `rasterize_torch`.

Forward is `rasterize_numba`, pass by pass. Backward, image after image:

1. `_tiles_back`: over tiles, front to back as they were drawn. With w_i = T_i a_i the weight of splat i in a pixel,
   g the gradient at the pixel's C channels, g_A at its alpha, g_D at its inverse depth and
   q_i = g . f_i + g_A + g_D / z_i:
   dL/df_i += w_i g,   dL/d(1/z_i) += w_i g_D,   dL/da_i = T_i q_i - (sum_{j>i} w_j q_j) / (1 - a_i).
   The suffix sum is the whole sum, known from the drawn image, less the prefix, in double. Every (tile, splat) pair has
   a row of its own for what it finds.
2. `_splats_back`: over splats. The rows of a splat are added up in the order of tiles, and taken through its
   projection, in double. What belongs to the camera is added up block by block.

Results do not depend on the number of threads: no two threads ever add to the same number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from guava_aug.render.rasterize_numba import (
    ASPECT,
    BATCH,
    BLOCK,
    CONIC_A,
    CONIC_B,
    CONIC_C,
    INV_Z,
    LIVE,
    OPACITY,
    PIXELS,
    PX,
    PY,
    REACH_Y,
    ROW,
    SLOPE,
    USED,
    WEIGHT,
    Lists,
    draw,
    exp_float32,
    prepare,
    schedule,
    threads,
)
from guava_aug.render.rasterize_torch import (
    ALPHA_MAX,
    ALPHA_MIN,
    FRUSTUM_MARGIN,
    LOW_PASS,
    MIN_COVERAGE,
    TILE,
    TRANSMITTANCE_MIN,
)
from guava_aug.runtime.numba_cache import cached_njit

f32, f64, u64 = np.float32, np.float64, np.uint64
OPAQUE, BEFORE = TILE, 2 * TILE  # in a row of a tile, where drawing keeps FINAL and INVERSE
D_X, D_Y, D_A, D_B, D_C, D_OPACITY, D_NEARNESS, D_FEATURES = range(8)  # columns of what a pair finds
FX, FY, CX, CY = 12, 13, 14, 15  # after the camera's three rows


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return image [I,C,H,W] over black, alpha and inverse depth [I,1,H,W], radii [I,N] int32 of float32 CPU tensors.

    Differentiable in all of them. Memory for the way back: 64 bytes a splat and 4 a (splat, tile) pair of every image.
    """
    out: tuple[Tensor, Tensor, Tensor, Tensor] = _Images.apply(
        means, quats, scales, opacities, features, viewmats, K, width, height, scale_modifier, antialias
    )
    return out


@dataclass(frozen=True)
class _Drawn:
    """What drawing leaves for the way back."""

    lists: list[Lists]  # of every image
    size: tuple[int, int]
    scale_modifier: float
    antialias: bool


class _Images(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, features: Tensor, viewmats: Tensor,
        K: Tensor, width: int, height: int, scale_modifier: float, antialias: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        inputs = means, quats, scales, opacities, features, viewmats, K
        arrays = [np.ascontiguousarray(x.detach().numpy()) for x in inputs]
        (count, N), C = means.shape[:2], features.shape[-1]
        share = max(1, count // max(1, len(features)))
        image = np.empty((count, C, height, width), f32)
        alpha, nearness = np.empty((count, 1, height, width), f32), np.empty((count, 1, height, width), f32)
        radii, black = np.zeros((count, N), np.int32), np.zeros(C, f32)
        kept = []
        with threads():
            for i in range(count):
                one, b = slice(i, i + 1), i // share
                lists = prepare(
                    arrays[0][one], arrays[1][one], arrays[2][one], arrays[3][b], arrays[5][one], _lens(arrays[6][i]),
                    width, height, f32(scale_modifier), antialias, radii[one],
                )  # fmt: skip
                draw(lists, arrays[4][b], black, image[one], alpha[one], nearness[one])
                kept.append(lists)
        found = tuple(torch.from_numpy(a) for a in (image, alpha, nearness, radii))
        ctx.save_for_backward(*inputs, *found[:3])
        ctx.drawn = _Drawn(kept, (width, height), scale_modifier, antialias)
        ctx.mark_non_differentiable(found[3])
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, found = ctx.saved_tensors[:7], ctx.saved_tensors[7:]
        drawn: _Drawn = ctx.drawn
        arrays = [np.ascontiguousarray(x.detach().numpy()) for x in inputs]
        down = [np.ascontiguousarray(g.detach().float().numpy()) for g in grads[:3]]
        total = sum(
            (g.detach().double() * x).sum(1) for g, x in zip(grads[:3], found, strict=True)
        ).numpy()  # [I, H, W]
        slopes = [np.zeros(x.shape, f32) for x in arrays]
        share = max(1, len(arrays[0]) // max(1, len(arrays[4])))
        learns = bool(ctx.needs_input_grad[4])
        with threads():
            for i, lists in enumerate(drawn.lists):
                b = i // share
                C = arrays[4].shape[-1]
                pairs = np.zeros((len(lists.order), D_FEATURES + (C if learns else 0)), f32)
                _tiles_back(
                    lists.records[0], arrays[4][b], lists.order, lists.starts[0], schedule(lists.starts),
                    -(-drawn.size[0] // TILE), down[0][i], down[1][i, 0], down[2][i, 0], total[i], learns, pairs,
                )  # fmt: skip
                blocks = -(-len(arrays[0][i]) // BLOCK)
                camera = np.zeros((blocks, 16), f64)
                at, rows = _rows_of_splats(lists.boxes[0], lists.order)
                _splats_back(
                    pairs, at, rows, arrays[0][i], arrays[1][i], arrays[2][i], arrays[3][b], arrays[5][i],
                    _lens(arrays[6][i]), drawn.size[0], drawn.size[1], f64(drawn.scale_modifier), drawn.antialias,
                    slopes[0][i], slopes[1][i], slopes[2][i], slopes[3][b], slopes[4][b], camera,
                )  # fmt: skip
                moved = camera.sum(0)
                slopes[5][i, :3] = moved[:12].reshape(3, 4)
                slopes[6][i, 0, 0], slopes[6][i, 1, 1], slopes[6][i, 0, 2], slopes[6][i, 1, 2] = moved[FX:]
        return *(torch.from_numpy(s) for s in slopes), None, None, None, None


def _lens(K: np.ndarray) -> np.ndarray:
    return np.array([K[0, 0], K[1, 1], K[0, 2], K[1, 2]], f32)


@cached_njit()
def _rows_of_splats(boxes, order):
    """Return where the pairs of each splat begin [N + 1], and the pairs, splat after splat, in the order of tiles."""
    N = boxes.shape[0]
    at = np.zeros(N + 1, np.int64)
    for n in range(N):
        at[n + 1] = at[n] + np.int64(boxes[n, 2] - boxes[n, 0]) * np.int64(boxes[n, 3] - boxes[n, 1])
    cursor, rows = at[:N].copy(), np.empty(len(order), np.int64)
    for pair in range(len(order)):
        n = order[pair]
        rows[cursor[n]] = pair
        cursor[n] += 1
    return at, rows


# ------------------------------------------------------------------------------------------------- 1. tiles


@cached_njit(parallel=True)
def _tiles_back(
    records, features, order, starts, work, columns, d_image, d_alpha, d_nearness, total, learns, pairs
):  # fmt: skip
    for job in prange(work.shape[0]):
        tile = work[job]
        if starts[tile] < starts[tile + 1]:
            _tile_back(
                records, features, order, starts[tile], starts[tile + 1], (tile % columns) * TILE,
                (tile // columns) * TILE, d_image, d_alpha, d_nearness, total, learns, pairs,
            )  # fmt: skip


@cached_njit(fastmath={"contract", "reassoc"}, error_model="numpy")
def _tile_back(  # noqa: C901 - one compiled loop
    records, features, order, begin, end, left, top, d_image, d_alpha, d_nearness, total, learns, pairs
):
    C, height, width = d_image.shape
    w_tile, h_tile = min(TILE, width - left), min(TILE, height - top)
    grads = np.zeros((PIXELS, C), f32)
    rows = np.zeros(PIXELS * 4, f32)
    rest = np.zeros(PIXELS, f64)  # of the sum of w q, behind what has been visited
    row_open = np.zeros(TILE, np.bool_)
    for y in range(h_tile):
        row_open[y] = True
        for x in range(w_tile):
            rows[y * ROW + LIVE + x] = 1
            rest[y * TILE + x] = total[top + y, left + x]
    for c in range(C):
        for y in range(h_tile):
            for x in range(w_tile):
                grads[y * TILE + x, c] = d_image[c, top + y, left + x]
    splat, color, d_color = np.empty(USED, f32), np.empty(C, f32), np.empty(C, f32)

    for pair in range(begin, end):
        n = order[pair]
        for column in range(USED):
            splat[column] = records[n, column]
        for channel in range(C):
            color[channel] = features[n, channel]
            d_color[channel] = 0
        px, py, reach = splat[PX] - f32(left), splat[PY] - f32(top), splat[REACH_Y]
        a, b, c, opacity, inv_z = splat[CONIC_A], splat[CONIC_B], splat[CONIC_C], splat[OPACITY], splat[INV_Z]
        d_x, d_y, d_a, d_b, d_c, d_power, d_near = f32(0), f32(0), f32(0), f32(0), f32(0), f32(0), f32(0)
        first_row = int(max(np.ceil(py - reach), f32(0)))
        last_row = int(min(np.floor(py + reach), f32(h_tile - 1)))
        for y in range(first_row, last_row + 1):
            if not row_open[y]:
                continue
            dy = py - f32(y)
            middle = px - splat[SLOPE] * dy
            half = splat[ASPECT] * np.sqrt(max(reach * reach - dy * dy, f32(0)))
            first = int(max(np.ceil(middle - half), f32(0)))
            last = int(min(np.floor(middle + half), f32(TILE - 1)))
            if first > last:
                continue
            _row(rows, y * ROW, a, b, c, opacity, px, dy)
            for x in range(first, last + 1):
                weight = rows[y * ROW + WEIGHT + x]
                if weight <= 0:
                    continue
                pixel = u64(y * TILE + x)
                g_near = d_nearness[top + y, left + x]
                q = f32(0)
                for channel in range(C):
                    q += color[u64(channel)] * grads[pixel, u64(channel)]
                q += d_alpha[top + y, left + x] + g_near * inv_z
                rest[pixel] -= f64(weight) * f64(q)
                d_near += weight * g_near
                if learns:
                    for channel in range(C):
                        d_color[u64(channel)] += weight * grads[pixel, u64(channel)]
                opaque = rows[y * ROW + OPAQUE + x]
                if opaque < f32(ALPHA_MAX):
                    slope = (
                        f32(f64(rows[y * ROW + BEFORE + x]) * f64(q) - rest[pixel] / (1 - f64(opaque))) * opaque
                    )  # dL/d power
                    dx = px - f32(x)
                    d_x -= slope * (a * dx + b * dy)
                    d_y -= slope * (c * dy + b * dx)
                    d_a -= f32(0.5) * slope * dx * dx
                    d_b -= slope * dx * dy
                    d_c -= f32(0.5) * slope * dy * dy
                    d_power += slope
        pairs[pair, D_X], pairs[pair, D_Y] = d_x, d_y
        pairs[pair, D_A], pairs[pair, D_B], pairs[pair, D_C] = d_a, d_b, d_c
        pairs[pair, D_OPACITY] = d_power / opacity
        pairs[pair, D_NEARNESS] = d_near
        if learns:
            for channel in range(C):
                pairs[pair, D_FEATURES + channel] = d_color[channel]
        if (pair - begin) % BATCH == BATCH - 1:
            any_open = False
            for y in range(h_tile):
                if row_open[y]:
                    most = f32(0)
                    for x in range(TILE):
                        most = max(most, rows[y * ROW + LIVE + x])
                    row_open[y] = most > 0
                    any_open = any_open or row_open[y]
            if not any_open:
                break


@cached_njit(error_model="numpy")
def _row(rows, start, a, b, c, opacity, px, dy):
    """Apply one splat to one row of a tile, with the operations of `rasterize_numba`'s own `_row`.

    `rows` from `start` holds the row's LIVE, OPAQUE, BEFORE and WEIGHT, 16 numbers each.
    """
    at = u64(start)
    cyy = c * dy * dy
    for x in range(TILE):
        dx = px - f32(x)
        power = f32(-0.5) * (a * dx * dx + cyy) - b * dx * dy
        opaque = opacity * exp_float32(power)
        opaque = opaque if opaque < f32(ALPHA_MAX) else f32(ALPHA_MAX)
        counts = (power <= f32(0)) & (opaque >= f32(ALPHA_MIN))
        rows[at + u64(OPAQUE) + u64(x)] = opaque if counts else f32(0)

    for x in range(TILE):
        opaque = rows[at + u64(OPAQUE) + u64(x)]
        before = rows[at + u64(LIVE) + u64(x)]
        after = before * (f32(1) - opaque)
        ends = after < f32(TRANSMITTANCE_MIN)
        rows[at + u64(BEFORE) + u64(x)] = before
        rows[at + u64(LIVE) + u64(x)] = f32(0) if ends else after
        rows[at + u64(WEIGHT) + u64(x)] = f32(0) if ends else opaque * before


# ------------------------------------------------------------------------------------------------- 2. splats


@cached_njit(parallel=True, error_model="numpy")
def _splats_back(
    pairs, at, rows, means, quats, scales, opacities, viewmat, lens, width, height, scale_modifier, antialias,
    d_means, d_quats, d_scales, d_opacities, d_features, camera,
):  # fmt: skip
    N = means.shape[0]
    for block in prange(camera.shape[0]):
        found, vectors = np.empty(pairs.shape[1], f64), np.empty((6, 3), f64)
        R, G = np.empty((3, 3), f64), np.empty((3, 3), f64)
        for n in range(block * BLOCK, min(N, (block + 1) * BLOCK)):
            if at[n] == at[n + 1]:
                continue
            found[:] = 0
            for k in range(at[n], at[n + 1]):
                for column in range(pairs.shape[1]):
                    found[column] += pairs[rows[k], column]
            for channel in range(pairs.shape[1] - D_FEATURES):
                d_features[n, channel] += f32(found[D_FEATURES + channel])
            _splat_back(
                n, found, means, quats, scales, opacities, viewmat, lens, width, height, scale_modifier, antialias,
                d_means, d_quats, d_scales, d_opacities, camera[block], vectors, R, G,
            )  # fmt: skip


@cached_njit(error_model="numpy")
def _splat_back(
    n, found, means, quats, scales, opacities, viewmat, lens, width, height, scale_modifier, antialias,
    d_means, d_quats, d_scales, d_opacities, camera, rows, R, G,
):  # fmt: skip
    """Take what a splat's pixels say through its projection; the names are those of `rasterize_numba`."""
    r = viewmat  # float32: its rows are taken to double one number at a time, plain loops compile fastest
    cam_x, cam_y, cam_z = _on_row(means, n, r, 0), _on_row(means, n, r, 1), _on_row(means, n, r, 2)
    fx, fy = f64(lens[0]), f64(lens[1])
    limit_x, limit_y = FRUSTUM_MARGIN * width / (2 * fx), FRUSTUM_MARGIN * height / (2 * fy)
    middle_x, middle_y = ((width - 1) / 2 - f64(lens[2])) / fx, ((height - 1) / 2 - f64(lens[3])) / fy
    ray_x, ray_y = cam_x / cam_z, cam_y / cam_z
    slope_x = min(max(ray_x, middle_x - limit_x), middle_x + limit_x)
    slope_y = min(max(ray_y, middle_y - limit_y), middle_y + limit_y)
    gx, gy = fx / cam_z, fy / cam_z
    qw, qx, qy, qz = f64(quats[n, 0]), f64(quats[n, 1]), f64(quats[n, 2]), f64(quats[n, 3])
    R[0, 0], R[0, 1], R[0, 2] = 1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy - qw * qz), 2 * (qx * qz + qw * qy)
    R[1, 0], R[1, 1], R[1, 2] = 2 * (qx * qy + qw * qz), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz - qw * qx)
    R[2, 0], R[2, 1], R[2, 2] = 2 * (qx * qz - qw * qy), 2 * (qy * qz + qw * qx), 1 - 2 * (qx * qx + qy * qy)
    u, v, along_u, along_v, d_along_u, d_along_v = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5]
    xx, xy, yy = 0.0, 0.0, 0.0
    for k in range(3):
        u[k], v[k] = gx * (r[0, k] - slope_x * r[2, k]), gy * (r[1, k] - slope_y * r[2, k])
    for k in range(3):
        s = f64(scales[n, k]) * scale_modifier
        along_u[k] = u[0] * R[0, k] + u[1] * R[1, k] + u[2] * R[2, k]
        along_v[k] = v[0] * R[0, k] + v[1] * R[1, k] + v[2] * R[2, k]
        xx += s * s * along_u[k] * along_u[k]
        xy += s * s * along_u[k] * along_v[k]
        yy += s * s * along_v[k] * along_v[k]
    det_thin = xx * yy - xy * xy
    xx, yy = xx + LOW_PASS, yy + LOW_PASS
    det = xx * yy - xy * xy

    # conic (yy, -xy, xx) / det, and opacity
    d_xx, d_xy, d_yy = found[D_C] / det, -found[D_B] / det, found[D_A] / det
    d_det = (found[D_B] * xy - found[D_A] * yy - found[D_C] * xx) / (det * det)
    coverage = 1.0
    if antialias and det_thin / det > MIN_COVERAGE:
        coverage = math.sqrt(det_thin / det)
        d_ratio = found[D_OPACITY] * f64(opacities[n]) / (2 * coverage)
        d_thin = d_ratio / det
        d_det -= d_ratio * det_thin / (det * det)
        d_xx += d_thin * (yy - LOW_PASS)
        d_yy += d_thin * (xx - LOW_PASS)
        d_xy -= 2 * d_thin * xy
    elif antialias:
        coverage = math.sqrt(MIN_COVERAGE)
    d_opacities[n] += f32(found[D_OPACITY] * coverage)
    d_xx += d_det * yy
    d_yy += d_det * xx
    d_xy -= 2 * d_det * xy

    # covariance A A^T, whose rows are s (u R) and s (v R)
    for k in range(3):
        s = f64(scales[n, k]) * scale_modifier
        on_a = s * (2 * d_xx * along_u[k] + d_xy * along_v[k])
        on_b = s * (2 * d_yy * along_v[k] + d_xy * along_u[k])
        d_scales[n, k] += f32(scale_modifier * (on_a * along_u[k] + on_b * along_v[k]))
        d_along_u[k], d_along_v[k] = s * on_a, s * on_b
    for i in range(3):
        for k in range(3):
            G[i, k] = u[i] * d_along_u[k] + v[i] * d_along_v[k]
    d_quats[n, 0] += f32(2 * (qx * (G[2, 1] - G[1, 2]) + qy * (G[0, 2] - G[2, 0]) + qz * (G[1, 0] - G[0, 1])))
    d_quats[n, 1] += f32(
        2 * (qy * (G[0, 1] + G[1, 0]) + qz * (G[0, 2] + G[2, 0]) + qw * (G[2, 1] - G[1, 2]))
        - 4 * qx * (G[1, 1] + G[2, 2])
    )
    d_quats[n, 2] += f32(
        2 * (qx * (G[0, 1] + G[1, 0]) + qz * (G[1, 2] + G[2, 1]) + qw * (G[0, 2] - G[2, 0]))
        - 4 * qy * (G[0, 0] + G[2, 2])
    )
    d_quats[n, 3] += f32(
        2 * (qx * (G[0, 2] + G[2, 0]) + qy * (G[1, 2] + G[2, 1]) + qw * (G[1, 0] - G[0, 1]))
        - 4 * qz * (G[0, 0] + G[1, 1])
    )

    # u = fx / z (row 0 - slope row 2), v alike, and the centre
    d_slope_x, d_slope_y, on_u, on_v = 0.0, 0.0, 0.0, 0.0
    for k in range(3):
        d_u = R[k, 0] * d_along_u[0] + R[k, 1] * d_along_u[1] + R[k, 2] * d_along_u[2]
        d_v = R[k, 0] * d_along_v[0] + R[k, 1] * d_along_v[1] + R[k, 2] * d_along_v[2]
        d_slope_x -= gx * r[2, k] * d_u
        d_slope_y -= gy * r[2, k] * d_v
        on_u += u[k] * d_u
        on_v += v[k] * d_v
        camera[k] += gx * d_u
        camera[4 + k] += gy * d_v
        camera[8 + k] -= gx * slope_x * d_u + gy * slope_y * d_v
    d_cam_z = -(on_u + on_v) / cam_z - found[D_NEARNESS] / (cam_z * cam_z)
    d_ray_x, d_ray_y = fx * found[D_X], fy * found[D_Y]
    if middle_x - limit_x <= ray_x <= middle_x + limit_x:
        d_ray_x += d_slope_x
    if middle_y - limit_y <= ray_y <= middle_y + limit_y:
        d_ray_y += d_slope_y
    d_cam_x, d_cam_y = d_ray_x / cam_z, d_ray_y / cam_z
    d_cam_z -= (d_ray_x * ray_x + d_ray_y * ray_y) / cam_z
    for k in range(3):
        d_means[n, k] += f32(d_cam_x * r[0, k] + d_cam_y * r[1, k] + d_cam_z * r[2, k])
        camera[k] += d_cam_x * means[n, k]
        camera[4 + k] += d_cam_y * means[n, k]
        camera[8 + k] += d_cam_z * means[n, k]
    camera[3] += d_cam_x
    camera[7] += d_cam_y
    camera[11] += d_cam_z
    camera[FX] += on_u / fx + found[D_X] * ray_x
    camera[FY] += on_v / fy + found[D_Y] * ray_y
    camera[CX] += found[D_X]
    camera[CY] += found[D_Y]


@cached_njit()
def _on_row(means, n, viewmat, row):
    """Return row . (x, y, z, 1) in double."""
    total = f64(viewmat[row, 3])
    for k in range(3):
        total += f64(viewmat[row, k]) * f64(means[n, k])
    return total
