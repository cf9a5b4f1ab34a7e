"""What is written of a view: a tag inside its video, a JSON file beside it, and its camera in journals and tables.

The tag identifies the view of a file without journals. The JSON file, its sidecar, has what a training program needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from guava_aug.errors import OutputError
from guava_aug.runtime.atomic import atomic_write
from guava_aug.runtime.frame_rate import Rate, rate_text
from guava_aug.runtime.plain_json import is_integer, is_number, is_object, is_scalar, is_text, loads
from guava_aug.runtime.text import printable_json
from guava_aug.views import View
from guava_aug.views.view import ORIGINAL_PARAMS

FORMAT = 1  # of sidecars
_NUMBERS = re.compile(r"\[\s+[-+\d][-+.\deE,\s]*\]")  # lists of numbers
_MADE_WITH = {"fps": is_number, "input": is_text, "weights": is_text}  # compared and reported


@dataclass(frozen=True)
class Tag:
    """The metadata that this package writes into a video file."""

    camera: dict[str, Any]  # of `View.record`
    fingerprint: str | None = None  # None: made by a version that did not write it
    made_with: dict[str, Any] | None = None  # see `fingerprint.RenderSettings.made_with`


def tag_comment(view: View, fingerprint: str, made_with: Mapping[str, Any]) -> str:
    """Return the comment for the metadata of the video of `view`; `tag_of_file` reads it."""
    return json.dumps({**view.record(), "fingerprint": fingerprint, "made_with": dict(made_with)}, allow_nan=False)


def tag_of_file(path: Path) -> Tag | None:
    """Return the tag of a video file; None if it has none: it is not ours, or the original's.

    Raises:
        OutputError: The file cannot be opened, or its tag is damaged.
    """
    from guava_aug.output.video import read_comment  # noqa: PLC0415 - loads an encoder, which a work list rarely needs

    comment = read_comment(path) or ""
    try:
        values = loads(comment)
        camera = _camera(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if comment.startswith("{"):  # as only tags of this package do
            raise OutputError(f"{path}: its camera tag is damaged ({error})") from error
        return None
    fingerprint, made_with = values.get("fingerprint"), values.get("made_with")
    if (
        type(made_with) is not dict
        or not all(map(is_scalar, made_with.values()))
        or not all(made_with.get(key) is None or check(made_with[key]) for key, check in _MADE_WITH.items())
    ):
        made_with = None
    return Tag(camera, fingerprint if type(fingerprint) is str else None, made_with)


def _camera(values: Any) -> dict[str, Any]:
    """Return the record of the view in a tag.

    Raises:
        KeyError, TypeError, ValueError: The tag contains no camera.
    """
    if not is_object(values):
        raise TypeError("expected an object")
    if "sampler" in values:
        return {"sampler": values["sampler"], "params": dict(values["params"])}
    if not is_integer(values["seed"]) or not all(is_number(values[key]) for key in ORIGINAL_PARAMS):
        raise ValueError("expected numbers")
    moving = {"trajectory": values["trajectory"]} if "trajectory" in values else {}
    return {**{key: values[key] for key in ORIGINAL_PARAMS}, **moving}


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


def compact_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return `camera_facts` in the short form of a journal; `expanded_facts` is the inverse.

    azimuth, elevation, K as [fx, fy, cx, cy], viewmat as its first three rows; or {"moving": True}.
    """
    if isinstance(facts["azimuth"], list):
        return {"moving": True}
    (fx, _, cx), (_, fy, cy), _ = facts["K"]
    rows = [value for row in facts["viewmats"][:3] for value in row]
    return {"azimuth": facts["azimuth"], "elevation": facts["elevation"], "K": [fx, fy, cx, cy], "viewmat": rows}


def expanded_facts(compact: dict[str, Any]) -> dict[str, Any]:
    """Return azimuth, elevation, K (9 numbers) and viewmat (16 numbers), row by row.

    All are None for a moving camera.
    """
    try:
        fx, fy, cx, cy = (float(value) for value in compact["K"])
        rows = [float(value) for value in compact["viewmat"]]
        angles = {key: float(compact[key]) for key in ("azimuth", "elevation")}
    except (KeyError, TypeError, ValueError):  # it moves, or the line is damaged
        return dict.fromkeys(("azimuth", "elevation", "K", "viewmat"))
    K = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    return {**angles, "K": K, "viewmat": [*rows, 0.0, 0.0, 0.0, 1.0]}
