"""The content of a small tracked video, and ways to damage one."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import torch

from guava_aug.body.params import Identity, Motion


def small_identity(seed: int = 0, betas: int = 200) -> Identity:
    g = torch.Generator().manual_seed(seed)
    r = lambda *shape: torch.randn(*shape, generator=g)
    return Identity(r(betas), r(300), 1 + 0.1 * r(3), 1 + 0.1 * r(3), 0.01 * r(55, 3))


def small_motion(count: int, seed: int = 0) -> Motion:
    g = torch.Generator().manual_seed(seed + 1)
    r = lambda *shape: torch.randn(count, *shape, generator=g)
    return Motion(r(3), r(21, 3), r(15, 3), r(15, 3), r(50), r(50), r(3), r(2, 3), r(2))


def small_viewmats(count: int) -> torch.Tensor:
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, 0, 3] = torch.arange(count) * 0.01
    viewmats[:, 2, 3] = 22.0
    return viewmats


def small_frames(count: int, size: int = 64) -> list[tuple[np.ndarray, np.ndarray]]:
    """Smooth pictures whose mean brightness tells the frame number; the person is a disk."""
    y, x = np.mgrid[:size, :size] / size
    mask = (255 * ((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1)).astype(np.uint8)
    base = np.stack([x, y, 1 - x], -1)
    return [((base * 100 + 5 * (i % 30)).astype(np.uint8), mask) for i in range(count)]


def edit_pickle(path: Path, change: Callable[[Any], Any]) -> None:
    """`change` the value of a pickle in place."""
    value = pickle.loads(path.read_bytes())
    change(value)
    path.write_bytes(pickle.dumps(value))


def put_images(video: Path, changes: dict[str, bytes | None]) -> None:
    """Store raw bytes at LMDB keys of a video's directory; None deletes the key."""
    env = lmdb.open(str(video / "img_lmdb"), map_size=2**26)
    with env.begin(write=True) as transaction:
        for key, value in changes.items():
            if value is None:
                assert transaction.delete(key.encode())
            else:
                transaction.put(key.encode(), value)
    env.close()


def encoded(image: np.ndarray, kind: str = ".jpg") -> bytes:
    """`image` as the bytes of a JPEG or PNG file; colours as OpenCV has them."""
    good, data = cv2.imencode(kind, image)
    assert good
    return data.tobytes()
