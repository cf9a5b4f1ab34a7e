"""Subjects to train on: pictures with the exact body and camera behind each, and random batches of them.

One file per person (`person_*.npz`, written by `generate` or from tracked videos): some pictures from the tracked
camera, which can be source frames, and others from anywhere.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guava_aug.apps.training.degrade import degrade
from guava_aug.apps.training.losses import Truth
from guava_aug.apps.training.model import Poses, Sources
from guava_aug.body.ehm import axis_angle_to_matrix
from guava_aug.errors import AssetError
from guava_aug.runtime.atomic import atomic_write
from guava_aug.views.cameras import TANFOV

log = logging.getLogger(__name__)
_NOISE = 0.01  # standard deviation added to source pictures
_RECOLORED = 0.5  # share of the subjects of a training batch


@dataclass(frozen=True)
class PersonViews:
    """n pictures of one person, and the body and camera of each as a tracker would give them, or exact."""

    images: Tensor  # [n, 4, H, W] uint8 colour times alpha, and alpha
    vertices: Tensor  # [n, P, 3] float32 posed, tracked world
    turns: Tensor  # [n, P, 4] float16 wxyz, of the blended skinning matrices
    viewmats: Tensor  # [n, 4, 4] float32
    seen: Tensor  # [n, F] bool faces the picture's camera sees; only right where `tracked`
    boxes: Tensor  # [n, 3, 4] float32 head, left hand, right hand in -1..1
    tracked: Tensor  # [n] bool: from the tracked camera
    depth: Tensor  # [tracked, D, D] float16 metres beyond the mean vertex (`visibility.nearest_depth`), inf: none
    lenses: Tensor  # [n, 4] float32 the numbers of each camera's `Lens`

    def to(self, device: torch.device | str) -> PersonViews:
        """Return a copy with all tensors on `device`."""
        return PersonViews(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        arrays = {f.name: getattr(self, f.name).cpu().numpy() for f in fields(self)}
        arrays["faces"] = np.array(arrays["seen"].shape[1])
        arrays["seen"] = np.packbits(arrays["seen"], axis=1)
        with atomic_write(path, durable=False) as part, part.open("wb") as f:
            np.savez(f, **arrays)

    @staticmethod
    def load(path: Path) -> PersonViews:
        """Raise AssetError when the file is damaged or something else."""
        try:
            with np.load(path, allow_pickle=False) as z:
                a = {k: z[k] for k in z.files}
            a["seen"] = np.unpackbits(a["seen"], axis=1, count=int(a.pop("faces"))).astype(bool)
            if "lenses" not in a:  # files of 0.1.0
                a["lenses"] = format_lenses(len(a["images"])).numpy()
            return PersonViews(**{f.name: torch.from_numpy(a[f.name]) for f in fields(PersonViews)})
        except (OSError, ValueError, KeyError) as e:
            raise AssetError(f"cannot read the training person {path}: {e!r}; generate it again") from e


def format_lenses(count: int) -> Tensor:
    """Return [count, 4] numbers of the format's lens, for `PersonViews.lenses`."""
    return torch.tensor([1 / TANFOV, 1 / TANFOV, 0.0, 0.0]).repeat(count, 1)


@dataclass(frozen=True)
class Batch:
    """What one training step needs: sources, poses and the true pictures."""

    sources: Sources
    poses: Poses
    truth: Truth


class Pool:
    """The subjects of a folder, held on `device`; the folder may still be growing."""

    def __init__(self, folder: Path, device: torch.device | str, max_subjects: int = 10_000):
        self.folder, self.device, self.max_subjects = folder, device, max_subjects
        self.subjects: list[PersonViews] = []
        self._known: set[str] = set()

    def refresh(self, limit: int = 10_000) -> int:
        """Load new files, at most `limit`; return how many."""
        new = [p for p in sorted(self.folder.glob("person_*.npz")) if p.name not in self._known]
        new = new[: max(0, min(limit, self.max_subjects - len(self.subjects)))]
        for path in new:
            self.subjects.append(PersonViews.load(path).to(self.device))
            self._known.add(path.name)
        return len(new)

    def sample(
        self, rng: np.random.Generator, subjects: int, targets: int, source_size: int, *, recolor: bool = False,
        degraded: float = 0.0,
    ) -> Batch:  # fmt: skip
        """Return one source frame and `targets` other pictures of each of `subjects` subjects."""
        chosen = rng.choice(len(self.subjects), subjects, replace=len(self.subjects) < subjects)
        people = [self.subjects[i] for i in chosen]
        return make_batch(people, rng, targets, source_size, recolor=recolor, degraded=degraded)


def make_batch(
    subjects: list[PersonViews], rng: np.random.Generator, targets: int, source_size: int, *, recolor: bool = False,
    degraded: float = 0.0,
) -> Batch:  # fmt: skip
    """Return a batch of these subjects; the source frame is one of the tracked camera's, targets are any others.

    With `recolor`, half of the subjects get other colours, the same in source and targets: a network learns colours
    from the source frame then, not a wardrobe by heart. `degraded` is the share of the subjects whose source picture is
    that of a real video (`degrade`), with targets in the colours of the same camera.
    """
    sources, bad = [], []
    pictures: list[Tensor] = []
    depths, at, mixes = [], [], []
    for p in subjects:
        candidates = np.flatnonzero(p.tracked.cpu().numpy())
        source = int(rng.choice(candidates))
        others = np.setdiff1d(np.arange(len(p.images)), [source])
        weight = np.where(np.isin(others, candidates), 1.0, 1.3)
        picked = rng.choice(others, targets, replace=False, p=weight / weight.sum())
        mix = color_mix(rng) if recolor and rng.random() < _RECOLORED else np.eye(3)
        mixes.append(torch.as_tensor(mix, dtype=torch.float32, device=p.images.device))
        mixed = mix_colors(p.images[source].float() / 255, mixes[-1])
        if degraded > 0 and rng.random() < degraded:
            bad.append(len(pictures))
            pictures.append(mixed)
        else:
            pictures.append(source_picture(mixed, rng))
        sources.append(source)
        depths.append(p.depth[int(np.searchsorted(candidates, source))].float())
        at.append(torch.as_tensor(picked, device=p.images.device))
    pick = lambda name: torch.stack([getattr(p, name)[i] for p, i in zip(subjects, sources, strict=True)])
    gather = lambda name: torch.stack([getattr(p, name)[i] for p, i in zip(subjects, at, strict=True)])
    rgba = torch.stack([mix_colors(x, m) for x, m in zip(gather("images").float() / 255, mixes, strict=True)])
    full = torch.stack(pictures)
    if bad:
        full[bad], colors = degrade(full[bad], pick("boxes")[bad], rng)
        rgba[bad] = colors.apply_to_layer(rgba[bad])
    images = torch.stack([encoder_image(p, source_size) for p in full])
    return Batch(
        Sources(images, pick("vertices"), pick("seen"), torch.stack(depths), pick("viewmats"), pick("lenses"), full),
        Poses(gather("vertices"), gather("turns").float(), gather("viewmats"), gather("lenses")),
        Truth(rgba[:, :, :3], rgba[:, :, 3:], gather("boxes")),
    )


def color_mix(rng: np.random.Generator) -> np.ndarray:
    """Return [3, 3] a random change of hue (about the grey axis), saturation and gain per channel."""
    turn = axis_angle_to_matrix(torch.full((3,), rng.uniform(-math.pi, math.pi) / math.sqrt(3))).numpy()
    grey = np.full((3, 3), 1 / 3)
    saturation = rng.uniform(0.5, 1.4)
    return np.diag(rng.uniform(0.75, 1.2, 3)) @ (grey + saturation * (turn @ (np.eye(3) - grey)))


def mix_colors(rgba: Tensor, mix: Tensor) -> Tensor:
    """Return [..., 4, H, W] with colours (times alpha) turned by `mix` [3, 3], kept within 0 and alpha."""
    rgb, alpha = rgba[..., :3, :, :], rgba[..., 3:, :, :]
    mixed = torch.einsum("ij,...jhw->...ihw", mix, rgb).clamp(min=0).minimum(alpha)
    return torch.cat([mixed, alpha], -3)


def source_picture(rgba: Tensor, rng: np.random.Generator | None = None) -> Tensor:
    """Return [4, H, W] on black, and the mask, as the tracker's reader does it: over a background, times mask.

    With `rng` the background is a random colour and the picture a little noisy; else the background is grey.
    """
    rgb, alpha = rgba[:3], rgba[3:]
    color = np.full(3, 0.6) if rng is None else rng.uniform(0, 1, 3)
    picture = rgb + (1 - alpha) * torch.as_tensor(color, dtype=torch.float32, device=rgb.device)[:, None, None]
    if rng is not None:
        picture = (picture + _NOISE * torch.randn_like(picture)).clamp(0, 1)
    return torch.cat([picture * alpha, alpha])


def encoder_image(picture: Tensor, size: int) -> Tensor:
    """Return [3, size, size] on black of a `source_picture` [4, H, W]: what the encoder sees."""
    return F.interpolate(picture[None, :3], (size, size), mode="bilinear", antialias=True)[0]
