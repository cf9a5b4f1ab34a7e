"""Rendered frames as bytes: with the original's rounding on any device, and on their way from a GPU to an encoder."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from guava_aug.errors import OutputError, annotate
from guava_aug.runtime import timing

if TYPE_CHECKING:
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


class PendingFrames:
    """I420 planes being copied into page-locked memory. Only the encoder's thread waits for the copy."""

    def __init__(
        self,
        planes: Tensor,  # [T, 3 H / 2, W] uint8 on a GPU: BT.601, limited range
        broken: Tensor,  # [T] int32, not 0: this frame has pixels that are not finite
    ) -> None:
        import torch  # noqa: PLC0415  # a run with nothing to make needs none

        self._planes, self._broken = _pinned(planes), _pinned(broken)
        self._here = torch.cuda.Event()
        self._here.record(torch.cuda.current_stream(planes.device))

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape (T, 3 H / 2, W)."""
        return tuple(self._planes.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice) -> PendingFrames:
        part = copy.copy(self)
        part._planes, part._broken = self._planes[index], self._broken[index]
        return part

    def planes(self) -> np.ndarray:
        """Return uint8 [T, 3 H / 2, W] after the copy has finished.

        Raises:
            NotFiniteError: A frame has pixels that are not finite.
        """
        self._here.synchronize()
        bad = self._broken.numpy()
        if bad.any():
            first = int(bad.nonzero()[0][0])
            error = NotFiniteError(
                first,
                "check the pose of that frame with `guava-aug check`; if it is fine, half precision is too narrow for "
                "this model: use --precision fp32",
            )
            raise annotate(error, stage=timing.RENDER)
        return self._planes.numpy()


def _pinned(x: Tensor) -> Tensor:
    """Return a copy in page-locked memory that is still in progress; torch reuses such memory."""
    import torch  # noqa: PLC0415  # a run with nothing to make needs none

    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
