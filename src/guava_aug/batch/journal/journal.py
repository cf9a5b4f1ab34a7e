"""Journals: what every worker of a run did, line by line, in a file of its own.

`{output_root}/.guava-aug/journal/<host>-<pid>-<start>.jsonl`. A worker only ever appends to its own file: one `write`
of whole lines, then `fsync`. So there is nothing to lock, on NFS or Lustre as little as on a local disk. Readers take
all files together. A line that a kill or a full disk cut short, or that a disk has damaged, is passed over and counted.
The kinds of lines: docs/formats.md.

Lines have a total order that is the same for every reader, whatever it reads first: time, then file name, then number
of the line. Time never goes back within a file, and a worker that has read the others' journals begins after the last
line it saw, so that a clock that is slow does not let an old line win. A line whose time is impossible (no number, not
finite, before 2020, over 30 days after both the file's time and the clock) or goes back has the time of the line before
it: so a clock that runs ahead, or a damaged digit, loses nothing.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guava_aug.batch.journal.lines import (
    EARLIEST,
    LONGEST_LINE,
    USUAL_VIEW,
    Packer,
    Shape,
    Values,
    is_short_ascii,
    is_time,
    understood,
)
from guava_aug.errors import DiskFullError, OutputError
from guava_aug.output.tree import RUN_FOLDER
from guava_aug.runtime.atomic import sync_descriptor
from guava_aug.runtime.plain_json import is_count, loads
from guava_aug.runtime.processes import host_id, host_name

FOLDER = Path(RUN_FOLDER) / "journal"  # below the output root
FORMAT = 1
_TICK = 1e-6  # seconds between two lines of one file, at least
AHEAD = 30 * 86400.0  # seconds that a line may be later than both its file and the clock say
MOST_BRACKETS = 1_000_000  # of one line; a plan of a thousand videos has a list for each of them
EXAMPLES = 3  # damaged lines that are named

Key = tuple[float, str, int]  # the total order: seconds since 1970, file name, number of the line in it


class JournalLine:
    """One line of one journal: what it says, checked, in little memory, for there may be a hundred thousand of them."""

    __slots__ = ("_values", "key", "kind", "shape")

    def __init__(self, key: Key, kind: str, shape: Shape, values: Values) -> None:
        self.key = key
        self.kind = kind  # run, plan, used, begin, view, skipped, alone, input, end
        self.shape = shape  # the names of its fields
        self._values = values

    @property
    def fields(self) -> dict[str, Any]:
        """What the line says, a new object every time; what is in it is not to be changed."""
        return {
            name: self.shape.unpacked(name, value)
            for name, value in zip(self.shape.names, self._values, strict=True)
            if value is not None
        }

    def get(self, name: str) -> Any:
        """Return one field; None: it is not there. Quicker than `fields`."""
        place = self.shape.places.get(name)
        return None if place is None else self.shape.unpacked(name, self._values[place])

    def pick(self, names: tuple[str, ...]) -> Values:
        """Return two or more fields, None for those that are not there; camera, stages and params as packed."""
        return self.shape.picker(names)(self._values)

    @property
    def worker(self) -> str:
        """The journal's file name: whoever wrote the line."""
        return self.key[1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JournalLine) and (self.key, self.kind, self.fields) == (
            other.key, other.kind, other.fields,
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash(self.key)


class Journal:
    """This process's journal below an output root. The file appears with the first line.

    header: what the first line (kind `run`) says beside host, pid and format. after: the time of the last line that
    was read before, seconds since 1970; all lines written here are later. Not thread-safe: one thread appends.
    """

    def __init__(self, root: str | os.PathLike[str], header: Mapping[str, Any], *, after: float = 0.0) -> None:
        self.folder = Path(root) / FOLDER
        self.path: Path | None = None  # None: nothing was appended yet
        self._header = dict(header)
        self._time = after
        self._number = 0
        self._torn = False
        self._packer = Packer()

    def append(self, kind: str, fields: Mapping[str, Any] | None = None, *, at: float | None = None) -> JournalLine:
        """Adds one line, and gives it back when it is on the disk. See `append_many`."""
        return self.append_many([(kind, fields or {})], at=at)[-1]

    def append_many(
        self, rows: Sequence[tuple[str, Mapping[str, Any]]], *, at: float | None = None
    ) -> list[JournalLine]:
        """Adds lines (kind, JSON values) with a single wait for the disk; gives them back, the opening one too.

        at: dates them (seconds since 1970), for what was seen earlier than it is told; not before the line before.

        Raises:
            OutputError: the disk is full or cannot be written.
            ValueError: NaN or infinity, or another value that readers of journals refuse; nothing is written.
        """
        if self.path is None and rows:
            opening = {"format": FORMAT, "host": host_name(), "host_id": host_id(), "pid": os.getpid()}
            rows = [("run", {**opening, **self._header}), *rows]
            texts = [_encode(kind, fields) for kind, fields in rows]
            self.path = self._create()
        else:
            texts = [_encode(kind, fields) for kind, fields in rows]
        if self.path is None:
            return []
        lines, data = [], b"\n" if self._torn else b""
        for (kind, _), text in zip(rows, texts, strict=True):
            self._time = max(self._time + _TICK, time.time() if at is None else at)
            self._time = round(self._time, 6)
            line = b'{"t":%.6f,"n":%d,%s' % (self._time, self._number, text)
            known = understood(kind, json.loads(line))
            if known is None:
                raise ValueError(f"no reader would understand this line of a journal: {line[:1000]!r}")
            shape, values = self._packer.pack(known)
            lines.append(JournalLine((self._time, self.path.name, self._number), sys.intern(kind), shape, values))
            data += line + b"\n"
            self._number += 1
        self._write(self.path, data)
        return lines

    def _create(self) -> Path:
        start = time.time_ns() // 1_000_000
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while True:
                path = self.folder / f"{host_name()}-{os.getpid()}-{start}.jsonl"
                try:
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
                    return path
                except FileExistsError:
                    start += 1
        except OSError as error:
            raise self._unwritable(error) from error

    def _write(self, path: Path, data: bytes) -> None:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND)
            try:
                self._torn = True  # until all of it is written
                while data:
                    data = data[os.write(handle, data) :]
                self._torn = False
                sync_descriptor(handle, path)
            finally:
                os.close(handle)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OutputError:
        kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else OutputError
        return kind(
            f"{self.path or self.folder}: the journal cannot be written ({error.strerror or error}); check the disk, "
            "the quota and the rights, and run again: finished views are kept"
        )


@dataclass
class Damage:
    """What could not be read of journals, in numbers."""

    passed_over: int = 0  # lines that are not understood
    times: int = 0  # lines with an impossible time, which have that of the line before
    examples: tuple[str, ...] = ()  # "FILE line 7", of the first few that were passed over


@dataclass
class _Place:
    """How far a file was read."""

    read: int = 0  # bytes of whole lines
    seen: int = 0  # its length then; a cut line stays unread for ever
    lines: int = 0
    time: float | None = None  # of the last line
    shape: Shape | None = None  # of its usual lines


class Reader:
    """Reads the journals below an output root, and later what was added to them. Holds no open file.

    Raises OutputError when the folder or a file cannot be read.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.folder = Path(root) / FOLDER
        self.damage = Damage()
        self._places: dict[str, _Place] = {}  # by file name
        self._packer = Packer()

    def new_lines(self) -> Iterator[JournalLine]:
        """The lines that this reader has not given yet, file by file. A line still being written comes next time."""
        try:
            with os.scandir(self.folder) as entries:
                found = {e.name: e.stat() for e in entries if e.name.endswith(".jsonl")}
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"{self.folder}: the journals cannot be read ({error.strerror or error})") from error
        for name in sorted(found):
            if name not in self._places or found[name].st_size > self._places[name].seen:
                yield from self._of_file(name, found[name].st_mtime)

    def lengths(self) -> dict[str, int]:
        """How many bytes of every file were read."""
        return {name: place.read for name, place in self._places.items()}

    def passed(self, path: Path, last: JournalLine | None = None) -> None:
        """Notes that all of a file is known already: it is this process's own. last: its last line."""
        place = self._places.setdefault(path.name, _Place())
        place.read = place.seen = path.stat().st_size
        if last is not None:
            place.time, place.lines = last.key[0], last.key[2] + 1

    def _of_file(self, name: str, changed: float) -> Iterator[JournalLine]:
        """changed: when it was written to last, seconds since 1970."""
        place = self._places.setdefault(name, _Place())
        latest = max(changed, time.time()) + AHEAD
        try:
            with open(self.folder / name, "rb") as file:
                file.seek(place.read)
                while texts := file.readlines(_BLOCK):
                    start = place.read
                    place.seen = start + sum(map(len, texts))
                    torn = not texts[-1].endswith(b"\n")  # being written, or cut short
                    if torn:
                        texts.pop()
                    place.read += sum(map(len, texts))
                    yield from self._lines(name, texts, start, place, latest, changed)
                    if torn:
                        return
        except OSError as error:
            raise OutputError(f"{self.folder / name}: cannot be read ({error.strerror or error})") from error

    def _lines(
        self, name: str, texts: list[bytes], start: int, place: _Place, latest: float, changed: float
    ) -> Iterator[JournalLine]:
        """The lines, those that are understood; the others are counted."""
        kind: str
        usual_shape = place.shape = place.shape or Shape(USUAL_VIEW, self.folder / name)
        end = start
        for text in texts:
            place.lines += 1
            start, end = end, end + len(text)
            usual = self._packer.usual_view(text[:-1], start) if len(text) <= LONGEST_LINE else None
            if usual is not None:
                (at, number, values), kind, shape = usual, "view", usual_shape
            elif (other := _read(text[:-1])) is not None:
                at, number, kind, fields = other
                shape, values = self._packer.pack(fields)
            else:
                if text != b"\n":
                    self._pass_over(f"{name} line {place.lines}")
                continue
            before = place.time
            if not is_time(at, latest) or (before is not None and at < before):
                self.damage.times += 1
                at = before if before is not None else _begun(name, latest, changed)
            place.time = at = float(at)
            yield JournalLine((at, name, number), kind, shape, values)

    def _pass_over(self, where: str) -> None:
        self.damage.passed_over += 1
        if len(self.damage.examples) < EXAMPLES:
            self.damage.examples += (where,)


def _begun(name: str, latest: float, changed: float) -> float:
    """When a journal was begun, seconds since 1970: as its name says, else not after it was written to last."""
    start = re.search(r"-([0-9]{1,16})\.jsonl$", name)
    at = int(start[1]) / 1000 if start else 0.0
    return at if is_time(at, latest) else max(EARLIEST, min(changed, latest))


def _encode(kind: str, fields: Mapping[str, Any]) -> bytes:
    """The line from its kind on: `"kind":"view",...}`. Names on a disk need not be Unicode: ASCII with escapes."""

    def plain(x: Any) -> Any:
        return x.item() if hasattr(x, "item") else os.fspath(x)

    text = json.dumps({"kind": kind, **fields}, allow_nan=False, separators=(",", ":"), default=plain)
    return text[1:].encode("ascii")


_BLOCK = 1 << 18  # bytes of lines that are read together


def _read(text: bytes) -> tuple[Any, int, str, dict[str, Any]] | None:
    """Time, unchecked, number, kind and fields of a line of any kind; None: it is not understood."""
    said = _parse(text)
    if said is None:
        return None
    kind: Any = said.get("kind")
    number: Any = said.get("n")
    fields = understood(kind, said, is_short_ascii(text))
    return None if fields is None or not is_count(number) else (said.get("t"), number, sys.intern(kind), fields)


_FIRST_FIELD = re.compile(rb'^[^,]{0,10000},(?="n":)')  # `{"t":...,` whatever a disk has made of it


def _parse(text: bytes) -> dict[str, Any] | None:
    """What a line says, unchecked; None when it is cut short or no such line at all. A damaged time is null."""
    if text.count(b"[") + text.count(b"{") > MOST_BRACKETS:
        return None
    try:
        said = loads(text.decode("ascii"))
    except ValueError:
        try:
            said = loads(_FIRST_FIELD.sub(b'{"t":null,', text).decode("ascii"))
        except ValueError:
            return None
    return said if type(said) is dict else None
