"""The frames an avatar is fitted to, and how much each pixel counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guava_aug.body import PosedBody

# SMPL-X joints
_FACE_JOINTS = (22, 23, 24)  # jaw, eyes
_HANDS = (range(25, 40), range(40, 55))
_FACE_RADIUS = 0.12  # metres
_HAND_MARGIN = 0.03  # metres around the joints of the fingers


@dataclass(frozen=True)
class Observations:
    """I pictures of T poses through C cameras.

    Camera c sees pose t through `relative[c] @ viewmats[t]`, viewmats being those of the first camera.
    """

    images: Tensor  # [I, 3, H, W] uint8
    masks: Tensor  # [I, 1, H, W] uint8, 255 is person
    frames: Tensor  # [I] int64 pose of each picture
    cameras: Tensor  # [I] int64
    known: Tensor  # [C, 1, H, W] bool: inside the video's picture; elsewhere nothing is known
    relative: Tensor  # [C, 4, 4]
    K: Tensor  # [C, 3, 3]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.images.shape[-1], self.images.shape[-2]

    def to(self, device: torch.device | str) -> Observations:
        """Return the same observations on a device."""
        return Observations(**{k: v.to(device) for k, v in vars(self).items()})

    def __len__(self) -> int:
        return len(self.frames)


def importance(
    posed: PosedBody, viewmats: Tensor, seen: Observations, face: float, hand: float, blur_speed: float
) -> Tensor:
    """[I, 1, H, W] float16 weights, about 1: face and hands weigh more, hands that move fast less.

    A hand that moves `blur_speed` pixels from frame to frame (mean of both neighbours) counts half.
    """
    W, H = seen.size
    device = posed.joints.device
    y, x = torch.meshgrid(
        torch.arange(H, device=device, dtype=torch.float32), torch.arange(W, device=device, dtype=torch.float32),
        indexing="ij",
    )  # fmt: skip
    views = seen.relative[seen.cameras] @ viewmats[seen.frames]
    K = seen.K[seen.cameras]

    def project(points: Tensor) -> Tensor:  # [I, n, 3] -> [I, n, 3] x, y, pixels per metre
        camera = points @ views[:, :3, :3].transpose(1, 2) + views[:, None, :3, 3]
        pixels = camera @ K.transpose(1, 2)
        z = camera[..., 2:].clamp(min=1e-3)
        return torch.cat([pixels[..., :2] / z, K[:, :1, 0, None].expand_as(z) / z], -1)

    out = torch.ones(len(seen), 1, H, W, device=device)
    disc = lambda center, radius: (
        (x - center[:, 0, None, None]) ** 2 + (y - center[:, 1, None, None]) ** 2 < radius[:, None, None] ** 2
    )[:, None]
    joints = posed.joints[seen.frames]
    at = project(joints[:, list(_FACE_JOINTS)]).mean(1)
    out = torch.where(disc(at, _FACE_RADIUS * at[:, 2]), face, out)
    last = len(posed.joints) - 1
    for ids in _HANDS:
        points = project(joints[:, list(ids)])
        center = points.mean(1)
        radius = (points[..., :2] - center[:, None, :2]).norm(dim=-1).amax(1) + _HAND_MARGIN * center[:, 2]
        weight = torch.full_like(radius, hand)
        if blur_speed > 0:
            moved = [
                (project(posed.joints[(seen.frames + d).clamp(0, last)][:, list(ids)]) - points)[..., :2]
                .norm(dim=-1).mean(1) for d in (-1, 1)
            ]  # fmt: skip
            weight = weight / (1 + (sum(moved) / 2 / blur_speed) ** 2)
        out = torch.where(disc(center, radius), weight[:, None, None, None], out)
    return out.half()
