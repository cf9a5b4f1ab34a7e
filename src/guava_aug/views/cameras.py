"""Cameras: what a view is seen through."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TANFOV = 1.0 / 24.0  # tan of the HALF field of view (config `invtanfov: 24`)


@dataclass(frozen=True)
class Cameras:
    """T pinhole cameras that share one lens.

    World to camera, OpenCV axes: x right, y down, z forward. Integer pixel coordinates are pixel
    centres, so the principal point of a symmetric W x H image is ((W-1)/2, (H-1)/2).
    """

    viewmats: Tensor  # [T, 4, 4] float32, world -> camera, column vectors
    K: Tensor  # [3, 3] float32 pixels
    width: int
    height: int

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    def to(self, device: torch.device | str) -> Cameras:
        return Cameras(self.viewmats.to(device), self.K.to(device), self.width, self.height)

    def __getitem__(self, index: slice) -> Cameras:
        return Cameras(self.viewmats[index], self.K, self.width, self.height)


def intrinsics(width: int, height: int, tanfov: float = TANFOV) -> Tensor:
    """[3, 3] K of a symmetric lens whose half field of view has tangent `tanfov` in both axes."""
    fx, fy = width / (2.0 * tanfov), height / (2.0 * tanfov)
    return torch.tensor([[fx, 0.0, (width - 1) / 2], [0.0, fy, (height - 1) / 2], [0.0, 0.0, 1.0]])
