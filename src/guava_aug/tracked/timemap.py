"""Time maps: frame rates and source frame numbers in a file beside the tracked data."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guava_aug.errors import InputError
from guava_aug.runtime.files import LONGEST_TEXT, read_text
from guava_aug.runtime.frame_rate import Rate, parse_rate
from guava_aug.runtime.text import briefly
from guava_aug.tracked.layout import INFO, check_fps, check_source_frames, key_of, named, read_info

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """The entry of one video in a time map; None: not given."""

    fps: Rate | None
    source_frames: tuple[int, ...] | None  # one per tracked frame


def load_time_map(path: str | Path) -> dict[str, Timing]:
    """Return video name -> Timing of a `.json` or `.csv` file.

    JSON: `{"name": {"fps": 25, "source_frames": [0, 1, 3]}}`, both optional.
    CSV: a header with `video` and one or both of `fps`, `source_frames`; frame numbers separated by spaces.
    The number of source frames is compared with that of tracked frames when the video is opened.

    Raises:
        InputError: The file cannot be read, has another format, or values are out of range; names the video.
    """
    path = Path(path)
    text = read_text(path, f"time map {path}")
    holds_json = text.lstrip()[:1] in ("{", "[")
    if path.suffix.lower() == ".json":
        entries = _from_json(text, path)
    elif path.suffix.lower() == ".csv":
        if holds_json:
            raise InputError(f"time map {path} holds JSON, not CSV: give it a name that ends in .json.")
        entries = _from_csv(text, path)
    else:
        looks = f", and this one looks like {'JSON' if holds_json else 'CSV'}" if holds_json or "," in text else ""
        raise InputError(
            f"time map {path}: expected a .json or .csv file: the suffix determines how it is read{looks}."
        )
    out = TimeMap()
    for name, entry in entries.items():
        where = f"time map {path}, video {briefly(name)}"
        if not isinstance(entry, Mapping) or not entry.keys() <= {"fps", "source_frames"}:
            found = briefly(entry)
            if isinstance(entry, Mapping):
                found = ", ".join(briefly(key) for key in list(entry)[:5]) or "nothing"
            raise InputError(f"{where}: expected fps and source_frames, found {found}.")
        frames = entry.get("source_frames")
        count = len(frames) if isinstance(frames, list) else 0
        out[name] = Timing(check_fps(entry.get("fps"), where), check_source_frames(frames, count, where))
    return out


class TimeMap(dict[str, Timing]):
    """Video name -> Timing. `get` finds a name in any Unicode normalisation (NFC, NFD)."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return the entry of a video."""
        key = key_of(self, name)
        return default if key is None else self[key]


def warn_unknown_videos(time_map: Mapping[str, Timing], path: Path, root: Path) -> None:
    """Log which videos of a time map are not below the tracked root, as a mistyped name has no other effect."""
    try:
        there = set(os.listdir(root))
    except OSError:  # reported when the videos are read
        return
    if INFO in there:
        there |= set(read_info(root))
    forms = {unicodedata.normalize("NFC", name) for name in there}
    unknown = [name for name in time_map if unicodedata.normalize("NFC", name) not in forms]
    if unknown:
        _log.warning("time map %s: no such video below %s: %s", path, root, named(unknown))


def _from_json(text: str, path: Path) -> Mapping[str, Any]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as e:
        first = text.lstrip().split("\n")[0]
        looks = "; it looks like CSV: give it a name that ends in .csv" if first.startswith("video,") else ""
        raise InputError(f"time map {path} is not valid JSON: {e}{looks}") from e
    if not isinstance(entries, Mapping):
        raise InputError(f"time map {path}: expected {{video: {{fps, source_frames}}}}, found {briefly(entries)}.")
    return entries


def _from_csv(text: str, path: Path) -> Mapping[str, Any]:
    rows = csv.DictReader(io.StringIO(text))
    columns = rows.fieldnames or []
    if "video" not in columns or not set(columns) <= {"video", "fps", "source_frames"}:
        found = ", ".join(map(briefly, columns[:5])) or "none"
        other = next((c for c in (";", "\t") if columns and c in columns[0]), None)
        advice = f" Separate the columns by commas, not by {other!r}." if other else ""
        raise InputError(f"time map {path}: expected the columns video, fps, source_frames, found {found}.{advice}")
    entries: dict[str, Any] = {}
    for row in _rows(rows, path):
        name = row["video"]
        if not name:
            raise InputError(f"time map {path}, line {rows.line_num}: the column video is empty.")
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


def _rows(rows: csv.DictReader[str], path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows, with fields of any length: the frame numbers of a long video are one field."""
    before = csv.field_size_limit(LONGEST_TEXT)
    try:
        yield from rows
    except csv.Error as e:
        raise InputError(f"time map {path}, line {rows.line_num}: is not CSV ({e}).") from e
    finally:
        csv.field_size_limit(before)


def _number(fps: str | None) -> Rate | None:
    try:
        return parse_rate(fps) if fps else None
    except ValueError as error:
        raise ValueError(f"expected fps to be a number such as 25, found {briefly(fps)} ({error}).") from None


def _numbers(frames: str | None) -> list[int] | None:
    try:
        return [int(n) for n in frames.split()] if frames else None
    except ValueError:
        raise ValueError(
            f"expected source_frames to be whole numbers separated by spaces, such as 0 1 3, found {frames!r:.80}."
        ) from None
