"""Tracks videos in this process, with one set of nets and one body for all of them."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guava_aug.batch.executors.base import FATAL, Events, FramesDone, StageTimed, ViewDone
from guava_aug.batch.failures import failed_record, raise_if_fatal
from guava_aug.batch.jobs import TrackJob
from guava_aug.batch.results import ViewRecord
from guava_aug.batch.tracking.config import TrackConfig
from guava_aug.batch.tracking.inputs import source_signature
from guava_aug.batch.tracking.plan import LABEL, PhotometricWay, track_fingerprint
from guava_aug.batch.tracking.validate import calibration_of, check_track_flags, chosen_person
from guava_aug.errors import is_permanent
from guava_aug.runtime import timing
from guava_aug.runtime.atomic import atomic_write
from guava_aug.runtime.files import is_there
from guava_aug.runtime.shutdown import Check
from guava_aug.runtime.text import explain
from guava_aug.runtime.timing import StageTimer
from guava_aug.tracked.layout import INFO, SKIPPED

if TYPE_CHECKING:
    from guava_aug.tracked.tracking import TrackedClip, Tracker, TrackOptions

log = logging.getLogger(__name__)


class TrackExecutor:
    """Loads nets and body once and keeps them. See `Executor`.

    Args:
        config: what is to be done.
        stop: called between pieces of work; ends the run by raising.
        on_stage: gets the time of every stage as it ends; None: `execute` gives them as events, a little later.
    """

    capacity = 1
    in_main_thread = True

    def __init__(
        self, config: TrackConfig, stop: Check = lambda: None, on_stage: Callable[[StageTimed], None] | None = None
    ) -> None:
        self.config, self._check_stop = config, stop
        self.tracker: Tracker | None = None
        self._timed: deque[StageTimed] = deque()  # not given to the reader of `execute` yet
        tell = on_stage or self._timed.append
        self.stages = StageTimer("cpu", lambda *stage: tell(StageTimed(*stage)))

    def check(self) -> None:
        """Raise UsageError or InputError for flags that cannot work with any video."""
        check_track_flags(self.config)

    def start(self, num_jobs: int) -> None:
        """Load nets and body. Raises AssetError, DeviceError."""
        if self.tracker is not None:
            return
        from guava_aug.batch.tracking.load import load_tracker  # noqa: PLC0415 - imports torch, which is slow
        from guava_aug.runtime.device import choose_device, keep_threads_within_quota  # noqa: PLC0415 - as above

        keep_threads_within_quota()
        device = choose_device(self.config.device, required=self.config.require_gpu)
        log.info("tracking on %s", device)
        self.stages.device = str(device)
        with self.stages(timing.MODEL_LOADING, sync=True):
            self.tracker = load_tracker(self.config, device)

    def _fingerprint(self) -> str:
        assert self.tracker is not None, "start() comes first"
        way: PhotometricWay = "gpu" if self.stages.device.startswith("cuda") else "cpu"
        return track_fingerprint(self.config, photometric=None if self.tracker.refiner is None else way)

    def execute(self, job: TrackJob) -> Events:
        """See `Executor`. An error of the video is in its record, and in `skipped.txt` if it is permanent."""
        begun = time.monotonic()
        try:
            with contextlib.closing(self._execute(job)) as events:
                yield from events
        except FATAL:
            raise
        except Exception as error:
            log.debug("video %s failed", job.name, exc_info=True)
            yield from self._take_timed()
            yield ViewDone(failed_record(job, job.parts[0], error, time.monotonic() - begun))
            raise_if_fatal(error)
            if is_permanent(error):
                self._note_refusal(job, error)

    def _execute(self, job: TrackJob) -> Events:
        assert self.tracker is not None, "start() comes first"
        begun = time.monotonic()
        source = Path(job.source)
        steps = self.tracker.track(source, self.config.tracked_root, job.name, self._options(source), self.stages)
        with contextlib.closing(steps):
            while True:
                self._check_stop()
                try:
                    step = next(steps)
                except StopIteration as end:
                    clips: list[TrackedClip] = end.value
                    break
                yield from self._take_timed()
                yield FramesDone(step.frames, step.total)
        yield from self._take_timed()
        self._forget_refusal(job.name)
        worst = max(clips, key=lambda clip: clip.rank)
        yield ViewDone(ViewRecord(
            job.name, LABEL, "success", {}, tracked_path=job.source,
            output_dir=str(self.config.tracked_root / clips[0].name), frames=sum(clip.num_frames for clip in clips),
            fps=float(clips[0].fps), size=(clips[0].size, clips[0].size), seconds=time.monotonic() - begun,
            made_with={"clips": "/".join(clip.name for clip in clips), "quality": worst.quality},
            fingerprint=self._fingerprint(),
        ))  # fmt: skip

    def _options(self, source: Path) -> TrackOptions:
        from guava_aug.tracked.tracking import TrackOptions  # noqa: PLC0415 - imports torch, which is slow

        config = self.config
        return TrackOptions(
            source_signature=source_signature(source), fingerprint=self._fingerprint(),
            person=chosen_person(config.person), on_cut=config.on_cut, fov=config.fov,
            calibration=None if config.calibration is None else calibration_of(config.calibration),
            keep_audio=config.audio == "copy", overlay=config.overlay, overwrite=config.overwrite,
        )  # fmt: skip

    def _take_timed(self) -> Iterator[StageTimed]:
        while self._timed:
            yield self._timed.popleft()

    def _note_refusal(self, job: TrackJob, error: Exception) -> None:
        """Note in the tracked root that this video has failed, so that runs skip it, as EHM-Tracker does."""
        folder = self.config.tracked_root / job.name
        if is_there(folder / INFO):
            return
        try:
            with atomic_write(folder / SKIPPED) as temporary:
                temporary.write_text(explain(error) + "\n", encoding="utf-8", errors="backslashreplace")
        except OSError as failure:
            log.warning("%s: the reason cannot be written (%s)", os.fspath(folder / SKIPPED), failure)

    def _forget_refusal(self, name: str) -> None:
        """Remove the note of an earlier failure of a video that is tracked now."""
        folder = self.config.tracked_root / name
        with contextlib.suppress(OSError):
            (folder / SKIPPED).unlink(missing_ok=True)
            folder.rmdir()  # it may hold a clip, and then stays

    def request_stop(self) -> None:
        """See `Executor`: `stop` of the constructor is what ends it."""

    def stop(self) -> None:
        """See `Executor`: closing what `execute` gave removes its files."""

    def describe(self) -> dict[str, Any]:
        """Return what the tracking was done with."""
        if self.tracker is None:
            return {}
        from guava_aug.batch.journal.run_record import machine  # noqa: PLC0415 - imports torch, which is slow

        photometric = "off" if self.tracker.refiner is None else "on"
        return {
            "machine": machine(str(self.tracker.device)), "body": self.tracker.body_name, "photometric": photometric,
        }  # fmt: skip
