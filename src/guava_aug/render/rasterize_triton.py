"""The Gaussian rasteriser on a GPU: many frames in five steps, without nvcc.

1. `_project`: every Gaussian of every frame becomes a record of eight numbers, a depth key, and the cells (8 x 8
   pixels of a 16 x 16 tile) it can be visible in, a bit each: an exact ellipse against box test inside the rule's
   tiles.
2. One radix sort of (frame, depth) orders all Gaussians of the batch.
3. `_emit`: in that order every Gaussian writes its patches of 4 x 4 cells, with the bits of each. A stable sort by
   patch, of 16 bits where they suffice, gives the lists of all patches, nearest first.
4. `_deal`: four programs per patch, one for each row of its cells, distribute its list to the cells, in two passes,
   one that counts and one that writes. So only a third of the entries of the cells' lists is sorted.
5. `_blend`: one program per cell processes CHUNK splats at a time: alphas [CHUNK, pixels], transmittance by a scan
   along the chunk, features by a matrix product weights [pixels, CHUNK] x features [CHUNK, C] on tensor cores. Alpha
   and inverse depth come out of the same pass, and a cell ends when nothing behind it is visible.

The rules are those of `rasterize_torch`, with the same rounding where it is visible. Source: as there; the matrix
product form is ours.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from guava_aug.render.rasterize_torch import FRUSTUM_MARGIN, TILE

_BATCH = 32  # frames in one sort: five bits of frame and 27 of depth (those above NEAR: exact up to 13 km) are a key
_BLOCK, _BLOCK_WARPS = 32, 1  # Gaussians per program
_CELL_WIDTH, _CELL_HEIGHT = 8, 8  # pixels one program blends: a part of a tile, so that fewer splats miss it
_DEAL = 128  # entries of a patch's list at a time: fewer than the 256 that 8 bits count
_NARROW = 2**16  # numbers of patches that 16 bits tell apart
_CHUNK = 16
_REGISTERS = {"maxnreg": 128} if torch.version.hip is None else {}  # of a thread that blends: 16 warps on a processor
_PTX = tl.constexpr(torch.version.hip is None and os.environ.get("TRITON_INTERPRET") != "1")
_ONE = 4.0  # transmittance of nothing, for the weights of float32 pictures: small ones stay normal float16 numbers
_EXPONENT = 14  # of a channel's largest feature then
_RECORD = 8  # centre x, y, quadratic form xx, xy, yy, the power of two at which alpha falls to 1/255, 1 / depth, unused


@dataclass(frozen=True)
class Drawn:
    """T frames as the kernels write them."""

    image: Tensor  # [T, C, H, W]; channels last in memory if requested
    alpha: Tensor  # [T, 1, H, W] float32
    inverse_depth: Tensor | None  # [T, 1, H, W] float32
    radii: Tensor | None  # [T, N] int32


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
    black: bool = False,  # the background, known without synchronisation
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return image [T,C,H,W], alpha [T,1,H,W], inverse_depth [T,1,H,W], radii [T,N] int32; arguments as `rasterize`."""
    C = features.shape[1]
    if scale_modifier != 1:
        scales = scales * scale_modifier
    drawn = draw(
        means, quats, scales, opacities, _pad_channels(features), viewmats, K, width, height, antialias=antialias,
        depth=True, radii=True,
    )  # fmt: skip
    assert drawn.inverse_depth is not None and drawn.radii is not None
    image = drawn.image[:, :C].contiguous()
    if not black:
        image = image + (1 - drawn.alpha) * background[:, None, None]
    return image, drawn.alpha, drawn.inverse_depth, drawn.radii


def draw(
    means: Tensor,  # [T, N, 3]
    quats: Tensor,  # [T, N, 4]
    scales: Tensor,  # [T, N, 3]
    opacities: Tensor,  # [N]
    features: Tensor,  # [N, C] float32 or float16, C a power of two of at least 16
    viewmats: Tensor,  # [T, 4, 4]
    K: Tensor,  # [3, 3]; on the CPU there is no wait for the device
    width: int,
    height: int,
    *,
    antialias: bool = False,
    depth: bool = False,
    radii: bool = False,
    channels_last: bool = False,
    bias: Tensor | None = None,
    out: Tensor | None = None,  # [T, C, H, W] to draw into
) -> Drawn:
    """Return T frames over black, without any check of the values.

    float16 features are multiplied in half precision, added in float32 and written as float16; float32 ones become two
    float16 numbers each (22 bits), take three such products, and are written as float32. With `bias` [C] the image is a
    layer's output: the leaky ReLU (0.2) of the image plus bias.
    """
    with torch.cuda.device_of(means):  # kernels run on the current device
        frames = [
            _draw_batch(
                means[s], quats[s], scales[s], opacities, features, viewmats[s], K, width, height, antialias, depth,
                radii, channels_last, bias, None if out is None else out[s],
            )
            for s in (slice(a, a + _BATCH) for a in range(0, len(means), _BATCH))
        ]  # fmt: skip
    if len(frames) == 1:
        return frames[0]

    def join(name: str) -> Tensor | None:
        if name == "image" and out is not None:
            return out
        return None if getattr(frames[0], name) is None else torch.cat([getattr(f, name) for f in frames])

    if not frames:
        return Drawn(
            features.new_empty(0, features.shape[1], height, width), means.new_empty(0, 1, height, width),
            means.new_empty(0, 1, height, width), torch.empty(means.shape[:2], dtype=torch.int32, device=means.device),
        )  # fmt: skip
    return Drawn(join("image"), join("alpha"), join("inverse_depth"), join("radii"))  # type: ignore[arg-type]


def _draw_batch(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, features: Tensor, viewmats: Tensor, K: Tensor,
    width: int, height: int, antialias: bool, depth: bool, radii: bool, channels_last: bool,
    bias: Tensor | None, out: Tensor | None,
) -> Drawn:  # fmt: skip
    T, N, _ = means.shape
    C = features.shape[1]
    device = means.device
    columns, rows = -(-width // TILE), -(-height // TILE)
    across, down = -(-width // _CELL_WIDTH), -(-height // _CELL_HEIGHT)
    cells = across * down
    fx, fy, cx, cy = (float(v) for v in (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))

    empty = lambda *shape, dtype=torch.float32: torch.empty(*shape, dtype=dtype, device=device)
    records = empty(T, N + 1, _RECORD)  # the last: of a Gaussian that is not there, which fills up lists
    keys, counts, sizes = (empty(T, N, dtype=torch.int32) for _ in range(3))
    boxes = empty(T, N, 2, dtype=torch.int64)
    seen = empty(T, N, dtype=torch.int32) if radii else counts
    _project[(triton.cdiv(N + 1, _BLOCK), T)](
        means.contiguous(), quats.contiguous(), scales.contiguous(), opacities.contiguous(),
        viewmats.float().contiguous(), records, keys, counts, sizes, boxes, seen, N, 2 * fx / width, 2 * fy / height,
        fx, fy, cx - (width - 1) / 2, cy - (height - 1) / 2, FRUSTUM_MARGIN * width / (2 * fx),
        FRUSTUM_MARGIN * height / (2 * fy), width, height, columns, rows, across, down,
        ANTIALIAS=antialias, RADII=radii, CW=_CELL_WIDTH, CH=_CELL_HEIGHT, BLOCK=_BLOCK, num_warps=_BLOCK_WARPS,
    )  # fmt: skip

    order = torch.sort(keys.flatten(), stable=True).indices  # nearest first, frame by frame; equal depths by index
    ends = torch.cumsum(counts.flatten()[order], 0, dtype=torch.int64)
    # lists by patch: groups of frames whose patches have 16-bit numbers, for such keys sort in half the passes
    patches_across = -(-across // 4)
    patches = patches_across * -(-down // 4)
    group = max(1, min(T, _NARROW // patches))
    narrow = group * patches <= _NARROW
    offset, kind = (2**15, torch.int16) if narrow else (0, torch.int32)
    numbers = (torch.arange(group * patches, device=device) - offset).to(kind)
    half = features.dtype == torch.float16
    packed, unit = (features, features) if half else _split(features)
    packed = torch.cat([packed, packed.new_zeros(1, *packed.shape[1:])])
    starts, lengths = (torch.zeros(T * cells, dtype=torch.int32, device=device) for _ in range(2))
    ends_of_frames = ends.view(T, N)[:, -1] if N else ends.new_zeros(T)
    most, *totals = torch.cat([sizes.sum(dtype=torch.int64)[None], ends_of_frames]).tolist()  # the only synchronisation
    total = totals[-1]
    patch_of, entries = empty(total, dtype=kind), empty(total, dtype=torch.int64)
    # lists are of whole chunks; large splats have room for all cells of their boxes, of which thin ones need few
    owner = empty(most + T * cells * (_CHUNK - 1), dtype=torch.int32)
    cursor = torch.zeros(1, dtype=torch.int32, device=device)
    if total:
        _emit[(triton.cdiv(T * N, _BLOCK),)](
            order, ends, records, boxes, patch_of, entries, N, T * N, patches_across, patches, group, offset,
            CW=_CELL_WIDTH, CH=_CELL_HEIGHT, BLOCK=_BLOCK, num_warps=_BLOCK_WARPS,
        )  # fmt: skip
        for a in range(0, T, group):
            b = min(a + group, T)
            s = slice(totals[a - 1] if a else 0, totals[b - 1])
            ordered, pick = torch.sort(patch_of[s], stable=True)
            found = torch.searchsorted(ordered, numbers[: (b - a) * patches])
            listed = entries[s].index_select(0, pick)
            _deal[((b - a) * patches, 4)](
                found, listed, owner, cursor, starts[a * cells :], lengths[a * cells :], N, len(listed),
                (b - a) * patches, across, down, cells, patches_across, patches, CHUNK=_CHUNK, BLOCK=_DEAL, num_warps=1,
            )  # fmt: skip

    memory = torch.channels_last if channels_last else torch.contiguous_format
    image = out
    if image is None:
        image = torch.empty(T, C, height, width, dtype=features.dtype, device=device, memory_format=memory)
    alpha = empty(T, 1, height, width)
    inverse = empty(T, 1, height, width) if depth else alpha
    parts = 1 if half else 2  # programs of a cell: of 64 pixels and 32 channels, one would need too many registers
    _blend[(T * cells * parts,)](
        owner, starts, lengths, records.view(torch.int64), packed, packed if bias is None else bias, unit, image, alpha,
        inverse, N, width, height, across, cells, *image.stride(), C=C, CHUNK=_CHUNK, DEPTH=depth, HALF=half,
        CW=_CELL_WIDTH, CH=_CELL_HEIGHT, PARTS=parts, LRELU=bias is not None, ONE=1.0 if half else _ONE, num_warps=1,
        **_REGISTERS,
    )  # fmt: skip
    return Drawn(image, alpha, inverse if depth else None, seen if radii else None)


def _split(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return float16 [N, 2, C]: each number as a sum of two, exact to 22 bits; and the units [C] of the blended values.

    Channels are scaled by powers of two such that the second part is not denormal.
    """
    largest = features.abs().nan_to_num(0, 0, 0).amax(0) if len(features) else features.new_zeros(features.shape[1])
    exponent = (_EXPONENT - torch.frexp(largest).exponent).clamp(max=100)  # powers of two that float32 has
    scaled = torch.ldexp(features, exponent)
    high = scaled.half()
    return torch.stack([high, (scaled - high).half()], 1), torch.ldexp(torch.ones_like(largest), -exponent)


def _pad_channels(features: Tensor) -> Tensor:
    C = features.shape[1]
    wanted = max(16, 1 << (C - 1).bit_length())
    return features if wanted == C else torch.nn.functional.pad(features, (0, wanted - C))


@triton.jit
def _row(at, scale, x, y, z):
    """Return a row of the camera times a scale, applied to (x, y, z, 1), rounded as `rasterize_torch.affine`."""
    a, b, c = tl.load(at) * scale, tl.load(at + 1) * scale, tl.load(at + 2) * scale
    d = tl.fma(tl.load(at + 3), scale, 0.0)  # a plain product would become one rounding with the sum
    return tl.fma(z, c, tl.fma(x, a, y * b)) + d


@triton.jit
def _nearest_power(x0, y0, cx, cy, a, b, c, CW: tl.constexpr, CH: tl.constexpr):
    """Return the least quadratic form over the pixels of the cell at (x0, y0), and a bound of its rounding error."""
    left, right = x0 - cx, x0 + (CW - 1.0) - cx
    top, bottom = y0 - cy, y0 + (CH - 1.0) - cy
    ex = tl.where(left > 0, left, tl.where(right < 0, right, 0.0))  # the edges towards the centre, 0: none
    ey = tl.where(top > 0, top, tl.where(bottom < 0, bottom, 0.0))
    vy = tl.minimum(tl.maximum(-0.5 * b * ex / c, top), bottom)
    vx = tl.minimum(tl.maximum(-0.5 * b * ey / a, left), right)
    on_x = (a * ex + b * vy) * ex + c * vy * vy
    on_y = (a * vx + b * ey) * vx + c * ey * ey
    far = 3.0e38
    least = tl.minimum(tl.where(ex != 0, on_x, far), tl.where(ey != 0, on_y, far))
    inside = (ex == 0) & (ey == 0)
    slack = 0.01 + 1e-5 * (a * (ex * ex + vx * vx) + c * (ey * ey + vy * vy))
    return tl.where(inside, 0.0, least), slack


@triton.jit
def _project(
    means, quats, scales, opacities, viewmats, records, keys, counts, sizes, boxes, radii_out, N, to_unit_x, to_unit_y,
    fx, fy, shift_x, shift_y, limit_x, limit_y, width, height, columns, rows, across, down, ANTIALIAS: tl.constexpr,
    RADII: tl.constexpr, CW: tl.constexpr, CH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = n < N
    g = t * N + n
    m = means + g * 3
    x, y, z3 = tl.load(m, live, 0.0), tl.load(m + 1, live, 0.0), tl.load(m + 2, live, 0.0)
    r = viewmats + t * 16
    z = _row(r + 8, 1.0, x, y, z3)
    in_front = z > 0.2
    z = tl.where(in_front, z, 1.0)
    w = tl.div_rn(z * 0 + 1.0, z + 1e-7)
    cx = 0.5 * ((_row(r, to_unit_x, x, y, z3) * w + 1.0) * width - 1.0) + shift_x
    cy = 0.5 * ((_row(r + 4, to_unit_y, x, y, z3) * w + 1.0) * height - 1.0) + shift_y

    # Sigma2D = A A^T with A = J W R S, in double: long thin splats cancel all but the last digits of the determinant
    depth = z.to(tl.float64)
    u = tl.div_rn(_row(r, 1.0, x, y, z3), z).to(tl.float64)
    v = tl.div_rn(_row(r + 4, 1.0, x, y, z3), z).to(tl.float64)
    u = tl.minimum(tl.maximum(u, -shift_x / fx - limit_x), limit_x - shift_x / fx)
    v = tl.minimum(tl.maximum(v, -shift_y / fy - limit_y), limit_y - shift_y / fy)
    jx, jy = fx / depth, fy / depth
    r00 = tl.load(r).to(tl.float64)
    r01 = tl.load(r + 1).to(tl.float64)
    r02 = tl.load(r + 2).to(tl.float64)
    r10 = tl.load(r + 4).to(tl.float64)
    r11 = tl.load(r + 4 + 1).to(tl.float64)
    r12 = tl.load(r + 4 + 2).to(tl.float64)
    r20 = tl.load(r + 8).to(tl.float64)
    r21 = tl.load(r + 8 + 1).to(tl.float64)
    r22 = tl.load(r + 8 + 2).to(tl.float64)
    ax, ay, az = jx * (r00 - u * r20), jx * (r01 - u * r21), jx * (r02 - u * r22)  # pixels per metre in the world
    bx, by, bz = jy * (r10 - v * r20), jy * (r11 - v * r21), jy * (r12 - v * r22)
    q = quats + g * 4
    qw = tl.load(q, live, 0.0).to(tl.float64)
    qx = tl.load(q + 1, live, 0.0).to(tl.float64)
    qy = tl.load(q + 2, live, 0.0).to(tl.float64)
    qz = tl.load(q + 3, live, 0.0).to(tl.float64)
    s = scales + g * 3
    s0 = tl.load(s, live, 0.0).to(tl.float64)
    s1 = tl.load(s + 1, live, 0.0).to(tl.float64)
    s2 = tl.load(s + 2, live, 0.0).to(tl.float64)
    m00, m01, m02 = 1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy - qw * qz), 2 * (qx * qz + qw * qy)
    m10, m11, m12 = 2 * (qx * qy + qw * qz), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz - qw * qx)
    m20, m21, m22 = 2 * (qx * qz - qw * qy), 2 * (qy * qz + qw * qx), 1 - 2 * (qx * qx + qy * qy)
    a0 = (ax * m00 + ay * m10 + az * m20) * s0
    a1 = (ax * m01 + ay * m11 + az * m21) * s1
    a2 = (ax * m02 + ay * m12 + az * m22) * s2
    b0 = (bx * m00 + by * m10 + bz * m20) * s0
    b1 = (bx * m01 + by * m11 + bz * m21) * s1
    b2 = (bx * m02 + by * m12 + bz * m22) * s2
    xx, xy, yy = a0 * a0 + a1 * a1 + a2 * a2, a0 * b0 + a1 * b1 + a2 * b2, b0 * b0 + b1 * b1 + b2 * b2
    thin = xx * yy - xy * xy
    xx += 0.3
    yy += 0.3
    det = xx * yy - xy * xy
    middle = 0.5 * (xx + yy)
    root = tl.sqrt(tl.maximum(middle * middle - det, 0.1))
    radius = tl.ceil(3.0 * tl.sqrt(middle + root)).to(tl.float32)

    opacity = tl.load(opacities + n, live, 0.0)
    finite = (tl.abs(cx) < 3.0e38) & (tl.abs(cy) < 3.0e38) & (tl.abs(det) < 1.0e300) & (radius < 1073741824.0)
    usable = live & in_front & finite & (det != 0)
    cx, cy, radius = tl.where(usable, cx, 0.0), tl.where(usable, cy, 0.0), tl.where(usable, radius, 0.0)
    x0 = tl.minimum(tl.maximum((cx - radius) / 16, 0.0), columns * 1.0).to(tl.int32)
    y0 = tl.minimum(tl.maximum((cy - radius) / 16, 0.0), rows * 1.0).to(tl.int32)
    x1 = tl.minimum(tl.maximum((cx + radius + 15) / 16, 0.0), columns * 1.0).to(tl.int32)
    y1 = tl.minimum(tl.maximum((cy + radius + 15) / 16, 0.0), rows * 1.0).to(tl.int32)
    usable = usable & (x1 > x0) & (y1 > y0)
    det = tl.where(usable, det, 1.0)
    if ANTIALIAS:
        opacity = opacity * tl.sqrt(tl.maximum(thin / det, 0.000025)).to(tl.float32)
    # alpha = opacity * 2 ** -(a dx^2 + b dx dy + c dy^2): the inverse covariance times log2(e), halved off the diagonal
    a = (0.7213475204444817 * yy / det).to(tl.float32)
    b = (-1.4426950408889634 * xy / det).to(tl.float32)
    c = (0.7213475204444817 * xx / det).to(tl.float32)

    # the power where alpha falls to 1/255; alpha is 2 ** (reach - power) / 255
    reach = tl.log2(255.0 * tl.maximum(opacity, 1e-30).to(tl.float64)).to(tl.float32)
    drawn = usable & (opacity > 0) & (reach >= 0)
    # the cells of the rule's tiles that the box around the visible ellipse meets
    extent_x = tl.sqrt(1.3862944 * tl.maximum(reach, 0.0) * tl.where(drawn, xx, 0.0).to(tl.float32)) * 1.001 + 0.1
    extent_y = tl.sqrt(1.3862944 * tl.maximum(reach, 0.0) * tl.where(drawn, yy, 0.0).to(tl.float32)) * 1.001 + 0.1
    far_x, far_y = across * CW + 0.0, down * CH + 0.0
    u0 = tl.maximum(x0 * (16 // CW), (tl.minimum(tl.maximum(cx - extent_x, 0.0), far_x) / CW).to(tl.int32))
    v0 = tl.maximum(y0 * (16 // CH), (tl.minimum(tl.maximum(cy - extent_y, 0.0), far_y) / CH).to(tl.int32))
    u1 = tl.minimum(x1 * (16 // CW), (tl.minimum(tl.maximum(cx + extent_x, -CW), far_x) / CW).to(tl.int32) + 1)
    v1 = tl.minimum(y1 * (16 // CH), (tl.minimum(tl.maximum(cy + extent_y, -CH), far_y) / CH).to(tl.int32) + 1)
    u1, v1 = tl.minimum(u1, across), tl.minimum(v1, down)
    wide, tall = tl.maximum(u1 - u0, 0), tl.maximum(v1 - v0, 0)
    size = tl.where(drawn, wide * tall, 0)
    wide = tl.maximum(wide, 1)
    patch_x, patch_y = u0 // 4, v0 // 4
    patches_wide, patches_tall = (u0 + wide - 1) // 4 - patch_x + 1, (v1 - 1) // 4 - patch_y + 1
    small = (patches_wide <= 2) & (patches_tall <= 2)
    hits = tl.zeros([BLOCK], tl.int64)  # 16 bits for each of four patches
    tested = tl.where(small, size, 0)
    k = 0
    most = tl.max(tested, 0)
    while k < most:
        i, j = u0 + k % wide, v0 + k // wide
        least, slack = _nearest_power((i * CW).to(tl.float32), (j * CH).to(tl.float32), cx, cy, a, b, c, CW, CH)
        hit = (k < tested) & (least <= reach + slack)
        bit = ((j // 4 - patch_y) * 2 + i // 4 - patch_x) * 16 + j % 4 * 4 + i % 4
        hits |= hit.to(tl.int64) << tl.where(hit, bit, 0).to(tl.int64)
        size -= ((k < tested) & ~hit).to(tl.int32)
        k += 1
    count = tl.zeros([BLOCK], tl.int32)
    for i in range(4):
        count += (((hits >> (16 * i)) & 0xFFFF) != 0).to(tl.int32)
    count = tl.where(small, count, tl.where(size > 0, patches_wide * patches_tall, 0))

    at = records + (g + t) * 8
    there = n <= N  # N: nothing, far from all pixels
    tl.store(at, tl.where(live, cx, -1.0e6), there)
    tl.store(at + 1, cy, there)
    tl.store(at + 2, a, there)
    tl.store(at + 3, b, there)
    tl.store(at + 4, c, there)
    tl.store(at + 5, tl.maximum(reach, 0.0), there)
    tl.store(at + 6, tl.div_rn(z * 0 + 1.0, z), there)
    bits = z.to(tl.int32, bitcast=True) - 0x3E4CCCCD  # of 0.2
    bits = tl.where(count > 0, tl.minimum(tl.maximum(bits, 0), 0x7FFFFFF), 0x7FFFFFF)
    key = (t << 27) + bits.to(tl.int64) - 2147483648
    tl.store(keys + g, key.to(tl.int32), live)
    tl.store(counts + g, count, live)
    tl.store(sizes + g, size, live)
    v1 = tl.maximum(v0, v1)
    box = u0.to(tl.int64) | (v0.to(tl.int64) << 16) | ((u0 + wide).to(tl.int64) << 32) | (v1.to(tl.int64) << 48)
    tl.store(boxes + g * 2, box, live)
    tl.store(boxes + g * 2 + 1, hits, live)
    if RADII:
        tl.store(radii_out + g, tl.where(usable, radius, 0.0).to(tl.int32), live)


@triton.jit
def _emit(
    order, ends, records, boxes, patch_of, entries, N, total, across, patches, group, offset, CW: tl.constexpr,
    CH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = position < total
    g = tl.load(order + position, live, 0)
    end = tl.load(ends + position, live, 0)
    to = tl.load(ends + position - 1, live & (position > 0), 0)
    live = live & (end > to)
    box = tl.load(boxes + g * 2, live, 0)
    hits = tl.load(boxes + g * 2 + 1, live, 0)
    u0, v0 = (box & 0xFFFF).to(tl.int32), ((box >> 16) & 0xFFFF).to(tl.int32)
    u1, v1 = ((box >> 32) & 0xFFFF).to(tl.int32), ((box >> 48) & 0xFFFF).to(tl.int32)
    patch_x, patch_y = u0 // 4, v0 // 4
    wide, tall = (u1 - 1) // 4 - patch_x + 1, (v1 - 1) // 4 - patch_y + 1
    frame = g // N
    n = g - frame * N
    first = (frame % group).to(tl.int32) * patches - offset + patch_y * across + patch_x
    large = live & ((wide > 2) | (tall > 2))

    for i in range(4):
        cells = tl.where(large, 0, (hits >> (16 * i)) & 0xFFFF)
        takes = live & (cells != 0)
        tl.store(patch_of + to, (first + i // 2 * across + i % 2).to(patch_of.dtype.element_ty), takes)
        tl.store(entries + to, n | (cells << 32), takes)
        to += takes.to(tl.int64)

    size = tl.where(large, wide * tall, 0)
    most = tl.max(size, 0)
    if most > 0:  # these are tested here, and come in every patch of their box
        wide = tl.maximum(wide, 1)
        at = records + (g + frame) * 8
        cx, cy = tl.load(at, large, 0.0), tl.load(at + 1, large, 0.0)
        a, b, c = tl.load(at + 2, large, 1.0), tl.load(at + 3, large, 0.0), tl.load(at + 4, large, 1.0)
        reach = tl.load(at + 5, large, 0.0)
        k = 0
        while k < most:
            cells = tl.zeros([BLOCK], tl.int64)
            for i in range(16):
                u, v = (patch_x + k % wide) * 4 + i % 4, (patch_y + k // wide) * 4 + i // 4
                least, slack = _nearest_power((u * CW).to(tl.float32), (v * CH).to(tl.float32), cx, cy, a, b, c, CW, CH)
                hit = (u >= u0) & (u < u1) & (v >= v0) & (v < v1) & (least <= reach + slack)
                cells |= hit.to(tl.int64) << i
            takes = k < size
            tl.store(patch_of + to, (first + k // wide * across + k % wide).to(patch_of.dtype.element_ty), takes)
            tl.store(entries + to, n | (cells << 32), takes)
            to += takes.to(tl.int64)
            k += 1


@triton.jit
def _room(starts, lengths, to, inside, counted, base, CHUNK: tl.constexpr):
    """Store where the list of a cell is, in chunks; return where the next one is."""
    tl.store(starts + to, base, inside)
    tl.store(lengths + to, counted, inside)
    return base + (counted + CHUNK - 1) // CHUNK


@triton.jit
def _place(owner, n, bits, ranks, end, i: tl.constexpr):
    """Append the Gaussians of cell i to its list; return its new end."""
    tl.store(owner + end + ((ranks >> (8 * i)) & 0xFF) - 1, n, ((bits >> (8 * i)) & 1) != 0)
    return end + ((tl.sum(bits, 0) >> (8 * i)) & 0xFF)


@triton.jit
def _fill_up(owner, nothing, end, CHUNK: tl.constexpr):
    """Fill the last chunk of a list."""
    at = end + tl.arange(0, CHUNK)
    tl.store(owner + at, tl.zeros([CHUNK], tl.int32) + nothing, at < (end + CHUNK - 1) // CHUNK * CHUNK)


@triton.jit(do_not_specialize=["total"])
def _deal(
    found, listed, owner, cursor, starts, lengths, nothing, total, programs, across, down, cells, patches_across,
    patches, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program, row = tl.program_id(0), tl.program_id(1)
    begin = tl.load(found + program)
    end = tl.load(found + program + 1, program + 1 < programs, total)
    lane, shift = tl.arange(0, BLOCK), 32 + 4 * row
    two, more = tl.zeros([BLOCK], tl.int64), tl.zeros([BLOCK], tl.int64)  # 32 bits for each of the four cells
    at = begin
    while at < end:
        entry = tl.load(listed + at + lane, at + lane < end, 0)
        two += (((entry >> shift) & 3) * 0x80000001) & 0x100000001
        more += (((entry >> (shift + 2)) & 3) * 0x80000001) & 0x100000001
        at += BLOCK
    c0, c1 = tl.sum(two.to(tl.int32), 0), tl.sum((two >> 32).to(tl.int32), 0)
    c2, c3 = tl.sum(more.to(tl.int32), 0), tl.sum((more >> 32).to(tl.int32), 0)
    rounded = CHUNK - 1
    chunks = (c0 + rounded) // CHUNK + (c1 + rounded) // CHUNK + (c2 + rounded) // CHUNK + (c3 + rounded) // CHUNK
    b0 = tl.atomic_add(cursor, chunks)  # where a list lies does not matter
    u, v = program % patches % patches_across * 4, program % patches // patches_across * 4 + row
    to = (program // patches) * cells + v * across + u
    b1 = _room(starts, lengths, to, (v < down) & (u < across), c0, b0, CHUNK)
    b2 = _room(starts, lengths, to + 1, (v < down) & (u + 1 < across), c1, b1, CHUNK)
    b3 = _room(starts, lengths, to + 2, (v < down) & (u + 2 < across), c2, b2, CHUNK)
    _room(starts, lengths, to + 3, (v < down) & (u + 3 < across), c3, b3, CHUNK)
    b0, b1 = b0.to(tl.int64) * CHUNK, b1.to(tl.int64) * CHUNK
    b2, b3 = b2.to(tl.int64) * CHUNK, b3.to(tl.int64) * CHUNK
    at = begin
    while at < end:
        entry = tl.load(listed + at + lane, at + lane < end, 0)
        bits = (((entry >> shift) & 15).to(tl.int32) * 0x204081) & 0x1010101  # 8 bits for each of the four cells
        ranks = tl.cumsum(bits, 0)
        n = (entry & 0xFFFFFFFF).to(tl.int32)
        b0 = _place(owner, n, bits, ranks, b0, 0)
        b1 = _place(owner, n, bits, ranks, b1, 1)
        b2 = _place(owner, n, bits, ranks, b2, 2)
        b3 = _place(owner, n, bits, ranks, b3, 3)
        at += BLOCK
    _fill_up(owner, nothing, b0, CHUNK)
    _fill_up(owner, nothing, b1, CHUNK)
    _fill_up(owner, nothing, b2, CHUNK)
    _fill_up(owner, nothing, b3, CHUNK)


@triton.jit
def _alpha(power, reach):
    """Return 255 alpha: 2 ** (reach - power), at most 252.45; 0 unless 0 <= power <= reach.

    One comparison: as bits, a negative number is greater than all positive ones.
    """
    if _PTX:
        return tl.inline_asm_elementwise(
            """{
            .reg .pred seen; .reg .b32 a, b; .reg .f32 x;
            mov.b32 a, $1; mov.b32 b, $2; setp.le.u32 seen, a, b;
            sub.f32 x, $2, $1; selp.f32 x, x, 0fC47A0000, seen;
            ex2.approx.ftz.f32 x, x; min.f32 $0, x, 0f437C7333;
            }""", "=f,f,f", [power, reach], tl.float32, True, 1,
        )  # fmt: skip
    else:
        seen = power.to(tl.uint32, bitcast=True) <= reach.to(tl.uint32, bitcast=True)
        return tl.minimum(tl.exp2(tl.where(seen, reach - power, -1000.0)), 252.45)


@triton.jit
def _pair(at):
    """Return two float32 numbers that are adjacent in memory."""
    both = tl.load(at)
    return both.to(tl.int32).to(tl.float32, bitcast=True), (both >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _prefetch(addresses):
    """Prefetch the addresses; without it, a chunk waits three times for the L2 cache."""
    tl.inline_asm_elementwise("prefetch.global.L1 [$1]; mov.b32 $0, 0;", "=r,l", [addresses], tl.int32, False, 1)


@triton.jit
def _behind(left, drawn, through, alpha):
    """Return the transmittance behind two layers, and the second layer's contribution to an image."""
    return left * through, left * alpha


@triton.jit
def _blend(
    owner, starts, lengths, records, features, bias, unit, image, alpha_out, inverse_out, N, width, height, across,
    cells, stride_t, stride_c, stride_y, stride_x, C: tl.constexpr, CHUNK: tl.constexpr, DEPTH: tl.constexpr,
    HALF: tl.constexpr, CW: tl.constexpr, CH: tl.constexpr, PARTS: tl.constexpr, LRELU: tl.constexpr,
    ONE: tl.constexpr,
):  # fmt: skip
    P: tl.constexpr = CW * CH // PARTS
    program = tl.program_id(0) // PARTS
    t = (program // cells).to(tl.int64)
    cell = program % cells
    lane = tl.program_id(0) % PARTS * P + tl.arange(0, P)
    x, y = (cell % across) * CW + lane % CW, (cell // across) * CH + lane // CW
    px, py = x.to(tl.float32), y.to(tl.float32)
    channel = tl.arange(0, C)
    step = tl.arange(0, CHUNK)
    first = (step == 0)[:, None]
    product = tl.full([P], ONE, tl.float32)  # of all (1 - alpha), whether drawn or not
    opaque = tl.zeros([P], tl.float32)
    inverse = tl.zeros([P], tl.float32)
    color = tl.zeros([P, C], tl.float32)
    frame = records + t * (N + 1) * 4
    count = tl.load(lengths + program)
    mine = owner + tl.load(starts + program).to(tl.int64) * CHUNK
    SECTORS: tl.constexpr = C // 16 if HALF else C // 8  # of 32 bytes, of a Gaussian's features
    piece = tl.arange(0, 2 * SECTORS * CHUNK) % (2 * SECTORS)
    of = tl.arange(0, 2 * SECTORS * CHUNK) // (2 * SECTORS)
    at = 0
    while at < count:
        if _PTX:
            following = tl.load(mine + at + CHUNK + of, at + CHUNK < count, N)
        n = tl.load(mine + at + step)
        r = frame + n * 4
        cx, cy = _pair(r)
        xx, xy = _pair(r + 1)
        yy, reach = _pair(r + 2)
        dx, dy = cx[:, None] - px[None, :], cy[:, None] - py[None, :]
        power = (xx[:, None] * dx + xy[:, None] * dy) * dx + (yy[:, None] * dy) * dy
        alpha = _alpha(power, tl.broadcast_to(reach[:, None], power.shape))  # times 255
        through = 1 - alpha * (1 / 255)
        through = tl.where(first, through * product[None, :], through)
        alpha = tl.where(first, alpha * product[None, :], alpha)
        behind, weight = tl.associative_scan((through, alpha), 0, _behind)
        weight = tl.where(behind >= ONE * 1e-4, weight, 0.0)
        high = weight.to(tl.float16)
        if HALF:
            f = tl.load(features + n[:, None] * C + channel[None, :])
            color = tl.dot(tl.trans(high), f, color)
        else:
            low = tl.trans((weight - high.to(tl.float32)).to(tl.float16))
            high = tl.trans(high)
            f = features + n[:, None] * (2 * C) + channel[None, :]
            f_high = tl.load(f)
            color = tl.dot(high, f_high, color)
            color = tl.dot(low, f_high, color)
            color = tl.dot(high, tl.load(f + C), color)
        if DEPTH:
            depth, _ = _pair(r + 3)
            inverse += tl.sum(weight * depth[:, None], 0)
        opaque += tl.sum(weight, 0)
        product = tl.sum(tl.where(step[:, None] == CHUNK - 1, behind, 0.0), 0)  # the last: no instruction is left of it
        if _PTX:
            feature = features + following * (SECTORS * 16) + piece * 16
            _prefetch(tl.where(piece < SECTORS, feature.to(tl.int64), (frame + following * 4).to(tl.int64)))
        at += CHUNK
        if tl.max(product, 0) < ONE * 1e-4:
            at = count
    color *= 1 / (ONE * 255)
    if not HALF:
        color *= tl.load(unit + channel)[None, :]
    if LRELU:
        color += tl.load(bias + channel)[None, :]
        color = tl.where(color > 0, color, 0.2 * color)
    inside = (x < width) & (y < height)
    to = image + t * stride_t + (y * stride_y + x * stride_x)[:, None] + (channel * stride_c)[None, :]
    tl.store(to, color.to(image.dtype.element_ty), inside[:, None])
    pixel = t * width * height + y * width + x
    tl.store(alpha_out + pixel, opaque * (1 / (ONE * 255)), inside)
    if DEPTH:
        tl.store(inverse_out + pixel, inverse * (1 / (ONE * 255)), inside)


assert TILE == 16  # the kernels have it, and the constants of `rasterize_torch`, as literals
