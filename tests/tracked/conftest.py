"""A small tracked video that tests may damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_clip import small_frames, small_identity, small_motion, small_viewmats  # type: ignore[import-not-found]

from guava_aug.tracked import write_tracked


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small video below tmp_path; returns its directory."""

    def make(name: str = "clip", count: int = 5, size: int = 64, **kwargs) -> Path:
        arguments = {
            "identity": small_identity(),
            "motion": small_motion(count),
            "viewmats": small_viewmats(count),
            "frames": small_frames(count, size),
            **kwargs,
        }
        return write_tracked(tmp_path, name, **arguments)

    return make
