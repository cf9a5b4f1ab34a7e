"""When each tracked frame was: frame rate and source frame numbers given beside the tracked data."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guava_aug.errors import InputError
from guava_aug.frame_rate import Rate, parse_rate
from guava_aug.tracked.layout import INFO, check_fps, check_source_frames, named, read_info

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """What a time map says of one video; None: nothing."""

    fps: Rate | None
    source_frames: tuple[int, ...] | None  # one per tracked frame


def load_time_map(path: str | Path) -> dict[str, Timing]:
    """Video name -> Timing, from a `.json` or `.csv` file.

    JSON: `{"name": {"fps": 25, "source_frames": [0, 1, 3]}}`, both optional.
    CSV: a header with `video` and one or both of `fps`, `source_frames`; frame numbers separated by spaces.
    That there are as many source frames as tracked frames is checked when the video is opened.

    Raises:
        InputError: unreadable, of another form, or values out of range; names the video.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"time map {path} cannot be read: {e}") from e
    if path.suffix.lower() == ".json":
        entries = _from_json(text, path)
    elif path.suffix.lower() == ".csv":
        entries = _from_csv(text, path)
    else:
        raise InputError(f"time map {path}: expected a .json or .csv file.")
    out = {}
    for name, entry in entries.items():
        where = f"time map {path}, video {name!r}"
        if not isinstance(entry, Mapping) or not entry.keys() <= {"fps", "source_frames"}:
            raise InputError(f"{where}: expected fps and source_frames, found {entry!r:.80}.")
        frames = entry.get("source_frames")
        count = len(frames) if isinstance(frames, list) else 0
        out[name] = Timing(check_fps(entry.get("fps"), where), check_source_frames(frames, count, where))
    return out


def warn_of_strangers(time_map: Mapping[str, Timing], path: Path, root: Path) -> None:
    """Logs which videos of a time map are not below the tracked root, as nothing else would tell a mistyped name."""
    try:
        there = set(os.listdir(root))
    except OSError:  # those who read the videos say so
        return
    strangers = [name for name in time_map if name not in there]
    if strangers and INFO in there:
        merged = read_info(root)
        strangers = [name for name in strangers if name not in merged]
    if strangers:
        _log.warning("time map %s: no such video below %s: %s", path, root, named(strangers))


def _from_json(text: str, path: Path) -> Mapping[str, Any]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InputError(f"time map {path} is not valid JSON: {e}") from e
    if not isinstance(entries, Mapping):
        raise InputError(f"time map {path}: expected {{video: {{fps, source_frames}}}}.")
    return entries


def _from_csv(text: str, path: Path) -> Mapping[str, Any]:
    rows = csv.DictReader(io.StringIO(text))
    columns = rows.fieldnames or []
    if "video" not in columns or not set(columns) <= {"video", "fps", "source_frames"}:
        raise InputError(f"time map {path}: expected the columns video, fps, source_frames, found {list(columns)}.")
    entries: dict[str, Any] = {}
    for row in rows:
        name = row["video"]
        if None in row:
            raise InputError(f"time map {path}, line {rows.line_num}, video {name!r}: more values than columns.")
        if name in entries:
            raise InputError(f"time map {path}, line {rows.line_num}: video {name!r} occurs twice.")
        try:
            entries[name] = {
                "fps": _number(row.get("fps")),
                "source_frames": _numbers(row.get("source_frames")),
            }
        except ValueError as e:
            raise InputError(f"time map {path}, line {rows.line_num}, video {name!r}: {e}") from e
    return entries


def _number(fps: str | None) -> Rate | None:
    try:
        return parse_rate(fps) if fps else None
    except ValueError as error:
        raise ValueError(f"expected fps to be a number such as 25, found {fps!r:.40} ({error}).") from None


def _numbers(frames: str | None) -> list[int] | None:
    try:
        return [int(n) for n in frames.split()] if frames else None
    except ValueError:
        raise ValueError(
            f"expected source_frames to be whole numbers separated by spaces, such as 0 1 3, found {frames!r:.80}."
        ) from None
