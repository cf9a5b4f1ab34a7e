"""The sidecar: a JSON file beside each video with what a training program needs about it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from guava_aug.errors import OutputError
from guava_aug.runtime.atomic import atomic_write
from guava_aug.runtime.frame_rate import Rate, rate_text
from guava_aug.runtime.plain_json import is_object, loads
from guava_aug.runtime.text import printable_json

FORMAT = 1
_NUMBERS = re.compile(r"\[\s+[-+\d][-+.\deE,\s]*\]")  # lists of numbers


def write_sidecar(path: Path, content: Mapping[str, Any]) -> None:
    """Write a sidecar atomically.

    Raises:
        OutputError: It cannot be written.
    """
    text = json.dumps({"format": FORMAT, **content}, indent=1, ensure_ascii=False, allow_nan=False)
    text = _NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]), text)  # a row of a matrix on a line
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(printable_json(text) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); check the disk and run again") from error


def load_sidecar(path: Path) -> dict[str, Any]:
    """Return the content of a sidecar.

    Raises:
        OutputError: It does not exist, cannot be read or is damaged.
    """
    try:
        content: dict[str, Any] = loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OutputError(f"{path}: is not there") from error
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: is damaged ({error})") from error
    if not is_object(content) or content.get("format") != FORMAT:
        raise OutputError(f"{path}: is damaged (expected a sidecar of format {FORMAT})")
    return content


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the content of a sidecar; empty if it does not exist or is damaged."""
    try:
        return load_sidecar(path)
    except OutputError:
        return {}


def time_axis(
    fps: Rate, source_frames: Sequence[int] | None, times: Sequence[Fraction] | None = None
) -> dict[str, Any]:
    """Return fps, frame_rate, source_frames and dropped_frames of a sidecar; null where the tracked data lack them.

    Args:
        fps: Frames per second of the output; `frame_rate` is the exact value, as "30000/1001".
        source_frames: Number of each output frame in the source video. `dropped_frames` are the missing numbers between
            the first and the last, as [first, last] of every gap.
        times: When every frame is shown, seconds after the first, where the rate is variable: the entry `times`.
    """
    rate: dict[str, Any] = {"fps": float(fps), "frame_rate": rate_text(fps)}
    if times is not None:
        rate["times"] = [float(t - times[0]) for t in times]
    if source_frames is None:
        return {**rate, "source_frames": None, "dropped_frames": None}
    there = sorted(set(source_frames))
    gaps = [[a + 1, b - 1] for a, b in pairwise(there) if b > a + 1]
    return {**rate, "source_frames": list(source_frames), "dropped_frames": gaps}
