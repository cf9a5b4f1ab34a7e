"""The parameter log: which camera each view has, and how its rendering ended.

The JSON file is replaced atomically. For a large run that would mean writing megabytes after every view, so each entry
first goes, as one fsynced line, to a journal beside the file (`.<name>.journal`); the JSON follows at once while it is
small, and at most at REWRITE_RATE when it is large. Whoever opens the log next merges the journal: a finished view is
never lost. Several processes may write one log: each merges what the others wrote before it replaces the file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from guava_aug.errors import OutputError
from guava_aug.output.temporary import remove_stale_temporaries, temporary_beside
from guava_aug.output.tree import LOG_NAME, params_log_path

try:
    import fcntl
except ImportError:  # Windows: one process per log
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

Entry = dict[str, Any]
STATUSES = ("success", "skipped", "failed")
KEY_ORDER = (
    "video_name", "difficulty", "view_index", "seed", "yaw", "pitch", "zoom",
    "status", "tracked_path", "output_dir", "render_time", "error",
)  # fmt: skip
SMALL = 256 * 1024  # bytes: up to here the JSON is rewritten after every view
REWRITE_RATE = 2e6  # bytes per second: a larger one is rewritten no faster than this on average
REWRITE_SHARE = 0.02  # and takes no more than this share of the time


class ParamsLog:
    """{video: {view label: entry}}, on disk after every `record`.

    Entries of earlier runs stay, field by field: a view that is recorded as skipped keeps the seed, yaw, pitch and zoom
    it was rendered with. Close it at the end (or use it as a context manager).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path.with_name(f".{path.name}.journal")
        self._seen = self._state()  # before reading: what changes in between is merged later
        self._entries = read_log(path)
        self._blocks: dict[str, str] = {}  # encoded videos
        self._mine: set[tuple[str, str]] = set()  # recorded by this object
        self._others: dict[str, dict[str, Entry]] = {}
        self._last_rewrite = 0.0
        self._pause = 0.0
        self._dirty = self.journal.exists()

    @classmethod
    def open(cls, root: str | os.PathLike[str], part_id: int | str | None = None) -> ParamsLog:
        """The log of `root` (or of one part of a job array) with what earlier runs wrote; absent files are fine.

        The other logs of the root are read too, for `get`: a view keeps its camera also when another part made it.
        Raises OutputError when this log is damaged; it is then left untouched. Damaged logs of others are reported
        and passed over.
        """
        opened = cls(params_log_path(root, part_id))
        for other in sorted(Path(root).glob(f"{LOG_NAME}*.json")):
            if other != opened.path:
                try:
                    _merge(opened._others, read_log(other))
                except OutputError as error:
                    log.warning("%s; its views are not known to this run", error)
        return opened

    def get(self, video: str, label: str) -> Entry | None:
        """A copy of the entry of a view, from this log or else from another part's; None if there is none."""
        for entries in (self._entries, self._others):
            entry = entries.get(video, {}).get(label)
            if entry is not None:
                return dict(entry)
        return None

    def items(self) -> Iterator[tuple[str, str, Entry]]:
        """(video, label, copy of the entry) of everything in this log."""
        for video, views in self._entries.items():
            for label, entry in views.items():
                yield video, label, dict(entry)

    def record(self, video: str, label: str, *, status: Literal["success", "skipped", "failed"], **fields: Any) -> None:
        """Adds to or updates the entry of a view and returns when it is on the disk.

        fields: JSON values by the original's names (seed, yaw, pitch, zoom, tracked_path, output_dir, render_time,
        error); None leaves a field out. video_name, difficulty and view_index follow from the label.
        """
        self.record_many([(video, label, {"status": status, **fields})])

    def record_many(self, rows: list[tuple[str, str, Mapping[str, Any]]]) -> None:
        """The same for many views (video, label, fields with status) with a single wait for the disk."""
        lines = []
        for video, label, fields in rows:
            before = self._entries.get(video, {}).get(label)
            entry = _updated(before if before is not None else self.get(video, label), video, label, fields)
            if entry == before:
                continue
            lines.append(_encode([video, label, entry]) + "\n")
            self._entries.setdefault(video, {})[label] = entry
            self._blocks.pop(video, None)
            self._mine.add((video, label))
        if not lines:
            return
        try:
            with self._lock():
                self._merge_foreign()
                self._append("".join(lines))
                if time.monotonic() - self._last_rewrite >= self._pause:
                    self._rewrite()
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error}); check the disk and run again") from error

    def close(self) -> None:
        """Brings the JSON file up to date and removes the journal."""
        if not self._dirty:
            return
        try:
            with self._lock():
                self._merge_foreign()
                self._rewrite()
            remove_stale_temporaries(self.path)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error}); nothing is lost, the next run merges {self.journal.name}"
            ) from error

    def __enter__(self) -> ParamsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, lines: str) -> None:
        data = lines.encode()
        handle = os.open(self.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if _torn(self.journal):  # by a kill, or a disk that was full: the rest of the line must not swallow ours
                data = b"\n" + data
            while data:
                data = data[os.write(handle, data) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        self._dirty = True
        self._seen = self._state()

    def _rewrite(self) -> None:
        start = time.monotonic()
        for video, views in self._entries.items():
            if video not in self._blocks:
                block = _encode(views, indent=4).replace("\n", "\n    ")
                self._blocks[video] = f"    {_encode(video)}: {block}"
        data = ("{\n" + ",\n".join(self._blocks[video] for video in self._entries) + "\n}\n").encode()
        temporary = temporary_beside(self.path)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)
        self._dirty = False
        self._seen = self._state()
        self._last_rewrite = time.monotonic()
        self._pause = max((self._last_rewrite - start) / REWRITE_SHARE, len(data) / REWRITE_RATE)
        if len(data) < SMALL:
            self._pause = 0.0

    def _merge_foreign(self) -> None:
        """Takes over what other processes wrote since we last looked, but for the views recorded here."""
        if self._state() == self._seen:
            return
        for video, views in read_log(self.path).items():
            mine = self._entries.setdefault(video, {})
            for label, entry in views.items():
                if (video, label) not in self._mine and mine.get(label) != entry:
                    mine[label] = entry
                    self._blocks.pop(video, None)

    def _state(self) -> tuple[tuple[int, int, int] | None, int]:
        """What changes when somebody else writes: identity of the JSON file, length of the journal."""
        found = None
        with contextlib.suppress(FileNotFoundError):
            stat = self.path.stat()
            found = stat.st_ino, stat.st_mtime_ns, stat.st_size
        with contextlib.suppress(FileNotFoundError):
            return found, self.journal.stat().st_size
        return found, 0

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Excludes other processes (where the file system can lock) while journal and JSON change together."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            yield
            return
        folder = os.open(self.path.parent, os.O_RDONLY)  # the folder itself: no lock file stays behind
        try:
            with contextlib.suppress(OSError):  # some network file systems cannot
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def read_log(path: Path) -> dict[str, dict[str, Entry]]:
    """{video: {label: entry}} of a log and its journal; empty if there is none. Changes nothing.

    Raises OutputError when the file is not such a log. A journal line cut short by a kill is passed over.
    """
    entries: dict[str, dict[str, Entry]] = {}
    advice = "it is left as it is; repair it, or move it away to start a new log"
    try:
        text = path.read_text(encoding="utf-8")
        entries = json.loads(text)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: the parameter log cannot be read ({error}); {advice}") from error
    if not isinstance(entries, dict) or not all(
        isinstance(views, dict) and all(isinstance(e, dict) for e in views.values()) for views in entries.values()
    ):
        raise OutputError(f"{path}: expected {{video: {{view: entry}}}}, found something else; {advice}")

    journal = path.with_name(f".{path.name}.journal")
    try:
        lines = journal.read_bytes().split(b"\n")
    except FileNotFoundError:
        return entries
    except OSError as error:
        raise OutputError(f"{journal}: cannot be read ({error}); {advice}") from error
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            video, label, entry = json.loads(line)
            entries.setdefault(video, {})[label] = entry
        except (ValueError, TypeError):
            log.warning("%s: line %d was cut short; it is passed over", journal, number)
    return entries


def _merge(into: dict[str, dict[str, Entry]], more: dict[str, dict[str, Entry]]) -> None:
    for video, views in more.items():
        into.setdefault(video, {}).update(views)


def _updated(before: Entry | None, video: str, label: str, fields: Mapping[str, Any]) -> Entry:
    """The entry with the new fields, in the original's key order."""
    if fields.get("status") not in STATUSES:
        raise ValueError(f"status of {video} {label}: expected one of {STATUSES}, found {fields.get('status')!r}")
    numbered = re.fullmatch(r"(.+)_(\d{3,})", label)
    entry: Entry = {"video_name": video, "difficulty": numbered[1] if numbered else label}
    if numbered:
        entry["view_index"] = int(numbered[2])
    entry = {**entry, **(before or {}), **{key: value for key, value in fields.items() if value is not None}}
    if entry["status"] != "failed":
        entry.pop("error", None)
    else:
        entry.pop("render_time", None)
    known = [key for key in KEY_ORDER if key in entry]
    return {key: entry[key] for key in [*known, *(key for key in entry if key not in KEY_ORDER)]}


def _encode(value: Any, indent: int | None = None) -> str:
    """JSON with paths as text and numpy numbers as numbers; NaN is a ValueError, for other readers refuse it."""

    def plain(x: Any) -> Any:
        return x.item() if hasattr(x, "item") else os.fspath(x)

    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent, default=plain)


def _torn(journal: Path) -> bool:
    with open(journal, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
