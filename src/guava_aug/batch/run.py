"""The run: makes what is on the work list, and keeps the log; a bad video does not stop it."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guava_aug.batch.avatars import settle
from guava_aug.batch.config import DEFAULT_DIFFICULTIES, RunConfig, save_config
from guava_aug.batch.executors.base import Executor, JobBegun, JobEvent, ViewDone
from guava_aug.batch.executors.dispatch import run_jobs
from guava_aug.batch.journal.history import History
from guava_aug.batch.journal.run_log import RunLog
from guava_aug.batch.journal.run_record import record_path, versions, write_record
from guava_aug.batch.options import path_options
from guava_aug.batch.plan import PlannedVideo, ViewKeys, make_work_list, unique_names, warn_of_look_alikes
from guava_aug.batch.recorder import Recorder
from guava_aug.batch.results import RunResult, ViewRecord
from guava_aug.batch.sharding import Shard
from guava_aug.batch.status import active_workers
from guava_aug.batch.validate import make_writable, refuse_file_in_the_way, render_settings
from guava_aug.errors import InputError, OutputError, UsageError
from guava_aug.output.tree import remove_unfinished_files
from guava_aug.runtime.cpus import same_threads
from guava_aug.runtime.processes import fault_point
from guava_aug.runtime.progress import NoProgress, Progress
from guava_aug.runtime.shutdown import Check
from guava_aug.runtime.text import explain, pluralize
from guava_aug.runtime.timing import StageTimer, stage_rows
from guava_aug.tracked.layout import check_root, find_video, named, real_names, scan_videos, why_no_videos

if TYPE_CHECKING:
    from guava_aug.avatar.model import GuavaModel

log = logging.getLogger(__name__)

FLIGHTS_SWEPT = 100  # workers that did not say how they ended; of older ones others have taken care


def augment(
    tracked_root: str | Path,
    output_root: str | Path,
    videos: Sequence[str] | None = None,
    difficulties: Sequence[str] = DEFAULT_DIFFICULTIES,
    *,
    model: GuavaModel | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> RunResult:
    """Render tracked videos from new cameras, and return how every view ended.

    Args:
        tracked_root: folder of the tracked videos.
        output_root: folder of the results; made if it is not there.
        videos: names of folders below `tracked_root`; None for all.
        difficulties: of the views; their number and order decide the cameras.
        model: a loaded model to use again; None loads what `model_path` says, once something is to be made.
        progress: told how far the run is.
        options: the other fields of `RunConfig` (base_seed, views_per_difficulty, device, crf, ...).

    Raises:
        UsageError, AssetError, DeviceError, OutputError: nothing could be started. A bad video does not raise: see
            `RunResult.failed`.
    """
    unknown = set(options) - {f.name for f in fields(RunConfig)}
    if unknown:
        raise UsageError(f"augment() has no option {', '.join(sorted(unknown))}; see the fields of RunConfig")
    values = {**options, "tracked_root": tracked_root, "output_root": output_root, "difficulties": difficulties}
    for name in path_options(RunConfig):
        if values.get(name) is not None:
            values[name] = Path(values[name])
    if isinstance(videos, str) or isinstance(difficulties, str):
        raise UsageError("augment(): videos and difficulties are lists of names, not one string")
    values["difficulties"] = tuple(difficulties)
    return run(RunConfig(videos=None if videos is None else tuple(videos), **values), model=model, progress=progress)


def run(
    config: RunConfig,
    *,
    model: GuavaModel | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
    stop: Check = lambda: None,
    only: ViewKeys | None = None,
    again: bool = False,
) -> RunResult:
    """Return how every view of the work list ended. See `augment`.

    In this order: the work list and what of it exists, then (only if something is to be made) the model, then video by
    video. The parameter log is written after every view.

    Args:
        config: what is to be made, and how.
        model: a loaded model to use instead of the configuration's.
        executor: what makes the views; None: what the configuration asks for.
        progress: told how far the run is.
        stop: called between videos, and between the groups of views of one; ends the run by raising.
        only: of all views only these, (video, view).
        again: also try what is left alone because it failed before.

    Raises:
        UsageError, AssetError, DeviceError, OutputError: nothing (more) can be done.
        KeyboardInterrupt: passed on; the files in flight are removed and the record is written.
    """
    same_threads()
    refuse_file_in_the_way(config.output_root, "--output_root")  # before journals are looked for in it
    config = settle(config, None if model is None else str(model.device))
    executor = executor or make_executor(config, model, stop)
    try:
        return _Run(config, executor, progress or NoProgress(), stop, model=model, only=only, again=again).execute()
    finally:
        gc.unfreeze()  # see `no_collection`


def make_executor(config: RunConfig, model: GuavaModel | None = None, stop: Check = lambda: None) -> Executor:
    """Return what makes the views: what the configuration asks for.

    Raises:
        UsageError: a loaded model cannot go to worker processes.
    """
    if config.mode == "subprocess":
        from guava_aug.batch.executors.process_per_view import ProcessPerViewExecutor  # noqa: PLC0415 - only for this mode

        return ProcessPerViewExecutor(config, stop)
    if not config.has_workers:
        from guava_aug.batch.executors.in_process import InProcessExecutor  # noqa: PLC0415 - imports torch, which is slow

        return InProcessExecutor(config, model, stop)
    if model is not None:
        raise UsageError("a loaded model cannot be given to worker processes; leave out gpus, workers, timeout, engine")
    if config.engine == "ray":
        from guava_aug.batch.executors.ray_workers import RayWorkerPool  # noqa: PLC0415 - optional

        return RayWorkerPool(config, stop)
    from guava_aug.batch.executors.local_workers import LocalWorkerPool  # noqa: PLC0415 - only for this mode

    return LocalWorkerPool(config)


def plan_only(config: RunConfig) -> tuple[list[PlannedVideo], History]:
    """Return what a run would do, and what is known of its output root. Nothing is written.

    Raises:
        UsageError, AssetError, InputError, OutputError: as `run`, before it makes anything.
    """
    same_threads()
    refuse_file_in_the_way(config.output_root, "--output_root")
    config = settle(config)
    planned = _Run(config, make_executor(config), NoProgress())
    return planned.plan_only(), planned.log.history


class _Run:
    """One run: the work list, the log, and what was counted on the way."""

    def __init__(
        self,
        config: RunConfig,
        executor: Executor,
        progress: Progress,
        stop: Check = lambda: None,
        *,
        model: GuavaModel | None = None,
        only: ViewKeys | None = None,
        again: bool = False,
    ) -> None:
        self.config, self.executor, self.progress, self.stop = config, executor, progress, stop
        self.record = record_path(config.output_root, config.part_id)
        self.only, self.again, self.model = only, again, model
        self.stages = StageTimer()
        self.begun = time.monotonic()

    def execute(self) -> RunResult:
        """See `run`."""
        self.executor.check()
        names = self._names()
        refuse_file_in_the_way(self.config.output_root, "--output_root")
        with RunLog(self.config.output_root, self.config.part_id, self._header()) as self.log:
            self.recorder = Recorder(self.config, self.log, self.executor)
            jobs = self._plan(names)
            self._refuse_unknown(jobs)
            self._warn_of_others(jobs)
            make_writable(self.config.output_root, "--output_root")
            if self.config.personalize != "off" and self.config.avatar_root is not None:
                make_writable(self.config.avatar_root, "--avatar_root")
            self._save_config()
            self._sweep_flights()
            try:
                self._work(jobs)
            except BaseException as error:
                self._write_record(jobs, stopped=explain(error))
                raise
        if self.config.part_id is None:  # of many parts, `guava-aug merge` makes one
            self.log.write_manifest()
        self._write_record(jobs)
        return RunResult(
            views=self.recorder.all_records(jobs),
            params_log=self.log.path,
            record=self.record,
            stages=self.stages.rows(),
            seconds=time.monotonic() - self.begun,
        )

    def plan_only(self) -> list[PlannedVideo]:
        """See the function of this name."""
        self.executor.check()
        names = self._names()
        refuse_file_in_the_way(self.config.output_root, "--output_root")
        if self.config.personalize != "off" and self.config.avatar_root is not None:
            refuse_file_in_the_way(self.config.avatar_root, "--avatar_root")
        self.log = RunLog(self.config.output_root, self.config.part_id)
        jobs = self._plan(names, dry_run=True)
        self._refuse_unknown(jobs)
        return jobs

    def _plan(self, names: Sequence[str], *, dry_run: bool = False) -> list[PlannedVideo]:
        timings = {}
        if self.config.time_map is not None:
            from guava_aug.tracked import load_time_map, warn_unknown_videos  # noqa: PLC0415 - only with a time map

            timings = load_time_map(self.config.time_map)
            warn_unknown_videos(timings, self.config.time_map, self.config.tracked_root)
        look = render_settings(self.config, self.model)
        jobs = make_work_list(
            self.config, names, self.log, look, timings, only=self.only, again=self.again, dry_run=dry_run
        )
        return _first(jobs, self.config.limit)

    def _refuse_unknown(self, jobs: Sequence[PlannedVideo]) -> None:
        """Raise UsageError when no named video is there or was ever made: a typing error should leave no files.

        Not in one part of a list: what fails there is to be seen with the other parts.
        """
        if self.config.videos is None or self.config.shard is not None or self.only is not None or not jobs:
            return
        if any(job.done or job.not_retried or job.signature or self._is_folder(job) for job in jobs):
            return
        try:
            find_video(self.config.tracked_root, jobs[0].name)
        except InputError as error:
            more = f" ({pluralize(len(jobs) - 1, 'other video')} neither)" if len(jobs) > 1 else ""
            raise UsageError(f"{jobs[0].refused or error}{more}") from None

    def _is_folder(self, job: PlannedVideo) -> bool:
        return job.named and os.path.isdir(self.config.tracked_root / job.name)

    def _warn_of_others(self, jobs: Sequence[PlannedVideo]) -> None:
        """Warn when another running process renders the same views: nothing is lost, but they are rendered twice."""
        todo = [(job.name, view.label) for job in jobs for view in job.todo]
        for worker, count in active_workers(self.log.history, todo).items():
            log.warning(
                "another run (process %d on %s) is to make %s of these too, and both will: stop one of them, or give "
                "each its part of the videos with --shard", worker.pid, worker.host, pluralize(count, "view"),
            )  # fmt: skip

    def _sweep_flights(self) -> None:
        """Remove what dead workers left of the views they had begun, also of those that others have made since."""
        open_ended = [w for w in self.log.history.workers.values() if w.ended is None and w.flight is not None]
        for worker in sorted(open_ended, key=lambda w: w.last)[-FLIGHTS_SWEPT:]:
            assert worker.flight is not None
            _, video, labels = worker.flight
            for label in labels:
                remove_unfinished_files(self.config.output_root, label, video)

    def _header(self) -> dict[str, Any]:
        """Return the first line of the journal: with what this run was started. The names of videos are in its plan."""
        return {"config": {**self.config.to_json(), "videos": None}, "versions": versions(), "cwd": os.getcwd()}

    def _names(self) -> list[str]:
        root = self.config.tracked_root
        try:
            check_root(root)
        except InputError as error:
            raise UsageError(str(error)) from None
        if self.config.videos is None:
            names, failed, incomplete = scan_videos(root)
            if failed:
                log.warning("%s left out, as the tracking failed (skipped.txt)", pluralize(len(failed), "video"))
            if incomplete:
                what = pluralize(len(incomplete), "folder")
                log.warning("%s left out, having no videos_info.json (half copied?): %s", what, named(incomplete))
        else:
            names = real_names(root, unique_names(self.config.videos))
        if not names:
            raise UsageError(why_no_videos(root))
        warn_of_look_alikes(names)
        return self._of_shard(names)

    def _of_shard(self, names: list[str]) -> list[str]:
        """Return the names of this run's part of the list; a part may be empty."""
        if self.config.shard is None:
            return names
        mine = Shard.parse(self.config.shard).select(names)
        log.info("part %s: %d of %s", self.config.shard, len(mine), pluralize(len(names), "video"))
        return mine

    def _work(self, planned: Sequence[PlannedVideo]) -> None:
        pending = [video.job for video in planned if video.todo]
        self.recorder.skip(planned)

        def begin() -> None:
            self.log.begin_run({j.name: [v.label for v in j.views] for j in pending}, overwrite=self.config.overwrite)
            fault_point("after-plan")
            if pending:
                self.progress.start(len(pending), sum(len(job.views) for job in pending))

        run_jobs(
            self.executor, pending, self.stop, begin=begin, take=self._take, stages=self.stages,
            progress=self.progress, retries=self.config.retries,
        )  # fmt: skip

    def _take(self, event: JobEvent) -> None:
        """Process one event, while its job waits."""
        if isinstance(event, ViewDone):
            self.recorder.view_done(event.record)
        elif isinstance(event, JobBegun):
            if event.attempt == 0:
                self.progress.video(event.job.name, len(event.job.parts))
            if event.job.refused is None:
                self.log.begin_video(event.job.name, [part.label for part in event.job.parts])
        else:
            self.progress.finish_video(event.job.name, _in_words(event.records, event.seconds))

    def _save_config(self) -> None:
        """Save the flags of this run; those of a retry are of other runs, which have saved them."""
        if self.only is not None:
            return
        try:
            save_config(self.config)
        except OutputError as error:  # the results are what counts
            log.warning("%s", error)

    def _write_record(self, jobs: Sequence[PlannedVideo], stopped: str | None = None) -> None:
        counts = self.recorder.statuses(jobs)
        content = {
            "stopped": stopped,
            "videos": len(jobs),
            "views": dict(counts, asked_for=sum(len(job.views) for job in jobs)),
            "seconds": round(time.monotonic() - self.begun, 3),
            "stages": stage_rows(self.stages.rows()),
            "used": self.executor.describe(),
            "versions": versions(),
            "config": self.config.to_json(),
        }
        try:
            write_record(self.record, content)
        except OutputError as error:  # the results are what counts
            log.warning("%s", error)


def _in_words(ended: Sequence[ViewRecord], seconds: float) -> str:
    """Return one line about how a video ended."""
    good = [result.label for result in ended if result.status == "success"]
    failed = len(ended) - len(good)
    if not good:
        return f"failed, {seconds:.1f} s"
    shown = ", ".join(good[:4]) + (f" and {len(good) - 4} more" if len(good) > 4 else "")
    return f"{shown} done{f', {failed} failed' if failed else ''}, {seconds:.1f} s"


def _first(jobs: list[PlannedVideo], limit: int | None) -> list[PlannedVideo]:
    """Return the jobs without those that something is to be made of, but for the first `limit` that can be made."""
    if limit is None:
        return jobs
    kept, taken = [], 0
    for job in jobs:
        if job.todo and taken == limit:
            continue
        taken += bool(job.todo) and job.refused is None
        kept.append(job)
    return kept
