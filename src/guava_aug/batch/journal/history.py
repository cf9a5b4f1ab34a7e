"""What the journals say together: how every view stands, and what every worker did.

Each fact keeps the line with the greatest key of the journals' total order, so the result does not depend on the order
in which the files are read.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from guava_aug.batch.journal.journal import EXAMPLES, FOLDER, Damage, Journal, JournalLine, Key, Reader
from guava_aug.batch.journal.lines import DONE as DONE

ViewStatus = Literal["done", "failed", "left"]
Ended = tuple[Key, str, str]  # the line that says it; success, skipped or failed; the part, "" for none
OVERWRITE_STOPPED = "not made yet: the run with --overwrite was interrupted; run it again without --overwrite to go on"


@dataclass(slots=True)
class ViewHistory:
    """All that is known of one view of one video. Lines are the newest of their kind; None: there is none."""

    ended: Ended | None = None
    told: JournalLine | None = None  # the newest line with the camera
    made: JournalLine | None = None  # the newest line of a view that is complete
    failed: JournalLine | None = None
    planned: Key | None = None  # a run began that is to make it
    withdrawn: Key | None = None  # a run with --overwrite began: what is there is not to be trusted
    failures: dict[str, Key] | None = None  # worker -> its newest failure; None: there is none
    parts: tuple[Ended, ...] = ()  # how it ended in each part, sorted, where there are several; else `ended` says it

    @property
    def status(self) -> ViewStatus:
        """done, failed, or left (to be made by a run that is going on or was killed)."""
        ended = self.ended
        if (
            ended is None
            or (self.planned is not None and self.planned > ended[0])
            or (self.withdrawn is not None and self.withdrawn > ended[0])
        ):
            return "left"
        return "done" if ended[1] in DONE else "failed"

    @property
    def is_withdrawn(self) -> bool:
        """Whether an --overwrite run was to make it again and has not."""
        return self.withdrawn is not None and (self.ended is None or self.withdrawn > self.ended[0])

    @property
    def is_distrusted(self) -> bool:
        """Whether what is there may be of before an --overwrite run that did not make it again."""
        return self.withdrawn is not None and (self.made is None or self.withdrawn > self.made.key)

    @property
    def failed_runs(self) -> int:
        """In how many workers it failed since it was made last."""
        since = self.made.key if self.made is not None else None
        return sum(since is None or key > since for key in (self.failures or {}).values())

    def ended_in(self, part: str | None) -> Ended | None:
        """How it ended in one part of a cluster job; None: it did not."""
        for ended in self.parts or (self.ended,):
            if ended is not None and ended[2] == (part or ""):
                return ended
        return None

    def end(self, ended: Ended, worker: str | None = None) -> None:
        """Take in how it ended. worker: whose failure counts."""
        before = self.ended
        if before is None:
            self.ended = ended
        else:
            if self.parts or before[2] != ended[2]:
                parts = {one[2]: one for one in self.parts or (before,)}
                parts[ended[2]] = max(ended, parts.get(ended[2], ended))
                self.parts = tuple(parts[name] for name in sorted(parts))
            self.ended = max(before, ended)
        if worker is not None:
            self.failures = self.failures or {}
            self.failures[worker] = _later(self.failures.get(worker), ended[0])


@dataclass(slots=True)
class WorkerHistory:
    """One process that worked on the output tree."""

    name: str  # its journal
    root: Path | None = None  # output root it is below
    header: dict[str, Any] = field(default_factory=dict)  # host, host_id, pid, part, config, versions
    started: float = 0.0  # seconds since 1970
    last: float = 0.0  # of its newest line
    used: dict[str, Any] = field(default_factory=dict)  # machine, model, rasteriser
    ended: str | None = None  # why it ended, "" when it did all; None: it did not say
    flight: tuple[Key, str, tuple[str, ...]] | None = None  # the video it began last, and its views
    finished: list[float] = field(default_factory=list)  # when it finished views, seconds since 1970

    @property
    def part(self) -> str | None:
        """Return the name of the part that the worker worked on."""
        return self.header.get("part")


@dataclass(frozen=True, slots=True)
class Input:
    """What was found of a video's tracked data when it was read last."""

    signature: str  # sizes and dates of its files
    digest: str  # of its content
    fps: float | None  # that the data themselves say


class History:
    """The union of the journals below an output root; `refresh` reads what was added. Memory grows with the views."""

    def __init__(self, root: str | os.PathLike[str], *more: str | os.PathLike[str]) -> None:
        self.root = Path(root)  # `more`: further output roots, whose journals belong to the same work
        self.views: dict[str, dict[str, ViewHistory]] = {}
        self.workers: dict[str, WorkerHistory] = {}
        self.inputs: dict[str, tuple[Key, list[Any]]] = {}  # signature, digest and fps that were found last
        self.latest = 0.0  # time of the newest line
        self._moved: dict[str, bool] = {}  # by worker
        self._readers = {Path(root): Reader(root), **{Path(other): Reader(other) for other in more}}
        self.refresh()

    @property
    def exists(self) -> bool:
        """Whether there is any journal."""
        return any((root / FOLDER).is_dir() for root in self._readers)

    def refresh(self) -> bool:
        """Takes in what was added since the last time; whether workers have said in it that they end.

        Raises:
            OutputError: a journal cannot be read.
        """
        ended = False
        with no_collection():
            for root, reader in self._readers.items():
                for line in reader.new_lines():
                    self.add(line, root)
                    ended = ended or line.kind == "end"
        return ended

    def add_own(self, journal: Journal, lines: list[JournalLine]) -> None:
        """Takes in lines that this process wrote a moment ago, without reading them again."""
        for line in lines:
            self.add(line)
        if journal.path is not None:
            self._readers[self.root].passed(journal.path, lines[-1] if lines else None)

    @property
    def damage(self) -> Damage:
        """What could not be read of the journals."""
        found = [reader.damage for reader in self._readers.values()]
        return Damage(
            sum(damage.passed_over for damage in found),
            sum(damage.times for damage in found),
            tuple(example for damage in found for example in damage.examples)[:EXAMPLES],
        )

    def lengths(self) -> dict[str, int]:
        """How many bytes of every journal of the first root were read."""
        return self._readers[self.root].lengths()

    def has_moved(self, worker: str) -> bool:
        """Whether the output root that a worker wrote to is another folder than the one its journal is in now."""
        if worker not in self._moved:
            found = self.workers.get(worker)
            config = {} if found is None else found.header.get("config") or {}
            then, start = config.get("output_root"), "" if found is None else found.header.get("cwd") or ""
            self._moved[worker] = (
                found is not None
                and type(then) is str
                and found.root is not None
                and not is_same_place(Path(start, then), found.root)
            )
        return self._moved[worker]

    def get(self, video: str, label: str) -> ViewHistory | None:
        """What is known of a view; None: nothing."""
        return self.views.get(video, {}).get(label)

    def items(self) -> Iterator[tuple[str, str, ViewHistory]]:
        """(video, view, history) of every view, in no particular order."""
        for video, views in self.views.items():
            for label, view in views.items():
                yield video, label, view

    def input_of(self, video: str) -> Input | None:
        """The newest that was found of a video's tracked data."""
        found = self.inputs.get(video)
        return None if found is None else Input(*found[1])

    def add(self, line: JournalLine, root: Path | None = None) -> None:
        """Takes in one line. root: the output root whose journal it is from."""
        at, name, _ = line.key
        if at > self.latest:
            self.latest = at
        worker = self.workers.get(name)
        if worker is None:
            worker = self.workers[name] = WorkerHistory(name, root or self.root)
        if at > worker.last:
            worker.last = at
        if line.kind == "view":
            self._ended_view(worker, line)
        else:
            _TAKE[line.kind](self, worker, line, line.fields)

    def _view_of(self, video: str, label: str) -> ViewHistory:
        """One view, also when nothing was known of it."""
        views = self.views.get(video)
        if views is None:
            views = self.views[sys.intern(video)] = {}
        view = views.get(label)
        if view is None:
            view = views[sys.intern(label)] = ViewHistory()
        return view

    def _run(self, worker: WorkerHistory, line: JournalLine, fields: dict[str, Any]) -> None:
        worker.header, worker.started = fields, line.key[0]

    def _used(self, worker: WorkerHistory, line: JournalLine, fields: dict[str, Any]) -> None:
        worker.used = fields

    def _plan(self, worker: WorkerHistory, line: JournalLine, fields: dict[str, Any]) -> None:
        overwrite = bool(fields.get("overwrite"))
        for video, labels in fields["views"].items():
            for label in labels:
                view = self._view_of(video, label)
                view.planned = _later(view.planned, line.key)
                if overwrite:
                    view.withdrawn = _later(view.withdrawn, line.key)

    def _begin(self, worker: WorkerHistory, line: JournalLine, fields: dict[str, Any]) -> None:
        if worker.flight is None or line.key > worker.flight[0]:
            worker.flight = line.key, fields["video"], tuple(fields["views"])

    def _ended_view(self, worker: WorkerHistory, line: JournalLine) -> None:
        key = line.key
        video, label, status, found = line.pick(_OF_ENDED_VIEW)
        view = self._view_of(video, label)
        view.end((key, status, worker.part or ""), worker.name if status == "failed" else None)
        if view.told is None or key > view.told.key:
            view.told = line
        if status in DONE:
            if view.made is None or key > view.made.key:
                view.made = line
            if status == "success":
                worker.finished.append(key[0])
        elif view.failed is None or key > view.failed.key:
            view.failed = line
        if found:
            self._input_found(video, line, found)

    def _skipped(self, worker: WorkerHistory, line: JournalLine, fields: dict[str, Any]) -> None:
        self._end_all(fields["views"], (line.key, "skipped", worker.part or ""))

    def _alone(self, worker: WorkerHistory, line: JournalLine, fields: dict[str, Any]) -> None:
        self._end_all(fields["views"], (line.key, "failed", worker.part or ""))

    def _end_all(self, videos: dict[str, list[str]], ended: Ended) -> None:
        for video, labels in videos.items():
            for label in labels:
                self._view_of(video, label).end(ended)

    def _input(self, worker: WorkerHistory, line: JournalLine, fields: dict[str, Any]) -> None:
        self._input_found(fields["video"], line, fields["input"])

    def _input_found(self, video: str, line: JournalLine, found: list[Any]) -> None:
        before = self.inputs.get(video)
        if before is None or line.key > before[0]:
            self.inputs[video] = line.key, found

    def _end(self, worker: WorkerHistory, line: JournalLine, fields: dict[str, Any]) -> None:
        worker.ended = fields.get("why") or ""


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Let the garbage collector rest: of a million objects that stay it would look at all, many times.

    Afterwards it leaves them out, until `gc.unfreeze`.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.enable()


def is_same_place(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder, whatever the way; also where neither is there."""
    try:
        return os.path.realpath(one) == os.path.realpath(other)
    except (OSError, ValueError):  # no path at all
        return False


def _later(before: Key | None, key: Key) -> Key:
    return key if before is None else max(before, key)


_OF_ENDED_VIEW = ("video", "view", "status", "input")
_TAKE = {
    "run": History._run,
    "used": History._used,
    "plan": History._plan,
    "begin": History._begin,
    "skipped": History._skipped,
    "alone": History._alone,
    "input": History._input,
    "end": History._end,
}
