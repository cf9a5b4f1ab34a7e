"""The run: works the list off, keeps the log, survives bad videos."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guava_aug.batch.config import DEFAULT_DIFFICULTIES, RunConfig
from guava_aug.batch.executors.in_process import Engine, InProcessExecutor, Made, explain, render_settings
from guava_aug.batch.executors.worker_pool import WorkerPool, dispatch
from guava_aug.batch.fingerprint import PLATE_WITHOUT
from guava_aug.batch.journal.history import is_same_place
from guava_aug.batch.journal.run_log import RunLog
from guava_aug.batch.journal.run_record import FOLDER, record_path, stage_rows, versions, write_record
from guava_aug.batch.plan import ExistingView, VideoJob, ViewKeys, make_work_list, unique_names, warn_of_look_alikes
from guava_aug.batch.results import RunResult, Status, ViewResult
from guava_aug.batch.sharding import Shard
from guava_aug.batch.status import active_workers
from guava_aug.errors import AssetError, DeviceError, DiskFullError, InputError, OutputError, UsageError
from guava_aug.output.sidecar import read_sidecar
from guava_aug.output.tree import png_dir, sidecar_path, video_path, view_root
from guava_aug.runtime import fault_points
from guava_aug.runtime.failures import location
from guava_aug.runtime.openmp import same_threads
from guava_aug.runtime.plain_json import is_count
from guava_aug.runtime.progress import NoProgress, Progress
from guava_aug.runtime.shutdown import Check
from guava_aug.runtime.stale_files import remove_stale_files
from guava_aug.runtime.text import pluralize
from guava_aug.runtime.timing import StageTimer
from guava_aug.views.angles import compact_facts

if TYPE_CHECKING:
    from guava_aug.avatar.model import GuavaModel
    from guava_aug.views import View

log = logging.getLogger(__name__)

FLIGHTS_SWEPT = 100  # workers that did not say how they ended; of older ones others have taken care
NOT_RETRIED = " (left alone: it failed before, and nothing has changed)"


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
    """Renders tracked videos from new cameras, and says for every view how it ended.

    Args:
        videos: names of folders below `tracked_root`; None for all.
        model: a loaded model to use again; None loads what `model_path` says, once something is to be made.
        options: the other fields of `RunConfig` (base_seed, views_per_difficulty, device, crf, ...).

    Raises:
        UsageError, AssetError, DeviceError, OutputError: nothing could be started. A bad video does not raise: see
            `RunResult.failed`.
    """
    unknown = set(options) - {f.name for f in fields(RunConfig)}
    if unknown:
        raise UsageError(f"augment() has no option {', '.join(sorted(unknown))}; see the fields of RunConfig")
    values = {**options, "tracked_root": tracked_root, "output_root": output_root, "difficulties": difficulties}
    for name in ("tracked_root", "output_root", "model_path", "guava_root", "time_map"):
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
    engine: Engine | None = None,
    progress: Progress | None = None,
    stop: Check = lambda: None,
    only: ViewKeys | None = None,
    again: bool = False,
) -> RunResult:
    """How every view of the work list ended. See `augment`.

    In this order: the work list and what of it exists, then (only if something is to be made) the model, then video by
    video. The parameter log is written after every view.

    Args:
        engine: what makes the views; None: what the configuration asks for.
        stop: called between videos, and between the groups of views of one; ends the run by raising.
        only: of all views only these, (video, view).
        again: also try what is left alone because it failed before.

    Raises:
        UsageError, AssetError, DeviceError, OutputError: nothing (more) can be done.
        KeyboardInterrupt: passed on; the files in flight are removed and the record is written.
    """
    from guava_aug.batch.executors.process_per_view import ProcessPerViewExecutor

    same_threads()
    stages = StageTimer()
    progress = progress or NoProgress()
    if engine is not None:
        pass
    elif config.mode == "subprocess":
        engine = ProcessPerViewExecutor(config, stages, progress, stop)
    elif config.has_workers:
        engine = _worker_pool(config, stages, progress, model, stop)
    else:
        engine = InProcessExecutor(config, stages, progress, model, stop)
    return Run(config, engine, stages, progress, stop, model=model, only=only, again=again).go()


def _worker_pool(
    config: RunConfig, stages: StageTimer, progress: Progress, model: GuavaModel | None, stop: Check
) -> WorkerPool:
    """The worker processes that are asked for."""
    if model is not None:
        raise UsageError("a loaded model cannot be given to worker processes; leave out gpus, workers, timeout, engine")
    if config.engine == "ray":
        from guava_aug.batch.executors.ray_workers import RayWorkerPool

        return RayWorkerPool(config, stages, progress, stop)
    from guava_aug.batch.executors.local_workers import LocalWorkerPool

    return LocalWorkerPool(config, stages, progress)


class Run:
    """One run: the work list, the log, and what was counted on the way."""

    def __init__(
        self,
        config: RunConfig,
        engine: Engine,
        stages: StageTimer,
        progress: Progress,
        stop: Check = lambda: None,
        *,
        model: GuavaModel | None = None,
        only: ViewKeys | None = None,
        again: bool = False,
    ) -> None:
        self.config, self.engine, self.stages, self.progress, self.stop = config, engine, stages, progress, stop
        self.record = record_path(config.output_root, config.part_id)
        self.only, self.again, self.model = only, again, model
        self.results: dict[tuple[str, str], ViewResult] = {}
        self._worth_retrying: set[tuple[str, str]] = set()
        self._said = "", ""
        self._told_used = False
        self._told_plates: set[str] = set()  # videos
        self._has_moved: dict[str, bool] = {}  # by worker of earlier runs
        self.begun = time.monotonic()

    def go(self) -> RunResult:
        """See `run`."""
        self.engine.check()
        names = self._names()
        _refuse_file_in_the_way(self.config.output_root)
        with RunLog(self.config.output_root, self.config.part_id, self._header()) as self.log:
            jobs = self._plan(names)
            self._refuse_unknown(jobs)
            self._warn_of_others(jobs)
            _make_writable(self.config.output_root)
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
            views=[self.results[job.name, view.label] for job in jobs for view in job.views],
            params_log=self.log.path,
            record=self.record,
            stages=self.stages.rows(),
            seconds=time.monotonic() - self.begun,
        )

    def _plan(self, names: Sequence[str]) -> list[VideoJob]:
        timings = {}
        if self.config.time_map is not None:
            from guava_aug.tracked import load_time_map, warn_of_strangers

            timings = load_time_map(self.config.time_map)
            warn_of_strangers(timings, self.config.time_map, self.config.tracked_root)
        look = render_settings(self.config, self.model)
        return make_work_list(self.config, names, self.log, look, timings, only=self.only, again=self.again)

    def _refuse_unknown(self, jobs: Sequence[VideoJob]) -> None:
        """Raises UsageError when no named video is there or was ever made: a typing error should leave no trace.

        Not in one part of a list: what fails there is to be seen with the other parts.
        """
        from guava_aug.tracked.layout import find_video

        if self.config.videos is None or self.config.shard is not None or self.only is not None or not jobs:
            return
        if any(job.done or job.left_alone or job.signature or self._is_folder(job) for job in jobs):
            return
        try:
            find_video(self.config.tracked_root, jobs[0].name)
        except InputError as error:
            more = f" ({pluralize(len(jobs) - 1, 'other video')} neither)" if len(jobs) > 1 else ""
            raise UsageError(f"{jobs[0].refused or error}{more}") from None

    def _is_folder(self, job: VideoJob) -> bool:
        return job.named and os.path.isdir(self.config.tracked_root / job.name)

    def _warn_of_others(self, jobs: Sequence[VideoJob]) -> None:
        """Warns when another run that is going on makes the same views: nothing is lost, but they are made twice."""
        todo = [(job.name, view.label) for job in jobs for view in job.todo]
        for worker, count in active_workers(self.log.history, todo).items():
            log.warning(
                "another run (process %d on %s) is to make %s of these too, and both will: stop one of them, or give "
                "each its part of the videos with --shard", worker.pid, worker.host, pluralize(count, "view"),
            )  # fmt: skip

    def _sweep_flights(self) -> None:
        """Removes what dead workers left of the views they had begun, also of those that others have made since."""
        open_ended = [w for w in self.log.history.workers.values() if w.ended is None and w.flight is not None]
        for worker in sorted(open_ended, key=lambda w: w.last)[-FLIGHTS_SWEPT:]:
            assert worker.flight is not None
            _, video, labels = worker.flight
            for label in labels:
                remove_stale_files(video_path(self.config.output_root, label, video).parent)
                remove_stale_files(png_dir(self.config.output_root, label, video))

    def _header(self) -> dict[str, Any]:
        """For the journal: with what this run was started. The names of the videos are in its plan."""
        return {"config": {**self.config.to_json(), "videos": None}, "versions": versions(), "cwd": os.getcwd()}

    def _names(self) -> list[str]:
        from guava_aug.tracked import scan_videos
        from guava_aug.tracked.layout import check_root, named, real_names, why_no_videos

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
        """The names of this run's part of the list; a part may be empty."""
        if self.config.shard is None:
            return names
        mine = Shard.parse(self.config.shard).select(names)
        log.info("part %s: %d of %s", self.config.shard, len(mine), pluralize(len(names), "video"))
        return mine

    def _work(self, jobs: Sequence[VideoJob]) -> None:
        pending = [job for job in jobs if job.todo]
        self._skip(jobs)
        if (possible := sum(job.refused is None for job in pending)) > 0:
            self.stop()
            if isinstance(self.engine, WorkerPool):
                self.engine.at_most(possible)
            self.engine.prepare()
        self.log.begin_run({j.name: [v.label for v in j.todo] for j in pending}, overwrite=self.config.overwrite)
        fault_points.fault_point("after-plan")
        if pending:
            self.progress.start(len(pending), sum(len(job.todo) for job in pending))
        try:
            if isinstance(self.engine, WorkerPool):
                dispatch(self.engine, self._one_video, pending, self.stop)
                return
            for job in pending:
                self.stop()
                self._one_video(job)
        finally:
            self.progress.close()

    def _skip(self, jobs: Sequence[VideoJob]) -> None:
        """Notes what is complete already, and what is left alone; one write for all."""
        known: dict[str, list[str]] = {}
        new: list[tuple[str, str, Mapping[str, Any]]] = []
        for job in jobs:
            for view in job.views:
                found, reason = job.done.get(view.label), job.left_alone.get(view.label)
                if found is not None:
                    self.results[job.name, view.label] = self._result(job, view, "skipped")
                    if found.known and (moved := self._moved(job, view)) is not None:
                        new.append((job.name, view.label, moved))
                    elif found.known:
                        known.setdefault(job.name, []).append(view.label)
                    else:
                        new.append((job.name, view.label, self._found(job, view, found)))
                elif reason is not None:
                    self.results[job.name, view.label] = self._result(job, view, "failed", error=reason + NOT_RETRIED)
        done, alone = sum(len(job.done) for job in jobs), sum(len(job.left_alone) for job in jobs)
        if done:
            log.info("complete already: %d of %s", done, pluralize(sum(len(job.views) for job in jobs), "view"))
            self.log.skipped(known)
            self.log.ended(new)
        if alone:
            self.log.left_alone({job.name: list(job.left_alone) for job in jobs if job.left_alone})
            log.warning(
                "%s left alone, having failed before; nothing has changed (try them again: guava-aug retry %s)",
                pluralize(alone, "view"), self.config.output_root,
            )  # fmt: skip

    def _moved(self, job: VideoJob, view: View) -> dict[str, Any] | None:
        """The row of a view that is done, with its new places; None: neither its output nor its tracked root moved."""
        state = self.log.history.get(job.name, view.label)
        if state is None or state.made is None:
            return None
        worker = state.made.worker
        if worker not in self._has_moved:
            header = self.log.history.workers[worker].header
            tracked = (header.get("config") or {}).get("tracked_root")
            self._has_moved[worker] = self.log.history.has_moved(worker) or (
                type(tracked) is str
                and not is_same_place(Path(header.get("cwd") or "", tracked), self.config.tracked_root)
            )
        if not self._has_moved[worker]:
            return None
        return {**state.made.fields, **self._entry(job, view), "status": "skipped"}

    def _one_video(self, job: VideoJob) -> None:
        """Makes what is missing of one video. Nothing that is wrong with the video stops the run."""
        self.progress.video(job.name, len(job.todo))
        begun, todo = time.monotonic(), job.todo
        for attempt in range(1 + self.config.retries):
            if attempt:
                log.info("%s: trying %s again", job.name, pluralize(len(todo), "failed view"))
            self._try(job, todo)
            todo = [view for view in todo if (job.name, view.label) in self._worth_retrying]
            if not todo:
                break
        ended = [self.results[job.name, view.label] for view in job.todo]
        self.progress.finish_video(_in_words(ended, time.monotonic() - begun))

    def _try(self, job: VideoJob, views: Sequence[View]) -> None:
        """Makes views of one video; afterwards each of them has a result."""
        left = {view.label: view for view in views}

        def ended(made: Made) -> None:
            left.pop(made.view.label, None)
            self._ended(job, [made])

        try:
            if job.refused is not None:
                raise InputError(job.refused)
            self.log.begin_video(job.name, list(left))
            self.engine.make(job.name, views, ended)
        except (UsageError, AssetError, DeviceError, DiskFullError):  # would fail with every video
            raise
        except Exception as error:
            log.debug("video %s failed", job.name, exc_info=True)
            stage, frame = location(error)
            lasting = job.refused is not None
            self._ended(
                job,
                [Made(view, explain(error), 0.0, None, None, stage, frame, lasting) for view in list(left.values())],
            )

    def _ended(self, job: VideoJob, ended: Sequence[Made]) -> None:
        """Notes how views ended, on disk before anything else happens."""
        for made in ended:
            key = job.name, made.view.label
            self._worth_retrying.discard(key)
            if made.error is not None:
                known = self._said == (job.name, made.error)  # what is wrong with the video, is so with every view
                log.log(logging.DEBUG if known else logging.ERROR, "%s / %s failed: %s", *key, made.error)
                self._said = job.name, made.error
                if not made.lasting:
                    self._worth_retrying.add(key)
            self._warn_of_other_plates(job, made)
        fault_points.fault_point("before-journal")
        self.log.ended([self._note(job, made) for made in ended])
        if not self._told_used and "machine" in (used := self.engine.describe()):
            self.log.used(used)
            self._told_used = True

    def _warn_of_other_plates(self, job: VideoJob, made: Made) -> None:
        """Warns of views that are there and whose plate was made also of frames that are left out now."""
        without = made.content.made_with.get(PLATE_WITHOUT) if made.content is not None else None
        if without is None or made.error is not None or job.name in self._told_plates:
            return
        self._told_plates.add(job.name)
        older = []
        for label, found in job.done.items():
            state = self.log.history.get(job.name, label)
            told = state.made.fields if state is not None and state.made is not None else {}
            made_with = told.get("made_with") or (found.tag.made_with if found.tag is not None else None) or {}
            if isinstance(made_with, Mapping) and made_with.get(PLATE_WITHOUT) != without:
                older.append(label)
        if older:
            log.warning(
                "%s: %s made before (%s) may show the person of frames %s in the background; to make all of its views "
                "again: --overwrite --video_list %s",
                job.name, pluralize(len(older), "view"), ", ".join(sorted(older)[:5]), without, job.name,
            )  # fmt: skip

    def _note(self, job: VideoJob, made: Made) -> tuple[str, str, Mapping[str, Any]]:
        """Takes the result of a view; gives back its row for the log."""
        status: Status = "success" if made.error is None else "failed"
        result = self._result(job, made.view, status, seconds=made.seconds, error=made.error)
        self.results[job.name, made.view.label] = result
        row: dict[str, Any] = {"status": status, **self._entry(job, made.view), "frames": made.frames}
        if made.content is not None:
            row |= {**asdict(made.content), "size": [made.content.size] * 2}
        if made.error is None:
            row["render_time"] = round(made.seconds, 3)
        else:
            row |= {"error": made.error, "stage": made.stage, "frame": made.frame}
            row |= {"lasting": made.lasting, "attempt": job.attempt(made.view)}
        return job.name, made.view.label, row

    def _found(self, job: VideoJob, view: View, found: ExistingView) -> dict[str, Any]:
        """The row of a view that is there, and not or not fully known to the journals."""
        facts: dict[str, Any] = {"bytes": found.bytes, "frames": found.frames}
        if found.tag is not None:
            facts |= {"fingerprint": found.tag.fingerprint, "made_with": found.tag.made_with, "fps": found.fps}
            beside = read_sidecar(sidecar_path(self.config.output_root, view.label, job.name))
            size = [beside.get("width"), beside.get("height")]
            if beside.get("fingerprint") == found.tag.fingerprint and all(map(is_count, size)):
                facts["size"] = size
                with suppress(KeyError, TypeError, ValueError):  # of an earlier version, or damaged
                    facts["camera"] = compact_facts(beside)
        return {"status": "skipped", **self._entry(job, view), **facts}

    def _result(self, job: VideoJob, view: View, status: Status, **more: Any) -> ViewResult:
        root = self.config.output_root if job.named else None
        params = view.params
        return ViewResult(
            job.name, view.difficulty, view.label, status, root,
            params.get("seed"), params.get("yaw"), params.get("pitch"), params.get("zoom"), **more,
            sampler=view.sampler, params=params,
        )  # fmt: skip

    def _entry(self, job: VideoJob, view: View) -> dict[str, Any]:
        """The camera and the places of a view, by the original's names."""
        from guava_aug.tracked import tracked_path

        places = {}
        if job.named:
            places = {
                "tracked_path": str(tracked_path(self.config.tracked_root, job.name)),
                "output_dir": str(view_root(self.config.output_root, view.label, job.name)),
            }
        return {**view.record(), **places}

    def _write_record(self, jobs: Sequence[VideoJob], stopped: str | None = None) -> None:
        counts: Counter[str] = Counter(result.status for result in self.results.values())
        content = {
            "stopped": stopped,
            "videos": len(jobs),
            "views": dict(counts, asked_for=sum(len(job.views) for job in jobs)),
            "seconds": round(time.monotonic() - self.begun, 3),
            "stages": stage_rows(self.stages.rows()),
            "used": self.engine.describe(),
            "versions": versions(),
            "config": self.config.to_json(),
        }
        try:
            write_record(self.record, content)
        except OutputError as error:  # the results are what counts
            log.warning("%s", error)


def _in_words(ended: Sequence[ViewResult], seconds: float) -> str:
    """One line about a video."""
    good = [result.label for result in ended if result.status == "success"]
    failed = len(ended) - len(good)
    if not good:
        return f"failed, {seconds:.1f} s"
    shown = ", ".join(good[:4]) + (f" and {len(good) - 4} more" if len(good) > 4 else "")
    return f"{shown} done{f', {failed} failed' if failed else ''}, {seconds:.1f} s"


def _refuse_file_in_the_way(root: Path) -> None:
    there = next(path for path in (root, *root.absolute().parents) if os.path.exists(path))
    if not os.path.isdir(there):
        raise OutputError(f"--output_root {root} cannot be made: {there} is a file; choose another folder")


def _make_writable(root: Path) -> None:
    """Makes the output root, and finds out now rather than after an hour whether it can be written.

    Raises:
        OutputError: it cannot.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"--output_root {root} cannot be written ({reason}); choose another folder, or see to its rights"
        ) from error
    remove_stale_files(root)
    remove_stale_files(root / FOLDER)
