"""How views ended: into the log, the journal and the result of a run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.base import Executor
from guava_aug.batch.fingerprint import PLATE_WITHOUT
from guava_aug.batch.journal.history import is_same_place
from guava_aug.batch.journal.run_log import RunLog
from guava_aug.batch.plan import ExistingView, PlannedVideo
from guava_aug.batch.results import RunViews, ViewKey, ViewRecord
from guava_aug.output.metadata import compact_facts, read_sidecar
from guava_aug.output.tree import sidecar_path, view_root
from guava_aug.runtime.plain_json import is_count
from guava_aug.runtime.processes import fault_point
from guava_aug.runtime.text import pluralize
from guava_aug.views import View

log = logging.getLogger(__name__)

NOT_RETRIED = " (not tried again: it failed before, and nothing has changed)"


class Recorder:
    """Takes the records of a run's views; each is on the disk when the call returns."""

    def __init__(self, config: RunConfig, run_log: RunLog, executor: Executor) -> None:
        self.config, self.log, self._executor = config, run_log, executor
        self.results: dict[ViewKey, ViewRecord] = {}
        self._last_error = "", ""  # video and message
        self._used_told = False
        self._planned: dict[str, PlannedVideo] = {}
        self._plates_told: set[str] = set()  # videos
        self._has_moved: dict[str, bool] = {}  # by worker of earlier runs

    def view_done(self, record: ViewRecord) -> None:
        """Note how a view ended, before anything else happens."""
        record = self._placed(record)
        if record.error is not None:
            known = self._last_error == (
                record.video,
                record.error,
            )  # what is wrong with the video, is so with all views
            log.log(logging.DEBUG if known else logging.ERROR, "%s / %s failed: %s", *record.key, record.error)
            self._last_error = record.video, record.error
        else:
            self._warn_of_other_plates(record)
        self.results[record.key] = record
        fault_point("before-journal")
        if not self._used_told and "machine" in (used := self._executor.describe()):
            self.log.used(used)  # first: a view of a process that was killed then is to have its device, too
            self._used_told = True
        self.log.ended([record])

    def _warn_of_other_plates(self, record: ViewRecord) -> None:
        """Warn of existing views whose plate was made with frames that are left out now."""
        without = (record.made_with or {}).get(PLATE_WITHOUT)
        planned = self._planned.get(record.video)
        if without is None or planned is None or record.video in self._plates_told:
            return
        self._plates_told.add(record.video)
        older = []
        for label, found in planned.done.items():
            state = self.log.history.get(record.video, label)
            told = state.made.fields if state is not None and state.made is not None else {}
            made_with = told.get("made_with") or (found.tag.made_with if found.tag is not None else None) or {}
            if isinstance(made_with, Mapping) and made_with.get(PLATE_WITHOUT) != without:
                older.append(label)
        if older:
            log.warning(
                "%s: %s made before (%s) may show the person of frames %s in the background; to make all of its views "
                "again: --overwrite --video_list %s",
                record.video, pluralize(len(older), "view"), ", ".join(sorted(older)[:5]), without, record.video,
            )  # fmt: skip

    def skip(self, planned: Sequence[PlannedVideo]) -> None:
        """Note what is complete already, and what failed and is not tried again; one write for all."""
        known: dict[str, list[str]] = {}
        new: list[ViewRecord] = []
        for video in planned:
            self._planned[video.name] = video
            views: dict[str, View] = {}
            for label, found in video.done.items():
                if found.known and not self._has_moved_view(video.name, label):
                    known.setdefault(video.name, []).append(label)  # its record is made when it is asked for
                    continue
                views = views or {view.label: view for view in video.views}
                record = self.results[video.name, label] = _existing(self.config, video, views[label], found)
                new.append(self._moved(record) if found.known else record)
            if video.not_retried:
                for view in video.views:
                    if (reason := video.not_retried.get(view.label)) is not None:
                        error = reason + NOT_RETRIED
                        record = ViewRecord(video.name, view.label, "failed", view.record(), error=error)
                        self.results[record.key] = self._placed(record)
        done, failed = sum(len(video.done) for video in planned), sum(len(video.not_retried) for video in planned)
        if done:
            asked_for = sum(len(video.views) for video in planned)
            log.info("complete already: %d of %s", done, pluralize(asked_for, "view"))
            self.log.skipped(known)
            self.log.ended(new)
        if failed:
            self.log.not_retried({video.name: list(video.not_retried) for video in planned if video.not_retried})
            log.warning(
                "%s not tried again, having failed before; nothing has changed (to try them: guava-aug retry %s)",
                pluralize(failed, "view"), self.config.output_root,
            )  # fmt: skip

    def all_records(self, planned: Sequence[PlannedVideo]) -> RunViews:
        """Return how every view of the work list ended."""
        config, results = self.config, self.results  # not `self`, which would keep the history

        def records_of(number: int) -> list[ViewRecord]:
            video = planned[number]
            return [
                results.get((video.name, view.label)) or _existing(config, video, view, video.done[view.label])
                for view in video.views
            ]

        others = []
        if results:
            for video in planned:
                labels = list(video.done) if len(video.done) == len(video.views) else [v.label for v in video.views]
                others += [results[video.name, label] for label in labels if (video.name, label) in results]
        return RunViews([len(video.views) for video in planned], records_of, others)

    def statuses(self, planned: Sequence[PlannedVideo]) -> Counter[str]:
        """Return how many views ended as success, skipped, failed so far."""
        found: Counter[str] = Counter(record.status for record in self.results.values())
        found["skipped"] += sum((video.name, label) not in self.results for video in planned for label in video.done)
        return +found

    def _has_moved_view(self, video: str, label: str) -> bool:
        """Return whether the output root or the tracked root of a view that is done has moved since it was made."""
        state = self.log.history.get(video, label)
        if state is None or state.made is None:
            return False
        worker = state.made.worker
        if worker not in self._has_moved:
            header = self.log.history.workers[worker].header
            tracked = (header.get("config") or {}).get("tracked_root")
            self._has_moved[worker] = self.log.history.has_moved(worker) or (
                type(tracked) is str
                and not is_same_place(Path(header.get("cwd") or "", tracked), self.config.tracked_root)
            )
        return self._has_moved[worker]

    def _moved(self, record: ViewRecord) -> ViewRecord:
        """Return the journals' record of a complete view, with its present paths."""
        state = self.log.history.get(*record.key)
        assert state is not None and state.made is not None
        told = ViewRecord.from_json({**state.made.fields, "status": "skipped"})
        return self._placed(replace(told, sampling=record.sampling, input=None))  # of the data nothing new is known

    def _placed(self, record: ViewRecord) -> ViewRecord:
        """Return the record with the paths of its files; there are none for a name that cannot be a folder."""
        planned = self._planned.get(record.video)
        return record if planned is not None and not planned.named else _placed(self.config, record)


def _placed(config: RunConfig, record: ViewRecord) -> ViewRecord:
    from guava_aug.tracked import tracked_path  # noqa: PLC0415 - slow to load, and not always needed

    return replace(
        record,
        tracked_path=str(tracked_path(config.tracked_root, record.video)),
        output_dir=str(view_root(config.output_root, record.view, record.video)),
        output_root=config.output_root,
    )


def _existing(config: RunConfig, video: PlannedVideo, view: View, found: ExistingView) -> ViewRecord:
    """Return the record of an existing view."""
    record = ViewRecord(video.name, view.label, "skipped", view.record(), bytes=found.bytes, frames=found.frames)
    if video.named:
        record = _placed(config, record)
    if found.known or found.tag is None:
        return record
    beside = read_sidecar(sidecar_path(config.output_root, view.label, video.name))
    size, camera = None, None
    sides = beside.get("width"), beside.get("height")
    if beside.get("fingerprint") == found.tag.fingerprint and all(map(is_count, sides)):
        size = int(sides[0] or 0), int(sides[1] or 0)
        with suppress(KeyError, TypeError, ValueError):  # of an earlier version, or damaged
            camera = compact_facts(beside)
    return replace(
        record,
        camera=camera,
        fingerprint=found.tag.fingerprint,
        made_with=found.tag.made_with,
        fps=found.fps,
        size=size,
    )
