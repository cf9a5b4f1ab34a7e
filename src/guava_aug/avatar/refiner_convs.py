"""The refiner's convolutions with packed weights, the components of `refiner_triton`.

Images are [T, H, W, C] float16 with C padded to a power of two. Every class holds one convolution and launches one
kernel for it and for the operations around it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor, nn
from triton.runtime.errors import OutOfResources

from guava_aug.avatar import refiner_kernels as kernels
from guava_aug.avatar import styleunet

_ROWS = 64  # of a product, per program: pairs or squares of pixels
_WARPS, _STAGES = 4, 3
_WIDE_ROWS, _WIDE_WARPS = 128, 8  # the same for products of single pixels
_COLUMNS = 128  # output columns per program at most
_DEEP, _DEEP_PAIRS = 64, 64  # inputs of one product
_PAIR_CHANNELS = 64  # up to so many input and output channels, pixels go in pairs
_SQUARE_CHANNELS = 16, 16  # up to so many input, output channels in squares of 2 x 2
PHASE_CHANNELS = 64  # up to so many output channels, a convolution of a picture at twice its size reads the small one
_SMALLEST = 16  # channels a matrix product needs; fewer are padded with zeros


def padded(channels: int) -> int:
    """Return the number of channels after padding: a power of two, at least 16."""
    return max(_SMALLEST, 1 << (channels - 1).bit_length())


def pad(w: Tensor, outputs: int, inputs: int) -> Tensor:
    """Return a weight [outputs, inputs, k, k], padded with zeros from one with fewer channels."""
    return nn.functional.pad(w, (0, 0, 0, 0, 0, inputs - w.shape[1], 0, outputs - w.shape[0]))


def _banded(w: Tensor, height: int, width: int) -> Tensor:
    """Return [height + 2, (width + 2) I, height width O] of a 3 x 3 weight [O, I, 3, 3]: blocks of pixels."""
    outputs, inputs = w.shape[:2]
    out = w.new_zeros(height + 2, width + 2, inputs, height, width, outputs)
    for p in range(height):
        for q in range(width):
            out[p : p + 3, q : q + 3, :, p, q] = w.permute(2, 3, 1, 0)
    return out.flatten(3).flatten(1, 2)


def _diagonal(w: Tensor, span: int) -> Tensor:
    """Return [span I, span O] of a matrix [I, O]: the same matrix for each of `span` pixels."""
    blocks: Tensor = torch.block_diag(*[w] * span)
    return blocks


class Packed:
    """Weight and bias of a 3 x 3 convolution in the layout of the kernels, and their launch parameters.

    `together` says whether a row of the product may cover several pixels. Not at 4 x 4: a product needs 16 rows, at
    least up to Triton 3.4.
    """

    def __init__(self, weight: Tensor, bias: Tensor, together: bool = True):
        cout, cin = (padded(n) for n in weight.shape[:2])
        self.cin, self.cout = cin, cout
        self.block = _block(cin, cout, together)
        w = pad(weight, cout, cin)
        # for single pixels the three taps of a row follow one another as well
        self.weight = _banded(w, *self.block).half().contiguous()
        self.pixels = math.prod(self.block)
        self.bias = nn.functional.pad(bias.float(), (0, cout - len(bias))).repeat(self.pixels).contiguous()

    def launch(
        self, T: int, H: int, W: int, rows: int = 0, columns: int = _COLUMNS
    ) -> tuple[tuple[int, int, int], dict[str, int]]:
        """Return grid and sizes for images of H x W pixels, with at most so many rows and columns of a product."""
        pixels = self.pixels
        rows = rows or (_ROWS if pixels > 1 else _WIDE_ROWS)
        warps = _WARPS if rows == _ROWS and columns <= _COLUMNS else _WIDE_WARPS
        width = min(W, 16)
        height = min(H, rows * pixels // width)
        block = min(self.cout * pixels, columns)
        deep = min(self.cin, _DEEP) if pixels == 1 else min((self.block[1] + 2) * self.cin, _DEEP_PAIRS)
        sizes = {"CIN": self.cin, "COUT": self.cout, "PH": self.block[0], "PW": self.block[1], "BN": block, "BK": deep}
        if height * width // pixels < rows:
            warps = 4
        sizes |= {"BH": height, "BW": width, "num_warps": warps, "num_stages": _STAGES}
        return (H // height * (W // width), self.cout * pixels // block, T), sizes


def _block(cin: int, cout: int, together: bool = True) -> tuple[int, int]:
    """Return height and width in pixels of the block that one row of a product computes."""
    if together and cin <= _SQUARE_CHANNELS[0] and cout <= _SQUARE_CHANNELS[1]:
        return 2, 2
    return (1, 2) if together and max(cin, cout) <= _PAIR_CHANNELS else (1, 1)


class Conv(Packed):
    """Compute lrelu(conv(x) + b), and optionally the following operations of a residual block."""

    def __init__(self, conv: nn.Conv2d, skip: Tensor | None = None, together: bool = True):
        assert conv.bias is not None
        super().__init__(conv.weight, conv.bias, together)
        self.skip, self.cskip = self.weight, self.cin
        if skip is not None:
            self.cskip = padded(skip.shape[1])
            matrix = pad(skip, self.cout, self.cskip)[:, :, 0, 0].T
            self.skip = _diagonal(matrix, self.pixels).half().contiguous()

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        """Return [T, H, W, C out]; with `side` [T, H, W, C side], its 1 x 1 convolution is added."""
        return self._run(x, x if side is None else side, 0 if side is None else 1, None)[0]

    def pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return 2 x 2 means of the result and of x."""
        T, H, W, C = x.shape
        out, own = x.new_empty(T, H // 2, W // 2, self.cout), x.new_empty(T, H // 2, W // 2, C)
        grid, sizes = self.launch(T, H, W)
        start(
            kernels.conv, grid, x, self.weight, self.bias, x, self.skip, out, own, x, H, W,
            CSKIP=16, POOL=True, SKIP=0, MORE=False, **sizes,
        )  # fmt: skip
        return out, own

    def doubled(self, x: Tensor, side: Tensor, more: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the result at twice the size plus the convolution of the enlarged `side`; and the sum with `more`."""
        return self._run(double(x), side, 2, more)

    def _run(self, x: Tensor, side: Tensor, kind: int, more: Tensor | None) -> tuple[Tensor, Tensor]:
        T, H, W, _ = x.shape
        out = x.new_empty(T, H, W, self.cout)
        both = out if more is None else torch.empty_like(out)
        grid, sizes = self.launch(T, H, W)
        start(
            kernels.conv, grid, x, self.weight, self.bias, side, self.skip, out, both, out if more is None else more, H,
            W, CSKIP=self.cskip, POOL=False, SKIP=kind, MORE=more is not None, **sizes,
        )  # fmt: skip
        return out, both


class StyleConv(Packed):
    """Compute lrelu(demodulated convolution * sqrt 2 + noise [S, S] + bias) of an input that is already modulated."""

    def __init__(self, conv: styleunet._StyleConv, noise: Tensor, together: bool = True):
        weight = conv.modulated_conv.weight[0]
        super().__init__(weight, conv.bias.flatten(), together)
        self.noise = noise
        self.energy = _energy(weight)

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return [T, H, W, C out] of an input [T, H, W, C in] that was modulated by `scale` [T, C in]."""
        T, H, W, _ = x.shape
        out = x.new_empty(T, H, W, self.cout)
        grid, sizes = self.launch(T, H, W)
        start(
            kernels.style, grid, x, self.weight, self.bias, _demodulation(scale, self.energy), self.noise, out, H, W,
            **sizes,
        )  # fmt: skip
        return out

    def doubled(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return the result of x at twice its size."""
        return self(double(x), scale)


def _energy(weight: Tensor) -> Tensor:
    """Return the sums of squares [padded I, padded O] of a weight [O, I, 3, 3]."""
    cout, cin = (padded(n) for n in weight.shape[:2])
    return pad(weight.float(), cout, cin).square().sum((2, 3)).T.contiguous()


def _demodulation(scale: Tensor, energy: Tensor) -> Tensor:
    """Return the demodulation [T, O] for the input's scales [T, I]."""
    return torch.rsqrt(scale.square() @ energy + styleunet._EPS) * math.sqrt(2)


class Phases:
    """A 3 x 3 convolution of an image enlarged to twice its size that reads the small image.

    Bilinear enlargement followed by a convolution is one linear operation: each of the four output pixels of a small
    pixel is a 3 x 3 convolution of its own. A row of the product is a small pixel, its columns are the four output
    pixels.
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        self.cout, self.cin = (padded(n) for n in weight.shape[:2])
        self.weight = _phases(pad(weight.float(), self.cout, self.cin)).half().contiguous()
        self.bias = nn.functional.pad(bias.float(), (0, self.cout - len(bias))).contiguous()

    def launch(self, T: int, H: int, W: int) -> tuple[tuple[int, int, int], dict[str, int]]:
        """Return grid and sizes for small images of H x W pixels; no program contains two opposite borders of one."""
        width = min(W // 2, 16)
        height = min(H // 2, _WIDE_ROWS // width)
        block = min(4 * self.cout, _COLUMNS)
        sizes = {"CIN": self.cin, "COUT": self.cout, "BN": block, "BK": min(self.cin, _DEEP), "BH": height, "BW": width}
        sizes |= {"num_warps": _WIDE_WARPS if height * width * block >= 2**14 else _WARPS, "num_stages": _STAGES}
        return (H // height * (W // width), 4 * self.cout // block, T), sizes


def _phases(w: Tensor) -> Tensor:
    """Return [25, I, 4 O] of a 3 x 3 weight [O, I, 3, 3]: nine taps on small pixels for their four output pixels.

    Taps beyond the border read the border pixel, as bilinear enlargement does, but the convolution pads with zeros
    there. Therefore 16 more taps correct the borders: 3 each at the top, bottom, left and right, and one in every
    corner.
    """
    share = w.new_tensor(  # of the small pixels -1, 0, 1 in the large ones -1, 0, 1 around the first, second of a pixel
        [[[0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0.75, 0.25]], [[0.25, 0.75, 0], [0, 0.75, 0.25], [0, 0.25, 0.75]]]
    )
    edge = w.new_tensor([[[1, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]]])  # side, first or second, large pixel
    taps = [torch.einsum("oirs,pra,qsb->abipqo", w, share, share).flatten(0, 1)]
    taps += list(-torch.einsum("oirs,epr,qsb->ebipqo", w, edge, share))  # top, bottom
    taps += list(-torch.einsum("oirs,pra,eqs->eaipqo", w, share, edge))  # left, right
    taps += [torch.einsum("oirs,epr,fqs->efipqo", w, edge, edge).flatten(0, 1)]
    return torch.cat(taps).flatten(2)


class UpConv(Phases):
    """The step of a residual block that doubles the size: lrelu(conv(x) + b) + skip(side)."""

    def __init__(self, conv: nn.Conv2d, skip: Tensor):
        assert conv.bias is not None
        super().__init__(conv.weight, conv.bias)
        self.cskip = padded(skip.shape[1])
        wide = nn.functional.pad(pad(skip.float(), self.cout, self.cskip), (1, 1, 1, 1))  # in the middle of nine
        self.skip = _phases(wide)[:9].half().contiguous()

    def doubled(self, x: Tensor, side: Tensor, more: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the same as `Conv.doubled`."""
        T, H, W, _ = x.shape
        out = x.new_empty(T, 2 * H, 2 * W, self.cout)
        both = out if more is None else torch.empty_like(out)
        grid, sizes = self.launch(T, H, W)
        start(
            kernels.phases, grid, x, self.weight, self.bias, self.bias, self.bias, side, self.skip, out, both,
            out if more is None else more, H, W, CSKIP=self.cskip, MORE=more is not None, STYLE=False, **sizes,
        )  # fmt: skip
        return out, both


class UpStyleConv(Phases):
    """A `StyleConv` that doubles the size."""

    def __init__(self, conv: styleunet._StyleConv, noise: Tensor):
        weight = conv.modulated_conv.weight[0]
        super().__init__(weight, conv.bias.flatten())
        self.noise = noise
        self.energy = _energy(weight)

    def doubled(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return the same as `StyleConv.doubled`."""
        T, H, W, _ = x.shape
        out = x.new_empty(T, 2 * H, 2 * W, self.cout)
        grid, sizes = self.launch(T, H, W)
        start(
            kernels.phases, grid, x, self.weight, self.bias, _demodulation(scale, self.energy), self.noise, x,
            self.weight, out, out, out, H, W, CSKIP=16, MORE=False, STYLE=True, **sizes,
        )  # fmt: skip
        return out


class Transform:
    """Compute g * scale + shift, where scale and shift are convolutions of the two halves of x."""

    def __init__(self, scale: nn.Conv2d, shift: nn.Conv2d):
        assert scale.bias is not None and shift.bias is not None
        self.scale, self.shift = Packed(scale.weight, scale.bias), Packed(shift.weight, shift.bias)

    def __call__(self, x: Tensor, g: Tensor) -> Tensor:
        """Return the transformed g [T, H, W, C]."""
        T, H, W, _ = g.shape
        out = torch.empty_like(g)
        grid, sizes = self.scale.launch(T, H, W, rows=_ROWS)
        start(
            kernels.transform, grid, x, self.scale.weight, self.shift.weight, self.scale.bias, self.shift.bias, g, out,
            H, W, **sizes,
        )  # fmt: skip
        return out


class ConvRGB(Packed):
    """Compute lrelu(conv(x) + b), and the RGB head of the result."""

    def __init__(self, conv: nn.Conv2d, head: Tensor, head_bias: Tensor):
        assert conv.bias is not None
        super().__init__(conv.weight, conv.bias)
        matrix = head.new_zeros(self.cout, 3)
        matrix[: head.shape[1]] = head[:, :, 0, 0].T
        wide = _diagonal(matrix, self.pixels)  # [pixels C, pixels 3]
        self.head = nn.functional.pad(wide, (0, 16 - wide.shape[1])).contiguous()
        self.head_bias = nn.functional.pad(head_bias.float().repeat(self.pixels), (0, 16 - wide.shape[1])).contiguous()

    def __call__(self, x: Tensor, scale: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Return the result times `after` [T, C], and RGB [T, H, W, 3].

        The RGB is that of the result times `scale` [T, C], plus the enlarged `before`.
        """
        T, H, W, _ = x.shape
        out, rgb = x.new_empty(T, H, W, self.cout), x.new_empty(T, H, W, 3)
        self._run(x, scale, before, after, out, rgb, last=False)
        return out, rgb

    def last(self, x: Tensor, scale: Tensor, before: Tensor, into: Tensor | None) -> Tensor:
        """Return RGB 0..1 of the last level, in `into` if given, else in new memory."""
        rgb = x.new_empty(*x.shape[:3], 3) if into is None else into
        self._run(x, scale, before, scale, x, rgb, last=True)
        return rgb

    def _run(
        self, x: Tensor, scale: Tensor, before: Tensor, after: Tensor, out: Tensor, rgb: Tensor, last: bool
    ) -> None:  # fmt: skip
        T, H, W, _ = x.shape
        head = (self.head * scale.repeat(1, self.pixels)[:, :, None]).half()
        rows = _ROWS if self.cout > _COLUMNS else 0  # what fits the shared memory of small GPUs
        grid, sizes = self.launch(T, H, W, rows=rows, columns=self.cout * self.pixels)
        start(
            kernels.rgb, grid, x, self.weight, self.bias, head, self.head_bias, before, after, after.stride(0), out,
            rgb, H, W, LAST=last, **sizes,
        )  # fmt: skip


_stages: dict[tuple[object, ...], int] = {}  # of launches for which fewer than asked for fit into shared memory


def start(kernel: Any, grid: tuple[int, int, int], *args: Any, num_stages: int, **sizes: Any) -> None:
    """Launch with as many of `num_stages` as shared memory holds: 227 KiB on an H100, 99 KiB on many other GPUs."""
    key = (id(kernel), *sorted(sizes.items()))
    while True:
        try:
            kernel[grid](*args, num_stages=_stages.get(key, num_stages), **sizes)
            return
        except OutOfResources:
            if _stages.get(key, num_stages) == 1:
                raise
            _stages[key] = _stages.get(key, num_stages) - 1


def double(x: Tensor) -> Tensor:
    """[T, 2H, 2W, C] bilinear, corners not aligned."""
    T, H, W, C = x.shape
    out = x.new_empty(T, 2 * H, 2 * W, C)
    total = out[0].numel()
    kernels.double[(triton.cdiv(total, 2048), T)](x, out, H, W, total, C=C, BLOCK=2048, num_warps=4)
    return out
