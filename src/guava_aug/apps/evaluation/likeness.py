"""What an evaluation on real people gives, whatever its pictures are: rows of figures, and pictures to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from guava_aug.output import to_png_bytes

BEFORE, POSE, AFTER = "before", "before, fitted pose", "after"  # states of the avatar
TRUTH = "true pictures"
KEPT_BACK, ALL = "kept back", "all scored"


@dataclass(frozen=True)
class Row:
    """Figures of one state of the avatar, on one part of the person or in one camera; means over the frames."""

    frames_of: str  # KEPT_BACK, ALL
    state: str  # BEFORE, POSE, AFTER
    where: str  # "person", "head", a camera, "head CAMERA", ...
    scores: dict[str, float]


@dataclass(frozen=True)
class Strip:
    """Pictures of one moment side by side."""

    label: str
    sheet: str  # name of the file that has it, without suffix
    columns: tuple[str, ...]
    pictures: tuple[np.ndarray, ...]  # uint8 [H, W, 3]


def strips(sheet: str, pictures: Mapping[str, Mapping[int, np.ndarray]], frames: Sequence[int]) -> list[Strip]:
    """Return one strip for each of `frames`, of the columns that there are. pictures: column -> frame -> picture."""
    columns = tuple(c for c in (TRUTH, BEFORE, AFTER) if c in pictures)
    return [Strip(f"frame {i}", sheet, columns, tuple(pictures[c][i] for c in columns)) for i in frames]


def to_bytes(picture: Tensor) -> np.ndarray:
    """Return uint8 [H, W, 3] of a picture [3, H, W], cut off at 0 and 1."""
    return to_png_bytes(picture.clamp(0, 1)[None])[0]


@dataclass(frozen=True)
class Likeness:
    """Everything measured on one video."""

    name: str
    kind: str  # "self view", "calibrated cameras"
    personalize: str  # "off", "fast", "full"
    fitted_to: tuple[str, ...]  # cameras
    frames: dict[str, list[int]]  # fitted, kept_back, scored, stretch, ...: numbers of frames of the video
    rows: list[Row]
    motion: dict[str, dict[str, float]]  # state or TRUTH -> figures of landmarks and steadiness
    strips: list[Strip]
    facts: dict[str, object] = field(default_factory=dict)  # seconds, steps, alignment, ...
    notes: tuple[str, ...] = ()  # for people
