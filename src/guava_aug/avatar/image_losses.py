"""Differences of pictures that networks and avatars are fitted by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_C1, _C2 = 0.01**2, 0.03**2


def edge_loss(a: Tensor, b: Tensor, levels: int = 3) -> Tensor:
    """Mean absolute difference of horizontal and vertical differences, at `levels` halvings of the resolution."""
    total = a.new_zeros(())
    for level in range(levels):
        if level:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        d = a - b
        total = total + (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
    return total / levels


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity with the usual 11-pixel Gaussian window (Wang et al., 2004)."""
    C = a.shape[1]
    x = torch.arange(11, dtype=a.dtype, device=a.device) - 5
    g = torch.exp(-(x**2) / (2 * 1.5**2))
    g = g / g.sum()
    stack = torch.cat([a, b, a * a, b * b, a * b], 1)
    n = 5 * C
    stack = F.conv2d(stack, g.view(1, 1, 1, 11).expand(n, 1, 1, 11), groups=n)
    stack = F.conv2d(stack, g.view(1, 1, 11, 1).expand(n, 1, 11, 1), groups=n)
    ma, mb, aa, bb, ab = stack.split(C, 1)
    va, vb, cov = aa - ma * ma, bb - mb * mb, ab - ma * mb
    return (((2 * ma * mb + _C1) * (2 * cov + _C2)) / ((ma * ma + mb * mb + _C1) * (va + vb + _C2))).mean()


def coarse_loss(a: Tensor, b: Tensor, size: int = 9) -> Tensor:
    """Return the L1 distance of images [I, C, H, W] after a mean over `size` x `size` pixels."""
    blur = lambda x: F.avg_pool2d(x, size, 1, size // 2, count_include_pad=False)
    return (blur(a) - blur(b)).abs().mean()


def texture_loss(a: Tensor, b: Tensor) -> Tensor:
    """Return how much more or less detail images [I, C, H, W] have than others near each pixel.

    Detail is the root of the mean gradient over 8 and 16 pixels. Where it lies exactly is not asked: a pattern a pixel
    beside its place costs nothing here, a blurred one does.
    """
    return torch.stack([(_detail(a, s) - _detail(b, s)).abs().mean() for s in (8, 16)]).sum()


def _detail(x: Tensor, size: int) -> Tensor:
    across = F.pad((x[..., 1:] - x[..., :-1]).abs(), (0, 1))
    down = F.pad((x[..., 1:, :] - x[..., :-1, :]).abs(), (0, 0, 0, 1))
    return (F.avg_pool2d((across + down).sum(1, keepdim=True), size, size // 2) + 1e-4).sqrt()
