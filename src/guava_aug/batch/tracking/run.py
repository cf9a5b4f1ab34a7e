"""The tracking run: videos to tracked folders, with journal, resume and workers; a bad video stops nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from guava_aug.batch.executors.base import Executor, JobBegun, JobEvent, ViewDone
from guava_aug.batch.executors.dispatch import run_jobs
from guava_aug.batch.executors.work import in_process
from guava_aug.batch.journal.history import History
from guava_aug.batch.journal.journal import Journal
from guava_aug.batch.journal.run_record import record_path, versions, write_record
from guava_aug.batch.results import ViewRecord
from guava_aug.batch.sharding import Shard
from guava_aug.batch.tracking.config import TrackConfig
from guava_aug.batch.tracking.inputs import find_sources
from guava_aug.batch.tracking.plan import LABEL, PlannedTracking, plan_tracking
from guava_aug.batch.validate import make_writable, refuse_file_in_the_way
from guava_aug.errors import OutputError
from guava_aug.runtime.cpus import same_threads
from guava_aug.runtime.progress import NoProgress, Progress
from guava_aug.runtime.shutdown import Check
from guava_aug.runtime.text import explain, pluralize
from guava_aug.runtime.timing import StageTime, StageTimer, stage_rows

log = logging.getLogger(__name__)

NOT_RETRIED = " (not tried again: it failed before, and nothing has changed)"
KIND = "track"  # in the header of a journal, of this work


@dataclass(frozen=True)
class TrackResult:
    """How every video of a tracking run ended, in the order in which they were given."""

    records: Sequence[ViewRecord]
    clips: dict[str, tuple[str, ...]]  # video -> names of its tracked folders
    tracked_root: Path
    record: Path  # versions, device, flags, timing of this run
    stages: Sequence[StageTime] = ()
    seconds: float = 0.0

    @property
    def failed(self) -> list[ViewRecord]:
        """Return the videos that could not be tracked, with the reason in `error`."""
        return [record for record in self.records if record.status == "failed"]

    @property
    def ok(self) -> bool:
        """Return whether every video is tracked."""
        return not self.failed

    def count(self) -> Counter[str]:
        """Return how many videos ended as success, skipped, failed."""
        return Counter(record.status for record in self.records)

    def to_json(self) -> dict[str, Any]:
        """Return plain values: what `guava-aug track --json` prints."""
        return {
            "ok": self.ok,
            "counts": dict(self.count()),
            "seconds": round(self.seconds, 3),
            "tracked_root": str(self.tracked_root),
            "record": str(self.record),
            "stages": stage_rows(self.stages),
            "videos": [{**r.to_json(), "clips": list(self.clips.get(r.video, ()))} for r in self.records],
        }


def track(
    config: TrackConfig,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    stop: Check = lambda: None,
    only: frozenset[str] | None = None,
    again: bool = False,
) -> TrackResult:
    """Track videos, and return how each of them ended.

    Args:
        config: what is to be tracked, and how.
        executor: does the work; None: what the configuration asks for.
        progress: told how far the run is.
        stop: called between pieces of work; ends the run by raising.
        only: of all videos only these names.
        again: also try what is left alone because it failed before.

    Raises:
        UsageError, AssetError, DeviceError, OutputError: nothing (more) can be done. A bad video does not raise.
        KeyboardInterrupt: passed on; what is tracked is kept.
    """
    same_threads()
    executor = executor or make_track_executor(config, stop)
    return _TrackRun(config, executor, progress or NoProgress(), stop).execute(only, again)


def make_track_executor(config: TrackConfig, stop: Check = lambda: None) -> Executor:
    """Return what tracks the videos: this process, worker processes, or Ray."""
    if not config.has_workers:
        return in_process(config, stop)
    if config.engine == "ray":
        from guava_aug.batch.executors.ray_workers import RayWorkerPool  # noqa: PLC0415 - optional

        return RayWorkerPool(config, stop)
    from guava_aug.batch.executors.local_workers import LocalWorkerPool  # noqa: PLC0415 - only for this mode

    return LocalWorkerPool(config)


class _TrackRun:
    """One run: the work list, the journal, and what was counted on the way."""

    def __init__(self, config: TrackConfig, executor: Executor, progress: Progress, stop: Check) -> None:
        self.config, self.executor, self.progress, self.stop = config, executor, progress, stop
        self.root = config.tracked_root
        self.record = record_path(self.root, config.part_id)
        self.stages = StageTimer()
        self.begun = time.monotonic()
        self.records: dict[str, ViewRecord] = {}
        self.clips: dict[str, tuple[str, ...]] = {}
        self.pending: dict[str, PlannedTracking] = {}
        self.told_used = False

    def execute(self, only: frozenset[str] | None, again: bool) -> TrackResult:
        """See `track`."""
        self.executor.check()
        sources = find_sources(self.config.videos)
        if only is not None:
            sources = {name: path for name, path in sources.items() if name in only}
        if self.config.shard is not None:
            mine = set(Shard.parse(self.config.shard).select(sources))
            log.info("part %s: %d of %s", self.config.shard, len(mine), pluralize(len(sources), "video"))
            sources = {name: path for name, path in sources.items() if name in mine}
        refuse_file_in_the_way(self.root, "--tracked_root")
        make_writable(self.root, "--tracked_root")
        self.history = History(self.root)
        planned = _first(plan_tracking(self.config, sources, self.history, again=again), self.config.limit)
        header = {
            "part": self.config.part_id, "config": {**self.config.to_json(), "videos": None, "kind": KIND},
            "versions": versions(), "cwd": os.getcwd(),
        }  # fmt: skip
        self.journal = Journal(self.root, header, after=self.history.latest)
        why: str | None = "an error"
        try:
            self._skip(planned)
            self._work([video for video in planned if video.todo])
            why = None
        except BaseException as error:
            why = explain(error)
            raise
        finally:
            with contextlib.suppress(OutputError):
                if self.journal.path is not None:
                    self.journal.append("end", {"why": why} if why else {})
            self._write_record(planned, why)
        return TrackResult(
            records=[self.records[video.name] for video in planned],
            clips=self.clips,
            tracked_root=self.root,
            record=self.record,
            stages=self.stages.rows(),
            seconds=time.monotonic() - self.begun,
        )

    def _skip(self, planned: Sequence[PlannedTracking]) -> None:
        done, failed = [], []
        for video in planned:
            record = ViewRecord(video.name, LABEL, "skipped", {}, tracked_path=video.job.source)
            if video.clips:
                done.append(video)
                self.clips[video.name] = video.clips
                self.records[video.name] = replace(
                    record, frames=video.frames, output_dir=str(self.root / video.clips[0])
                )
            elif video.not_retried is not None:
                failed.append(video)
                self.records[video.name] = replace(record, status="failed", error=video.not_retried + NOT_RETRIED)
        if done:
            log.info("tracked already: %d of %s", len(done), pluralize(len(planned), "video"))
            new = [video.name for video in done if not self._is_known(video.name)]
            self.journal.append_many([("view", self.records[name].to_json()) for name in new])
        if failed:
            log.warning(
                "%s not tried again, having failed before; nothing has changed (to try them: guava-aug retry %s)",
                pluralize(len(failed), "video"), self.root,
            )  # fmt: skip

    def _is_known(self, name: str) -> bool:
        known = self.history.get(name, LABEL)
        return known is not None and known.status == "done"

    def _work(self, pending: Sequence[PlannedTracking]) -> None:
        jobs = [video.job for video in pending]
        self.pending = {video.name: video for video in pending}

        def begin() -> None:
            if jobs:
                self.journal.append("plan", {"views": {job.name: [LABEL] for job in jobs}})
                self.progress.start(len(jobs), len(jobs), tracking=True)

        run_jobs(
            self.executor, jobs, self.stop, begin=begin, take=self._take, stages=self.stages,
            progress=self.progress, retries=self.config.retries,
        )  # fmt: skip

    def _take(self, event: JobEvent) -> None:
        """Deal with one event; the job it is from waits meanwhile."""
        if isinstance(event, ViewDone):
            self._ended(event.record)
        elif isinstance(event, JobBegun):
            if event.attempt == 0:
                self.progress.video(event.job.name, 1)
            if event.job.refused is None:
                self.journal.append("begin", {"video": event.job.name, "views": [LABEL]})
        else:
            self.progress.finish_video(event.job.name, _in_words(event.records, event.seconds))

    def _ended(self, record: ViewRecord) -> None:
        video = self.pending[record.video]
        found = (video.signature, video.signature, record.fps) if video.signature else None
        record = replace(record, input=found, tracked_path=video.job.source)
        if record.error is not None:
            log.error("%s failed: %s", record.video, record.error)
        self.records[record.video] = record
        made_with = record.made_with or {}
        if record.status == "success":
            self.clips[record.video] = tuple(str(made_with.get("clips", record.video)).split("/"))
        if not self.told_used and "machine" in (used := self.executor.describe()):
            self.journal.append("used", used)
            self.told_used = True
        self.journal.append("view", record.to_json())

    def _write_record(self, planned: Sequence[PlannedTracking], stopped: str | None) -> None:
        content = {
            "stopped": stopped,
            "videos": len(planned),
            "counts": dict(Counter(record.status for record in self.records.values())),
            "seconds": round(time.monotonic() - self.begun, 3),
            "stages": stage_rows(self.stages.rows()),
            "used": self.executor.describe(),
            "versions": versions(),
            "config": {**self.config.to_json(), "kind": KIND},
        }
        try:
            write_record(self.record, content)
        except OutputError as error:  # the results are what counts
            log.warning("%s", error)


def _in_words(ended: Sequence[ViewRecord], seconds: float) -> str:
    """Return one line about how a video ended."""
    if not ended or ended[-1].status != "success":
        return f"failed, {seconds:.1f} s"
    made_with = ended[-1].made_with or {}
    clips = str(made_with.get("clips", "")).count("/") + 1
    more = f", {clips} clips" if clips > 1 else ""
    return f"{made_with.get('quality', 'tracked')}{more}, {pluralize(ended[-1].frames or 0, 'frame')}, {seconds:.1f} s"


def _first(planned: list[PlannedTracking], limit: int | None) -> list[PlannedTracking]:
    """Return the work list without all but the first `limit` of those that are to be tracked."""
    if limit is None:
        return planned
    todo = [video.name for video in planned if video.todo and video.job.refused is None][limit:]
    left_out = set(todo)
    return [video for video in planned if video.name not in left_out]
