"""Training subjects from tracked videos: real data in place of generated.

Every frame is seen by the tracked camera, so each can be a source frame and a target; new views have no truth here.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from guava_aug.apps.training.data import PersonViews, format_lenses
from guava_aug.avatar.avatar import vertex_turns
from guava_aug.avatar.visibility import nearest_depth, rasterize_mesh
from guava_aug.body import EhmModel
from guava_aug.tracked import TrackedVideo
from guava_aug.views.cameras import Lens

log = logging.getLogger(__name__)
_PARTS = ("head", "left_hand", "right_hand")
_BOX_IMAGE = 512  # pixels, what `TrackedVideo.part_boxes` is given in


@torch.no_grad()
def video_views(video: TrackedVideo, body: EhmModel, frames: int, size: int = 512) -> PersonViews:
    """Return `frames` pictures of one tracked video, evenly spread over it (all of them if it is shorter)."""
    picks = np.unique(np.linspace(0, video.num_frames - 1, min(frames, video.num_frames)).round().astype(int))
    posed = body(video.identity, video.motion[picks.tolist()])
    viewmats = video.viewmats[picks]
    images = torch.stack([_picture(video, int(i), size) for i in picks])
    K = video.lens_at(size)
    lenses = (
        format_lenses(len(picks)) if K is None else torch.tensor(Lens.of(K, size, size).numbers).repeat(len(picks), 1)
    )
    found = [
        _visibility(v, m, x, body.assets.faces, size) for v, m, x in zip(posed.vertices, viewmats, lenses, strict=True)
    ]
    seen, depth = zip(*found, strict=True)
    return PersonViews(
        images=images, vertices=posed.vertices, turns=vertex_turns(posed.vertex_transforms).half(), viewmats=viewmats,
        seen=torch.stack(seen), depth=torch.stack(depth), boxes=torch.stack([_boxes(video, int(i)) for i in picks]),
        tracked=torch.ones(len(picks), dtype=torch.bool), lenses=lenses,
    )  # fmt: skip


def _picture(video: TrackedVideo, index: int, size: int) -> Tensor:
    """Return [4, size, size] uint8 colour times alpha, and alpha."""
    rgb, mask = (torch.from_numpy(a.copy()).float() / 255 for a in video.read_frame(index))
    layers = torch.cat([rgb.permute(2, 0, 1) * mask, mask[None]])
    small = torch.nn.functional.interpolate(layers[None], (size, size), mode="bilinear", antialias=True)[0]
    return (small.clamp(0, 1) * 255 + 0.5).byte()


def _visibility(vertices: Tensor, viewmat: Tensor, lens: Tensor, faces: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return [F] the faces that are seen, and the half-size depth as `PersonViews` has it."""
    camera = vertices @ viewmat[:3, :3].T + viewmat[:3, 3]
    points = torch.cat([camera[:, :2] * lens[:2] / camera[:, 2:] + lens[2:], camera[:, 2:]], 1)
    owner, z, _ = rasterize_mesh(points.numpy(), faces.numpy(), size)
    out = torch.zeros(len(faces), dtype=torch.bool)
    out[torch.from_numpy(owner[owner >= 0]).long()] = True
    depth = torch.from_numpy(np.where(z < 0, np.inf, z)).float() - camera[:, 2].mean()
    return out, nearest_depth(depth[None])[0].half()


def _boxes(video: TrackedVideo, index: int) -> Tensor:
    """Return [3, 4] left, top, right, bottom in -1..1; a part outside the picture gets all of it."""
    found = video.part_boxes(index)
    out = torch.empty(len(_PARTS), 4)
    for k, part in enumerate(_PARTS):
        left, right, top, bottom = (float(x) / _BOX_IMAGE * 2 - 1 for x in found[part])
        usable = left < right and top < bottom
        out[k] = torch.tensor([left, top, right, bottom] if usable else [-1.0, -1.0, 1.0, 1.0])
    return out
