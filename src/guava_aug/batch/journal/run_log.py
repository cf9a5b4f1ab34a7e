"""What a run says while it works: its journal, and what is made from the journals for others to read.

The door for everything that makes views, also for workers of other engines: one `RunLog` per process and output root.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from guava_aug.batch.journal.history import OVERWRITE_STOPPED, Ended, History, ViewHistory, no_collection
from guava_aug.batch.journal.journal import Journal
from guava_aug.batch.journal.lines import is_folder
from guava_aug.batch.journal.manifest import is_made_from, note_sources, write_manifest
from guava_aug.batch.journal.params_log import (
    Entries,
    Entry,
    adds_nothing,
    check_entries,
    iter_params,
    made_entry,
    params_entry,
    told_alike,
    write_params,
)
from guava_aug.batch.results import ViewRecord
from guava_aug.errors import OutputError
from guava_aug.output.tree import LOG_NAME, manifest_path, params_log_path, view_root

log = logging.getLogger(__name__)

SMALL = 500  # views: up to here the JSON is rewritten after every view
FIRST_REWRITE = 20.0  # seconds after which a larger one is rewritten first
REWRITE_SHARE = 0.02  # of a larger one: at most this share of the time goes into rewriting it
VIDEOS_PER_LINE = 1000  # of plans and skipped views
Labels = Mapping[str, Sequence[str]]  # video -> views


class RunLog:
    """The journal of this process, the history of the whole output root, and the parameter log of one part.

    part: the part of a cluster job, or None. header: more for the journal's first line (config, versions, ...).
    Any number of processes may have a RunLog of the same root and part: each writes a journal of its own, and the JSON
    is made anew from all of them. Not thread-safe.

    Raises:
        OutputError: a journal or a parameter log is there and cannot be read; a damaged log is left as it is.
    """

    @no_collection()
    def __init__(self, root: Path, part: str | None = None, header: Mapping[str, Any] | None = None) -> None:
        self.root, self.part = root, part
        self.path = params_log_path(root, part)
        self.started = time.time()  # before anything is looked at: what others do meanwhile is later
        self.history = History(root)
        # what only logs know: of the original, of older versions, or made from journals that are lost
        alike = told_alike(self.path, log_entries(self.history, {}, {}, part))
        self._found = dict(_only_logs_know(self.path, self.history, alike))
        self._others = merged_logs([root], self.history, but=self.path)
        self._journal = Journal(root, {"part": part, **(header or {})}, after=self.history.latest)
        known = sum(map(len, self.history.views.values()))
        self._next_rewrite = time.monotonic() + FIRST_REWRITE if known > SMALL else 0.0
        self._dirty = False
        self._before = self.history.lengths()
        self._has_changed = bool(self._found or self._others)  # what is in the manifest, by this process

    def get(self, video: str, label: str) -> Entry | None:
        """The parameter-log entry of a view from whoever made it: journals first, then logs; None if there is none."""
        view = self.history.get(video, label)
        if view is not None and view.told is not None:
            return params_entry(video, label, self._found_entry(video, label), *_told(view, view.ended))
        return self._found_entry(video, label)

    def seed_of(self, video: str, label: str) -> int | None:
        """The seed of a view in the journals, else in a log; None: it is in neither, or its seed is not known."""
        view = self.history.get(video, label)
        told = None if view is None or view.told is None else view.told.fields
        seed = (told or self._found_entry(video, label) or {}).get("seed")
        return seed if type(seed) is int else None

    def seeds(self) -> Iterator[tuple[str, str, int]]:
        """(video, view, seed) of all views of the output root whose seed is known."""
        known = {(video, label): None for video, label, _ in self.history.items()}
        for entries in (self._found, self._others):
            known.update(dict.fromkeys((video, label) for video, views in entries.items() for label in views))
        for video, label in known:
            seed = self.seed_of(video, label)
            if seed is not None:
                yield video, label, seed

    def begin_run(self, videos: Labels, *, overwrite: bool = False) -> None:
        """Says which views this process is going to make: they count as left until they end.

        overwrite: what exists of them is not to be trusted from now on.
        """
        rows = [("plan", {"views": views, **({"overwrite": True} if overwrite else {})}) for views in _pieces(videos)]
        self._append(rows, at=self.started)
        if overwrite and rows:
            self._rewrite()

    def used(self, used: Mapping[str, Any]) -> None:
        """Says on what views are made: machine, model, rasteriser."""
        self._append([("used", used)])

    def begin_video(self, video: str, labels: Sequence[str]) -> None:
        """Says which views are in flight from now on: should this process die, their unfinished files are known."""
        self._append([("begin", {"video": video, "views": list(labels)})])

    def ended(self, records: Sequence[ViewRecord]) -> None:
        """Say how views ended, and return when that is on the disk. The fields: docs/formats.md.

        Raises:
            OutputError: the journal cannot be written. A JSON file that cannot be written is only a warning.
        """
        if not records:
            return
        self._append([("view", record.to_json()) for record in records])
        if time.monotonic() >= self._next_rewrite:
            self._rewrite()

    def skipped(self, videos: Labels) -> None:
        """Says which views are complete already and known to the history. Said before, it is not said again."""
        self._known("skipped", videos, "skipped")

    def not_retried(self, videos: Labels) -> None:
        """Says which views failed before and are not tried again. Said before, it is not said again."""
        self._known("alone", videos, "failed")

    def _known(self, kind: str, videos: Labels, status: str) -> None:
        new: dict[str, list[str]] = {}
        for video, labels in videos.items():
            views = self.history.views.get(video, {})
            for label in labels:
                view = views.get(label)
                ended = None if view is None else view.ended_in(self.part)
                if ended is None or ended[1] != status:
                    new.setdefault(video, []).append(label)
                    self._has_changed = self._has_changed or view is None or view.status != "done"
        self._has_changed = self._has_changed or (kind != "skipped" and bool(new))
        self._append([(kind, {"views": views}) for views in _pieces(new)])

    def same_inputs(self, videos: Mapping[str, tuple[str, str, float | None]]) -> None:
        """Says that the files of videos have other dates, but this content (signature, digest, fps)."""
        self._append([("input", {"video": video, "input": list(found)}) for video, found in videos.items()])

    def close(self, why: str | None = "") -> None:
        """Ends the journal and brings the JSON up to date. why: "" for all done, else the reason; None: say nothing.

        Raises:
            OutputError: one of them cannot be written; finished views are in the journal.
        """
        if self._journal.path is not None and why is not None:
            self._append([("end", {"why": why})])
        if self._dirty:
            self._rewrite(last=True)

    @no_collection()
    def write_manifest(self) -> None:
        """Makes manifest.parquet of the whole output root, after `close`. That it cannot be written is a warning."""
        if self._journal.path is None and manifest_path(self.root).exists():
            return  # nothing was told
        try:
            self.history.refresh()
            if not self._has_changed and is_made_from(self.root, self._before) and self._is_alone():
                note_sources(self.root, self.history.lengths())
                return
            found = {video: dict(views) for video, views in self._others.items()}
            for video, views in self._found.items():
                found.setdefault(video, {}).update(views)
            ended = True
            while ended:
                made_from = self.history.lengths()
                write_manifest(self.root, self.history, found)
                ended = self.history.refresh()
            if not found:
                note_sources(self.root, made_from)
        except OutputError as error:
            log.warning("%s", error)

    def _is_alone(self) -> bool:
        """Return whether nobody else has written to a journal since this process began."""
        own = self._journal.path
        others = {name: length for name, length in self.history.lengths().items() if own is None or name != own.name}
        return others == self._before

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close(str(error) or type(error).__name__)
        except OutputError as second:  # the first is what matters
            log.warning("%s", second)

    def _append(self, rows: Sequence[tuple[str, Mapping[str, Any]]], at: float | None = None) -> None:
        lines = self._journal.append_many(rows, at=at)
        self._has_changed = self._has_changed or any(kind in ("plan", "view") for kind, _ in rows)
        self.history.add_own(self._journal, lines)
        self._dirty = self._dirty or bool(lines)

    def _found_entry(self, video: str, label: str) -> Entry | None:
        for entries in (self._found, self._others):
            entry = entries.get(video, {}).get(label)
            if entry is not None:
                return dict(entry)
        return None

    @no_collection()
    def _rewrite(self, last: bool = False) -> None:
        """Makes the JSON from all journals. In the end everything is in it, without a lock.

        Two workers may write it at the same time, and the one that has read less may be later. If the other one is
        still at work, it will write again. If it has ended, its last line was written before its file, so whoever
        comes later finds that line afterwards, and writes again.
        """
        begun = time.monotonic()
        try:
            self.history.refresh()
            write_params(self.path, self._entries())
            while last and self.history.refresh():
                write_params(self.path, self._entries())
        except OutputError as error:
            if last:
                raise
            log.warning("%s", error)
        ended = time.monotonic()
        many = sum(map(len, self.history.views.values())) > SMALL
        self._next_rewrite = ended + (ended - begun) / REWRITE_SHARE if many else 0.0
        self._dirty = False

    def _entries(self) -> Iterator[tuple[str, dict[str, Entry | str]]]:
        return log_entries(self.history, self._found, self._others, self.part)


def log_entries(
    history: History, found: Entries, others: Entries, part: str | None, every: bool = False
) -> Iterator[tuple[str, dict[str, Entry | str]]]:
    """(video, {view: entry}) of a part, or of `every`: what the journals say, else what was `found` in the log. Sorted.

    others: entries of other parts' logs, for what only they know of a view. An entry may be the text of `made_entry`.
    """
    for video in sorted(found.keys() | history.views.keys()):
        entries: dict[str, Entry | str] = dict(found.get(video, {}))
        before, elsewhere = found.get(video, {}), others.get(video, {})
        for label, view in history.views.get(video, {}).items():
            ended = view.ended if every else view.ended_in(part)
            if ended is None or view.told is None:
                continue
            worker = view.told.worker
            known, has_moved = before.get(label) or elsewhere.get(label), history.has_moved(worker)
            if not known and not has_moved and (text := _text_of_made(video, label, view, ended[1])) is not None:
                entries[label] = text
                continue
            entry = params_entry(video, label, known, *_told(view, ended))
            if "output_dir" in entry and has_moved and is_folder(video):
                entry["output_dir"] = str(view_root(history.workers[worker].root or history.root, label, video))
            entries[label] = entry
        if entries:
            yield video, entries


def _text_of_made(video: str, label: str, view: ViewHistory, status: str) -> str | None:
    """Return the text of what `params_entry` makes of a view that was made and never failed, as most are; or None."""
    made = view.made
    if (
        made is None or made is not view.told or view.failed is not None or view.withdrawn is not None
        or status == "failed" or made.shape.file is None or None in (values := made.pick(_OF_MADE))
    ):  # fmt: skip
        return None
    return made_entry(video, label, status, *values)


_OF_MADE = ("seed", "yaw", "pitch", "zoom", "tracked_path", "output_dir", "render_time", "frames")


def _told(view: ViewHistory, ended: Ended | None) -> tuple[dict[str, Any], ...]:
    """The fields of a view's lines, older ones first; the last says how it ended."""
    assert view.told is not None
    if view.failed is None and view.made is view.told:
        fields = [view.told.fields]
    else:
        lines = sorted({line.key: line for line in (view.made, view.failed, view.told) if line}.items())
        fields = [line.fields for _, line in lines]
    if view.is_withdrawn:
        return *fields, {"status": "failed", "error": OVERWRITE_STOPPED}
    return *fields, {"status": ended[1] if ended else "failed"}


@no_collection()
def merge(roots: Sequence[Path]) -> tuple[History, Path, Path]:
    """Make augmentation_params.json and manifest.parquet of the first root from all parts of all roots.

    Return the history of all of them, and the two paths. A file that is there and would be the same is left as it is.

    Raises:
        OutputError: a journal or the log that would be replaced cannot be read, or one of the files not be written.
    """
    path = params_log_path(roots[0])
    history = History(*roots)
    alike = told_alike(path, log_entries(history, {}, {}, None, every=True))
    found = dict(_only_logs_know(path, history, alike))  # what only a damaged one knows must not be lost
    for video, views in merged_logs(roots, history, but=path).items():
        found[video] = {**found.get(video, {}), **views}
    if found or alike is not None:
        write_params(path, log_entries(history, found, {}, None, every=True))
    known_alone = len(roots) == 1 and not found  # to the journals of the first root
    if known_alone and is_made_from(roots[0], history.lengths()):
        return history, path, manifest_path(roots[0])
    manifest = write_manifest(roots[0], history, found)
    if known_alone:
        note_sources(roots[0], history.lengths())
    return history, path, manifest


def merged_logs(roots: Sequence[Path], history: History, but: Path | None = None) -> Entries:
    """What all parameter logs of output roots say beyond the journals. A damaged one is told and passed over."""
    merged: Entries = {}
    for other in (path for root in roots for path in sorted(root.glob(f"{LOG_NAME}*.json"))):
        if other != but:
            try:
                alike = told_alike(other, log_entries(history, {}, {}, _part_of(other)))
                for video, views in dict(_only_logs_know(other, history, alike)).items():
                    merged.setdefault(video, {}).update(views)
            except OutputError as error:
                log.warning("%s; its views are not known to this run", error)
    return merged


def _part_of(path: Path) -> str | None:
    """The part of a cluster job whose log it is, by its name; None: of the whole."""
    start = f"{LOG_NAME}_part_"
    return path.stem.removeprefix(start) if path.stem.startswith(start) else None


def _only_logs_know(path: Path, history: History, alike: int | None) -> Iterator[tuple[str, dict[str, Entry]]]:
    """(video, {view: entry}) of those entries of a log that say what the journals do not. Raises OutputError.

    alike: as `told_alike` has it, up to where the log is word for word what the journals say: that is not read again.
    """
    for video, views in iter_params(path, alike) if alike is not None else ():
        known = history.views.get(video, {})
        kept = {}
        for label, entry in views.items():
            view = known.get(label)
            names: set[str] = set()
            if view is not None and view.told is not None:
                names.update(*(line.shape.names for line in (view.made, view.failed, view.told) if line is not None))
            if not adds_nothing(video, label, entry, names):
                kept[label] = entry
        if kept:
            check_entries(path, video, kept)
            yield video, kept


def _pieces(videos: Labels) -> list[dict[str, list[str]]]:
    names = list(videos)
    return [
        {name: list(videos[name]) for name in names[i : i + VIDEOS_PER_LINE]}
        for i in range(0, len(names), VIDEOS_PER_LINE)
    ]
