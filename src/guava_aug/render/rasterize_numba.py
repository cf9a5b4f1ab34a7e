"""The Gaussian rasteriser on the CPU, compiled by numba: the rules of `rasterize_torch`, about twenty times faster.

Three passes, each parallel:

1. `_project`: over (frame, block of Gaussians). In addition to the reference's numbers it finds the box of pixels in
   which opacity * exp(power) can reach 1/255 at all, and shrinks the splat's tiles and rows to it. This drops only
   work that the reference would have multiplied by zero, so the image is unchanged.
2. `_bucket`: over frames. One radix sort by depth, then one pass in that order that appends each splat to its tiles:
   every list comes out sorted, equal depths by index.
3. `_draw`: over (frame, tile). For each splat and each pixel row of the tile that its ellipse meets, the 16 alphas,
   thresholds and transmittances are computed without a branch, as vectors; only then are the C features added to the
   pixels inside the ellipse. A row of finished pixels is skipped, a tile of finished rows ends its list.

Results do not depend on the number of threads: no two threads ever add to the same number.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from guava_aug.render.rasterize_torch import (
    ALPHA_MAX,
    ALPHA_MIN,
    FRUSTUM_MARGIN,
    LOW_PASS,
    MIN_COVERAGE,
    MIN_EIGEN_GAP,
    NEAR,
    RADIUS_LIMIT,
    TILE,
    TRANSMITTANCE_MIN,
)
from guava_aug.runtime.numba_cache import cached_njit

f32, f64, i32, u32, u64 = np.float32, np.float64, np.int32, np.uint32, np.uint64
PIXELS = TILE * TILE
BLOCK = 2048  # Gaussians a thread projects at a time
RADIX_BITS = 11
LIST_BYTES = 256 << 20  # frames are drawn together while their splat records stay under this

# Columns of a splat record, all that drawing reads of a splat, padded to a cache line. The last four bound the ellipse
# in which the splat counts: |dy| <= REACH_Y, and at a given dy, |x - px - SLOPE dy| <= ASPECT sqrt(REACH_Y^2 - dy^2).
PX, PY, CONIC_A, CONIC_B, CONIC_C, OPACITY, INV_Z, REACH_Y, SLOPE, ASPECT = range(10)
USED, RECORD = 10, 16
BATCH = 16  # splats fetched at a time: their cache misses overlap, and finished rows are looked for once a batch

# A tile keeps four numbers a pixel, row by row: the transmittance while the pixel is open (0 once it is finished), the
# transmittance it ends with, the sum of w / z, and the weight of the splat at hand.
LIVE, FINAL, INVERSE, WEIGHT = 0, TILE, 2 * TILE, 3 * TILE
ROW = 4 * TILE

# numba's simplest thread pool aborts the process when two Python threads enter it at once.
_one_at_a_time = threading.Lock()


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
    """Return image [T,C,H,W], alpha [T,1,H,W], inverse_depth [T,1,H,W], radii [T,N] int32 of float32 CPU tensors.

    Threads: as many as torch uses (`torch.set_num_threads`), at most numba's own limit (`NUMBA_NUM_THREADS`).
    """
    arrays = [np.ascontiguousarray(x.detach().numpy()) for x in (means, quats, scales, opacities, features, viewmats)]
    T, N, C = arrays[0].shape[0], arrays[0].shape[1], arrays[4].shape[1]
    image = np.empty((T, C, height, width), f32)
    alpha = np.empty((T, 1, height, width), f32)
    inverse_depth = np.empty((T, 1, height, width), f32)
    radii = np.zeros((T, N), i32)
    lens = np.array([K[0, 0], K[1, 1], K[0, 2], K[1, 2]], f32)
    backdrop = np.ascontiguousarray(background.detach().numpy())

    with threads():
        together = max(1, LIST_BYTES // max(1, N * (RECORD * 4 + 12)))
        for first in range(0, T, together):
            part = slice(first, min(T, first + together))
            lists = prepare(
                arrays[0][part], arrays[1][part], arrays[2][part], arrays[3], arrays[5][part], lens, width, height,
                f32(scale_modifier), antialias, radii[part],
            )  # fmt: skip
            draw(lists, arrays[4], backdrop, image[part], alpha[part], inverse_depth[part])
    return tuple(torch.from_numpy(a) for a in (image, alpha, inverse_depth, radii))  # type: ignore[return-value]


@contextlib.contextmanager
def threads() -> Iterator[None]:
    """Give the kernels as many threads as torch uses, one caller at a time."""
    with _one_at_a_time:
        before = numba.get_num_threads()
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        try:
            yield
        finally:
            numba.set_num_threads(before)


@dataclass(frozen=True)
class Lists:
    """T frames of N projected splats, and the splats of every tile."""

    records: np.ndarray  # [T, N, RECORD] float32
    boxes: np.ndarray  # [T, N, 4] uint16: first column and row of the tiles, and one past the last ones
    order: np.ndarray  # [L] int32 splats, tile after tile, nearest first
    starts: np.ndarray  # [T, tiles + 1] int64 into `order`


def prepare(
    means, quats, scales, opacities, viewmats, lens, width, height, scale_modifier, antialias, radii
):  # fmt: skip
    """Return the `Lists` of the given frames; `radii` [T, N] is filled."""
    T, N = radii.shape
    columns, rows = -(-width // TILE), -(-height // TILE)
    records = torch.empty((T, N, RECORD)).numpy()  # torch aligns to cache lines
    boxes = np.empty((T, N, 4), np.uint16)
    depths = np.empty((T, N), f32)
    _project(
        means, quats, scales, opacities, viewmats, lens, width, height, scale_modifier, antialias,
        records, boxes, depths, radii,
    )  # fmt: skip
    starts = np.empty((T, columns * rows + 1), np.int64)
    return Lists(records, boxes, _bucket(boxes, depths.view(u32), columns, rows, starts), starts)


def draw(lists, features, backdrop, image, alpha, inverse_depth):
    """Draw the given frames into `image`, `alpha`, `inverse_depth`."""
    columns = -(-image.shape[-1] // TILE)
    _draw(
        lists.records, features, backdrop, lists.order, lists.starts, schedule(lists.starts), columns,
        image, alpha, inverse_depth,
    )  # fmt: skip


def schedule(starts):
    """Return every (frame, tile) number once, in an order in which the threads' contiguous shares cost alike."""
    heavy_first = np.argsort(-np.diff(starts, axis=1).ravel(), kind="stable")
    threads = numba.get_num_threads()
    return np.concatenate([heavy_first[k::threads] for k in range(threads)])


# ---------------------------------------------------------------------------------------------------- 1. projection


@cached_njit(parallel=True, error_model="numpy")
def _project(
    means, quats, scales, opacities, viewmats, lens, width, height, scale_modifier, antialias,
    records, boxes, depths, radii,
):  # fmt: skip
    """Compute, per splat: record, box of tiles (x0, y0, x1, y1; empty if it adds nothing), depth, radius."""
    T, N = radii.shape
    blocks = (N + BLOCK - 1) // BLOCK
    for job in prange(T * blocks):
        t, first = job // blocks, (job % blocks) * BLOCK
        clip = np.empty((2, 4), f32)
        for k in range(4):
            clip[0, k] = viewmats[t, 0, k] * (f32(2) * lens[0] / f32(width))
            clip[1, k] = viewmats[t, 1, k] * (f32(2) * lens[1] / f32(height))
        for n in range(first, min(N, first + BLOCK)):
            for k in range(4):
                boxes[t, n, k] = 0
            radii[t, n] = 0
            depths[t, n] = 0
            _project_one(
                t, n, means, quats, scales, opacities, viewmats, clip, lens, width, height, scale_modifier, antialias,
                records, boxes, depths, radii,
            )  # fmt: skip


@cached_njit(error_model="numpy")
def _project_one(
    t, n, means, quats, scales, opacities, viewmats, clip, lens, width, height, scale_modifier, antialias,
    records, boxes, depths, radii,
):  # fmt: skip
    """Compute the numbers of `rasterize_torch.project` for one splat; a culled one is left unchanged."""
    x, y, z = means[t, n, 0], means[t, n, 1], means[t, n, 2]
    r00, r01, r02, r03 = viewmats[t, 0, 0], viewmats[t, 0, 1], viewmats[t, 0, 2], viewmats[t, 0, 3]
    r10, r11, r12, r13 = viewmats[t, 1, 0], viewmats[t, 1, 1], viewmats[t, 1, 2], viewmats[t, 1, 3]
    r20, r21, r22, r23 = viewmats[t, 2, 0], viewmats[t, 2, 1], viewmats[t, 2, 2], viewmats[t, 2, 3]
    cam_z = _affine(x, y, z, r20, r21, r22, r23)
    if not cam_z > f32(NEAR):
        return
    cam_x, cam_y = _affine(x, y, z, r00, r01, r02, r03), _affine(x, y, z, r10, r11, r12, r13)
    w = f32(1) / (cam_z + f32(1e-7))
    ndc_x = _affine(x, y, z, clip[0, 0], clip[0, 1], clip[0, 2], clip[0, 3]) * w
    ndc_y = _affine(x, y, z, clip[1, 0], clip[1, 1], clip[1, 2], clip[1, 3]) * w
    px = f32(0.5) * ((ndc_x + f32(1)) * f32(width) - f32(1)) + (lens[2] - f32((width - 1) / 2))
    py = f32(0.5) * ((ndc_y + f32(1)) * f32(height) - f32(1)) + (lens[3] - f32((height - 1) / 2))

    # A = J W R S in double: (ux, uy, uz) and (vx, vy, vz) are the rows of J W; m are the entries of R.
    fx, fy, depth = f64(lens[0]), f64(lens[1]), f64(cam_z)
    limit_x, limit_y = FRUSTUM_MARGIN * width / (2 * fx), FRUSTUM_MARGIN * height / (2 * fy)
    middle_x, middle_y = ((width - 1) / 2 - f64(lens[2])) / fx, ((height - 1) / 2 - f64(lens[3])) / fy
    slope_x = min(max(f64(cam_x / cam_z), middle_x - limit_x), middle_x + limit_x)
    slope_y = min(max(f64(cam_y / cam_z), middle_y - limit_y), middle_y + limit_y)
    gx, gy = fx / depth, fy / depth
    ux, uy, uz = gx * (r00 - slope_x * r20), gx * (r01 - slope_x * r21), gx * (r02 - slope_x * r22)
    vx, vy, vz = gy * (r10 - slope_y * r20), gy * (r11 - slope_y * r21), gy * (r12 - slope_y * r22)
    qw, qx, qy, qz = f64(quats[t, n, 0]), f64(quats[t, n, 1]), f64(quats[t, n, 2]), f64(quats[t, n, 3])
    m00, m01, m02 = 1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy - qw * qz), 2 * (qx * qz + qw * qy)
    m10, m11, m12 = 2 * (qx * qy + qw * qz), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz - qw * qx)
    m20, m21, m22 = 2 * (qx * qz - qw * qy), 2 * (qy * qz + qw * qx), 1 - 2 * (qx * qx + qy * qy)
    sx, sy = f64(scales[t, n, 0] * scale_modifier), f64(scales[t, n, 1] * scale_modifier)
    sz = f64(scales[t, n, 2] * scale_modifier)
    a0, b0 = sx * (ux * m00 + uy * m10 + uz * m20), sx * (vx * m00 + vy * m10 + vz * m20)
    a1, b1 = sy * (ux * m01 + uy * m11 + uz * m21), sy * (vx * m01 + vy * m11 + vz * m21)
    a2, b2 = sz * (ux * m02 + uy * m12 + uz * m22), sz * (vx * m02 + vy * m12 + vz * m22)
    xx, xy, yy = a0 * a0 + a1 * a1 + a2 * a2, a0 * b0 + a1 * b1 + a2 * b2, b0 * b0 + b1 * b1 + b2 * b2
    det_thin = xx * yy - xy * xy
    xx, yy = xx + LOW_PASS, yy + LOW_PASS
    det = xx * yy - xy * xy
    half_trace = 0.5 * (xx + yy)
    reach = f32(np.ceil(3.0 * math.sqrt(half_trace + math.sqrt(max(MIN_EIGEN_GAP, half_trace * half_trace - det)))))
    if det == 0 or not (math.isfinite(det) and reach < RADIUS_LIMIT and math.isfinite(px) and math.isfinite(py)):
        return

    columns, rows = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    x0, x1 = _tiles(px - reach, columns), _tiles(px + reach + f32(TILE - 1), columns)
    y0, y1 = _tiles(py - reach, rows), _tiles(py + reach + f32(TILE - 1), rows)
    if x1 <= x0 or y1 <= y0:
        return
    radii[t, n] = i32(reach)
    depths[t, n] = cam_z
    opacity = opacities[n]
    if antialias:
        opacity = opacity * f32(math.sqrt(max(MIN_COVERAGE, det_thin / det)))

    # alpha >= 1/255 needs power >= -ln(255 opacity). Drawing evaluates power in float32 with a relative error of at
    # most 1.4e-6 q (roundings of 6e-8, amplified by the cancellation q in the quadratic form); the bound allows more.
    q = xx * yy / det
    bound = math.log(max(f64(opacity) / ALPHA_MIN, 1e-30)) * (1 + 4e-6 * q) + 0.01
    if bound < 0:
        return  # too faint for any pixel
    if 0 < q < 1e5:
        reach_x, reach_y, slope, aspect = (
            math.sqrt(2 * bound * xx),
            math.sqrt(2 * bound * yy),
            xy / yy,
            math.sqrt(det) / yy,
        )
    else:  # nearly a line: trust no bound
        reach_x, reach_y, slope, aspect = np.inf, np.inf, 0.0, 1.0
    if px + reach_x < 0 or py + reach_y < 0:
        return
    boxes[t, n, 0], boxes[t, n, 2] = (
        max(x0, _tiles(f32(px - reach_x), columns)),
        min(x1, _tiles(f32(px + reach_x), columns - 1) + 1),
    )
    boxes[t, n, 1], boxes[t, n, 3] = (
        max(y0, _tiles(f32(py - reach_y), rows)),
        min(y1, _tiles(f32(py + reach_y), rows - 1) + 1),
    )
    records[t, n, PX], records[t, n, PY] = px, py
    records[t, n, CONIC_A], records[t, n, CONIC_B], records[t, n, CONIC_C] = yy / det, -xy / det, xx / det
    records[t, n, OPACITY], records[t, n, INV_Z] = opacity, f32(1) / cam_z
    records[t, n, REACH_Y], records[t, n, SLOPE], records[t, n, ASPECT] = reach_y, slope, aspect


@cached_njit()
def _affine(x, y, z, a, b, c, d):
    """Return (a, b, c, d) . (x, y, z, 1), rounded as `rasterize_torch.affine` does."""
    inner = f32(f64(x) * f64(a) + f64(y * b))
    return f32(f64(z) * f64(c) + f64(inner)) + d


@cached_njit()
def _tiles(pixel, most):
    """Return pixel / TILE truncated to a whole number in 0..most, without overflow for any distance."""
    return int(min(max(pixel / f32(TILE), f32(0)), f32(most)))


# ------------------------------------------------------------------------------------------- 2. order and tile lists


@cached_njit(parallel=True)
def _bucket(boxes, keys, columns, rows, starts):
    """Return splat numbers [M] int32, tile after tile, nearest first; `starts` [T, tiles + 1] are the tiles' offsets.

    keys: the depths' float bits, which sort like the depths because these are positive.
    """
    T, N = keys.shape
    tiles = columns * rows
    for t in prange(T):
        counts = starts[t]
        counts[:] = 0
        for n in range(N):
            for y in range(boxes[t, n, 1], boxes[t, n, 3]):
                for x in range(boxes[t, n, 0], boxes[t, n, 2]):
                    counts[y * columns + x + 1] += 1
    total = 0
    for t in range(T):
        starts[t, 0] = total
        for tile in range(tiles):
            starts[t, tile + 1] += starts[t, tile]
        total = starts[t, tiles]

    lists = np.empty(total, i32)
    for t in prange(T):
        order = _nearest_first(boxes[t], keys[t])
        cursor = starts[t, :tiles].copy()
        for n in order:
            for y in range(boxes[t, n, 1], boxes[t, n, 3]):
                for x in range(boxes[t, n, 0], boxes[t, n, 2]):
                    tile = y * columns + x
                    lists[cursor[tile]] = n
                    cursor[tile] += 1
    return lists


@cached_njit()
def _nearest_first(boxes, keys):
    """Return numbers of the splats with a tile, by key, equal keys by number: least-digit-first radix sort."""
    N = keys.shape[0]
    order = np.empty(N, i32)
    count = 0
    low, high = u32(0xFFFFFFFF), u32(0)
    for n in range(N):
        if boxes[n, 2] > boxes[n, 0]:
            order[count] = n
            count += 1
            low, high = min(low, keys[n]), max(high, keys[n])
    order = order[:count]
    other = np.empty_like(order)
    shift = 0
    while count > 0 and (np.uint64(high - low) >> np.uint64(shift)) > 0:
        histogram = np.zeros((1 << RADIX_BITS) + 1, np.int64)
        mask = u32((1 << RADIX_BITS) - 1)
        for n in order:
            histogram[((keys[n] - low) >> u32(shift) & mask) + 1] += 1
        for digit in range(1 << RADIX_BITS):
            histogram[digit + 1] += histogram[digit]
        for n in order:
            digit = (keys[n] - low) >> u32(shift) & mask
            other[histogram[digit]] = n
            histogram[digit] += 1
        order, other = other, order
        shift += RADIX_BITS
    return order


# -------------------------------------------------------------------------------------------------------- 3. drawing


@cached_njit(parallel=True)
def _draw(records, features, backdrop, lists, starts, schedule, columns, image, alpha, inverse_depth):
    tiles = starts.shape[1] - 1
    for job in prange(schedule.shape[0]):
        t, tile = schedule[job] // tiles, schedule[job] % tiles
        _draw_tile(
            t, records, features, backdrop, lists, starts[t, tile], starts[t, tile + 1],
            (tile % columns) * TILE, (tile // columns) * TILE, image, alpha, inverse_depth,
        )  # fmt: skip


@cached_njit(fastmath={"contract"}, error_model="numpy")
def _draw_tile(  # noqa: C901 - one compiled loop
    t, records, features, backdrop, lists, begin, end, left, top, image, alpha, inverse_depth
):
    C, height, width = image.shape[1:]
    w_tile, h_tile = min(TILE, width - left), min(TILE, height - top)
    if begin == end:
        for c in range(C):
            for y in range(top, top + h_tile):
                for x in range(left, left + w_tile):
                    image[t, c, y, x] = backdrop[c]
        for y in range(top, top + h_tile):
            for x in range(left, left + w_tile):
                alpha[t, 0, y, x] = 0
                inverse_depth[t, 0, y, x] = 0
        return

    colors = np.zeros((PIXELS, C), f32)
    rows = np.zeros(PIXELS * 4, f32)
    row_open = np.zeros(TILE, np.bool_)
    for y in range(h_tile):
        row_open[y] = True
        for x in range(TILE):
            rows[y * ROW + LIVE + x] = 1 if x < w_tile else 0
            rows[y * ROW + FINAL + x] = 1
    splats, colored = np.empty((BATCH, USED), f32), np.empty((BATCH, C), f32)

    for entry in range(begin, end, BATCH):
        size = min(BATCH, end - entry)
        for k in range(size):
            n = lists[entry + k]
            for column in range(USED):
                splats[k, column] = records[t, n, column]
            for channel in range(C):
                colored[k, channel] = features[n, channel]
        for k in range(size):
            px, py, reach = splats[k, PX] - f32(left), splats[k, PY] - f32(top), splats[k, REACH_Y]
            a, b, c, opacity, inv_z = (
                splats[k, CONIC_A], splats[k, CONIC_B], splats[k, CONIC_C], splats[k, OPACITY], splats[k, INV_Z]
            )  # fmt: skip
            # np.ceil and np.floor stay floats: math's would overflow an integer where the reach is infinite.
            first_row = int(max(np.ceil(py - reach), f32(0)))
            last_row = int(min(np.floor(py + reach), f32(h_tile - 1)))
            for y in range(first_row, last_row + 1):
                if not row_open[y]:
                    continue
                dy = py - f32(y)
                middle = px - splats[k, SLOPE] * dy
                half = splats[k, ASPECT] * math.sqrt(max(reach * reach - dy * dy, f32(0)))
                first = int(max(np.ceil(middle - half), f32(0)))
                last = int(min(np.floor(middle + half), f32(TILE - 1)))
                if first > last:
                    continue
                _row(rows, y * ROW, a, b, c, opacity, inv_z, px, dy)
                for x in range(first, last + 1):
                    weight = rows[y * ROW + WEIGHT + x]
                    pixel = u64(y * TILE + x)  # unsigned: no test for a negative index in the innermost loop
                    for channel in range(C):
                        colors[pixel, u64(channel)] += weight * colored[u64(k), u64(channel)]
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

    for c in range(C):
        for y in range(h_tile):
            for x in range(w_tile):
                image[t, c, top + y, left + x] = colors[y * TILE + x, c] + rows[y * ROW + FINAL + x] * backdrop[c]
    for y in range(h_tile):
        for x in range(w_tile):
            alpha[t, 0, top + y, left + x] = f32(1) - rows[y * ROW + FINAL + x]
            inverse_depth[t, 0, top + y, left + x] = rows[y * ROW + INVERSE + x]


@cached_njit(error_model="numpy")
def _row(rows, start, a, b, c, opacity, inv_z, px, dy):
    """Apply one splat to one row of a tile: compute its weights, and update the row.

    `rows` from `start` holds the row's LIVE, FINAL, INVERSE and WEIGHT, 16 numbers each. Two plain loops over one array
    at unsigned constant offsets: LLVM vectorises this form.
    """
    at = u64(start)
    cyy = c * dy * dy
    for x in range(TILE):
        dx = px - f32(x)
        power = f32(-0.5) * (a * dx * dx + cyy) - b * dx * dy
        opaque = opacity * exp_float32(power)
        opaque = opaque if opaque < f32(ALPHA_MAX) else f32(ALPHA_MAX)
        counts = (power <= f32(0)) & (opaque >= f32(ALPHA_MIN))
        rows[at + u64(WEIGHT) + u64(x)] = opaque if counts else f32(0)

    for x in range(TILE):
        opaque = rows[at + u64(WEIGHT) + u64(x)]
        before = rows[at + u64(LIVE) + u64(x)]
        final = rows[at + u64(FINAL) + u64(x)]
        after = before * (f32(1) - opaque)
        ends = after < f32(TRANSMITTANCE_MIN)  # now, or long ago: then before is 0
        weight = f32(0) if ends else opaque * before
        after = f32(0) if ends else after
        rows[at + u64(LIVE) + u64(x)] = after
        rows[at + u64(FINAL) + u64(x)] = final if ends else after
        rows[at + u64(INVERSE) + u64(x)] += weight * inv_z
        rows[at + u64(WEIGHT) + u64(x)] = weight


@cached_njit(fastmath={"contract"})
def exp_float32(x):
    """Return e^x of a float32 x <= 0 to 1.5 units in the last place, in operations that vectorise 8 or 16 wide.

    x = n ln 2 + r, |r| <= ln 2 / 2; e^r by its series to r^7 (the rest is under 6e-9), 2^n through the exponent bits.
    """
    x = max(x, f32(-87))
    n = x * f32(1.44269504) + f32(12582912)  # 1.5 * 2^23: adding it rounds to a whole number
    n = n - f32(12582912)
    r = (x - n * f32(0.693359375)) + n * f32(2.12194440e-4)  # ln 2 in two parts, the first with few bits
    e = f32(1 / 5040)
    e = e * r + f32(1 / 720)
    e = e * r + f32(1 / 120)
    e = e * r + f32(1 / 24)
    e = e * r + f32(1 / 6)
    e = e * r + f32(1 / 2)
    e = e * r + f32(1)
    e = e * r + f32(1)
    return e * i32((i32(n) + i32(127)) << i32(23)).view(f32)
