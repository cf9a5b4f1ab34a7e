"""From float pictures to bytes, as the original rounds them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from guava_aug.errors import OutputError
from guava_aug.runtime.failures import annotate


class NotFiniteError(OutputError):
    """Rendered pixels are not finite. Who finds them knows only some frames; `after` says which."""

    def __init__(self, frame: int, advice: str) -> None:
        super().__init__(frame, advice)
        self._located = False

    def __str__(self) -> str:
        frame, advice = self.args
        return f"frame {frame} has pixels that are not finite (NaN or infinity); {advice}"

    def after(self, frames: int) -> NotFiniteError:
        """The same error with the frame's number in the video, when so many came before. Only the first call counts."""
        if not self._located:
            self.args = (self.args[0] + frames, self.args[1])
            self._located = True
        return annotate(self, frame=self.args[0])


def to_video_bytes(rgb: Tensor) -> np.ndarray:
    """uint8 [T, H, W, 3] for the MP4 from rgb [T, 3, H, W] 0..1: truncated as in the original. Refuses NaN and inf."""
    return _bytes(rgb, 0.0)


def to_png_bytes(rgb: Tensor) -> np.ndarray:
    """uint8 [T, H, W, 3] for the PNGs from rgb [T, 3, H, W] 0..1: rounded as in the original. Refuses NaN, infinity."""
    return _bytes(rgb, 0.5)


def _bytes(rgb: Tensor, offset: float) -> np.ndarray:
    broken = ~rgb.detach().isfinite().flatten(1).all(dim=1)
    if bool(broken.any()):
        raise NotFiniteError(int(broken.nonzero()[0]), "check the pose of that frame with `guava-aug check`")
    scaled = rgb.detach().float().clamp(0, 1).mul(255).add_(offset)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
