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
