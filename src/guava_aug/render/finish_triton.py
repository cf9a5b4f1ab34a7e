"""The last step on a GPU: composite, conversion to bytes and to the encoder's planes, in one pass over the image."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 256  # squares of 2 x 2 pixels per program


def finish(
    rgb: Tensor,  # [T, 3, H, W] 0..1, float16, channels last
    alpha: Tensor,  # [T, 1, H, W] float32
    background: Tensor,  # [T or 1, 3, H, W] float32 0..1
) -> tuple[Tensor, Tensor]:
    """Return I420 planes uint8 [T, 3 H / 2, W] (BT.601, limited range) of the composite, and a NaN flag per frame [T].

    The flag is int32. Colours are truncated to bytes first, as the original writes them; chroma is the mean of its four
    pixels.
    """
    T, _, H, W = rgb.shape
    assert H % 2 == 0 and W % 2 == 0
    planes = torch.empty(T, H * 3 // 2, W, dtype=torch.uint8, device=rgb.device)
    broken = torch.zeros(T, dtype=torch.int32, device=rgb.device)
    background = background.contiguous()
    squares = H * W // 4
    with torch.cuda.device_of(rgb):  # kernels run on the current device
        _finish[(triton.cdiv(squares, _BLOCK), T)](
            rgb, alpha, background, planes, broken, H, W, squares, *rgb.stride(),
            background.stride(0) if len(background) > 1 else 0, BLOCK=_BLOCK, num_warps=4,
        )  # fmt: skip
    return planes, broken


@triton.jit
def _finish(rgb, alpha, background, planes, broken, H, W, squares, s_t, s_c, s_y, s_x, b_t, BLOCK: tl.constexpr):
    t = tl.program_id(1).to(tl.int64)
    q = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = q < squares
    y, x = q // (W // 2) * 2, q % (W // 2) * 2
    out = planes + t * (H * W * 3 // 2)
    red, green, blue = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    bad = tl.zeros([BLOCK], tl.int32)
    for part in tl.static_range(4):
        py, px = y + part // 2, x + part % 2
        a = tl.load(alpha + t * H * W + py * W + px, live, 0.0)
        a = tl.minimum(tl.maximum(a, 0.0), 1.0)
        at = rgb + t * s_t + py * s_y + px * s_x
        under = background + t * b_t + py * W + px
        r = tl.load(at, live, 0.0).to(tl.float32) * a + tl.load(under, live, 0.0) * (1 - a)
        g = tl.load(at + s_c, live, 0.0).to(tl.float32) * a + tl.load(under + H * W, live, 0.0) * (1 - a)
        b = tl.load(at + 2 * s_c, live, 0.0).to(tl.float32) * a + tl.load(under + 2 * H * W, live, 0.0) * (1 - a)
        total = r + g + b
        bad |= (total != total).to(tl.int32)
        r = tl.floor(tl.minimum(tl.maximum(r, 0.0), 1.0) * 255)
        g = tl.floor(tl.minimum(tl.maximum(g, 0.0), 1.0) * 255)
        b = tl.floor(tl.minimum(tl.maximum(b, 0.0), 1.0) * 255)
        luma = 16.5 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
        tl.store(out + py * W + px, luma.to(tl.uint8), live)
        red += r
        green += g
        blue += b
    u = 128.5 + (-37.797 * red - 74.203 * green + 112.0 * blue) / 1020
    v = 128.5 + (112.0 * red - 93.786 * green - 18.214 * blue) / 1020
    chroma = y // 2 * (W // 2) + x // 2
    tl.store(out + H * W + chroma, u.to(tl.uint8), live)
    tl.store(out + H * W + H * W // 4 + chroma, v.to(tl.uint8), live)
    if tl.max(bad, 0) > 0:
        tl.store(broken + t, 1)
