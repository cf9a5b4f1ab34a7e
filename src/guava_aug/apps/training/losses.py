"""What a rendered view is held to: the true picture and mask of the same person, pose and camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guava_aug.apps.training.config import LossWeights
from guava_aug.apps.training.model import Predicted
from guava_aug.avatar.image_losses import coarse_loss, edge_loss, ssim, texture_loss

_HEAD_SIZE, _HAND_SIZE = 128, 64  # pixels a crop is resampled to


@dataclass(frozen=True)
class Truth:
    """The true pictures of B samples with K views each."""

    rgb: Tensor  # [B, K, 3, H, W] colour times alpha
    alpha: Tensor  # [B, K, 1, H, W]
    boxes: Tensor  # [B, K, 3, 4] head, left hand, right hand: left, top, right, bottom in -1..1


def losses(p: Predicted, t: Truth, w: LossWeights, background: Tensor) -> dict[str, Tensor]:
    """Return every term, weighted; `background` [B, K, 3, 1, 1] is what prediction and truth are both laid over."""
    flat = lambda x: x.flatten(0, 1)
    ours = flat(p.rgb * p.alpha + background * (1 - p.alpha))
    true = flat(t.rgb + background * (1 - t.alpha))
    raw, raw_true = flat(p.raw), flat(t.rgb)
    terms = {
        "refined": (ours - true).abs().mean(),
        "raw": (raw - raw_true).abs().mean(),
        "ssim": 1 - ssim(ours, true),
        "edges": edge_loss(ours, true),
        "alpha": (p.alpha - t.alpha).abs().mean(),
    }
    boxes = flat(t.boxes)
    both, both_true = torch.cat([ours, raw], 1), torch.cat([true, raw_true], 1)
    for name, k, size in (("head", 0, _HEAD_SIZE), ("left_hand", 1, _HAND_SIZE), ("right_hand", 2, _HAND_SIZE)):
        a, b = crop(both, boxes[:, k], size), crop(both_true, boxes[:, k], size)
        terms[name] = (a - b).abs().mean() * 2 + 0.5 * edge_loss(a[:, :3], b[:, :3], levels=1)
    if w.coarse or w.texture:
        terms |= {"coarse": coarse_loss(ours, true), "texture": texture_loss(ours, true)}
    if p.refined is not p.rgb:  # the gate must not keep the refiner from learning what the source shows
        plain = flat(p.refined * p.alpha + background * (1 - p.alpha))
        terms["unblended"] = (plain - true).abs().mean() + 0.5 * edge_loss(plain, true)
    assert p.uv.local_pos is not None
    terms["local_pos"] = (p.uv.local_pos.norm(dim=-1) - w.local_pos_free).clamp(min=0).mean()
    # of the logarithm: the scales are exponentials, and one that runs away must not drown all else
    wide = p.uv.scales.clamp(min=1e-6, max=1e6).log() - math.log(w.local_scale_free)
    terms["local_scale"] = wide.clamp(min=0).mean()
    share = {"left_hand": w.hand, "right_hand": w.hand}
    return {k: v * share.get(k, getattr(w, k, 0.0)) for k, v in terms.items()}


def crop(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Return [I, C, size, size] of boxes [I, 4] (left, top, right, bottom in -1..1) of images [I, C, H, W]."""
    left, top, right, bottom = boxes.unbind(1)
    theta = torch.zeros(len(boxes), 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 0, 2] = (right - left) / 2, (right + left) / 2
    theta[:, 1, 1], theta[:, 1, 2] = (bottom - top) / 2, (bottom + top) / 2
    grid = F.affine_grid(theta, [len(boxes), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return [I] peak signal-to-noise ratio in dB of images [I, 3, H, W], inside `mask` [I, 1, H, W] if given."""
    error = (a - b).square().mean(1, keepdim=True)
    weight = torch.ones_like(error) if mask is None else mask
    return -10 * torch.log10((error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1e-6) + 1e-10)
