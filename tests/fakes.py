"""A model that paints instead of rendering: for tests of everything around the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from guava_aug.body.params import Identity, Motion
from guava_aug.tracked import write_tracked

SIZE = 128  # pixels of the fake model's pictures; below that x264 is not quite deterministic


@dataclass
class FakeModel:
    """The doors of a GuavaModel. Every call is noted; `seconds_per_frame` makes rendering slow."""

    seconds_per_frame: float = 0.0
    on_render: Callable[[], None] = lambda: None
    config: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(image_size=SIZE, feature_img_size=SIZE))
    device: str = "cpu"
    body: None = None  # nothing to pose
    backend: str = "fake"
    precision: str = "fp32"
    fast: bool = False
    most_frames: int | None = None
    keeps_memory: bool = False
    source: str = "fake"
    calls: list[str] = field(default_factory=list)

    def save_memory(self, tried: int) -> None:
        if not self.keeps_memory:
            self.most_frames = tried // 2
        self.keeps_memory = False

    def infer(self, source) -> None:
        self.calls.append("infer")

    def avatar(self, raw: None, identity: Identity | None) -> FakeAvatar:
        return FakeAvatar(self)

    def render(self, posed: FakePosed, cameras, background: Tensor) -> Tensor:
        """Grey pictures whose level tells frame and camera."""
        self.calls.append(f"render {len(posed)}")
        self.on_render()
        time.sleep(self.seconds_per_frame * len(posed))
        level = (posed.means[:, 0, 0] * 5 + cameras.viewmats[:, 0, 2]).sin().abs()
        level = (level * 64).round() / 64  # torch rounds sines differently in batches of different length
        return level.view(-1, 1, 1, 1).expand(-1, 3, cameras.height, cameras.width) * 0.5 + background * 0.5


@dataclass
class FakeAvatar:
    model: FakeModel

    def pose(self, motion: Motion) -> FakePosed:
        self.model.calls.append(f"pose {len(motion)}")
        return FakePosed(motion.global_orient[:, None])


@dataclass
class FakePosed:
    means: Tensor  # [T, 1, 3]

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, index: slice) -> FakePosed:
        return FakePosed(self.means[index])


def write_clip(root: Path, name: str, frames: int = 5, size: int = 64, mask_level: int = 255, **options) -> Path:
    """The directory of a small tracked video: smooth pictures, the person is a disk."""
    g = torch.Generator().manual_seed(len(name))
    r = lambda *shape: torch.randn(*shape, generator=g)
    identity = Identity(r(200), r(300), 1 + 0.1 * r(3), 1 + 0.1 * r(3), 0.01 * r(55, 3))
    motion = Motion(*(0.1 * r(frames, *s) for s in ((3,), (21, 3), (15, 3), (15, 3), (50,), (50,), (3,), (2, 3), (2,))))
    viewmats = torch.eye(4).repeat(frames, 1, 1)
    viewmats[:, 2, 3] = 22.0
    y, x = np.mgrid[:size, :size] / size
    mask = (mask_level * ((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1)).astype(np.uint8)
    pictures = [((np.stack([x, y, 1 - x], -1) * 100) + 5 * (i % 30)).astype(np.uint8) for i in range(frames)]
    return write_tracked(root, name, identity, motion, viewmats, [(p, mask) for p in pictures], **options)
