"""What an evaluation on real people gives, whatever its pictures are: rows of figures, and pictures to look at."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

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
