"""What makes the views of one video; here: in this process, with one model for all videos."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from guava_aug.batch.config import DEFAULT_FPS, DEFAULT_MODEL_PATH, RunConfig
from guava_aug.batch.fingerprint import (
    PLATE_WITHOUT,
    RenderSettings,
    cached_weights_digest,
    fingerprint,
    input_digest,
    input_signature,
)
from guava_aug.errors import AssetError, DeviceError, DeviceLostError, DiskFullError, UsageError
from guava_aug.output.camera_tag import tag_comment
from guava_aug.output.sidecar import time_axis
from guava_aug.output.tree import video_path
from guava_aug.output.verify import file_digest
from guava_aug.runtime import timing
from guava_aug.runtime.failures import is_permanent, location
from guava_aug.runtime.frame_rate import rate_text
from guava_aug.runtime.presence import is_there
from guava_aug.runtime.printable import printable
from guava_aug.runtime.progress import Progress
from guava_aug.runtime.shutdown import Check
from guava_aug.runtime.timing import StageTimer

if TYPE_CHECKING:
    from guava_aug.avatar.model import GuavaModel
    from guava_aug.render.background import Background
    from guava_aug.tracked import BodyOutline, Timing
    from guava_aug.views import View

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Content:
    """What a view was made of, for the journal."""

    fps: float
    size: int  # pixels, of both sides
    made_with: dict[str, Any]  # see `Look.made_with`
    fingerprint: str
    input: tuple[str, str, float | None]  # of the tracked video: signature, digest, fps that it says
    camera: dict[str, Any] | None = None  # see `views.angles.compact_facts`
    bytes: int | None = None  # length of the MP4
    stages: dict[str, float] = field(default_factory=dict)  # seconds; of what views share, an equal part
    frame_rate: str | None = None  # fps exactly, "30000/1001"
    digest: str | None = None  # of the MP4, see `output.verify.file_digest`


@dataclass(frozen=True)
class Made:
    """How a view ended."""

    view: View
    error: str | None  # None: its file is complete
    seconds: float  # render time, without what all views of the video share
    frames: int | None = None
    content: Content | None = None  # None: unknown, as it failed early
    stage: str | None = None  # of the work, where it failed
    frame: int | None = None  # of the output, from 0, where it failed: the first of the frames in work
    lasting: bool = False  # the same data would fail again


class Engine(Protocol):
    """Something that makes views."""

    def check(self) -> None:
        """Refuses flags that cannot work; cheap, before the work list is made."""

    def prepare(self) -> None:
        """Does what is expensive and needed once: called only when something is to be made."""

    def make(self, name: str, views: Sequence[View], on_view: Callable[[Made], None]) -> None:
        """Makes views of one video. A view's own failure is told through `on_view`; what all share raises."""

    def describe(self) -> dict[str, Any]:
        """What was used, for the run's record."""


class DedupLogFilter(logging.Filter):
    """Lets what is said of a video pass once: a view that is tried again has the same to say."""

    SPEAKERS = ("guava_aug.avatar.model", "guava_aug.tracked.plausibility")

    def __init__(self) -> None:
        super().__init__()
        self._video = ""
        self._said: set[str] = set()  # of that video

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is new."""
        said = record.getMessage()
        is_new = said not in self._said
        self._said.add(said)
        return is_new

    @contextmanager
    def of(self, video: str) -> Iterator[None]:
        """While this video is made."""
        if video != self._video:
            self._video, self._said = video, set()
        speakers = [logging.getLogger(name) for name in self.SPEAKERS]
        for speaker in speakers:
            speaker.addFilter(self)
        try:
            yield
        finally:
            for speaker in speakers:
                speaker.removeFilter(self)


class InProcessExecutor:
    """Loads the model once and keeps it."""

    def __init__(
        self,
        config: RunConfig,
        stages: StageTimer,
        progress: Progress,
        model: GuavaModel | None = None,
        stop: Check = lambda: None,
    ) -> None:
        self.config, self.stages, self.progress, self.stop = config, stages, progress, stop
        self.model = self._given = model
        self._look: RenderSettings | None = None
        self._once = DedupLogFilter()
        self._outline: BodyOutline | None = None
        self._backgrounds: Counter[str] = Counter()
        self._timings: dict[str, Timing] = {}

    def check(self) -> None:
        """Raises UsageError, InputError or AssetError for flags that cannot work with any video."""
        check_flags(self.config)
        if self.config.time_map is not None:
            from guava_aug.tracked import load_time_map

            self._timings = load_time_map(self.config.time_map)

    def prepare(self) -> None:
        """Loads the model. Raises AssetError, DeviceError."""
        if self.model is None:
            from guava_aug.avatar import model
            from guava_aug.runtime.device import choose_device, keep_threads_within_quota

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
        _ = self.look  # reads the weights once more, if nobody has done it for this output root

    def make(self, name: str, views: Sequence[View], on_view: Callable[[Made], None]) -> None:
        """See `Engine`. What is wrong with the video is told of each of its views; what is wrong with all raises."""
        left = {view.label: view for view in views}

        def ended(made: Made) -> None:
            del left[made.view.label]
            on_view(made)

        try:
            with self._once.of(name):
                self._make(name, views, ended)
        except (UsageError, AssetError, DeviceError, DiskFullError):  # would fail with every video
            raise
        except Exception as error:
            log.debug("video %s failed", name, exc_info=True)
            stage, frame = location(error)
            for view in list(left.values()):
                ended(Made(view, explain(error), 0.0, None, None, stage, frame, is_permanent(error)))
            _raise_if_fatal(error)

    def _make(self, name: str, views: Sequence[View], on_view: Callable[[Made], None]) -> None:
        from guava_aug.batch.pipeline import Settings, augment_video
        from guava_aug.output.view_writer import Outcome, ViewWriter
        from guava_aug.tracked import TrackedVideo
        from guava_aug.tracked.layout import find_video
        from guava_aug.tracked.masks import in_words, ranges
        from guava_aug.tracked.plausibility import refuse_impossible
        from guava_aug.views.angles import camera_facts, compact_facts

        config, model = self.config, self.model
        assert model is not None, "prepare() comes first"
        before = {stage.name: stage.seconds for stage in self.stages.rows()}
        with self.stages(timing.DATA):
            signature = input_signature(config.tracked_root, name) or ""  # before it is read: it may be written to
            timing_of = self._timings.get(name)
            video = TrackedVideo.open(config.tracked_root, name, timing=timing_of, source_frame=config.source_frame)
            digest = input_digest(video)
            outline = self.outline
            refuse_impossible(video, outline, accept=config.accept_tracking)
        size, fps = model.config.image_size, config.fps or video.fps or DEFAULT_FPS
        made_with = self.look.made_with(fps, digest)

        said_fps = video.fps
        if name in self._timings:  # which may override what the data say
            said_fps = find_video(config.tracked_root, name).fps

        facts: dict[str, dict[str, Any]] = {}  # label -> its cameras

        def content(view: View) -> Content:
            read = signature, digest, None if said_fps is None else float(said_fps)
            camera = compact_facts(facts[view.label]) if view.label in facts else None
            print_ = fingerprint(view, made_with)
            return Content(float(fps), size, made_with, print_, read, camera=camera, frame_rate=rate_text(fps))

        def ended(outcome: Outcome) -> None:
            said = content(outcome.view)
            if outcome.error is None:
                path = video_path(config.output_root, outcome.view.label, name)
                length, digest_of_file = path.stat().st_size, file_digest(path)
                stages = self._stages_of_view(before, len(views), outcome.seconds)
                said = replace(said, bytes=length, digest=digest_of_file, stages=stages)
                on_view(Made(outcome.view, None, outcome.seconds, video.num_frames, said))
                return
            error, (stage, frame) = explain(outcome.error), location(outcome.error)
            lasting = is_permanent(outcome.error)
            on_view(Made(outcome.view, error, outcome.seconds, video.num_frames, said, stage, frame, lasting))
            _raise_if_fatal(outcome.error)

        def open_file(view: View) -> ViewWriter:
            self.stop()  # a long list of views need not be finished
            cameras = view.cameras(video.viewmats[0], video.num_frames, size, K=video.lens_at(size))
            facts[view.label] = camera_facts(cameras)
            said = content(view)
            beside = {
                "video": name, "view": view.label, **view.record(), "frames": video.num_frames,
                "width": size, "height": size,
                **time_axis(fps, video.source_frames), "fingerprint": said.fingerprint, "made_with": made_with,
                **facts[view.label],
            }  # fmt: skip
            comment = tag_comment(view, said.fingerprint, made_with)
            return ViewWriter(config.output, name, view, size, fps, comment, beside)

        def on_background(background: Background) -> None:
            if background.left_out:
                made_with[PLATE_WITHOUT] = ranges(background.left_out)
                log.warning(
                    "%s: the clean plate is made without %s: the mask is empty, suddenly small or far from the posed "
                    "body", name, in_words(background.left_out, video.frame_keys),
                )  # fmt: skip

        background = augment_video(
            model,
            video,
            views,
            open_file,
            ended,
            Settings(config.background, config.chunk_length(str(model.device)), config.views_in_flight),
            want_png=config.save_frame_png,
            stages=self.stages,
            progress=self.progress,
            outline=outline,
            on_background=on_background,
        )
        self._backgrounds[f"{background.mode}, {background.kind}"] += 1
        log.debug("%s: background: %s %s", name, background.kind, background.note)

    @property
    def look(self) -> RenderSettings:
        """What of this run decides the pixels."""
        if self._look is None:
            self._look = render_settings(self.config, self._given)
        return self._look

    @property
    def outline(self) -> BodyOutline | None:
        """Of the model's body; None: the model has none."""
        if self._outline is None and self.model is not None and self.model.body is not None:
            from guava_aug.tracked import BodyOutline

            self._outline = BodyOutline(self.model.body)
        return self._outline

    def _stages_of_view(self, before: dict[str, float], views: int, seconds: float) -> dict[str, float]:
        """Seconds per stage of one view, `views` of which shared the video since `before`."""
        since = {s.name: s.seconds - before.get(s.name, 0.0) for s in self.stages.rows()}
        shared = {name: spent / views for name, spent in since.items() if name != timing.RENDER and spent > 0}
        return {name: round(spent, 3) for name, spent in {**shared, timing.RENDER: seconds}.items()}

    def describe(self) -> dict[str, Any]:
        """Model, device, rasteriser, noise and backgrounds."""
        if self.model is None:
            return {"model": None}  # nothing was to be made
        from guava_aug.avatar.model import REFINER_NOISE_SEED
        from guava_aug.batch.journal.run_record import machine
        from guava_aug.render.rasterize import resolve_backend

        return {
            "model": self.model.source,
            "machine": machine(str(self.model.device)),
            "rasteriser": resolve_backend(self.model.backend, self.model.device),
            "precision": self.model.precision,
            "refiner_noise_seed": REFINER_NOISE_SEED,
            "backgrounds": dict(self._backgrounds),
        }


def _raise_if_fatal(error: Exception) -> None:
    """Raises DiskFullError or DeviceError when the failure of one view means that every other one will fail."""
    if isinstance(error, DeviceError):
        raise error
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DiskFullError):
            raise cause
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):  # of a picture, of a folder
            raise DiskFullError(explain(error)) from error
        if _is_lost_gpu(cause):  # also one that an encoder's thread met while it waited for its frames
            raise DeviceLostError(
                f"the GPU failed ({str(cause).splitlines()[0]}) and this process cannot use it any more; run it again "
                "to go on; if it comes again, see the driver's log (dmesg, Xid) and try another GPU"
            ) from error
        cause = cause.__cause__


def _is_lost_gpu(error: BaseException) -> bool:
    """Whether torch or Triton says that the GPU's context is broken; running out of memory does not break it."""
    text = str(error)
    told = "CUDA error" in text or "Triton Error [CUDA]" in text
    return isinstance(error, RuntimeError) and told and "out of memory" not in text


def render_settings(config: RunConfig, model: GuavaModel | None = None) -> RenderSettings:
    """What of a run decides the pixels. Reads the model's files, unless their digest is known below the output root.

    model: a loaded model that is used instead of the configuration's.

    Raises:
        AssetError: there is no such model. InputError: the background picture cannot be read.
    """
    from guava_aug.avatar.find import EMBEDDED, EMBEDDED_DIR

    source = model_source(config) if model is None else model.source
    path = EMBEDDED_DIR if source == EMBEDDED else Path(source)
    if model is not None and not path.exists():
        return RenderSettings.of(config, source)  # it was never a file
    return RenderSettings.of(config, cached_weights_digest(path, config.output_root))


def check_flags(config: RunConfig) -> None:
    """Refuses values that would fail with every video.

    Raises:
        UsageError, InputError: unknown background, rasteriser or preset; no such picture.
        AssetError: `model_path` is given and not there.
    """
    from guava_aug.output.video import PRESETS
    from guava_aug.render.backends import BACKENDS, PRECISIONS
    from guava_aug.render.background import background_for

    if config.backend not in BACKENDS:
        raise UsageError(f"--backend is {config.backend!r}; expected one of {', '.join(BACKENDS)}")
    if config.precision not in PRECISIONS:
        raise UsageError(f"--precision is {config.precision!r}; expected one of {', '.join(PRECISIONS)}")
    if config.preset not in PRESETS:
        raise UsageError(f"--preset is {config.preset!r}; expected one of {', '.join(PRESETS)}")
    if config.background != "plate":
        from guava_aug.render.background import background_for

        background_for(None, config.background, 8)  # type: ignore[arg-type]  # only `plate` looks at the video
    model_source(config)


def model_source(config: RunConfig) -> str:
    """The model to load: `model_path` if given, else assets/GUAVA (here, then below `guava_root`), else "embedded".

    Raises:
        AssetError: `model_path` is given and not there.
    """
    from guava_aug.avatar.find import EMBEDDED

    if config.model_path is not None:
        if str(config.model_path) != EMBEDDED and not is_there(config.model_path, AssetError):
            raise AssetError(
                f"--model_path {config.model_path} does not exist; expected a folder with config.yaml and "
                "checkpoints/, a .pt or a .safetensors file (left out, the embedded model is used)"
            )
        return str(config.model_path)
    places = [DEFAULT_MODEL_PATH] + ([config.guava_root / DEFAULT_MODEL_PATH] if config.guava_root else [])
    return next((str(location) for location in places if is_there(location, AssetError)), EMBEDDED)


def explain(error: BaseException) -> str:
    """The reason in one line: our own messages as they are, others with their kind."""
    from guava_aug.errors import GuavaAugError

    text = printable(" ".join(str(error).split()))
    if type(error).__name__ == "OutOfMemoryError":
        return f"{text} Use a smaller --frames_per_chunk."
    if isinstance(error, GuavaAugError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
