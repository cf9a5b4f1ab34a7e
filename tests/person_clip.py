"""A tracked clip whose pictures and masks show the posed free body: a red person before a wall, one arm waving."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from guava_aug.avatar.model import load_body
from guava_aug.body import Identity, Motion
from guava_aug.tracked import BodyOutline, write_tracked

SIZE = 128
SHIRT = np.array([200, 20, 30], np.uint8)


@functools.cache
def outline() -> BodyOutline:
    """Of the embedded body."""
    return BodyOutline(load_body())


def person(frames: int) -> tuple[Identity, Motion, torch.Tensor]:
    """Identity, motion and world-to-camera matrices [T, 4, 4]: an upright body 22 m away."""
    zeros = torch.zeros
    identity = Identity(zeros(200), zeros(300), torch.ones(3), torch.ones(3), zeros(55, 3))
    motion = Motion(
        zeros(frames, 3), zeros(frames, 21, 3), zeros(frames, 15, 3), zeros(frames, 15, 3), zeros(frames, 50),
        zeros(frames, 50), zeros(frames, 3), zeros(frames, 2, 3), zeros(frames, 2),
    )  # fmt: skip
    motion.global_orient[:, 0] = math.pi  # the tracked world is y down
    motion.body_pose[:, 15, 2] = -1.2  # left arm down; the right one waves
    motion.body_pose[:, 16, 2] = 0.6 + 0.6 * torch.sin(torch.arange(frames) * 2 * math.pi / max(frames, 8))
    viewmats = torch.eye(4).repeat(frames, 1, 1)
    viewmats[:, 1, 3], viewmats[:, 2, 3] = 0.35, 22.0
    return identity, motion, viewmats


def wall() -> np.ndarray:
    """[SIZE, SIZE, 3] uint8, what is behind the person."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    return np.stack([100 + 60 * x, 120 + 50 * y, 190 - 50 * x], -1).astype(np.uint8)


def write_person(
    root: Path,
    name: str,
    frames: int = 12,
    masks: Mapping[int, Callable[[np.ndarray], np.ndarray]] | None = None,
    black: Collection[int] = (),
    **options,
) -> Path:
    """The clip's directory.

    masks: what is stored instead of the right mask uint8 [SIZE, SIZE] of some frames. black: frames without a picture.
    filmed: the cameras [T, 4, 4] that took the pictures; left out: those of an upright, resting person.
    """
    identity, motion, viewmats = person(frames)
    filmed = options.pop("filmed", viewmats)
    shown = outline().silhouettes(outline().rest(identity), motion, filmed, SIZE)
    pictures = []
    for i, silhouette in enumerate(shown):
        rgb = np.where(silhouette[..., None], SHIRT, wall()) * np.uint8(i not in black)
        mask = cv2.dilate(silhouette.astype(np.uint8) * 255, np.ones((3, 3)))
        pictures.append((rgb, (masks or {}).get(i, lambda mask: mask)(mask)))
    values: dict[str, Any] = {"identity": identity, "motion": motion, "viewmats": viewmats, **options}
    return write_tracked(root, name, frames=pictures, **values)


EMPTY = np.zeros_like


def left_half_only(mask: np.ndarray) -> np.ndarray:
    """A mask without the person's other half."""
    mask = mask.copy()
    mask[:, SIZE // 2 :] = 0
    return mask


def shifted(mask: np.ndarray) -> np.ndarray:
    """A mask a third of the picture off."""
    return np.roll(mask, SIZE // 3, axis=1)


def specks(mask: np.ndarray) -> np.ndarray:
    """Single pixels here and there."""
    mask = np.zeros_like(mask)
    mask[::16, ::16] = 255
    return mask


def inverted(mask: np.ndarray) -> np.ndarray:
    """The background as the person."""
    return 255 - mask


def without_waving_arm(mask: np.ndarray) -> np.ndarray:
    """A mask without the arm left of the trunk."""
    mask = mask.copy()
    mask[:, : int(SIZE * 0.38)] = 0
    return mask
