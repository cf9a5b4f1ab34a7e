"""What a run left below its output root, as tests compare it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np


def tree(root: Path) -> dict[str, bytes]:
    """Return the bytes of every video, by path relative to the output root."""
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and ".guava-aug" not in p.parts and p.suffix == ".mp4"
    }


def logged(root: Path, part: str = "") -> dict[str, Any]:
    """Return the parameter log of a run; part: "_part_0" for that of a part."""
    return json.loads((root / f"augmentation_params{part}.json").read_text(encoding="utf-8"))


def frames_of(path: Path) -> tuple[list[np.ndarray], float]:
    """Return the decoded frames of a video, uint8 [H, W, 3] RGB each, and its rate in frames per second."""
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate or 0)
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)], rate
