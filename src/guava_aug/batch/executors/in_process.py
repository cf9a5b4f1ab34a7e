"""Makes views in this process, with one model for all videos."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from guava_aug.batch.avatars import AvatarStore, FittedAvatar, settle
from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.base import FATAL, Events, FramesDone, StageTimed, ViewDone
from guava_aug.batch.failures import failed_record, raise_if_fatal
from guava_aug.batch.fingerprint import RenderSettings
from guava_aug.batch.jobs import Clip, VideoJob
from guava_aug.batch.results import ViewRecord
from guava_aug.batch.validate import check_flags, model_source, render_settings
from guava_aug.output.tree import video_path
from guava_aug.runtime import timing
from guava_aug.runtime.files import file_digest
from guava_aug.runtime.shutdown import Check
from guava_aug.runtime.timing import StageTime, StageTimer

if TYPE_CHECKING:
    from guava_aug.avatar.model import GuavaModel
    from guava_aug.output.view_writer import ViewEnd
    from guava_aug.tracked import BodyOutline, Timing, TrackedVideo
    from guava_aug.views import View


class DedupLogFilter(logging.Filter):
    """Passes every message about a video once: a view that is tried again logs the same."""

    LOGGERS = ("guava_aug.avatar.model", "guava_aug.tracked.plausibility")

    def __init__(self) -> None:
        super().__init__()
        self._video = ""
        self._seen: set[str] = set()  # of that video

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether it is new."""
        message = record.getMessage()
        is_new = message not in self._seen
        self._seen.add(message)
        return is_new

    @contextmanager
    def of(self, video: str) -> Iterator[None]:
        """Filter the log while this video is rendered."""
        if video != self._video:
            self._video, self._seen = video, set()
        loggers = [logging.getLogger(name) for name in self.LOGGERS]
        for logger in loggers:
            logger.addFilter(self)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(self)


log = logging.getLogger(__name__)


class InProcessExecutor:
    """Loads the model once and keeps it. See `Executor`.

    Args:
        model: a loaded model to use instead of the configuration's.
        stop: called before each view is begun; ends the run by raising.
        on_stage: gets the time of every stage as it ends; None: `execute` gives them as events, a little later.
    """

    capacity = 1
    in_main_thread = True

    def __init__(
        self,
        config: RunConfig,
        model: GuavaModel | None = None,
        stop: Check = lambda: None,
        on_stage: Callable[[StageTimed], None] | None = None,
    ) -> None:
        self.config = settle(config, None if model is None else str(model.device))
        self._check_stop = stop
        self.model = self._given = model
        self._settings: RenderSettings | None = None
        self._dedup = DedupLogFilter()
        self._outline: BodyOutline | None = None
        self._avatars: AvatarStore | None = None
        self._backgrounds: Counter[str] = Counter()
        self._timings: Mapping[str, Timing] = {}
        self._timed: deque[StageTimed] = deque()  # not given to the reader of `execute` yet
        device, tell = "cpu" if model is None else str(model.device), on_stage or self._timed.append
        self.stages = StageTimer(device, lambda *stage: tell(StageTimed(*stage)))

    def check(self) -> None:
        """Raise UsageError, InputError or AssetError for flags that cannot work with any video."""
        self._timings = check_flags(self.config)

    def start(self, num_jobs: int = 1) -> None:
        """Load the model. Raises AssetError, DeviceError."""
        if self.model is None:
            from guava_aug.avatar import model  # noqa: PLC0415 - imports torch, which is slow
            from guava_aug.runtime.device import choose_device, keep_threads_within_quota  # noqa: PLC0415 - imports torch, which is slow

            keep_threads_within_quota()
            device = choose_device(self.config.device, required=self.config.require_gpu)
            path = model_source(self.config)
            log.info("model %s on %s", "embedded in the package" if path == model.EMBEDDED else path, device)
            self.stages.device = device
            with self.stages(timing.MODEL_LOADING, sync=True):
                self.model = model.load_model(
                    path,
                    device,
                    guava_root=self.config.guava_root,
                    backend=self.config.backend,
                    precision=self.config.precision,
                )
        self.stages.device = str(self.model.device)
        _ = self.settings  # reads the weights once more, if nobody has done it for this output root

    def execute(self, job: VideoJob) -> Events:
        """See `Executor`. An error of the video is recorded for each of its views; an error of all videos is raised."""
        left = {view.label: view for view in job.views}
        failure: Exception | None = None
        try:
            with self._dedup.of(job.name), contextlib.closing(self._execute(job)) as events:
                for event in events:
                    if isinstance(event, ViewDone):
                        del left[event.record.view]
                    yield event
        except FATAL:
            raise
        except Exception as error:
            log.debug("video %s failed", job.name, exc_info=True)
            failure = error
        yield from self._take_timed()
        if failure is not None:
            for view in left.values():
                yield ViewDone(failed_record(job, view, failure))
            raise_if_fatal(failure)

    def _execute(self, job: VideoJob) -> Events:
        from guava_aug.batch.executors.open_clip import OpenClip  # noqa: PLC0415 - imports torch, which is slow
        from guava_aug.batch.pipeline import PipelineSettings, augment_video  # noqa: PLC0415 - imports torch, which is slow
        from guava_aug.output.view_writer import ViewEnd, ViewWriter  # noqa: PLC0415 - imports torch, which is slow
        from guava_aug.render.background import Background  # noqa: PLC0415 - imports torch, which is slow

        config, model = self.config, self.model
        assert model is not None, "start() comes first"
        before = {stage.name: stage.seconds for stage in self.stages.rows()}
        with self.stages(timing.DATA):
            clip = OpenClip(config, job, self.settings, self._timings, self.outline)
        avatar = None
        if config.personalize != "off":
            with self.stages(timing.AVATAR_FIT, sync=True):
                avatar = clip.use_avatar(self._fitted(clip.videos.identity))
        size = model.config.image_size

        def open_writer(view: View) -> ViewWriter:
            self._check_stop()  # a long list of views need not be finished
            return ViewWriter(clip.target(view, size))

        settings = PipelineSettings(
            config.background, config.chunk_length(str(model.device)), config.views_in_flight, config.all_sinks
        )
        with contextlib.closing(
            augment_video(model, clip.videos, job.views, open_writer, settings, self.stages, self.outline, avatar)
        ) as events:
            for event in events:
                if isinstance(event, Background):
                    background = event
                    clip.note_background(event)  # before any view is begun
                yield from self._take_timed()
                if isinstance(event, ViewEnd):
                    yield ViewDone(self._record(event, job, clip.record(event.view, size), before))
                    if event.error is not None:
                        raise_if_fatal(event.error)
                elif isinstance(event, FramesDone):
                    yield event
        self._backgrounds[f"{background.mode}, {background.kind}"] += 1
        log.debug("%s: background: %s %s", job.name, background.kind, background.note)

    def fit_avatar(self, name: str, *, again: bool = False) -> FittedAvatar:
        """Return the fitted avatar of a video, without rendering it; fitted now, unless its file is there.

        Args:
            name: of the video.
            again: fit it even if the file is there.

        Raises:
            InputError, OutputError: as `AvatarStore.get`.
        """
        from guava_aug.batch.executors.open_clip import OpenClip  # noqa: PLC0415 - imports torch, which is slow

        assert self.model is not None, "start() comes first"
        clip = OpenClip(self.config, VideoJob(name, (), Clip.of(name)), self.settings, self._timings, self.outline)
        with self.stages(timing.AVATAR_FIT, sync=True):
            return self._fitted(clip.videos.identity, again=again)

    def _fitted(self, video: TrackedVideo, *, again: bool = False) -> FittedAvatar:
        """Return the avatar of a video, and say what became of it."""
        assert self.model is not None
        if self._avatars is None:
            config = self.config
            self._avatars = AvatarStore(config.avatars, config.personalize, self.settings.weights, self._check_stop)
        fitted = self._avatars.get(self.model, video, self.outline, again=again)
        level = logging.INFO if fitted.used else logging.WARNING
        log.log(level if fitted.is_new or not fitted.used else logging.DEBUG, "%s: %s", video.name, fitted.in_words())
        return fitted

    def _record(self, end: ViewEnd, job: VideoJob, record: ViewRecord, before: dict[str, float]) -> ViewRecord:
        """Return how a view ended. before: seconds of the stages when its video was begun."""
        if end.error is not None:
            failed = failed_record(job, end.view, end.error, end.seconds)
            return replace(
                record, status="failed", error=failed.error, stage=failed.stage, frame=failed.frame,
                permanent=failed.permanent, attempt=failed.attempt, seconds=end.seconds,
            )  # fmt: skip
        path = video_path(self.config.output_root, end.view.label, job.name)
        stages = _stages_of_view(self.stages.rows(), before, len(job.views), end.seconds)
        return replace(record, bytes=path.stat().st_size, digest=file_digest(path), stages=stages, seconds=end.seconds)

    def _take_timed(self) -> Iterator[StageTimed]:
        while self._timed:
            yield self._timed.popleft()

    @property
    def settings(self) -> RenderSettings:
        """Return what of this run decides the pixels."""
        if self._settings is None:
            self._settings = render_settings(self.config, self._given)
        return self._settings

    @property
    def outline(self) -> BodyOutline | None:
        """Return the silhouettes of the model's body; None: the model has none."""
        if self._outline is None and self.model is not None and self.model.body is not None:
            from guava_aug.tracked import BodyOutline  # noqa: PLC0415 - imports torch, which is slow

            self._outline = BodyOutline(self.model.body)
        return self._outline

    def request_stop(self) -> None:
        """See `Executor`: `stop` of the constructor ends it."""

    def stop(self) -> None:
        """See `Executor`: closing the generator of `execute` removes its files."""

    def describe(self) -> dict[str, Any]:
        """Return model, device, rasteriser, noise and backgrounds."""
        if self.model is None:
            return {"model": None}  # nothing was to be made
        from guava_aug.avatar.model import REFINER_NOISE_SEED  # noqa: PLC0415 - imports torch, which is slow
        from guava_aug.batch.journal.run_record import machine  # noqa: PLC0415 - imports torch, which is slow
        from guava_aug.render.rasterize import resolve_backend  # noqa: PLC0415 - imports torch, which is slow

        return {
            "model": self.model.source,
            "machine": machine(str(self.model.device)),
            "rasteriser": resolve_backend(self.model.backend, self.model.device),
            "precision": self.model.precision,
            "refiner_noise_seed": REFINER_NOISE_SEED,
            "backgrounds": dict(self._backgrounds),
        }


def _stages_of_view(
    rows: Sequence[StageTime], before: dict[str, float], views: int, seconds: float
) -> dict[str, float]:
    """Return seconds per stage of one view, `views` of which shared the video since `before`."""
    since = {s.name: s.seconds - before.get(s.name, 0.0) for s in rows}
    shared = {name: spent / views for name, spent in since.items() if name != timing.RENDER and spent > 0}
    return {name: round(spent, 3) for name, spent in {**shared, timing.RENDER: seconds}.items()}
