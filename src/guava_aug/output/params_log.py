"""augmentation_params.json: which camera each view has and how it ended, in the original's form.

Made from the journals (`runlog`), never changed in place. Logs of the original and of older versions are read too.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guava_aug.errors import OutputError
from guava_aug.output.temporary import replacing
from guava_aug.printable import printable_json
from guava_aug.views.difficulty import DIFFICULTIES

Entry = dict[str, Any]
Entries = dict[str, dict[str, Entry]]  # video -> view label -> entry
STATUSES = ("success", "skipped", "failed")
KEY_ORDER = (
    "video_name", "difficulty", "view_index", "seed", "yaw", "pitch", "zoom",
    "status", "tracked_path", "output_dir", "render_time", "error",
)  # fmt: skip
KEYS = (*KEY_ORDER, "frames")  # of a journal's fields, those that belong into the log


def read_params(path: Path) -> Entries:
    """{video: {label: entry}} of a log; empty if there is none. Changes nothing.

    Raises:
        OutputError: the file is not such a log.
    """
    advice = "it is left as it is; repair it, or move it away to start a new log"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{path}: the parameter log cannot be read ({error}); {advice}") from error
    if not isinstance(entries, dict) or not all(
        isinstance(views, dict) and all(isinstance(e, dict) for e in views.values()) for views in entries.values()
    ):
        raise OutputError(f"{path}: expected {{video: {{view: entry}}}}, found something else; {advice}")
    return entries


def params_entry(video: str, label: str, before: Entry | None, *told: Mapping[str, Any]) -> Entry:
    """The entry of a view with what was told of it, the last word last; `before`: what an earlier log says.

    video_name, difficulty and view_index follow from the label. In the original's key order.
    """
    numbered = re.fullmatch(r"(.+)_(\d{3,})", label)
    entry: Entry = {"video_name": video, "difficulty": numbered[1] if numbered else label}
    if numbered:
        entry["view_index"] = int(numbered[2])
    entry.update(before or {})
    for fields in told:
        entry.update({key: fields[key] for key in KEYS if fields.get(key) is not None})
    if entry["status"] not in STATUSES:
        raise ValueError(f"status of {video} {label}: expected one of {STATUSES}, found {entry['status']!r}")
    entry.pop("render_time" if entry["status"] == "failed" else "error", None)
    known = [key for key in KEY_ORDER if key in entry]
    return {key: entry[key] for key in [*known, *(key for key in entry if key not in KEY_ORDER)]}


def write_params(path: Path, entries: Entries) -> None:
    """Writes a log in one step: videos by name, views by difficulty and number. The same entries give the same bytes.

    Raises:
        OutputError: it cannot be written; the log before is still there.
    """
    try:
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            start = "{\n"
            for video in sorted(entries):
                file.write(f"{start}    {_encode(video)}: {_video(entries[video])}")
                start = ",\n"
            file.write("\n}\n" if entries else "{}\n")
            file.flush()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); check the disk and run again") from error


def _video(views: dict[str, Entry]) -> str:
    """One video as json.dumps(indent=4) writes it at its depth; that is four times slower."""
    blocks = []
    for label in sorted(views, key=view_order):
        fields = ",\n".join(f"            {_encode_key(key)}: {_encode(value)}" for key, value in views[label].items())
        blocks.append(f"        {_encode(label)}: {{\n{fields}\n        }}")
    return "{\n" + ",\n".join(blocks) + "\n    }" if blocks else "{}"


def view_order(label: str) -> tuple[int, str, int]:
    """Sorts views by difficulty and number: place of the difficulty, its name, number of the view in it."""
    numbered = re.fullmatch(r"(.+)_(\d{3,})", label)
    difficulty, number = (numbered[1], int(numbered[2])) if numbered else (label, 0)
    known = list(DIFFICULTIES)
    return known.index(difficulty) if difficulty in known else len(known), difficulty, number


@functools.lru_cache(maxsize=256)
def _encode_key(key: str) -> str:
    return _encode(key)


def _encode(value: Any) -> str:
    return printable_json(json.dumps(value, ensure_ascii=False))
