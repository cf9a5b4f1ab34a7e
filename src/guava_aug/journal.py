"""Journals: what every worker of a run did, line by line, in a file of its own.

`{output_root}/.guava-aug/journal/<host>-<pid>-<start>.jsonl`. A worker only ever appends to its own file: one `write`
of whole lines, then `fsync`. So there is nothing to lock, on NFS or Lustre as little as on a local disk. Readers take
all files together. A line that a kill or a full disk cut short is passed over. The kinds of lines: docs/formats.md.

Lines have a total order that is the same for every reader, whatever it reads first: time, then file name, then number
of the line. Time never goes back within a file, and a worker that has read the others' journals begins after the last
line it saw, so that a clock that is slow does not let an old line win.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .durable import sync_descriptor
from .errors import DiskFullError, OutputError
from .hosts import host_id, host_name

FOLDER = Path(".guava-aug") / "journal"  # below the output root
FORMAT = 1
_TICK = 1e-6  # seconds between two lines of one file, at least

Key = tuple[float, str, int]  # the total order: seconds since 1970, file name, number of the line in it


class Line:
    """One line of one journal. Keeps the text and not what it says: of a hundred thousand lines that is much less."""

    __slots__ = ("_fields", "_text", "key", "kind")

    def __init__(self, key: Key, kind: str, text: bytes, fields: dict[str, Any] | None = None) -> None:
        self.key = key
        self.kind = kind  # run, plan, used, begin, view, skipped, alone, input, end
        self._text = text
        self._fields = fields  # while it is read

    @property
    def fields(self) -> dict[str, Any]:
        """What the line says; read from its text every time."""
        fields = self._fields or json.loads(self._text)
        return {key: value for key, value in fields.items() if key not in ("t", "n", "kind")}

    @property
    def worker(self) -> str:
        """The journal's file name: whoever wrote the line."""
        return self.key[1]

    def forget(self) -> None:
        """Keeps the text only."""
        self._fields = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Line) and (self.key, self._text) == (other.key, other._text)

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

    def append(self, kind: str, fields: Mapping[str, Any] | None = None, *, at: float | None = None) -> Line:
        """Adds one line, and gives it back when it is on the disk. See `append_many`."""
        return self.append_many([(kind, fields or {})], at=at)[-1]

    def append_many(self, rows: Sequence[tuple[str, Mapping[str, Any]]], *, at: float | None = None) -> list[Line]:
        """Adds lines (kind, JSON values) with a single wait for the disk; gives them back, the opening one too.

        at: dates them (seconds since 1970), for what was seen earlier than it is told; not before the line before.

        Raises:
            OutputError: the disk is full or cannot be written.
            ValueError: NaN or infinity, which other readers of JSON refuse; nothing is written.
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
            lines.append(Line((self._time, self.path.name, self._number), kind, line))
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


class Reader:
    """Reads the journals below an output root, and later what was added to them. Holds no open file.

    Raises OutputError when the folder or a file cannot be read.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.folder = Path(root) / FOLDER
        self._read: dict[str, int] = {}  # bytes of whole lines that were read, by file name
        self._seen: dict[str, int] = {}  # length of each file when it was read; a cut line stays unread for ever

    def new_lines(self) -> Iterator[Line]:
        """The lines that this reader has not given yet, file by file. A line still being written comes next time."""
        try:
            with os.scandir(self.folder) as entries:
                sizes = {e.name: e.stat().st_size for e in entries if e.name.endswith(".jsonl")}
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"{self.folder}: the journals cannot be read ({error.strerror or error})") from error
        for name in sorted(sizes):
            if sizes[name] > self._seen.get(name, 0):
                yield from self._of_file(name)

    def passed(self, path: Path) -> None:
        """Notes that all of a file is known already: it is this process's own."""
        self._read[path.name] = self._seen[path.name] = path.stat().st_size

    def _of_file(self, name: str) -> Iterator[Line]:
        start = self._read.get(name, 0)
        try:
            with open(self.folder / name, "rb") as file:
                file.seek(start)
                data = file.read()
        except OSError as error:
            raise OutputError(f"{self.folder / name}: cannot be read ({error.strerror or error})") from error
        whole = data[: data.rfind(b"\n") + 1]
        self._read[name], self._seen[name] = start + len(whole), start + len(data)
        for text in whole.split(b"\n"):
            line = _decode(name, text)
            if line is not None:
                yield line


def _encode(kind: str, fields: Mapping[str, Any]) -> bytes:
    """The line from its kind on: `"kind":"view",...}`. Names on a disk need not be Unicode: ASCII with escapes."""

    def plain(x: Any) -> Any:
        return x.item() if hasattr(x, "item") else os.fspath(x)

    text = json.dumps({"kind": kind, **fields}, allow_nan=False, separators=(",", ":"), default=plain)
    return text[1:].encode("ascii")


def _decode(name: str, text: bytes) -> Line | None:
    """The line, or None when it is cut short or no such line at all."""
    try:
        fields = json.loads(text)
        return Line((float(fields["t"]), name, int(fields["n"])), sys.intern(fields["kind"]), text, fields)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
