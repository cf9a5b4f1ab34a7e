"""From float pictures to bytes, as the original rounds them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from guava_aug.errors import OutputError


def to_video_bytes(rgb: Tensor) -> np.ndarray:
    """uint8 [T, H, W, 3] for the MP4 from rgb [T, 3, H, W] 0..1: truncated as in the original. Refuses NaN and inf."""
    return _bytes(rgb, 0.0)


def to_png_bytes(rgb: Tensor) -> np.ndarray:
    """uint8 [T, H, W, 3] for the PNGs from rgb [T, 3, H, W] 0..1: rounded as in the original. Refuses NaN, infinity."""
    return _bytes(rgb, 0.5)


def _bytes(rgb: Tensor, offset: float) -> np.ndarray:
    broken = ~rgb.detach().isfinite().flatten(1).all(dim=1)
    if bool(broken.any()):
        first = int(broken.nonzero()[0])
        raise OutputError(
            f"frame {first} of this chunk has pixels that are not finite (NaN or infinity); check the pose of that "
            "frame with `guava-aug check`"
        )
    scaled = rgb.detach().float().clamp(0, 1).mul(255).add_(offset)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
