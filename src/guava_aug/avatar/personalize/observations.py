"""The frames an avatar is fitted to, and how much each pixel counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    hand_speeds: Tensor | None = None  # [I, 2] pixels a frame, left and right; None: measured between poses t +- 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.images.shape[-1], self.images.shape[-2]

    def to(self, device: torch.device | str) -> Observations:
        """Return the same observations on a device."""
        moved: dict[str, Any] = {k: None if v is None else v.to(device) for k, v in vars(self).items()}
        return Observations(**moved)

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
    out = torch.ones(len(seen), 1, H, W, device=device)
    disc = lambda center, radius: (
        (x - center[:, 0, None, None]) ** 2 + (y - center[:, 1, None, None]) ** 2 < radius[:, None, None] ** 2
    )[:, None]
    joints = posed.joints[seen.frames]
    at = _project(joints[:, list(_FACE_JOINTS)], views, K).mean(1)
    out = torch.where(disc(at, _FACE_RADIUS * at[:, 2]), face, out)
    last = len(posed.joints) - 1
    speeds = seen.hand_speeds
    if speeds is None and blur_speed > 0:
        around = [posed.joints[(seen.frames + d).clamp(0, last)] for d in (-1, 1)]
        speeds = hand_speeds(joints, around, views, K)
    for side, ids in enumerate(_HANDS):
        points = _project(joints[:, list(ids)], views, K)
        center = points.mean(1)
        radius = (points[..., :2] - center[:, None, :2]).norm(dim=-1).amax(1) + _HAND_MARGIN * center[:, 2]
        weight = torch.full_like(radius, hand)
        if blur_speed > 0 and speeds is not None:
            weight = weight / (1 + (speeds[:, side] / blur_speed) ** 2)
        out = torch.where(disc(center, radius), weight[:, None, None, None], out)
    return out.half()


def hand_speeds(joints: Tensor, around: Sequence[Tensor], views: Tensor, K: Tensor) -> Tensor:
    """Return [I, 2] pixels that left and right hand move from frame to frame, in the camera of each picture.

    Args:
        joints: [I, J, 3] of the pictures, metres.
        around: the same in the frame before and in the frame after.
        views: [I, 4, 4] cameras.
        K: [I, 3, 3] lenses.
    """
    found = []
    for ids in _HANDS:
        here = _project(joints[:, list(ids)], views, K)[..., :2]
        moved = [(_project(near[:, list(ids)], views, K)[..., :2] - here).norm(dim=-1).mean(1) for near in around]
        found.append(torch.stack(moved).mean(0))
    return torch.stack(found, 1)


def _project(points: Tensor, views: Tensor, K: Tensor) -> Tensor:
    """Return x, y and pixels per metre [I, n, 3] of points [I, n, 3] in cameras [I, 4, 4] with lenses [I, 3, 3]."""
    camera = points @ views[:, :3, :3].transpose(1, 2) + views[:, None, :3, 3]
    pixels = camera @ K.transpose(1, 2)
    z = camera[..., 2:].clamp(min=1e-3)
    return torch.cat([pixels[..., :2] / z, K[:, :1, 0, None].expand_as(z) / z], -1)
