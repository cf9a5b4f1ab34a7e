"""Validation pictures: rows of source, truth and ours, for the eye of whoever watches a run."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from guava_aug.apps.training.data import Batch
from guava_aug.apps.training.losses import psnr
from guava_aug.apps.training.model import Predicted

_GREY = 0.6


def person_psnr(predicted: Predicted, batch: Batch) -> Tensor:
    """Return [B, K] dB inside the true mask, both laid over grey."""
    ours, true, mask = (x.flatten(0, 1) for x in (*_composited(predicted, batch), batch.truth.alpha))
    return psnr(ours, true, mask).view(batch.truth.rgb.shape[:2])


def write_grid(path: Path, predicted: Predicted, batch: Batch, views: int = 3) -> None:
    """Write one row per subject: the source frame, then truth and prediction of each of `views` other pictures."""
    ours, true = _composited(predicted, batch)
    rows = []
    for b in range(len(ours)):
        source = torch.nn.functional.interpolate(batch.sources.images[b : b + 1], ours.shape[-2:], mode="bilinear")[0]
        pairs = [x for k in range(min(views, ours.shape[1])) for x in (true[b, k], ours[b, k])]
        rows.append(torch.cat([source, *pairs], 2))
    grid = torch.cat(rows, 1).clamp(0, 1).permute(1, 2, 0).float().cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.ascontiguousarray((grid * 255 + 0.5).astype(np.uint8)[..., ::-1]))


def _composited(predicted: Predicted, batch: Batch) -> tuple[Tensor, Tensor]:
    t = batch.truth
    return predicted.rgb * predicted.alpha + _GREY * (1 - predicted.alpha), t.rgb + _GREY * (1 - t.alpha)
