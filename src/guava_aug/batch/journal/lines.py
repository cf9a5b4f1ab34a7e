"""What a journal's lines may say: every field is checked before anything is made of it.

A disk, a copy or an editor may damage any byte of a journal. A line that is understood has a known kind, and each of
its fields the type and the range that this table says; fields that are not in it are not looked at.

There may be hundreds of thousands of lines. So the usual ones are read by one pattern, and all are kept as tuples of
values; what many of them say alike is kept once.
"""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from guava_aug.errors import OutputError
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
    loads,
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
        "lasting": _is_flag, "attempt": is_text, "sampler": is_text, "params": is_object, "trajectory": is_text,
        "camera": is_object, "digest": is_text, "frame_rate": is_text,
    }),
    "skipped": (("views",), {"views": _is_views}),
    "alone": (("views",), {"views": _is_views}),
    "input": (("video", "input"), {"video": is_text, "input": _is_input}),
    "end": ((), {"why": is_text}),
}  # fmt: skip


def is_kind(kind: Any) -> bool:
    """Whether there are lines of this kind."""
    return type(kind) is str and kind in _FIELDS


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
    _is_count_32: (0, _LARGEST_32),
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


Values = tuple[Any, ...]  # of the fields, some of them packed


class Shape:
    """The names of a line's fields, and at which place the value of each is. One object for all lines with the same.

    file: of lines read by `Packer.usual_view`, the journal they are in, where their objects of numbers are; else None.
    """

    __slots__ = ("_pickers", "file", "names", "places")
    _known: ClassVar[dict[tuple[str, ...], Shape]] = {}

    def __init__(self, names: tuple[str, ...], file: Path | None = None) -> None:
        self.names, self.file = names, file
        self.places = {name: place for place, name in enumerate(names)}
        self._pickers: dict[tuple[str, ...], Callable[[Values], Values]] = {}

    @classmethod
    def of(cls, names: tuple[str, ...]) -> Shape:
        """Return the shape of lines with these fields."""
        shape = cls._known.get(names)
        if shape is None:
            if len(cls._known) >= _MOST_SHAPES:  # of damaged lines
                cls._known.clear()
            shape = cls._known[names] = cls(names)
        return shape

    def picker(self, names: tuple[str, ...]) -> Callable[[Values], Values]:
        """Return what gives the values of two or more fields, packed, None for those that are not there."""
        picker = self._pickers.get(names)
        if picker is None:
            get = operator.itemgetter(*(self.places.get(name, len(self.names)) for name in names))
            all_there = set(names) <= self.places.keys()
            picker = self._pickers[names] = get if all_there else lambda values: get((*values, None))
        return picker

    def unpacked(self, name: str, value: Any) -> Any:
        """Return the value of a field that `Packer` packed; not to be changed, for other lines may have the same.

        Raises:
            OutputError: the journal has changed since it was read.
        """
        if name not in _OF_NUMBERS or value is None:
            return value
        if self.file is None or type(value) is str:
            return json.loads(value)
        with open_texts() as text_at:
            text = text_at(self.file, value)
        try:
            return loads(text)
        except ValueError as error:
            raise OutputError(f"{self.file}: it has changed while it was read; try again") from error


@contextlib.contextmanager
def open_texts() -> Iterator[Callable[[Path, int], str]]:
    """Give what reads the JSON object at a place of a journal, up to its first closing brace; closes all files then.

    Raises:
        OutputError: a journal cannot be read.
    """
    opened: dict[Path, int] = {}

    def text_at(file: Path, place: int) -> str:
        try:
            if file not in opened:
                opened[file] = os.open(file, os.O_RDONLY)
            text = os.pread(opened[file], _USUAL_OBJECT, place)
            if b"}" not in text:
                text = os.pread(opened[file], LONGEST_LINE, place)
        except OSError as error:
            raise OutputError(f"{file}: cannot be read ({error.strerror or error})") from error
        return text[: text.find(b"}") + 1].decode("latin-1")

    try:
        yield text_at
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


LONGEST_LINE = 1 << 16  # bytes of a usual one
_USUAL_OBJECT = 512  # bytes


# A line of a view that was made, as `ViewRecord.to_json` has it: nearly all of a large data set are such, and this
# pattern is three times quicker than reading JSON and checking each field. It accepts nothing that `understood` would
# not: what it leaves open (characters, ranges, objects, escapes) `Packer.usual_view` checks. Any other line is read as
# JSON. It is written for Python's `re`: "all but one character" is quicker than a set, and what is written out quicker
# than a repetition.
_STRING = r'[^"]*'  # with a backslash, it is decoded
_COUNT = r"0|[1-9][0-9]{0,17}"
_FLOAT = r"-?(?:0|[1-9][0-9]{0,15})(?:\.[0-9]{1,20}(?:e[-+][0-9]{2})?|e[-+][0-9]{2})"
_NAME = r'"[ !#-\[\]-|~]*"'  # without a brace: an object ends at its first closing one, see `open_texts`
_NUMBERS = rf"\{{{_NAME}:{_FLOAT}(?:,{_NAME}:{_FLOAT})*\}}"
_WITH_LISTS = rf"(?:{_FLOAT}|\[{_FLOAT}(?:,{_FLOAT})*\])"
_OBJECT = rf"\{{{_NAME}:{_WITH_LISTS}(?:,{_NAME}:{_WITH_LISTS})*\}}"
_CAMERA_AS_MADE = (  # as `views.camera_facts.compact_facts` has it
    rf'\{{"azimuth":{_FLOAT},"elevation":{_FLOAT},"K":\[{_FLOAT}{f",{_FLOAT}" * 3}\],'
    rf'"viewmat":\[{_FLOAT}{f",{_FLOAT}" * 11}\]\}}'
)
_OF_USUAL_VIEW = {  # the fields in their order; those after `status` need not be there
    "video": f'"({_STRING})"', "view": f'"({_STRING})"', "status": '"(success|skipped)"',
    "seed": f"(-?(?:{_COUNT}))", "yaw": f"({_FLOAT})", "pitch": f"({_FLOAT})", "zoom": f"({_FLOAT})",
    "trajectory": f'"({_STRING})"', "sampler": f'"({_STRING})"', "params": f"({_OBJECT})",
    "tracked_path": f'"({_STRING})"', "output_dir": f'"({_STRING})"',
    "frames": f"({_COUNT})", "fps": f"({_FLOAT})", "size": r"(\[[0-9,]*\])", "made_with": r"(\{[^}]*\})",
    "fingerprint": f'"({_STRING})"', "input": r"(\[[^]]*\])", "bytes": f"({_COUNT})", "digest": f'"({_STRING})"',
    "camera": rf'({_CAMERA_AS_MADE}|{_OBJECT}|\{{"moving":true\}})', "frame_rate": f'"({_STRING})"',
    "stages": f"({_NUMBERS})", "render_time": f"({_FLOAT})",
}  # fmt: skip
USUAL_VIEW = tuple(_OF_USUAL_VIEW)
_USUAL_LINE = re.compile(
    rf'\{{"t":([1-9][0-9]{{9}}\.[0-9]{{6}}),"n":({_COUNT}),"kind":"view"'
    + "".join(
        f',"{name}":{pattern}' if name in ("video", "view", "status") else f'(?:,"{name}":{pattern})?'
        for name, pattern in _OF_USUAL_VIEW.items()
    )
    + r"\}"
)
_OF_A_LINE = bytes(byte if 32 <= byte < 127 else 63 for byte in range(256))  # what belongs in no line changes
# Objects of numbers, which differ from view to view and are seldom asked for. They are kept as JSON text, and of usual
# lines only the place of the text in the journal is kept.
_OF_NUMBERS = ("camera", "stages", "params")
_CAMERA, _STAGES, _PARAMS = (USUAL_VIEW.index(name) + 3 for name in ("camera", "stages", "params"))  # groups


class _Kept(dict[str | None, Any]):
    """JSON text -> its value, which has passed a check: one object for all lines that say the same."""

    def __init__(self, check: Check, quotes: str = "") -> None:
        super().__init__({None: None})  # a field that is not there
        self._check, self._quotes = check, quotes

    def __missing__(self, text: str) -> Any:
        """Return the value of a text that is new. Raises ValueError when it fails the check."""
        value = loads(f"{self._quotes}{text}{self._quotes}")
        if not self._check(value):
            raise ValueError(text)
        self[text] = value = sys.intern(value) if type(value) is str else value
        return value


class Packer:
    """Keeps checked values in little memory: each of those that recur once, objects that do not as JSON text."""

    def __init__(self) -> None:
        self._video, self._view = _Kept(is_folder, '"'), _Kept(is_label, '"')
        self._text = _Kept(is_text, '"')  # the inside of strings that recur
        self._frames, self._fps = _Kept(_is_count_32), _Kept(is_number)
        self._shared = {"size": _Kept(_is_size), "made_with": _Kept(_is_made_with), "input": _Kept(_is_input)}

    def pack(self, fields: Mapping[str, Any]) -> tuple[Shape, Values]:
        """Return shape and values of a line that was understood."""
        return Shape.of(tuple(fields)), tuple([self._packed(name, value) for name, value in fields.items()])

    def usual_view(self, line: bytes, start: int) -> tuple[float, int, Values] | None:
        """Return time, number and values of the fields `USUAL_VIEW`, None for those that are not there, of a line.

        None: it is to be read as JSON. line: at most `LONGEST_LINE` bytes. start: where it begins in its file.
        """
        if line.translate(_OF_A_LINE) != line:
            return None
        text = line.decode("ascii")
        found = _USUAL_LINE.fullmatch(text)
        if found is None:
            return None
        (
            at, number, video, view, status, seed, yaw, pitch, zoom, trajectory, sampler, params, tracked_path,
            output_dir, frames, fps, size, made_with, fingerprint, input_, length, digest, camera, frame_rate, stages,
            render_time,
        ) = found.groups()  # fmt: skip
        shared, text_of = self._shared, self._text
        try:
            if "\\" in text:
                output_dir, fingerprint, digest = map(_decoded, (output_dir, fingerprint, digest))
            return float(at), int(number), (
                self._video[video], self._view[view], text_of[status],
                seed and int(seed), yaw and float(yaw), pitch and float(pitch), zoom and float(zoom),
                text_of[trajectory], text_of[sampler], params and start + found.start(_PARAMS), text_of[tracked_path],
                output_dir, self._frames[frames], self._fps[fps], shared["size"][size], shared["made_with"][made_with],
                fingerprint, shared["input"][input_], length and int(length), digest,
                camera and start + found.start(_CAMERA), text_of[frame_rate],
                stages and start + found.start(_STAGES), render_time and float(render_time),
            )  # fmt: skip
        except ValueError:
            return None

    def _packed(self, name: str, value: Any) -> Any:
        if name in _OF_NUMBERS:
            return json.dumps(value, allow_nan=False, separators=(",", ":"))
        if name in self._shared:
            return self._shared[name].setdefault(json.dumps(value, allow_nan=False, separators=(",", ":")), value)
        return sys.intern(value) if type(value) is str and name in _RECUR else value


def _decoded(text: str | None) -> str | None:
    """The string of a JSON string's inside. Raises ValueError when that is none, or `is_text` refuses it."""
    value = None if text is None else loads(f'"{text}"')
    if value is None or is_text(value):
        return value
    raise ValueError("text")


_RECUR = {"video", "view", "status", "tracked_path", "frame_rate", "sampler", "trajectory", "stage", "kind"}


def is_time(value: Any, latest: float) -> bool:
    """Whether a line can have been written then: seconds since 1970, from 2020 to `latest`."""
    return (
        (type(value) is float or type(value) is int)
        and -LARGEST_FLOAT < value < LARGEST_FLOAT
        and EARLIEST <= value <= latest
    )


EARLIEST = 1_577_836_800.0  # seconds since 1970: the beginning of 2020, before which nothing of ours was written
