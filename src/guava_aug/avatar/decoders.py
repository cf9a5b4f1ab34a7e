"""The decoder heads from features to Gaussians; module names are the checkpoint's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MAX_VERTEX_SCALE = 0.05  # metres


@dataclass(frozen=True)
class RawGaussians:
    """The prediction of a head, one row per Gaussian, before an avatar is built from it."""

    colors: Tensor  # [..., C] raw: the first three are not yet passed through the sigmoid
    opacities: Tensor  # [..., 1] 0..1
    scales: Tensor  # [..., 3] vertices: metres; UV points: units of the face scale
    rotations: Tensor  # [..., 4] wxyz
    local_pos: Tensor | None = None  # [..., 3] UV points: in the face frame, units of the face scale

    def rows(self, pick: Callable[[Tensor], Tensor]) -> RawGaussians:
        """Return the Gaussians with `pick` applied to every field."""
        return RawGaussians(**{k: pick(v) for k, v in vars(self).items() if v is not None})


class VertexDecoder(nn.Module):
    """Per-vertex features [B, P, D] and view direction [B, 27] -> Gaussians [B, P, .]."""

    def __init__(self, in_dim: int, dir_dim: int, color_dim: int):
        super().__init__()
        mid = in_dim // 2
        self.feature_layers = nn.Sequential(
            nn.Linear(in_dim, mid), nn.ReLU(),
            nn.Linear(mid, mid), nn.ReLU(),
            nn.Linear(mid, mid), nn.ReLU(),
            nn.Linear(mid, mid),
        )  # fmt: skip

        def head(out: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(mid + dir_dim, 128), nn.ReLU(), nn.Linear(128, out))

        self.color_layers = head(color_dim)
        self.opacity_layers = head(1)
        self.scale_layers = head(3)
        self.rotation_layers = head(4)

    def forward(self, features: Tensor, direction: Tensor) -> RawGaussians:
        """Return Gaussians [B, P, .] of features [B, P, D] and view directions [B, 27]."""
        x = self.feature_layers(features)
        x = torch.cat([x, direction[:, None].expand(-1, x.shape[1], -1)], -1)
        return RawGaussians(
            colors=self.color_layers(x),
            opacities=torch.sigmoid(self.opacity_layers(x)),
            scales=torch.sigmoid(self.scale_layers(x)) * _MAX_VERTEX_SCALE,
            # Over the vertices (dim 1), not over the quaternion: an error of the original the weights were trained
            # with. The result is far from unit length; posing normalises it after the product.
            rotations=F.normalize(self.rotation_layers(x), dim=1),
        )


class UVDecoder(nn.Module):
    """UV features [B, D, U, U] and view direction [B, 27] -> Gaussians [B, U, U, .]."""

    def __init__(self, in_dim: int, dir_dim: int, color_dim: int):
        super().__init__()
        wide, narrow = max(in_dim, 128), max(in_dim // 2, 64)

        def conv3(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, padding=1)

        def head(mid: int, out: int) -> nn.Sequential:
            return nn.Sequential(conv3(wide, mid), nn.LeakyReLU(), nn.Conv2d(mid, out, 1))

        self.feature_conv = nn.Sequential(
            conv3(in_dim + dir_dim, wide), nn.LeakyReLU(), conv3(wide, wide), nn.LeakyReLU(), conv3(wide, wide)
        )
        self.rot_head = head(narrow, 4)
        self.scale_head = head(narrow, 3)
        self.opacity_head = head(narrow, 1)
        self.color_head = head(wide, color_dim)
        self.local_pos_head = nn.Sequential(
            conv3(wide, wide), nn.LeakyReLU(), conv3(wide, narrow), nn.LeakyReLU(), nn.Conv2d(narrow, 3, 1)
        )

    def forward(self, features: Tensor, direction: Tensor) -> RawGaussians:
        """Return Gaussians [B, U, U, .] of features [B, D, U, U] and view directions [B, 27]."""
        size = features.shape[-2:]
        x = self.feature_conv(torch.cat([features, direction[..., None, None].expand(-1, -1, *size)], 1))

        def last(y: Tensor) -> Tensor:
            return y.permute(0, 2, 3, 1)

        return RawGaussians(
            colors=last(self.color_head(x)),
            opacities=last(torch.sigmoid(self.opacity_head(x))),
            scales=last(torch.exp(self.scale_head(x))),
            rotations=last(F.normalize(self.rot_head(x), dim=1)),
            local_pos=last(self.local_pos_head(x)),
        )
