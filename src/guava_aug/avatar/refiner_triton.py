"""The refiner in half precision on a GPU: the same network as `styleunet`, in few passes over memory.

At 512 x 512 with 16 to 64 channels the network is bound by memory, not by arithmetic, so every convolution here also
does what stands around it: bias, activation, pooling, skip connection, noise, feature transform, RGB head. Pixels come
before channels in memory, products are float16, sums float32. Algebra that is exact is used:

- the first layer is linear and one pixel wide, so it is applied to the Gaussians' features instead of the picture
  (`project`), and half as many channels are splatted;
- the modulation of a style convolution is part of the upsampling before it, the demodulation of its end;
- the two condition branches of a level are one convolution of twice the width;
- with few channels the product of a row covers two neighbouring pixels: their four input pixels lie together in memory,
  and what moves between memory and the matrix units, which is the limit, falls by a third.

No part of it is compiled ahead: Triton keeps the kernels on disk after the first use.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from triton.runtime.errors import OutOfResources

from .styleunet import _EPS, StyleUNet, _ModulatedConv, _SmallGenerator, _ToRGB

_ROWS = 64  # of a product, per program: pixels or pairs of pixels
_WARPS, _STAGES = 4, 3
_WIDE_ROWS, _WIDE_WARPS = 128, 8  # the same for products of single pixels
_COLUMNS = 128  # output columns per program at most
_DEEP, _DEEP_PAIRS = 64, 64  # inputs of one product
_PAIR_CHANNELS = 64  # up to so many input and output channels, pixels go in pairs
_SMALLEST = 16  # channels a matrix product needs; fewer are padded with zeros


class HalfRefiner:
    """Float16 twin of a `StyleUNet` refiner on a CUDA device. Holds packed weights, no state between calls."""

    def __init__(self, net: StyleUNet, noise: list[Tensor]):
        """`noise`: one [1, 1, s, s] per `net.noise_sizes`."""
        self.size = 4 << net.levels
        self.levels = net.levels
        first = net.conv_body_first
        self.width = _padded(first.out_channels)  # channels to splat
        self._first = nn.functional.pad(first.weight[:, :, 0, 0].T, (0, self.width - first.out_channels)).contiguous()
        assert first.bias is not None
        self.first_bias = nn.functional.pad(first.bias, (0, self.width - first.out_channels)).contiguous()
        block = lambda b, first=True, second=True: (  # pairs?
            _Conv(b.conv1, pairs=first), _Conv(b.conv2, skip=b.skip.weight, pairs=second)
        )  # fmt: skip
        last = net.levels - 1  # from here down to 4 x 4 pixels
        self.down = [block(b, second=i < last) for i, b in enumerate(net.conv_body_down)]
        self.up = [block(b, first=i > 0) for i, b in enumerate(net.conv_body_up)]
        self.final_conv, self.final_linear = net.final_conv, net.final_linear
        branches = list(zip(net.condition_scale, net.condition_shift, strict=True))
        self.first_conditions = [_Conv(_side_by_side(_conv2d(a, 0), _conv2d(b, 0))) for a, b in branches]
        self.second_conditions = [_Transform(_conv2d(a, 2), _conv2d(b, 2)) for a, b in branches]

        g = net.stylegan_decoder
        self.style_mlp, self.constant = g.style_mlp, g.constant_input.weight
        styled, rgb = [g.style_conv1, *g.style_convs], [g.to_rgb1, *g.to_rgbs]
        self._modulation = _pack_modulation([c.modulated_conv for c in (*styled, *rgb)])
        self._widths = [_padded(c.modulated_conv.weight.shape[2]) for c in (*styled, *rgb)]
        self.styled = [
            _StyleConv(c.modulated_conv.weight[0], c.bias.flatten(), (c.weight * n[0, 0]).half().contiguous(), i > 0)
            for i, (c, n) in enumerate(zip(styled, noise, strict=True))
        ]
        self.first_rgb = g.to_rgb1
        assert isinstance(g, _SmallGenerator)
        normal = [_conv2d(c, 0) for c in g.normal_convs]
        self.normal = [
            _ConvRGB(c, h.modulated_conv.weight[0], h.bias.flatten()) for c, h in zip(normal, rgb[1:], strict=True)
        ]

    def project(self, features: Tensor) -> Tensor:
        """[N, width] float16: features [N, C] of Gaussians after the first layer's matrix; its bias comes later."""
        return (features.float() @ self._first).half()

    def __call__(
        self,
        x: Tensor,  # [T, width, S, S] float16, channels last: the first layer's output
    ) -> Tensor:
        """[T, 3, S, S] float16 RGB 0..1, channels last."""
        with torch.cuda.device_of(x):  # kernels run on the current device
            return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # [T, S, S, C]
        skips: list[Tensor] = []
        for conv1, conv2 in self.down:
            half, pooled = conv1.pooled(x)
            x = conv2(half, side=pooled)
            skips.append(x)
        deep = nn.functional.leaky_relu(
            self.final_conv(x.permute(0, 3, 1, 2)[:, : self.final_conv.in_channels].float()), 0.2
        )
        latent = self.style_mlp(self.final_linear(deep.flatten(1)))
        scales = list(torch.addmm(self._modulation[1], latent, self._modulation[0]).split(self._widths, 1))
        styles, heads = scales[: len(self.styled)], scales[len(self.styled) :]

        u = _channels_last(deep) + skips.pop()
        g = self.styled[0]((_channels_last(self.constant) * styles[0][:, None, None]).half(), styles[0])
        rgb = _first_rgb(g, self.first_rgb, heads[0])
        for i in range(self.levels):
            conv1, conv2 = self.up[i]
            y, u = conv2.doubled(_double(conv1(u)), u, skips.pop() if skips else None)
            g = self.styled[i + 1](_double(g, styles[i + 1]), styles[i + 1])
            g = self.second_conditions[i](self.first_conditions[i](y), g)
            g, rgb = self.normal[i](g, heads[i + 1], rgb, last=i + 1 == self.levels)
        return rgb.permute(0, 3, 1, 2)


def _conv2d(modules: nn.Module, index: int) -> nn.Conv2d:
    assert isinstance(modules, nn.Sequential)
    conv = modules[index]
    assert isinstance(conv, nn.Conv2d)
    return conv


def _padded(channels: int) -> int:
    return max(_SMALLEST, 1 << (channels - 1).bit_length())


def _pad(w: Tensor, outputs: int, inputs: int) -> Tensor:
    """[outputs, inputs, k, k] of a weight with fewer, zeros in between."""
    return nn.functional.pad(w, (0, 0, 0, 0, 0, inputs - w.shape[1], 0, outputs - w.shape[0]))


def _channels_last(x: Tensor) -> Tensor:
    """[T, H, W, padded C] float16 of [T, C, H, W]."""
    return nn.functional.pad(x.permute(0, 2, 3, 1), (0, _padded(x.shape[1]) - x.shape[1])).half().contiguous()


def _side_by_side(a: nn.Conv2d, b: nn.Conv2d) -> nn.Conv2d:
    """One convolution with the outputs of both (each padded)."""
    P = _padded(a.out_channels)
    both = nn.Conv2d(a.in_channels, 2 * P, 3, padding=1, device=a.weight.device).requires_grad_(False)
    both.weight.copy_(torch.cat([_pad(c.weight, P, a.in_channels) for c in (a, b)]))
    assert a.bias is not None and b.bias is not None
    assert both.bias is not None
    both.bias.copy_(torch.cat([nn.functional.pad(x, (0, P - len(x))) for x in (a.bias, b.bias)]))
    return both


def _pack_modulation(convs: list[_ModulatedConv]) -> tuple[Tensor, Tensor]:
    """One matrix [d, sum of padded C in] and bias for the scales of all modulated convolutions."""
    weights, biases = [], []
    for c in convs:
        more = _padded(c.weight.shape[2]) - c.weight.shape[2]
        weights.append(nn.functional.pad(c.modulation.weight, (0, 0, 0, more)))
        biases.append(nn.functional.pad(c.modulation.bias, (0, more)))
    return torch.cat(weights).T.contiguous(), torch.cat(biases)


def _banded(w: Tensor, span: int) -> Tensor:
    """[3 rows, (span + 2) I, span O] of a 3 x 3 weight [O, I, 3, 3]: `span` pixels from the span + 2 around."""
    outputs, inputs = w.shape[:2]
    out = w.new_zeros(3, span + 2, inputs, span, outputs)
    for p in range(span):
        for tap in range(3):
            out[:, p + tap, :, p] = w[:, :, :, tap].permute(2, 1, 0)
    return out.flatten(3, 4).flatten(1, 2)


def _diagonal(w: Tensor, span: int) -> Tensor:
    """[span I, span O] of a matrix [I, O]: the same for each of `span` pixels."""
    return torch.block_diag(*[w] * span)


class _Packed:
    """A 3 x 3 convolution's weight and bias as the kernels want them, and how they are launched.

    pairs: whether pixels may go in pairs. Not at 4 x 4: a product needs 16 rows, up to Triton 3.4 at least.
    """

    def __init__(self, weight: Tensor, bias: Tensor, pairs: bool = True):
        cout, cin = (_padded(n) for n in weight.shape[:2])
        self.cin, self.cout = cin, cout
        self.span = 2 if pairs and max(cin, cout) <= _PAIR_CHANNELS else 1
        w = _pad(weight, cout, cin)
        # [3, (span + 2) I, span O]; for single pixels the three taps of a row follow one another as well
        self.weight = _banded(w, self.span).half().contiguous()
        self.bias = nn.functional.pad(bias.float(), (0, cout - len(bias))).repeat(self.span).contiguous()

    def launch(self, T: int, H: int, W: int, all_columns: bool = False) -> tuple[tuple[int, int, int], dict[str, int]]:
        """Grid and sizes for pictures of H x W pixels."""
        span = self.span
        rows, warps = (_ROWS, _WARPS) if span > 1 else (_WIDE_ROWS, _WIDE_WARPS)
        if all_columns and self.cout > _COLUMNS:  # what fits the shared memory of small GPUs
            rows = _ROWS
        width = min(W, 16)
        height = min(H, rows * span // width)
        columns = self.cout * span
        block = columns if all_columns else min(columns, _COLUMNS)
        deep = min(self.cin, _DEEP) if span == 1 else min((span + 2) * self.cin, _DEEP_PAIRS)
        sizes = {"CIN": self.cin, "COUT": self.cout, "SPAN": span, "BN": block, "BK": deep, "BH": height, "BW": width}
        if height * width // span < rows:
            warps = 4
        return (H // height * (W // width), columns // block, T), sizes | {"num_warps": warps, "num_stages": _STAGES}


class _Conv(_Packed):
    """lrelu(conv(x) + b), and what may follow in a residual block."""

    def __init__(self, conv: nn.Conv2d, skip: Tensor | None = None, pairs: bool = True):
        assert conv.bias is not None
        super().__init__(conv.weight, conv.bias, pairs)
        self.skip, self.cskip = self.weight, self.cin
        if skip is not None:
            self.cskip = _padded(skip.shape[1])
            matrix = _pad(skip, self.cout, self.cskip)[:, :, 0, 0].T
            self.skip = _diagonal(matrix, self.span).half().contiguous()

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        """[T, H, W, C out]; with `side` [T, H, W, C side] also its 1 x 1 convolution is added."""
        return self._run(x, x if side is None else side, 0 if side is None else 1, None)[0]

    def pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """2 x 2 means of the result and of x."""
        T, H, W, C = x.shape
        out, own = x.new_empty(T, H // 2, W // 2, self.cout), x.new_empty(T, H // 2, W // 2, C)
        grid, sizes = self.launch(T, H, W)
        _start(
            _conv_kernel, grid, x, self.weight, self.bias, x, self.skip, out, own, x, H, W,
            CSKIP=16, POOL=True, SKIP=0, MORE=False, **sizes,
        )  # fmt: skip
        return out, own

    def doubled(self, x: Tensor, side: Tensor, more: Tensor | None) -> tuple[Tensor, Tensor]:
        """The result plus the 1 x 1 convolution of `side` at twice its size; and that plus `more`."""
        return self._run(x, side, 2, more)

    def _run(self, x: Tensor, side: Tensor, kind: int, more: Tensor | None) -> tuple[Tensor, Tensor]:
        T, H, W, _ = x.shape
        out = x.new_empty(T, H, W, self.cout)
        both = out if more is None else torch.empty_like(out)
        grid, sizes = self.launch(T, H, W)
        _start(
            _conv_kernel, grid, x, self.weight, self.bias, side, self.skip, out, both, out if more is None else more, H,
            W, CSKIP=self.cskip, POOL=False, SKIP=kind, MORE=more is not None, **sizes,
        )  # fmt: skip
        return out, both


class _StyleConv(_Packed):
    """lrelu(demodulated convolution * sqrt 2 + noise + bias) of an input that is modulated already."""

    def __init__(self, weight: Tensor, bias: Tensor, noise: Tensor, pairs: bool = True):
        super().__init__(weight, bias, pairs)
        self.noise = noise
        self.energy = _pad(weight.float(), self.cout, self.cin).square().sum((2, 3)).T.contiguous()  # [I, O]

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        T, H, W, _ = x.shape
        after = torch.rsqrt(scale.square() @ self.energy + _EPS) * math.sqrt(2)  # [T, O]
        out = x.new_empty(T, H, W, self.cout)
        grid, sizes = self.launch(T, H, W)
        _start(_style_kernel, grid, x, self.weight, self.bias, after, self.noise, out, H, W, **sizes)
        return out


class _Transform:
    """g * scale + shift, where scale and shift are convolutions of the two halves of x."""

    def __init__(self, scale: nn.Conv2d, shift: nn.Conv2d):
        C = self.channels = _padded(scale.out_channels)
        assert scale.bias is not None and shift.bias is not None
        self.span = 2 if 2 * C <= _PAIR_CHANNELS else 1
        weights = [_pad(c.weight, C, C) for c in (scale, shift)]
        both = (scale.bias, shift.bias)
        biases = [nn.functional.pad(x.float(), (0, C - len(x))).repeat(self.span) for x in both]
        if self.span > 1:  # both halves go in, each weight uses one; columns scale, shift, scale, shift ...
            wide = [nn.functional.pad(w, (0, 0, 0, 0, C * k, C * (1 - k))) for k, w in enumerate(weights)]
            packed = torch.stack([_banded(w, self.span) for w in wide], -1).flatten(2)
        else:
            packed = torch.stack([_banded(w, 1) for w in weights])  # [2, 3, 3 C, C]
        self.weight = packed.half().contiguous()
        self.bias = torch.stack(biases, -1).flatten().contiguous()

    def __call__(self, x: Tensor, g: Tensor) -> Tensor:
        T, H, W, C = g.shape
        span = self.span
        width = min(W, 16)
        height = min(H, _ROWS * span // width)
        block = C * span if span > 1 else min(C, 64)
        out = torch.empty_like(g)
        grid = H // height * (W // width), C * span // block, T
        _start(
            _transform_kernel, grid, x, self.weight, self.bias, g, out, H, W, C=C, SPAN=span, BN=block,
            BK=min(C, _DEEP) if span == 1 else min(8 * C, _DEEP_PAIRS), BH=height, BW=width, num_warps=_WARPS,
            num_stages=_STAGES,
        )  # fmt: skip
        return out


class _ConvRGB(_Packed):
    """lrelu(conv(x) + b), and the RGB head of that."""

    def __init__(self, conv: nn.Conv2d, head: Tensor, head_bias: Tensor):
        assert conv.bias is not None
        super().__init__(conv.weight, conv.bias)
        matrix = head.new_zeros(self.cout, 3)
        matrix[: head.shape[1]] = head[:, :, 0, 0].T
        wide = _diagonal(matrix, self.span)  # [span C, span 3]
        self.head = nn.functional.pad(wide, (0, 16 - wide.shape[1])).contiguous()
        self.head_bias = nn.functional.pad(head_bias.float().repeat(self.span), (0, 16 - wide.shape[1])).contiguous()

    def __call__(self, x: Tensor, scale: Tensor, before: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """The result (at the last level x, nobody needs it) and RGB [T, H, W, 3], at the last level 0..1."""
        T, H, W, _ = x.shape
        out = x if last else x.new_empty(T, H, W, self.cout)
        rgb = x.new_empty(T, H, W, 3)
        head = (self.head * scale.repeat(1, self.span)[:, :, None]).half()
        grid, sizes = self.launch(T, H, W, all_columns=True)
        _start(
            _rgb_kernel, grid, x, self.weight, self.bias, head, self.head_bias, before, out, rgb, H, W,
            LAST=last, **sizes,
        )  # fmt: skip
        return out, rgb


_stages: dict[tuple[object, ...], int] = {}  # of launches for which fewer than asked for fit into shared memory


def _start(kernel: Any, grid: tuple[int, int, int], *args: Any, num_stages: int, **sizes: Any) -> None:
    """Launches with as many of `num_stages` as the GPU's shared memory holds: 227 KiB on an H100, 99 on many others."""
    key = (id(kernel), *sorted(sizes.items()))
    while True:
        try:
            kernel[grid](*args, num_stages=_stages.get(key, num_stages), **sizes)
            return
        except OutOfResources:
            if _stages.get(key, num_stages) == 1:
                raise
            _stages[key] = _stages.get(key, num_stages) - 1


def _first_rgb(g: Tensor, head: _ToRGB, scale: Tensor) -> Tensor:
    """[T, 4, 4, 3] the RGB head of the first level; small, so in plain torch."""
    matrix = head.modulated_conv.weight[0, :, :, 0, 0]
    n = matrix.shape[1]
    rgb = torch.einsum("thwc,tc,oc->thwo", g[..., :n].float(), scale[:, :n], matrix)
    return (rgb + head.bias.flatten()).half()


def _double(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """[T, 2H, 2W, C] bilinear, corners not aligned; channels times `scale` [T, C]."""
    T, H, W, C = x.shape
    out = x.new_empty(T, 2 * H, 2 * W, C)
    total = out[0].numel()
    _double_kernel[(triton.cdiv(total, 2048), T)](
        x, x if scale is None else scale, 0 if scale is None else scale.stride(0), out, H, W, total, C=C,
        SCALED=scale is not None, BLOCK=2048, num_warps=4,
    )  # fmt: skip
    return out


# ---- kernels: M rows of SPAN neighbouring pixels each


@triton.jit
def _lrelu(v):
    return tl.where(v > 0, v, v * 0.2)


@triton.jit
def _pixels(W, SQUARES: tl.constexpr, SPAN: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr):
    """Picture row and first column of this program's rows; SQUARES: those of a 2 x 2 square one after the other."""
    tile = tl.program_id(0)
    across = W // BW
    m = tl.arange(0, BH * BW // SPAN)
    if SQUARES:
        SIDE: tl.constexpr = 2 // SPAN  # rows of the product along a square's side
        square, part = m // (2 * SIDE), m % (2 * SIDE)
        dy, dx = square // (BW // 2) * 2 + part // SIDE, square % (BW // 2) * 2 + part % SIDE
    else:
        dy, dx = m // (BW // SPAN), m % (BW // SPAN) * SPAN
    return tile // across * BH + dy, tile % across * BW + dx


@triton.jit
def _taps(
    x, w, y, xx, n, H, W, CIN: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """3 x 3 convolution [M, BN] of one frame x [H, W, CIN], w [3, (SPAN + 2) CIN, COLUMNS]."""
    acc = tl.zeros([M, BN], tl.float32)
    DEPTH: tl.constexpr = (SPAN + 2) * CIN
    for step in range(3 * (DEPTH // BK)):
        r, k0 = step // (DEPTH // BK), step % (DEPTH // BK) * BK
        k = k0 + tl.arange(0, BK)
        py = y + r - 1
        px = (xx - 1)[:, None] + (k // CIN)[None, :]
        inside = ((py >= 0) & (py < H))[:, None] & (px >= 0) & (px < W)
        a = tl.load(x + ((py * W + xx - 1) * CIN)[:, None] + k[None, :], inside, 0.0)
        acc = tl.dot(a, tl.load(w + (r * DEPTH + k)[:, None] * COLUMNS + n[None, :]), acc)
    return acc


@triton.jit
def _between(x, y, xx, c, h, w, C: tl.constexpr):
    """float32 channels c of x (h x w pixels of C channels), bilinear at pixels (y, xx) of twice its size."""
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
def _conv_kernel(
    x, w, bias, side, ws, out, out2, more, H, W, CIN: tl.constexpr, COUT: tl.constexpr, SPAN: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, CSKIP: tl.constexpr, POOL: tl.constexpr,
    SKIP: tl.constexpr, MORE: tl.constexpr,
):  # fmt: skip
    M: tl.constexpr = BH * BW // SPAN
    COLUMNS: tl.constexpr = SPAN * COUT
    t = tl.program_id(2).to(tl.int64)
    y, xx = _pixels(W, POOL, SPAN, BH, BW)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    frame = x + t * H * W * CIN
    acc = _taps(frame, w, y, xx, n, H, W, CIN, COLUMNS, SPAN, BN, BK, M)
    value = _lrelu(acc + tl.load(bias + n)[None, :])
    if POOL:
        Q: tl.constexpr = M * SPAN // 4
        q = tl.arange(0, Q)
        tile = tl.program_id(0)
        across = W // BW
        row = tile // across * (BH // 2) + q // (BW // 2)
        column = tile % across * (BW // 2) + q % (BW // 2)
        at = t * (H // 2) * (W // 2) + row * (W // 2) + column
        value = tl.sum(tl.reshape(value, [Q, 4, BN // SPAN]), 1) * 0.25
        c = tl.program_id(1) * BN + tl.arange(0, BN // SPAN)
        tl.store(out + at[:, None] * COUT + c[None, :], value.to(tl.float16))
        if tl.program_id(1) == 0:
            BC: tl.constexpr = CIN if CIN < 64 else 64
            for k0 in range(0, CIN, BC):
                k = tl.arange(0, SPAN * BC)
                from_ = (y * W + xx)[:, None] * CIN + (k // BC * CIN + k0 + k % BC)[None, :]
                own = tl.sum(tl.reshape(tl.load(frame + from_).to(tl.float32), [Q, 4, BC]), 1) * 0.25
                tl.store(out2 + at[:, None] * CIN + (k0 + tl.arange(0, BC))[None, :], own.to(tl.float16))
    else:
        at = t * H * W + y * W + xx
        if SKIP:
            BS: tl.constexpr = CSKIP if CSKIP < 64 else 64
            rest = tl.zeros([M, BN], tl.float32)
            for p in tl.static_range(SPAN):
                for k0 in range(0, CSKIP, BS):
                    k = k0 + tl.arange(0, BS)
                    if SKIP == 1:
                        s = tl.load(side + (at + p)[:, None] * CSKIP + k[None, :])
                    else:
                        low = side + t * (H // 2) * (W // 2) * CSKIP
                        s = _between(low, y[:, None], (xx + p)[:, None], k[None, :], H // 2, W // 2, CSKIP)
                        s = s.to(tl.float16)
                    rest = tl.dot(s, tl.load(ws + (p * CSKIP + k)[:, None] * COLUMNS + n[None, :]), rest)
            value += rest
        to = at[:, None] * COUT + n[None, :]
        tl.store(out + to, value.to(tl.float16))
        if MORE:
            tl.store(out2 + to, (value + tl.load(more + to)).to(tl.float16))


@triton.jit
def _style_kernel(
    x, w, bias, after, noise, out, H, W, CIN: tl.constexpr, COUT: tl.constexpr, SPAN: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    M: tl.constexpr = BH * BW // SPAN
    COLUMNS: tl.constexpr = SPAN * COUT
    t = tl.program_id(2).to(tl.int64)
    y, xx = _pixels(W, False, SPAN, BH, BW)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = _taps(x + t * H * W * CIN, w, y, xx, n, H, W, CIN, COLUMNS, SPAN, BN, BK, M)
    grain = tl.load(noise + (y * W + xx)[:, None] + (n // COUT)[None, :]).to(tl.float32)
    acc *= tl.load(after + t * COUT + n % COUT)[None, :]
    value = _lrelu(acc + grain + tl.load(bias + n)[None, :])
    tl.store(out + (t * H * W + y * W + xx)[:, None] * COUT + n[None, :], value.to(tl.float16))


@triton.jit
def _transform_kernel(
    x, w, bias, g, out, H, W, C: tl.constexpr, SPAN: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    M: tl.constexpr = BH * BW // SPAN
    t = tl.program_id(2).to(tl.int64)
    y, xx = _pixels(W, False, SPAN, BH, BW)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    frame = x + t * H * W * 2 * C
    if SPAN > 1:
        both = tl.arange(0, 2 * BN)
        acc = _taps(frame, w, y, xx, both, H, W, 2 * C, 2 * BN, SPAN, 2 * BN, BK, M) + tl.load(bias + both)[None, :]
        scale, shift = tl.split(tl.reshape(acc, [M, BN, 2]))
    else:
        scale = tl.zeros([M, BN], tl.float32)
        shift = tl.zeros([M, BN], tl.float32)
        for step in range(9 * (C // BK)):
            tap, k0 = step // (C // BK), step % (C // BK) * BK
            py, px = y + tap // 3 - 1, xx + tap % 3 - 1
            inside = (py >= 0) & (py < H) & (px >= 0) & (px < W)
            k = k0 + tl.arange(0, BK)
            at = frame + ((py * W + px) * 2 * C)[:, None] + k[None, :]
            row = w + (tap * C + k)[:, None] * C + n[None, :]
            scale = tl.dot(tl.load(at, inside[:, None], 0.0), tl.load(row), scale)
            shift = tl.dot(tl.load(at + C, inside[:, None], 0.0), tl.load(row + 9 * C * C), shift)
        scale += tl.load(bias + 2 * n)[None, :]
        shift += tl.load(bias + 2 * n + 1)[None, :]
    to = (t * H * W + y * W + xx)[:, None] * C + n[None, :]
    tl.store(out + to, (tl.load(g + to).to(tl.float32) * scale + shift).to(tl.float16))


@triton.jit
def _rgb_kernel(
    x, w, bias, head, head_bias, before, out, rgb, H, W, LAST: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr,
    SPAN: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    M: tl.constexpr = BH * BW // SPAN
    t = tl.program_id(2).to(tl.int64)
    y, xx = _pixels(W, False, SPAN, BH, BW)
    n = tl.arange(0, BN)
    acc = _taps(x + t * H * W * CIN, w, y, xx, n, H, W, CIN, BN, SPAN, BN, BK, M)
    value = _lrelu(acc + tl.load(bias + n)[None, :])
    at = t * H * W + y * W + xx
    if not LAST:
        tl.store(out + at[:, None] * COUT + n[None, :], value.to(tl.float16))
    c = tl.arange(0, 16)  # three per pixel are colours
    color = tl.dot(value.to(tl.float16), tl.load(head + t * BN * 16 + n[:, None] * 16 + c[None, :]))
    kept = tl.minimum(c, 3 * SPAN - 1)
    low = before + t * (H // 2) * (W // 2) * 3
    color += _between(low, y[:, None], xx[:, None] + (kept // 3)[None, :], (kept % 3)[None, :], H // 2, W // 2, 3)
    color += tl.load(head_bias + c)[None, :]
    if LAST:
        color = 1 / (1 + tl.exp(-color))
    tl.store(rgb + at[:, None] * 3 + c[None, :], color.to(tl.float16), (c < 3 * SPAN)[None, :])


@triton.jit
def _double_kernel(
    x, scale, scale_stride, out, H, W, total, C: tl.constexpr, SCALED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    t = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pixel = i // C
    y, xx = pixel // (2 * W), pixel % (2 * W)
    y = tl.minimum(y, 2 * H - 1)
    value = _between(x + t * H * W * C, y, xx, i % C, H, W, C)
    if SCALED:
        value *= tl.load(scale + t * scale_stride + i % C)
    tl.store(out + t * total + i, value.to(tl.float16), i < total)
