"""Compositing of the person over the background."""

from __future__ import annotations

from torch import Tensor


def composite(
    rgb: Tensor,  # [T, 3, H, W] 0..1
    alpha: Tensor,  # [T, 1, H, W]
    background: Tensor,  # [T or 1, 3, H, W] 0..1
) -> Tensor:
    """Return rgb * alpha + background * (1 - alpha), [T, 3, H, W] 0..1."""
    alpha = alpha.clamp(0, 1)
    return rgb * alpha + background * (1 - alpha)
