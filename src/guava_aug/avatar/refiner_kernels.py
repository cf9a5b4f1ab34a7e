"""Kernels of `refiner_triton`: 3 x 3 convolutions and the operations around them, in half precision.

Images are [T, H, W, C] float16, sums float32. A program computes M rows of a product for one frame; a row is a block of
PH x PW neighbouring pixels, its columns are their channels.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _lrelu(v):
    return tl.where(v > 0, v, v * 0.2)


@triton.jit
def _pixels(W, SQUARES: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr):
    """Return image row and column of the first pixel of this program's rows.

    SQUARES: those of 2 x 2 squares in turn.
    """
    tile = tl.program_id(0)
    across = W // BW
    m = tl.arange(0, BH * BW // (PH * PW))
    if SQUARES and PH == 1:
        SIDE: tl.constexpr = 2 // PW  # rows of the product along a square's side
        square, part = m // (2 * SIDE), m % (2 * SIDE)
        dy, dx = square // (BW // 2) * 2 + part // SIDE, square % (BW // 2) * 2 + part % SIDE
    else:
        dy, dx = m // (BW // PW) * PH, m % (BW // PW) * PW
    return tile // across * BH + dy, tile % across * BW + dx


@triton.jit
def _taps(
    x, w, y, xx, n, H, W, CIN: tl.constexpr, STRIDE: tl.constexpr, COLUMNS: tl.constexpr, PH: tl.constexpr,
    PW: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Return the 3 x 3 convolution [M, BN] of CIN of the STRIDE channels of a frame x.

    w is [PH + 2, (PW + 2) CIN, COLUMNS].
    """
    acc = tl.zeros([M, BN], tl.float32)
    DEPTH: tl.constexpr = (PW + 2) * CIN
    for step in range((PH + 2) * (DEPTH // BK)):
        r, k0 = step // (DEPTH // BK), step % (DEPTH // BK) * BK
        k = k0 + tl.arange(0, BK)
        py = y + r - 1
        px = (xx - 1)[:, None] + (k // CIN)[None, :]
        inside = ((py >= 0) & (py < H))[:, None] & (px >= 0) & (px < W)
        at = ((py * W + xx - 1) * STRIDE)[:, None] + (k // CIN * STRIDE + k % CIN)[None, :]
        a = tl.load(x + at, inside, 0.0)
        acc = tl.dot(a, tl.load(w + (r * DEPTH + k)[:, None] * COLUMNS + n[None, :]), acc)
    return acc


@triton.jit
def _to(n, W, COUT: tl.constexpr, PW: tl.constexpr):
    """Return the memory offset of column n of a product: pixels of a row are adjacent, the next row is W pixels on."""
    return n // (PW * COUT) * (W * COUT) + n % (PW * COUT)


@triton.jit
def _between(x, y, xx, c, h, w, C: tl.constexpr):
    """Return float32 channels c of x (h x w pixels of C channels), bilinear at pixels (y, xx) of twice its size."""
    y0, x0 = (y + 1) // 2 - 1, (xx + 1) // 2 - 1
    fy, fx = tl.where(y % 2 == 0, 0.75, 0.25), tl.where(xx % 2 == 0, 0.75, 0.25)  # share of the second
    ya, yb = tl.maximum(y0, 0) * w, tl.minimum(y0 + 1, h - 1) * w
    xa, xb = tl.maximum(x0, 0), tl.minimum(x0 + 1, w - 1)
    aa = tl.load(x + (ya + xa) * C + c).to(tl.float32)
    ab = tl.load(x + (ya + xb) * C + c).to(tl.float32)
    ba = tl.load(x + (yb + xa) * C + c).to(tl.float32)
    bb = tl.load(x + (yb + xb) * C + c).to(tl.float32)
    top = aa + (ab - aa) * fx
    bottom = ba + (bb - ba) * fx
    return top + (bottom - top) * fy


@triton.jit
def conv(
    x, w, bias, side, ws, out, out2, more, H, W, CIN: tl.constexpr, COUT: tl.constexpr, PH: tl.constexpr,
    PW: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, CSKIP: tl.constexpr,
    POOL: tl.constexpr, SKIP: tl.constexpr, MORE: tl.constexpr,
):  # fmt: skip
    """Compute a `Conv` of `refiner_convs`."""
    PIXELS: tl.constexpr = PH * PW
    M: tl.constexpr = BH * BW // PIXELS
    COLUMNS: tl.constexpr = PIXELS * COUT
    t = tl.program_id(2).to(tl.int64)
    y, xx = _pixels(W, POOL, PH, PW, BH, BW)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    frame = x + t * H * W * CIN
    acc = _taps(frame, w, y, xx, n, H, W, CIN, CIN, COLUMNS, PH, PW, BN, BK, M)
    value = _lrelu(acc + tl.load(bias + n)[None, :])
    if POOL:
        Q: tl.constexpr = M * PIXELS // 4
        q = tl.arange(0, Q)
        tile = tl.program_id(0)
        across = W // BW
        row = tile // across * (BH // 2) + q // (BW // 2)
        column = tile % across * (BW // 2) + q % (BW // 2)
        at = t * (H // 2) * (W // 2) + row * (W // 2) + column
        value = tl.sum(tl.reshape(value, [Q, 4, BN // PIXELS]), 1) * 0.25
        c = tl.program_id(1) * BN + tl.arange(0, BN // PIXELS)
        tl.store(out + at[:, None] * COUT + c[None, :], value.to(tl.float16))
        if tl.program_id(1) == 0:
            BC: tl.constexpr = CIN if CIN < 64 else 64
            for k0 in range(0, CIN, BC):
                k = tl.arange(0, PIXELS * BC)
                pixel = k // BC // PW * W + k // BC % PW
                from_ = (y * W + xx)[:, None] * CIN + (pixel * CIN + k0 + k % BC)[None, :]
                own = tl.sum(tl.reshape(tl.load(frame + from_).to(tl.float32), [Q, 4, BC]), 1) * 0.25
                tl.store(out2 + at[:, None] * CIN + (k0 + tl.arange(0, BC))[None, :], own.to(tl.float16))
    else:
        at = t * H * W + y * W + xx
        if SKIP:
            BS: tl.constexpr = CSKIP if CSKIP < 64 else 64
            rest = tl.zeros([M, BN], tl.float32)
            for p in tl.static_range(PIXELS):
                for k0 in range(0, CSKIP, BS):
                    k = k0 + tl.arange(0, BS)
                    if SKIP == 1:
                        s = tl.load(side + (at + p // PW * W + p % PW)[:, None] * CSKIP + k[None, :])
                    else:
                        low = side + t * (H // 2) * (W // 2) * CSKIP
                        py, px = (y + p // PW)[:, None], (xx + p % PW)[:, None]
                        s = _between(low, py, px, k[None, :], H // 2, W // 2, CSKIP).to(tl.float16)
                    rest = tl.dot(s, tl.load(ws + (p * CSKIP + k)[:, None] * COLUMNS + n[None, :]), rest)
            value += rest
        to = at[:, None] * COUT + _to(n, W, COUT, PW)[None, :]
        tl.store(out + to, value.to(tl.float16))
        if MORE:
            tl.store(out2 + to, (value + tl.load(more + to)).to(tl.float16))


@triton.jit
def style(
    x, w, bias, after, noise, out, H, W, CIN: tl.constexpr, COUT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Compute a `StyleConv` of `refiner_convs`."""
    M: tl.constexpr = BH * BW // (PH * PW)
    t = tl.program_id(2).to(tl.int64)
    y, xx = _pixels(W, False, PH, PW, BH, BW)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = _taps(x + t * H * W * CIN, w, y, xx, n, H, W, CIN, CIN, PH * PW * COUT, PH, PW, BN, BK, M)
    grain = tl.load(noise + (y * W + xx)[:, None] + _to(n // COUT, W, 1, PW)[None, :]).to(tl.float32)
    acc *= tl.load(after + t * COUT + n % COUT)[None, :]
    value = _lrelu(acc + grain + tl.load(bias + n)[None, :])
    to = (t * H * W + y * W + xx)[:, None] * COUT + _to(n, W, COUT, PW)[None, :]
    tl.store(out + to, value.to(tl.float16))


@triton.jit
def phases(
    x, w, bias, after, noise, side, ws, out, out2, more, H, W, CIN: tl.constexpr, COUT: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, CSKIP: tl.constexpr, MORE: tl.constexpr, STYLE: tl.constexpr,
):  # fmt: skip
    """Compute a convolution at twice the size: `UpConv` or, with STYLE, `UpStyleConv` of `refiner_convs`."""
    M: tl.constexpr = BH * BW
    STEPS: tl.constexpr = CIN // BK
    t = tl.program_id(2).to(tl.int64)
    y, xx = _pixels(W, False, 1, 1, BH, BW)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    frame = x + t * H * W * CIN
    acc = _nine(tl.zeros([M, BN], tl.float32), frame, w, y, xx, n, H, W, CIN, 4 * COUT, BK)
    row, column = tl.program_id(0) // (W // BW), tl.program_id(0) % (W // BW)
    bottom, right = (row == H // BH - 1).to(tl.int32), (column == W // BW - 1).to(tl.int32)
    on_y, on_x = (row == 0).to(tl.int32) + bottom, (column == 0).to(tl.int32) + right  # 1: at an edge of the picture
    edge_y, edge_x = y == bottom * (H - 1), xx == right * (W - 1)
    steps_y, steps_x, steps = on_y * 3 * STEPS, on_x * 3 * STEPS, on_y * on_x * STEPS
    first = 21 + 2 * bottom + right
    acc = _edge(acc, frame, w, y, xx, edge_y, 9 + 3 * bottom, steps_y, n, H, W, False, True, CIN, 4 * COUT, BK)
    acc = _edge(acc, frame, w, y, xx, edge_x, 15 + 3 * right, steps_x, n, H, W, True, False, CIN, 4 * COUT, BK)
    acc = _edge(acc, frame, w, y, xx, edge_y & edge_x, first, steps, n, H, W, False, False, CIN, 4 * COUT, BK)

    c, phase = n % COUT, n // COUT
    to = (2 * y * (2 * W) + 2 * xx)[:, None] + (phase // 2 * (2 * W) + phase % 2)[None, :]
    if STYLE:
        acc = acc * tl.load(after + t * COUT + c)[None, :] + tl.load(noise + to).to(tl.float32)
    value = _lrelu(acc + tl.load(bias + c)[None, :])
    to = (t * 4 * H * W + to) * COUT + c[None, :]
    if not STYLE:
        BS: tl.constexpr = CSKIP if CSKIP < 64 else 64
        value = _nine(value, side + t * H * W * CSKIP, ws, y, xx, n, H, W, CSKIP, 4 * COUT, BS)
    tl.store(out + to, value.to(tl.float16))
    if MORE:
        tl.store(out2 + to, (value + tl.load(more + to)).to(tl.float16))


@triton.jit
def _nine(
    acc, x, w, y, xx, n, H, W, CIN: tl.constexpr, COLUMNS: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """Return acc plus a 3 x 3 convolution of x [H, W, CIN], continued at its borders; w [9, CIN, COLUMNS]."""
    for step in range(9 * (CIN // BK)):
        tap, k = step // (CIN // BK), step % (CIN // BK) * BK + tl.arange(0, BK)
        py = tl.minimum(tl.maximum(y + tap // 3 - 1, 0), H - 1)
        px = tl.minimum(tl.maximum(xx + tap % 3 - 1, 0), W - 1)
        a = tl.load(x + ((py * W + px) * CIN)[:, None] + k[None, :])
        acc = tl.dot(a, tl.load(w + (tap * CIN + k)[:, None] * COLUMNS + n[None, :]), acc)
    return acc


@triton.jit
def _edge(
    acc, x, w, y, xx, where, first, steps, n, H, W, DOWN: tl.constexpr, ACROSS: tl.constexpr, CIN: tl.constexpr,
    COLUMNS: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Return acc plus the taps from slice `first` on, in the rows `where` they apply.

    These are three taps in a column, in a row, or one.
    """
    step = 0
    while step < steps:  # for Triton's interpreter a `range` must be known before
        tap, k = step // (CIN // BK), step % (CIN // BK) * BK + tl.arange(0, BK)
        py, px = y, xx
        if DOWN:
            py = tl.minimum(tl.maximum(y + tap - 1, 0), H - 1)
        if ACROSS:
            px = tl.minimum(tl.maximum(xx + tap - 1, 0), W - 1)
        a = tl.load(x + ((py * W + px) * CIN)[:, None] + k[None, :], where[:, None], 0.0)
        acc = tl.dot(a, tl.load(w + ((first + tap) * CIN + k)[:, None] * COLUMNS + n[None, :]), acc)
        step += 1
    return acc


@triton.jit
def transform(
    x, w_scale, w_shift, b_scale, b_shift, g, out, H, W, CIN: tl.constexpr, COUT: tl.constexpr, PH: tl.constexpr,
    PW: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Compute a `Transform` of `refiner_convs`."""
    M: tl.constexpr = BH * BW // (PH * PW)
    COLUMNS: tl.constexpr = PH * PW * COUT
    t = tl.program_id(2).to(tl.int64)
    y, xx = _pixels(W, False, PH, PW, BH, BW)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    frame = x + t * H * W * 2 * CIN
    scale = _taps(frame, w_scale, y, xx, n, H, W, CIN, 2 * CIN, COLUMNS, PH, PW, BN, BK, M)
    shift = _taps(frame + CIN, w_shift, y, xx, n, H, W, CIN, 2 * CIN, COLUMNS, PH, PW, BN, BK, M)
    scale += tl.load(b_scale + n)[None, :]
    shift += tl.load(b_shift + n)[None, :]
    to = (t * H * W + y * W + xx)[:, None] * COUT + _to(n, W, COUT, PW)[None, :]
    tl.store(out + to, (tl.load(g + to).to(tl.float32) * scale + shift).to(tl.float16))


@triton.jit
def rgb(
    x, w, bias, head, head_bias, before, after, after_stride, out, rgb, H, W, LAST: tl.constexpr, CIN: tl.constexpr,
    COUT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BH: tl.constexpr,
    BW: tl.constexpr,
):  # fmt: skip
    """Compute a `ConvRGB` of `refiner_convs`."""
    PIXELS: tl.constexpr = PH * PW
    M: tl.constexpr = BH * BW // PIXELS
    t = tl.program_id(2).to(tl.int64)
    y, xx = _pixels(W, False, PH, PW, BH, BW)
    n = tl.arange(0, BN)
    acc = _taps(x + t * H * W * CIN, w, y, xx, n, H, W, CIN, CIN, BN, PH, PW, BN, BK, M)
    value = _lrelu(acc + tl.load(bias + n)[None, :])
    at = t * H * W + y * W + xx
    if not LAST:
        to = at[:, None] * COUT + _to(n, W, COUT, PW)[None, :]
        next_ = value * tl.load(after + t * after_stride + n % COUT)[None, :]
        tl.store(out + to, next_.to(tl.float16))
    c = tl.arange(0, 16)  # three per pixel are colours
    color = tl.dot(value.to(tl.float16), tl.load(head + t * BN * 16 + n[:, None] * 16 + c[None, :]))
    pixel = tl.minimum(c // 3, PIXELS - 1)
    low = before + t * (H // 2) * (W // 2) * 3
    py, px = y[:, None] + (pixel // PW)[None, :], xx[:, None] + (pixel % PW)[None, :]
    color += _between(low, py, px, tl.minimum(c - 3 * pixel, 2)[None, :], H // 2, W // 2, 3)
    color += tl.load(head_bias + c)[None, :]
    if LAST:
        color = 1 / (1 + tl.exp(-color))
    to = (at * 3)[:, None] + (pixel // PW * (3 * W) + pixel % PW * 3 + c - 3 * pixel)[None, :]
    tl.store(rgb + to, color.to(tl.float16), (c < 3 * PIXELS)[None, :])


@triton.jit
def double(x, out, H, W, total, C: tl.constexpr, BLOCK: tl.constexpr):
    """Enlarge bilinearly to twice the size."""
    t = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pixel = i // C
    y, xx = pixel // (2 * W), pixel % (2 * W)
    y = tl.minimum(y, 2 * H - 1)
    value = _between(x + t * H * W * C, y, xx, i % C, H, W, C)
    tl.store(out + t * total + i, value.to(tl.float16), i < total)
