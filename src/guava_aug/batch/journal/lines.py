"""What a journal's lines may say: every field is checked before anything is made of it.

A disk, a copy or an editor may damage any byte of a journal. A line that is understood has a known kind, and each of
its fields the type and the range that this table says; fields that are not in it are not looked at.

There may be hundreds of thousands of lines. So lines that have the same fields are checked together, column by column,
and kept as tuples of values; what many of them say alike is kept once. Only where a column holds something odd are its
lines checked one by one.
"""

from __future__ import annotations

import functools
import itertools
import operator
import re
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

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
    """The names of a line's fields, and at which place the value of each is. One object for all lines with the same."""

    __slots__ = ("_pickers", "names", "places")
    _known: ClassVar[dict[tuple[str, ...], Shape]] = {}

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
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
            picker = self._pickers[names] = lambda values: get((*values, None))
        return picker


class Packer:
    """Keeps checked values in little memory: each of those that recur once, objects of numbers as bytes."""

    def __init__(self) -> None:
        self._shared: dict[Any, Any] = {}
        self._last: dict[str, tuple[Any, list[type]]] = {}  # by field: consecutive lines mostly say the same

    def pack(self, fields: Mapping[str, Any]) -> tuple[Shape, Values]:
        """Return shape and values of a line that was understood."""
        return Shape.of(tuple(fields)), tuple(self._packed(name, value) for name, value in fields.items())

    def pack_many(
        self, kind: str, names: Sequence[str], rows: Sequence[Mapping[str, Any]], plain: bool
    ) -> tuple[Shape, list[Values]] | None:
        """Return shape and values of lines of one kind and with the same names, all of which are as they should be.

        None: to be looked at one by one, for one at least may not be. plain: see `understood`.
        """
        needed, checks = _FIELDS[kind]
        known = tuple(name for name in names if name in checks)
        if not all(name in known for name in needed):
            return None
        columns: dict[str, Sequence[Any]] = {}
        for name in known:
            column = self._column(name, checks[name], [row[name] for row in rows], plain)
            if column is None:
                return None
            columns[name] = column
        if kind == "view" and not all(map(is_folder, set(columns["video"]))):
            return None
        if kind == "skipped" and not all(all(map(is_folder, views)) for views in columns["views"]):
            return None
        return Shape.of(known), list(zip(*columns.values(), strict=True)) if columns else [()] * len(rows)

    def _column(self, name: str, check: Check, values: list[Any], plain: bool) -> Sequence[Any] | None:
        """The values of one field, packed, if all of them pass the check; None: it is not certain that they do."""
        types = set(map(type, values))
        if type(None) in types:
            return None
        if types == {str}:
            if check is is_label or check is _is_status:
                good = all(map(check, set(values)))
            else:
                good = check is is_text and (plain or all(map(is_text, values)))
            return (list(map(sys.intern, values)) if name in _RECUR else values) if good else None
        if types == {int} and check in _RANGES:
            least, greatest = _RANGES[check]
            return values if least <= min(values) and max(values) <= greatest else None
        if types == {float} and check is is_number:
            return values if sum(map(abs, values)) < LARGEST_FLOAT else None  # false for NaN, wherever it stands
        if types == {dict} and check in _PACKED and plain:
            if (alike := self._numbers_alike(values)) is not None:
                return alike
            packed = [self._numbers(value) or value for value in values]
            return packed if all(type(value) is tuple or check(value) for value in packed) else None
        if (types == {dict} or types == {list}) and check in _SHARED:
            try:
                return [self._share(name, check, value) for value in values]
            except ValueError:
                return None
        return values if all(map(check, values)) else None  # False for null

    def _packed(self, name: str, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return sys.intern(value) if name in _RECUR else value
        if kind is dict and name in ("camera", "stages"):
            return self._numbers(value) or value
        if (kind is dict or kind is list) and name in ("made_with", "input", "size"):
            return self._share(name, lambda _: True, value)
        return value

    def _share(self, name: str, check: Check, value: Any) -> Any:
        """The first value that said the same, which has been checked. Raises ValueError when the check fails."""
        values = list(value.values()) if type(value) is dict else value
        types = list(map(type, values))  # for True == 1 == 1.0
        last = self._last.get(name)
        if last is not None and value == last[0] and types == last[1]:
            return last[0]
        key: Any = name, tuple(value), tuple(values), tuple(types)
        try:
            shared = self._shared.get(key)
        except TypeError:  # a list in it
            shared, key = None, None
        if shared is None:
            if not check(value):
                raise ValueError(name)
            shared = value
            if key is not None:
                self._shared[key] = shared
        self._last[name] = shared, types
        return shared

    def _numbers_alike(self, values: list[dict[str, Any]]) -> list[tuple[Any, bytes]] | None:
        """`_numbers` of several objects of one form; None: they differ in form, or one is something else."""
        names = tuple(values[0])
        if set(map(tuple, values)) != {names}:
            return None
        form: list[Any] = []
        columns: list[tuple[bytes, int]] = []  # numbers of all objects, one after the other, and bytes of each
        for name in names:
            column = [value[name] for value in values]
            length, types = -1, set(map(type, column))
            if types == {list}:
                length = len(column[0])
                if not length or set(map(len, column)) != {length}:
                    return None
                column = list(itertools.chain.from_iterable(column))
                types = set(map(type, column))
            if types != _ONLY_FLOATS or not sum(map(abs, column)) < LARGEST_FLOAT:
                return None
            form += name, length
            columns.append((struct.pack(f"{len(column)}d", *column), 8 * abs(length)))
        key = tuple(form)
        key = self._shared.setdefault(key, key)
        if len(columns) == 1:
            ((data, size),) = columns
            return [(key, data[at : at + size]) for at in range(0, len(data), size)]
        return [
            (key, b"".join([data[i * size : (i + 1) * size] for data, size in columns])) for i in range(len(values))
        ]

    def _numbers(self, value: dict[str, Any]) -> tuple[Any, bytes] | None:
        """An object of finite numbers and lists of such as bytes, with its form; None: it is something else."""
        flat: list[Any] = []
        form: list[Any] = []
        for name, item in value.items():
            if type(item) is list:
                form += name, len(item)
                flat += item
            else:
                form += name, -1
                flat.append(item)
        if set(map(type, flat)) != _ONLY_FLOATS or not sum(map(abs, flat)) < LARGEST_FLOAT:
            return None
        key = tuple(form)
        return self._shared.setdefault(key, key), struct.pack(f"{len(flat)}d", *flat)


def unpacked(value: Any) -> Any:
    """Return the value that `Packer` packed; it is not to be changed, for others may have the same."""
    if type(value) is not tuple:  # JSON has none
        return value
    form, data = value
    numbers, at = struct.unpack(f"{len(data) // 8}d", data), 0
    found: dict[str, Any] = {}
    for name, length in zip(form[::2], form[1::2], strict=True):
        if length < 0:
            found[name] = numbers[at]
            at += 1
        else:
            found[name] = list(numbers[at : at + length])
            at += length
    return found


_ONLY_FLOATS = {float}
_PACKED = (is_object, _is_stages)
_SHARED = (_is_made_with, _is_input, _is_size)
_RECUR = {"video", "view", "status", "tracked_path", "frame_rate", "sampler", "trajectory", "stage", "kind"}


def is_time(value: Any, latest: float) -> bool:
    """Whether a line can have been written then: seconds since 1970, from 2020 to `latest`."""
    return (
        (type(value) is float or type(value) is int)
        and -LARGEST_FLOAT < value < LARGEST_FLOAT
        and EARLIEST <= value <= latest
    )


EARLIEST = 1_577_836_800.0  # seconds since 1970: the beginning of 2020, before which nothing of ours was written
