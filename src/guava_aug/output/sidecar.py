"""The sidecar: what a training program must know of one video of ours, in a JSON file beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from guava_aug.errors import OutputError
from guava_aug.output.temporary import replacing
from guava_aug.plain_json import is_object, loads

FORMAT = 1


def write_sidecar(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a sidecar in one step. Raises OutputError."""
    text = json.dumps({"format": FORMAT, **content}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); check the disk and run again") from error


def read_sidecar(path: Path) -> dict[str, Any]:
    """What a sidecar says; nothing when it is not there or is damaged."""
    try:
        content = loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if is_object(content) else {}


def time_axis(fps: float, source_frames: Sequence[int] | None) -> dict[str, Any]:
    """fps, source_frames and dropped_frames of a sidecar; null where the tracked data do not tell.

    fps: frames per second of the output. source_frames: number of each output frame in the source video.
    dropped_frames: the numbers between the first and the last that are missing, as [first, last] of every gap.
    """
    if source_frames is None:
        return {"fps": fps, "source_frames": None, "dropped_frames": None}
    there = sorted(set(source_frames))
    gaps = [[a + 1, b - 1] for a, b in pairwise(there) if b > a + 1]
    return {"fps": fps, "source_frames": list(source_frames), "dropped_frames": gaps}
