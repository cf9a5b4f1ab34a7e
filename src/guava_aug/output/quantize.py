"""Conversion of float images to bytes, with the original's rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from guava_aug.errors import OutputError, annotate

if TYPE_CHECKING:  # a run with nothing to do needs no torch
    from torch import Tensor


class NotFiniteError(OutputError):
    """Rendered pixels are not finite.

    The frame number counts within a batch until `after` adds the frames before it.
    """

    def __init__(self, frame: int, advice: str) -> None:
        super().__init__(frame, advice)
        self._located = False

    def __str__(self) -> str:
        frame, advice = self.args
        return f"frame {frame} has pixels that are not finite (NaN or infinity); {advice}"

    def after(self, frames: int) -> NotFiniteError:
        """Return the same error with the frame's number in the video.

        `frames` earlier ones are added to the number within the batch; only the first call counts.
        """
        if not self._located:
            self.args = (self.args[0] + frames, self.args[1])
            self._located = True
        return annotate(self, frame=self.args[0])


def to_video_bytes(rgb: Tensor) -> np.ndarray:
    """Return uint8 [T, H, W, 3] for the MP4 of rgb [T, 3, H, W] 0..1: truncated as in the original.

    Raises:
        NotFiniteError: A pixel is NaN or infinite.
    """
    return _bytes(rgb, 0.0)


def to_png_bytes(rgb: Tensor) -> np.ndarray:
    """Return uint8 [T, H, W, 3] for the PNGs of rgb [T, 3, H, W] 0..1: rounded as in the original.

    Raises:
        NotFiniteError: A pixel is NaN or infinite.
    """
    return _bytes(rgb, 0.5)


def _bytes(rgb: Tensor, offset: float) -> np.ndarray:
    broken = ~rgb.detach().isfinite().flatten(1).all(dim=1)
    if bool(broken.any()):
        raise NotFiniteError(int(broken.nonzero()[0]), "check the pose of that frame with `guava-aug check`")
    scaled = rgb.detach().float().clamp(0, 1).mul(255).add_(offset)
    return scaled.byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
