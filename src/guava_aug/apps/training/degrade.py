"""Source pictures as tracked videos give them, made from clean ones.

A camera (motion blur, defocus, colours, noise), a file (fewer pixels, compression) and a tracker (a mask that is too
wide or too narrow, without fingers, with pieces of background, part of the square outside the video). Colours are those
of the camera, so the target pictures have them too; all else is damage, which only the source has.

Everything is a function of the generator that is given and of the device. Sizes are pixels of a picture of 512.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_SIZE = 512  # pixels of the picture that all lengths below are meant for
_KERNEL = 21  # side of the blur kernels, pixels
_BLURRED, _MOVING_HAND, _COMPRESSED, _SMALLER, _CUT = 0.5, 0.4, 0.8, 0.6, 0.25  # shares of the pictures
_MASK_ERRORS, _BLOBS = 0.85, 0.45
_DEFOCUS = (0.3, 1.6)  # pixels, standard deviation
_SHAKE = 4.0  # pixels, longest blur of the whole picture
_HAND_BLUR = (3.0, 16.0)  # pixels
_NOISE = (0.002, 0.03)  # standard deviation
_SHRINK = (1.0, 3.0)  # times fewer pixels a side
_QUALITY = (20, 95)  # of JPEG
_MOST_CUT = 0.3  # share of a side of the square that the video does not show
# quantisation of luma and chroma at quality 50: ITU-T T.81, annex K
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
    *([99] * 32),
)  # fmt: skip
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))  # JFIF
_FROM_YCC = np.linalg.inv(_TO_YCC).tolist()


@dataclass(frozen=True)
class CameraColors:
    """How the cameras of B people show colours: exposure, white balance, saturation, tone, haze."""

    mix: Tensor  # [B, 3, 3] of colours
    gamma: Tensor  # [B]
    contrast: Tensor  # [B] about middle grey
    haze: Tensor  # [B] 0..1
    haze_color: Tensor  # [B, 3]

    def apply(self, rgb: Tensor) -> Tensor:
        """Return colours [B, ..., 3, H, W] 0..1 as the cameras show them."""
        wide = lambda v: v.view(len(v), *[1] * (rgb.dim() - 4), -1, 1, 1)
        out = torch.einsum("bij,b...jhw->b...ihw", self.mix, rgb).clamp(1e-4, 1) ** wide(self.gamma)
        out = (out - 0.5) * wide(self.contrast) + 0.5
        return (out + (wide(self.haze_color) - out) * wide(self.haze)).clamp(0, 1)

    def apply_to_layer(self, rgba: Tensor) -> Tensor:
        """Return layers [B, ..., 4, H, W], colour times alpha and alpha, as the cameras show them."""
        rgb, alpha = rgba[..., :3, :, :], rgba[..., 3:, :, :]
        return torch.cat([self.apply(rgb / alpha.clamp(min=1 / 255)) * alpha, alpha], -3)


def camera_colors(rng: np.random.Generator, count: int, device: torch.device | str) -> CameraColors:
    """Return random colours of `count` cameras, from neutral to those of a bad webcam."""
    n, much = count, rng.uniform(0, 1, count)
    gain = np.exp(much[:, None] * rng.normal(0, 0.09, (n, 3)) + much[:, None] * rng.uniform(-0.35, 0.25, (n, 1)))
    saturation = 1 + much * rng.uniform(-0.45, 0.3, n)
    grey = np.array(_TO_YCC[0])
    mix = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * grey
    return CameraColors(
        mix=_tensor(gain[:, :, None] * mix, device),
        gamma=_tensor(np.exp(much * rng.uniform(-0.25, 0.25, n)), device),
        contrast=_tensor(1 + much * rng.uniform(-0.2, 0.2, n), device),
        haze=_tensor(much * rng.uniform(0, 0.15, n) * (rng.random(n) < 0.5), device),
        haze_color=_tensor(rng.uniform(0.3, 0.8, (n, 1)) + rng.uniform(-0.1, 0.1, (n, 3)), device),
    )


def degrade(rgba: Tensor, boxes: Tensor, rng: np.random.Generator) -> tuple[Tensor, CameraColors]:
    """Return degraded pictures [B, 4, H, W], and the colours of the cameras that took them.

    The result is as `Sources.pictures` has it: what shows through the tracker's mask, on black, and the mask.

    Args:
        rgba: [B, 4, H, W] colour times alpha and alpha, 0..1; H = W.
        boxes: [B, 3, 4] head, left hand, right hand: left, top, right, bottom in -1..1.
        rng: All that is random comes from it.
    """
    device, count, size = rgba.device, len(rgba), rgba.shape[-1]
    draw = _Draw(rng, device, count)
    colors = camera_colors(rng, count, device)
    windows = torch.stack([_window(boxes[:, k], size) for k in range(3)], 1)[:, :, None]  # [B, 3, 1, H, W]

    # the camera
    person = _blur_hand(rgba, windows, draw)
    picture = person[:, :3] + (1 - person[:, 3:]) * backgrounds(rng, count, size, device)
    shake = draw.uniform(0, _SHAKE) * draw.uniform(0, 1) * size / _SIZE
    kernels = _kernels(shake, draw.uniform(0, math.pi), draw.log_uniform(*_DEFOCUS) * size / _SIZE)
    blurred = _filter(torch.cat([picture, person[:, 3:]], 1), kernels).clamp(0, 1)
    some = draw.chosen(_BLURRED)
    picture = torch.where(some, blurred[:, :3], picture)
    alpha = torch.where(some, blurred[:, 3:], person[:, 3:])
    picture = colors.apply(picture)

    # the file
    picture = _stored(picture, draw)

    # the tracker
    mask = torch.where(draw.chosen(_MASK_ERRORS), tracker_mask(alpha, windows, draw), alpha)
    mask = mask * _shown(draw, size)
    return torch.cat([picture * mask, mask], 1), colors


class _Draw:
    """Random numbers for B pictures on their device."""

    def __init__(self, rng: np.random.Generator, device: torch.device, count: int):
        self.rng, self.device, self.count = rng, device, count
        self.generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))

    def uniform(self, low: float, high: float) -> Tensor:
        """Return [B, 1, 1, 1]."""
        return _tensor(self.rng.uniform(low, high, self.count), self.device).view(-1, 1, 1, 1)

    def log_uniform(self, low: float, high: float) -> Tensor:
        """Return [B, 1, 1, 1]."""
        return self.uniform(math.log(low), math.log(high)).exp()

    def chosen(self, share: float) -> Tensor:
        """Return [B, 1, 1, 1] bool."""
        return self.uniform(0, 1) < share

    def noise(self, channels: int, cells: int, size: int) -> Tensor:
        """Return [B, channels, size, size] smooth noise of about unit variance, `cells` waves a side."""
        coarse = torch.randn(self.count, channels, cells, cells, generator=self.generator, device=self.device)
        return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)


def backgrounds(rng: np.random.Generator, count: int, size: int, device: torch.device | str) -> Tensor:
    """Return [count, 3, size, size] 0..1 pictures of nothing: soft light, patches with edges, texture."""
    draw = _Draw(rng, torch.device(device), count)
    wild = draw.uniform(0, 1)
    vivid = draw.uniform(0, 1).square()  # most rooms are of dull colours
    out = _dull(rng, vivid).expand(-1, -1, size, size)
    at = torch.linspace(0, 1, size, device=device)
    for _ in range(4):
        low, span = rng.uniform(-0.3, 0.9, (count, 2)), rng.uniform(0.08, 0.7, (count, 2))
        x0, y0 = _tensor(low, device)[:, :, None].unbind(1)
        x1, y1 = _tensor(low + span, device)[:, :, None].unbind(1)
        inside = ((at >= y0) & (at < y1))[:, None, :, None] & ((at >= x0) & (at < x1))[:, None, None]
        out = out + (_dull(rng, vivid) - out) * inside * wild * draw.uniform(0, 1)
    for cells, strength in ((3, 0.12), (9, 0.08), (40, 0.06), (160, 0.05)):
        pattern = draw.noise(4, cells, size)
        out = out + strength * wild * draw.uniform(0, 1) * (pattern[:, :1] + 0.3 * pattern[:, 1:])
    return out.clamp(0, 1)


def _dull(rng: np.random.Generator, vivid: Tensor) -> Tensor:
    """Return [B, 3, 1, 1] random colours, grey where `vivid` [B, 1, 1, 1] is 0."""
    color = _tensor(rng.uniform(0.03, 0.97, (len(vivid), 3)), vivid.device)[:, :, None, None]
    grey = color[:, :1] + 0.1 * (color - 0.5)
    return grey + vivid * (color - grey)


def tracker_mask(alpha: Tensor, windows: Tensor, draw: _Draw) -> Tensor:
    """Return masks [B, 1, H, W] as a segmentation net finds them where the truth is `alpha`.

    The level of a smoothed mask: above .5 it shrinks, below it grows, and the wider the smoothing is, the more of what
    is thin is lost, or of a gap is filled. Smoothing is wide where a picture loses its fingers or tufts of hair.

    Args:
        alpha: [B, 1, H, W] the true masks.
        windows: [B, 3, 1, H, W] 1 at head, left hand, right hand, 0 elsewhere.
        draw: What is random.
    """
    size = alpha.shape[-1]
    near, far, wide = (_smooth(alpha, s * size / _SIZE) for s in (1.5, 7.0, 14.0))
    lost = draw.uniform(0, 0.35)
    for k in range(3):
        lost = lost + windows[:, k] * draw.chosen(0.4) * draw.uniform(0.3, 1)
    smooth = near + (far - near) * lost.clamp(0, 1)
    level = (0.5 + draw.uniform(-0.22, 0.22) + draw.uniform(0, 0.16) * draw.noise(1, 20, size)).clamp(0.12, 0.88)
    width = draw.log_uniform(0.06, 0.5).minimum(2 * level).minimum(2 - 2 * level)  # 0 and 1 far from the outline
    mask = (smooth - level) / width + 0.5
    # pieces of the background let in, and pieces of the person left out, near the outline
    blobs, edge = draw.noise(1, 14, size), 4 * wide * (1 - wide)
    extent = torch.where(draw.chosen(_BLOBS), draw.uniform(1.6, 2.6), torch.inf)
    let_in, left_out = ((8 * (sign * blobs * edge.sqrt() - extent)).sigmoid() for sign in (1, -1))
    known = (wide > 0.02) & (wide < 0.98)
    return torch.where(known, mask.clamp(0, 1).maximum(let_in) * (1 - left_out), mask.clamp(0, 1))


def compress(rgb: Tensor, quality: Sequence[float]) -> Tensor:
    """Return [B, 3, H, W] 0..1 after quantisation as in JPEG: 8 x 8 cosines, half as many pixels of chroma a side."""
    H, W = rgb.shape[-2:]
    padded = F.pad(rgb, (0, -W % 16, 0, -H % 16), mode="replicate")
    ycc = torch.einsum("ij,bjhw->bihw", rgb.new_tensor(_TO_YCC), padded * 255)
    luma, chroma = (rgb.new_tensor([_table(base, q) for q in quality]) for base in (_LUMA, _CHROMA))
    Y = _quantize(ycc[:, :1] - 128, luma) + 128
    C = _quantize(F.avg_pool2d(ycc[:, 1:], 2), chroma)
    whole = torch.cat([Y, F.interpolate(C, Y.shape[2:], mode="bilinear")], 1)  # bilinear: as libjpeg does
    out = torch.einsum("ij,bjhw->bihw", rgb.new_tensor(_FROM_YCC), whole) / 255
    return out[..., :H, :W].clamp(0, 1)


def _stored(rgb: Tensor, draw: _Draw) -> Tensor:
    """Return pictures [B, 3, H, W] with fewer pixels, sensor noise and compression, at their size.

    All have the same number of pixels, so that they can be worked on together.
    """
    rng, size = draw.rng, rgb.shape[-1]
    n = round(size / math.exp(rng.uniform(*np.log(_SHRINK)))) if rng.random() < _SMALLER else size
    small = rgb if n == size else F.interpolate(rgb, (n, n), mode="bilinear", antialias=True)
    grain = torch.randn(small.shape, generator=draw.generator, device=rgb.device)
    # of a sensor with colour filters, or of one that was denoised
    smooth = F.avg_pool2d(grain, 3, stride=1, padding=1) * 2
    grain = torch.where(draw.chosen(0.5), smooth, grain) * draw.log_uniform(*_NOISE)
    small = (small + grain * (0.5 + small.mean(1, keepdim=True))).clamp(0, 1)
    small = torch.where(draw.chosen(_COMPRESSED), compress(small, rng.uniform(*_QUALITY, len(rgb)).tolist()), small)
    if n == size:
        return small
    return F.interpolate(small, (size, size), mode="bicubic", align_corners=False).clamp(0, 1)


def _blur_hand(rgba: Tensor, windows: Tensor, draw: _Draw) -> Tensor:
    """Return the layers with motion blur at one hand of some."""
    size = rgba.shape[-1]
    length = draw.log_uniform(*_HAND_BLUR) * size / _SIZE
    kernels = _kernels(length, draw.uniform(0, math.pi), draw.uniform(0.3, 0.6) * size / _SIZE)
    left = draw.chosen(0.5)
    window = torch.where(left, windows[:, 1], windows[:, 2]) * draw.chosen(_MOVING_HAND)
    return (rgba + (_filter(rgba, kernels) - rgba) * window).clamp(0, 1)


def _kernels(length: Tensor, angle: Tensor, sigma: Tensor) -> Tensor:
    """Return [B, k, k] kernels of a line (pixels, radians) blurred by a Gaussian (pixels)."""
    half = _KERNEL // 2
    at = torch.arange(-half, half + 1, device=length.device, dtype=torch.float32)
    y, x = at.view(1, -1, 1), at.view(1, 1, -1)
    length, angle, sigma = (v.view(-1, 1, 1) for v in (length, angle, sigma))
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    off = (along.abs() - length / 2).clamp(min=0)
    weight = torch.exp(-(off.square() + across.square()) / (2 * sigma.clamp(min=0.25).square()))
    return weight / weight.sum((1, 2), keepdim=True)


def _filter(images: Tensor, kernels: Tensor) -> Tensor:
    """Return images [B, C, H, W], each filtered with its kernel [B, k, k]."""
    B, C = images.shape[:2]
    half = kernels.shape[-1] // 2
    padded = F.pad(images, (half,) * 4, mode="replicate").flatten(0, 1)[None]
    return F.conv2d(padded, kernels.repeat_interleave(C, 0)[:, None], groups=B * C)[0].unflatten(0, (B, C))


def _smooth(images: Tensor, sigma: float) -> Tensor:
    """Return images [B, 1, H, W] under a Gaussian of `sigma` pixels, wide ones at fewer pixels."""
    size, shrink = images.shape[-2:], max(1, int(sigma / 2))
    small = F.avg_pool2d(images, shrink) if shrink > 1 else images
    half = max(1, math.ceil(2.5 * sigma / shrink))
    at = torch.arange(-half, half + 1, device=images.device)
    line = torch.exp(-0.5 * (at * shrink / sigma).square())
    line = (line / line.sum()).view(1, 1, 1, -1)
    small = F.conv2d(F.pad(small, (half, half, 0, 0), mode="replicate"), line)
    small = F.conv2d(F.pad(small, (0, 0, half, half), mode="replicate"), line.transpose(2, 3))
    return small if shrink == 1 else F.interpolate(small, size, mode="bilinear", align_corners=False)


def _window(boxes: Tensor, size: int) -> Tensor:
    """Return [B, size, size] soft windows of boxes [B, 4] in -1..1."""
    at = (torch.arange(size, device=boxes.device) + 0.5) * 2 / size - 1
    left, top, right, bottom = boxes.unbind(1)
    x, y = (
        (at - ((a + b) / 2)[:, None]) / ((b - a) / 2).clamp(min=1e-3)[:, None]
        for a, b in ((left, right), (top, bottom))
    )
    return torch.exp(-(x.square()[:, None] + y.square()[:, :, None]).square())


def _shown(draw: _Draw, size: int) -> Tensor:
    """Return [B, 1, size, size] 1 where the video shows the square, 0 where the square reaches beyond it."""
    at = (torch.arange(size, device=draw.device) + 0.5) / size
    cut = draw.uniform(0.02, _MOST_CUT) * draw.chosen(_CUT)
    side = draw.uniform(0, 1)  # left, right, below, and seldom above
    x, y = at.view(1, 1, 1, -1), at.view(1, 1, -1, 1)
    distance = torch.where(side < 0.25, x + 0 * y, torch.where(side < 0.5, 1 - x + 0 * y, 1 - y + 0 * x))
    distance = torch.where(side > 0.95, y + 0 * x, distance)
    return (distance > cut).float()


def _quantize(planes: Tensor, tables: Tensor) -> Tensor:
    """Return planes [B, C, H, W], cosines of every 8 x 8 block rounded to multiples of `tables` [B, 8, 8]."""
    B, C, H, W = planes.shape
    cosines, step = _cosines(planes.device), tables[:, None, None, None]
    blocks = planes.view(B, C, H // 8, 8, W // 8, 8).transpose(3, 4)
    found = cosines @ blocks @ cosines.T
    return (cosines.T @ ((found / step).round() * step) @ cosines).transpose(3, 4).reshape(B, C, H, W)


@functools.cache
def _cosines(device: torch.device) -> Tensor:
    """Return the orthonormal cosine transform [8, 8] of eight values."""
    k = torch.arange(8, dtype=torch.float64)
    rows = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) / 2
    rows[0] /= math.sqrt(2)
    return rows.float().to(device)


def _table(base: Sequence[int], quality: float) -> list[list[float]]:
    """Return the steps [8, 8] at a quality of 1..100, as libjpeg scales them."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps: list[list[float]] = np.floor((np.array(base) * scale + 50) / 100).clip(1, 255).reshape(8, 8).tolist()
    return steps


def _tensor(values: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32, device=device)
