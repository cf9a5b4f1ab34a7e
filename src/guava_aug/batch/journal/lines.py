"""What a journal's lines may say: every field is checked before anything is made of it.

A disk, a copy or an editor may damage any byte of a journal. A line that is understood has a known kind, and each of
its fields the type and the range that this table says; fields that are not in it are not looked at.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from guava_aug.runtime.plain_json import (
    LARGEST,
    LARGEST_FLOAT,
    LONGEST_TEXT,
    is_count,
    is_integer,
    is_number,
    is_object,
    is_scalar,
    is_text,
)

STATUSES = ("success", "skipped", "failed")
DONE = ("success", "skipped")
NUMBERED = re.compile(r"(.+)_([0-9]{3,9})")  # a further view's label: difficulty and number
_LARGEST_32 = (1 << 31) - 1
_NOT_IN_A_FOLDER = re.compile(r"[/\\\0]")
_LONGEST_LABEL = 100

Check = Callable[[Any], bool]


def is_folder(value: Any) -> bool:
    """Whether it can be the name of one folder and leads out of no tree."""
    return is_text(value) and value not in ("", ".", "..") and not _NOT_IN_A_FOLDER.search(value)


def is_label(value: Any) -> bool:
    """Whether it can be the label of a view."""
    return type(value) is str and _is_label(value)


@functools.lru_cache(maxsize=4096)
def _is_label(value: str) -> bool:
    return is_folder(value) and len(value) <= _LONGEST_LABEL


def _is_count_32(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_32


def _is_status(value: Any) -> bool:
    return value in STATUSES


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_labels(value: Any) -> bool:
    return type(value) is list and all(map(is_label, value))


def _is_views(value: Any) -> bool:
    return type(value) is dict and all(map(is_text, value)) and all(map(_is_labels, value.values()))


def _is_size(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and all(map(_is_count_32, value))


def _is_input(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 3
        and is_text(value[0])
        and is_text(value[1])
        and (value[2] is None or is_number(value[2]))
    )


def _is_made_with(value: Any) -> bool:
    return type(value) is dict and all(map(is_text, value)) and all(map(is_scalar, value.values()))


def _is_stages(value: Any) -> bool:
    return type(value) is dict and all(map(is_text, value)) and all(map(is_number, value.values()))


def _is_machine(value: Any) -> bool:
    return is_object(value) and all(value.get(key) is None or is_text(value[key]) for key in ("device", "gpu"))


# Of every kind: the fields there must be, and the check of each field that is looked at.
_FIELDS: dict[str, tuple[tuple[str, ...], Mapping[str, Check]]] = {
    "run": ((), {
        "format": is_count, "host": is_text, "host_id": is_text, "pid": _is_count_32, "part": is_text,
        "config": is_object, "versions": is_object, "cwd": is_text,
    }),
    "plan": (("views",), {"views": _is_views, "overwrite": _is_flag}),
    "used": ((), {
        "machine": _is_machine, "rasteriser": is_text, "precision": is_text, "workers": _is_count_32,
        "model": is_scalar,
    }),
    "begin": (("video", "views"), {"video": is_text, "views": _is_labels}),
    "view": (("video", "view", "status"), {
        "video": is_text, "view": is_label, "status": _is_status,
        "seed": is_integer, "yaw": is_number, "pitch": is_number, "zoom": is_number,
        "tracked_path": is_text, "output_dir": is_text, "frames": _is_count_32, "fps": is_number, "size": _is_size,
        "bytes": is_count, "fingerprint": is_text, "made_with": _is_made_with, "input": _is_input,
        "render_time": is_number, "stages": _is_stages, "error": is_text, "stage": is_text, "frame": _is_count_32,
        "lasting": _is_flag, "attempt": is_text,
    }),
    "skipped": (("views",), {"views": _is_views}),
    "alone": (("views",), {"views": _is_views}),
    "input": (("video", "input"), {"video": is_text, "input": _is_input}),
    "end": ((), {"why": is_text}),
}  # fmt: skip


def is_short_ascii(text: bytes) -> bool:
    """Whether every string in a JSON text is sure to be ASCII and not too long."""
    return len(text) <= LONGEST_TEXT and b"\\u" not in text


# What is left to be checked of lines whose fields have these names and types, so that it is found out only once.
class _Left(NamedTuple):
    names: tuple[str, ...]  # the known fields
    ranges: tuple[tuple[str, float, float], ...]  # numbers, with the least and the greatest they may be
    checks: tuple[tuple[str, Check], ...]


_RANGES: dict[Check, tuple[float, float]] = {
    is_count: (0, LARGEST - 1), is_integer: (-LARGEST, LARGEST - 1), is_number: (-LARGEST_FLOAT, LARGEST_FLOAT),
}  # fmt: skip
_Shape = tuple[tuple[str, ...], tuple[type, ...], str, bool]
_LEFT: dict[_Shape, _Left | None] = {}
_MOST_SHAPES = 10_000


def understood(kind: Any, fields: Mapping[str, Any], plain: bool = False) -> dict[str, Any] | None:
    """The known fields of a line, without those that are null; None when one is missing or is not what it should be.

    plain: every string in it is sure to be `is_text`.
    """
    if type(kind) is not str or kind not in _FIELDS:
        return None
    shape = (tuple(fields), tuple(map(type, fields.values())), kind, plain)
    if shape not in _LEFT:
        if len(_LEFT) >= _MOST_SHAPES:  # of damaged lines
            _LEFT.clear()
        _LEFT[shape] = _left_to_check(kind, fields, plain)
    left = _LEFT[shape]
    if left is None:
        return None
    for name, least, greatest in left.ranges:
        if not least <= fields[name] <= greatest:
            return None
    for name, check in left.checks:
        if not check(fields[name]):
            return None
    # what is there, lies in a folder of that name
    if kind == "view" and fields["status"] in DONE and not is_folder(fields["video"]):
        return None
    if kind == "skipped" and not all(map(is_folder, fields["views"])):
        return None
    return {name: fields[name] for name in left.names}


def _left_to_check(kind: str, fields: Mapping[str, Any], plain: bool) -> _Left | None:
    """The known fields that are there, and the checks that the types do not decide; None: a needed one is missing."""
    needed, checks = _FIELDS[kind]
    names = tuple(name for name, value in fields.items() if name in checks and value is not None)
    if not all(name in names for name in needed):
        return None
    ranges, others = [], []
    for name in names:
        check, found = checks[name], type(fields[name])
        if plain and check is is_text and found is str:
            continue
        if check in _RANGES and (found is int or (found is float and check is is_number)):
            ranges.append((name, *_RANGES[check]))
        else:
            others.append((name, check))
    return _Left(names, tuple(ranges), tuple(others))


def is_time(value: Any, latest: float) -> bool:
    """Whether a line can have been written then: seconds since 1970, from 2020 to `latest`."""
    return (
        (type(value) is float or type(value) is int)
        and -LARGEST_FLOAT < value < LARGEST_FLOAT
        and EARLIEST <= value <= latest
    )


EARLIEST = 1_577_836_800.0  # seconds since 1970: the beginning of 2020, before which nothing of ours was written
