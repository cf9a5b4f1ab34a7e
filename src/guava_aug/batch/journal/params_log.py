"""augmentation_params.json: which camera each view has and how it ended, in the original's form.

Made from the journals (`run_log`), never changed in place. Logs of the original and of older versions are read too.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from guava_aug.batch.journal.lines import NUMBERED, STATUSES
from guava_aug.errors import OutputError
from guava_aug.runtime.atomic import atomic_write
from guava_aug.runtime.plain_json import is_count, is_integer, is_number, is_object, is_plain, is_text
from guava_aug.runtime.text import printable_json
from guava_aug.views.view import view_order

Entry = dict[str, Any]
Entries = dict[str, dict[str, Entry]]  # video -> view label -> entry
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
    found = {}
    for video, views in iter_params(path):
        check_entries(path, video, views)
        found[video] = views
    return found


_ADVICE = "it is left as it is; repair it, or move it away to start a new log"


def iter_params(path: Path, start: int = 0) -> Iterator[tuple[str, dict[str, Entry]]]:
    """(video, {label: entry}) of a log, one after the other, so that memory is not that of all.

    What the entries say is not checked: see `check_entries`. start: the place where a video ends, see `told_alike`.
    Raises OutputError as `read_params`.
    """
    try:
        with open(path, "rb") as file:
            file.seek(start)
            text = file.read().decode("utf-8")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: the parameter log cannot be read ({error}); {_ADVICE}") from error
    try:
        for video, views in _members("{" + text.removeprefix(",") if start else text):
            if type(views) is not dict or not all(type(entry) is dict for entry in views.values()):
                raise TypeError(video)
            yield video, views
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{path}: the parameter log cannot be read ({error}); {_ADVICE}") from error
    except TypeError as error:
        raise OutputError(f"{path}: expected {{video: {{view: entry}}}}, found something else; {_ADVICE}") from error


def told_alike(path: Path, entries: Iterable[tuple[str, Mapping[str, Entry | str]]]) -> int | None:
    """Up to which byte a log is what `write_params` would make of these entries: 0, or where a video ends.

    None: it is all the same. So what is known already need not be read. Raises OutputError when it cannot be read.
    """
    place = 0
    try:
        with open(path, "rb", buffering=_BUFFER) as file:
            for text in _texts(entries):
                data = text.encode("utf-8", "backslashreplace")
                if file.read(len(data)) != data:
                    return place
                place += 0 if text in _ENDS else len(data)
            return place if file.read(1) else None
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise OutputError(f"{path}: the parameter log cannot be read ({error}); {_ADVICE}") from error


def check_entries(path: Path, video: str, views: Mapping[str, Entry]) -> None:
    """Raises OutputError when an entry says what could not be written again or used: NaN, a huge number, no text."""
    for label, entry in views.items():
        if not (is_text(video) and is_text(label) and _is_sound(entry)):
            raise OutputError(
                f"{path}: {video[:200]!a} / {label[:200]!a}: expected text, finite numbers and integers of at most 63 "
                f"bits, found something else; {_ADVICE}"
            )


def _members(text: str) -> Iterator[tuple[str, Any]]:
    """(key, value) of a JSON object, read one by one. Raises ValueError; TypeError when it is no object."""
    read = json.JSONDecoder().raw_decode
    at = _blank(text, 0)
    if text[at : at + 1] != "{":
        json.loads(text)
        raise TypeError("no object")
    at = _blank(text, at + 1)
    if text[at : at + 1] == "}":
        at = _blank(text, at + 1)
    else:
        while True:
            if text[at : at + 1] != '"':
                raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
            key, at = read(text, at)
            at = _blank(text, at)
            if text[at : at + 1] != ":":
                raise json.JSONDecodeError("Expecting ':' delimiter", text, at)
            value, at = read(text, _blank(text, at + 1))
            yield key, value
            at = _blank(text, at)
            end, at = text[at : at + 1], _blank(text, at + 1)
            if end == "}":
                break
            if end != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    if at != len(text):
        raise json.JSONDecodeError("Extra data", text, at)


def _blank(text: str, at: int) -> int:
    """The place after the white space at a place."""
    found = _WHITE.match(text, at)
    return at if found is None else found.end()


_WHITE = re.compile(r"[ \t\n\r]*")


def _is_sound(entry: Entry) -> bool:
    """Whether nothing of an entry could not be written again; what the original wrote is."""
    for key, value in entry.items():
        kind = type(value)
        if kind is str or kind is int or kind is float or kind is dict or kind is list:
            check = _CHECKS.get(key, is_plain)
            if not check(value):
                return False
    return all(map(is_text, entry))


_CHECKS = {
    "seed": is_integer, "yaw": is_number, "pitch": is_number, "zoom": is_number, "render_time": is_number,
    "frames": is_count, "video_name": is_text, "difficulty": is_text, "status": is_text, "error": is_text,
    "tracked_path": is_text, "output_dir": is_text, "view_index": is_count, "made_with": is_object,
}  # fmt: skip


def adds_nothing(video: str, label: str, entry: Entry, told: Collection[str]) -> bool:
    """Whether `params_entry` is the same with and without this entry, when the fields `told` are told."""
    numbered = NUMBERED.fullmatch(label)
    for key, value in entry.items():
        if key in told and key in KEYS:
            continue
        if key == "video_name" and value == video:
            continue
        if key == "difficulty" and value == (numbered[1] if numbered else label):
            continue
        if key == "view_index" and numbered and value == int(numbered[2]):
            continue
        return False
    return True


def entry_start(video: str, label: str) -> Entry:
    """Return the beginning of a view's entry, which follows from the label."""
    difficulty, number = _split(label)
    if number is None:
        return {"video_name": video, "difficulty": difficulty}
    return {"video_name": video, "difficulty": difficulty, "view_index": number}


@functools.lru_cache(maxsize=4096)
def _split(label: str) -> tuple[str, int | None]:
    numbered = NUMBERED.fullmatch(label)
    return (numbered[1], int(numbered[2])) if numbered else (label, None)


def made_entry(video: str, label: str, status: str, *values: Any) -> str:
    """Return the text of the entry of a view that was made, as `write_params` writes it; quick, as most are such.

    values: seed, yaw, pitch, zoom, tracked_path, output_dir, render_time and frames.
    """
    seed, yaw, pitch, zoom, tracked_path, output_dir, render_time, frames = values
    start, of_label = _made_start(label)
    return (
        f'{start}{_text_again(video)}{of_label}            "seed": {seed!r},\n            "yaw": {yaw!r},\n'
        f'            "pitch": {pitch!r},\n            "zoom": {zoom!r},\n            "status": "{status}",\n'
        f'            "tracked_path": {_text_again(tracked_path)},\n            "output_dir": {_text(output_dir)},\n'
        f'            "render_time": {render_time!r},\n            "frames": {frames!r}\n        }}'
    )


@functools.lru_cache(maxsize=4096)
def _made_start(label: str) -> tuple[str, str]:
    """Return what stands before and behind the video's name in the text of a view's entry."""
    fields = list(entry_start("", label).items())[1:]
    of_label = "".join(f",\n{_start(key)}{_text(value)}" for key, value in fields)
    return f"        {_text(label)}: {{\n{_start('video_name')}", f"{of_label},\n"


def params_entry(video: str, label: str, before: Entry | None, *told: Mapping[str, Any]) -> Entry:
    """The entry of a view with what was told of it, the last word last; `before`: what an earlier log says.

    video_name, difficulty and view_index follow from the label. In the original's key order.
    """
    entry = entry_start(video, label)
    entry.update(before or {})
    for fields in told:
        entry.update({key: fields[key] for key in KEYS if fields.get(key) is not None})
    if entry["status"] not in STATUSES:
        raise ValueError(f"status of {video} {label}: expected one of {STATUSES}, found {entry['status']!r}")
    entry.pop("render_time" if entry["status"] == "failed" else "error", None)
    ordered = {key: entry.pop(key) for key in KEY_ORDER if key in entry}
    return {**ordered, **entry}


def write_params(path: Path, entries: Entries | Iterable[tuple[str, Mapping[str, Entry | str]]]) -> None:
    """Writes a log in one step: videos by name, views by difficulty and number. The same entries give the same bytes.

    entries: {video: {label: entry}}; or (video, {label: entry}) in the order of the names, made while it is written.
    An entry may be the text of `made_entry`.

    Raises:
        OutputError: it cannot be written; the log before is still there.
    """
    videos: Iterable[tuple[str, Mapping[str, Entry | str]]]
    videos = sorted(entries.items()) if isinstance(entries, dict) else entries
    try:
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(_texts(videos))
            file.flush()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); check the disk and run again") from error


_ENDS = ("{}\n", "\n}\n")
_BUFFER = 1 << 20


def _texts(videos: Iterable[tuple[str, Mapping[str, Entry | str]]]) -> Iterator[str]:
    """The text of a log, video by video, then its end."""
    start = "{\n"
    for video, views in videos:
        yield f"{start}    {_text(video)}: {_video(views)}"
        start = ",\n"
    yield _ENDS[start == ",\n"]


def _video(views: Mapping[str, Entry | str]) -> str:
    """One video as json.dumps(indent=4) writes it at its depth; that is ten times slower."""
    blocks = []
    for label in sorted(views, key=view_order) if len(views) > 1 else views:
        entry = views[label]
        if isinstance(entry, str):
            blocks.append(entry)
            continue
        fields = ",\n".join([_start(key) + _text(value) for key, value in entry.items()])
        blocks.append(f"        {_text(label)}: {{\n{fields}\n        }}")
    return "{\n" + ",\n".join(blocks) + "\n    }" if blocks else "{}"


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_quoted = json.encoder.encode_basestring


@functools.lru_cache(maxsize=256)
def _start(key: str) -> str:
    return f"            {_text(key)}: "


def _text(value: Any) -> str:
    """A value as JSON; its text printable. Raises ValueError for NaN and infinity."""
    kind = type(value)
    if kind is str:
        text = _quoted(value)
        return text if text.isprintable() else printable_json(text)
    if kind is int or (kind is float and math.isfinite(value)):
        return repr(value)
    return printable_json(_encoder.encode(value))


@functools.lru_cache(maxsize=64)
def _text_again(value: str) -> str:
    """`_text` of what all views of a video have in common."""
    return _text(value)
