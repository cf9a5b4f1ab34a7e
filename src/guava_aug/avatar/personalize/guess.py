"""The network's guess from several frames of one video, through the video's true lens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from guava_aug.avatar.avatar import Avatar
from guava_aug.avatar.config import ModelConfig
from guava_aug.avatar.decoders import RawGaussians
from guava_aug.avatar.network import ReconstructionNetwork
from guava_aug.avatar.personalize.surface import facing
from guava_aug.body import EhmModel, Motion, PosedBody, RestShape

_DISTANCE = 24.0  # metres: where the network's nearly orthographic lens sees a person
_UNSEEN = 0.05  # weight of a frame that does not show a texel, beside 1 of one that does
_LIMIT = 1e-4


@torch.no_grad()
def guess_avatar(
    network: ReconstructionNetwork,
    config: ModelConfig,
    body: EhmModel,
    rest: RestShape,
    motion: Motion,  # n frames
    viewmats: Tensor,  # [n, 4, 4]
    K: Tensor,  # [3, 3] pixels of the pictures
    images: Tensor,  # [n, 3, H, W] 0..1, the person on black
) -> Avatar:
    """The avatar that the network sees in n frames together: each texel mostly from the frames that face it.

    The network was trained behind a lens that is nearly orthographic. Its pictures stay as they are, and the body it
    is given is bent so that its vertices fall on the true lens's pixels, at depths that differ as the true ones do.
    """
    found, weights = [], []
    size = (config.feature_img_size, config.feature_img_size)
    assets = body.assets
    occupied = assets.uv_face >= 0
    corners = assets.faces[assets.uv_face[occupied].long()]  # [M, 3]
    for i in range(len(motion)):
        posed = body.pose(rest, motion[i : i + 1])
        bent = straighten(posed, viewmats[i], K, images.shape[-1], images.shape[-2], config.invtanfov)
        image = F.interpolate(images[i : i + 1], size, mode="bilinear", antialias=True, align_corners=False)
        raw = network(image, bent, viewmats[i], assets)
        front = facing(posed.vertices[0], assets.faces, viewmats[i]).square()  # [P]
        shown = (raw.vertex_features.abs().sum(1) > 0) * front
        visible = raw.uv_visible[occupied] * front[corners].mean(1)
        found.append((raw.vertex, raw.uv))
        weights.append((shown + _UNSEEN, visible + _UNSEEN))
    vertex, uv = (fuse([f[k] for f in found], torch.stack([w[k] for w in weights])) for k in (0, 1))
    avatar = Avatar.build(body, rest.identity, vertex, uv, config.opacity_threshold)
    return replace(avatar, rest=rest)


def straighten(posed: PosedBody, viewmat: Tensor, K: Tensor, width: int, height: int, invtanfov: float) -> PosedBody:
    """A body (T = 1) that the network's lens sees where the lens K sees `posed`, through the same camera rotation."""
    R, t = viewmat[:3, :3], viewmat[:3, 3]
    camera = posed.vertices[0] @ R.T + t
    z = camera[:, 2:].clamp(min=1e-3)
    x = (K[0, 0] * camera[:, :1] / z + K[0, 2] + 0.5) * 2 / width - 1  # -1..1 over the picture
    y = (K[1, 1] * camera[:, 1:2] / z + K[1, 2] + 0.5) * 2 / height - 1
    far = _DISTANCE + z - z.mean()
    bent = torch.cat([x * far / invtanfov, y * far / invtanfov, far], 1)
    return replace(posed, vertices=((bent - t) @ R)[None])


def fuse(parts: Sequence[RawGaussians], weights: Tensor) -> RawGaussians:
    """The weighted mean of n predictions of the same rows; weights [n, rows]. Rotations are those of the heaviest."""
    w = weights / weights.sum(0)
    mean = lambda values: sum(w[k, :, None] * v for k, v in enumerate(values))
    best = w.argmax(0)
    rows = torch.arange(len(best), device=best.device)
    local = [p.local_pos for p in parts]
    return RawGaussians(
        colors=mean([p.colors for p in parts]),
        opacities=torch.sigmoid(mean([torch.logit(p.opacities.clamp(_LIMIT, 1 - _LIMIT)) for p in parts])),
        scales=mean([p.scales.log() for p in parts]).exp(),
        rotations=torch.stack([p.rotations for p in parts])[best, rows],
        local_pos=None if local[0] is None else mean(local),
    )
