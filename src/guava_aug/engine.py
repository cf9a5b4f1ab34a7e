"""What makes the views of one video; here: in this process, with one model for all videos."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from . import timing
from .config import DEFAULT_FPS, DEFAULT_MODEL_PATH, RunConfig
from .errors import AssetError, DeviceLostError, DiskFullError, UsageError
from .progress import Progress
from .stopping import Check
from .timing import Stages

if TYPE_CHECKING:
    from .model import GuavaModel
    from .tracked import Timing
    from .views import View

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """How a view ended."""

    view: View
    error: str | None  # None: its file is complete
    seconds: float  # render time, without what all views of the video share
    frames: int | None = None


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


class InProcess:
    """Loads the model once and keeps it."""

    def __init__(
        self,
        config: RunConfig,
        stages: Stages,
        progress: Progress,
        model: GuavaModel | None = None,
        stop: Check = lambda: None,
    ) -> None:
        self.config, self.stages, self.progress, self.stop = config, stages, progress, stop
        self.model = model
        self._backgrounds: Counter[str] = Counter()
        self._timings: dict[str, Timing] = {}

    def check(self) -> None:
        """Raises UsageError, InputError or AssetError for flags that cannot work with any video."""
        check_flags(self.config)
        if self.config.time_map is not None:
            from .tracked import load_time_map

            self._timings = load_time_map(self.config.time_map)

    def prepare(self) -> None:
        """Loads the model. Raises AssetError, DeviceError."""
        if self.model is None:
            from . import model
            from .device import choose_device

            device, path = choose_device(self.config.device), model_source(self.config)
            log.info("model %s on %s", "embedded in the package" if path == model.EMBEDDED else path, device)
            self.stages.device = device
            with self.stages(timing.MODEL_LOADING, sync=True):
                self.model = model.load_model(
                    path, device, guava_root=self.config.guava_root, backend=self.config.backend
                )
        self.stages.device = str(self.model.device)

    def make(self, name: str, views: Sequence[View], on_view: Callable[[Made], None]) -> None:
        """See `Engine`. Raises InputError for a video that cannot be used."""
        from .pipeline import Settings, augment_video
        from .tracked import TrackedVideo
        from .viewfiles import Outcome, ViewFile

        config, model = self.config, self.model
        assert model is not None, "prepare() comes first"
        with self.stages(timing.DATA):
            video = TrackedVideo.open(config.tracked_root, name, timing=self._timings.get(name))
        size, fps = model.config.image_size, config.fps or video.fps or DEFAULT_FPS

        def ended(outcome: Outcome) -> None:
            error = None if outcome.error is None else explain(outcome.error)
            on_view(Made(outcome.view, error, outcome.seconds, video.num_frames))
            if outcome.error is not None:
                _stop_if_all_would_fail(outcome.error)

        def open_file(view: View) -> ViewFile:
            self.stop()  # a long list of views need not be finished
            return ViewFile(config, name, view, size, fps)

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
        )
        self._backgrounds[f"{background.mode}, {background.kind}"] += 1
        log.debug("%s: background: %s %s", name, background.kind, background.note)

    def describe(self) -> dict[str, Any]:
        """Model, device, rasteriser, noise and backgrounds."""
        if self.model is None:
            return {"model": None}  # nothing was to be made
        from .model import REFINER_NOISE_SEED
        from .record import machine
        from .render.rasterize import resolve_backend

        return {
            "model": self.model.source,
            "machine": machine(str(self.model.device)),
            "rasteriser": resolve_backend(self.model.backend, self.model.device),
            "refiner_noise_seed": REFINER_NOISE_SEED,
            "backgrounds": dict(self._backgrounds),
        }


def _stop_if_all_would_fail(error: Exception) -> None:
    """Raises DiskFullError or DeviceLostError when the failure of one view means that every other one will fail."""
    if isinstance(error, DiskFullError):
        raise error
    text = str(error)
    if isinstance(error, RuntimeError) and "CUDA error" in text and "out of memory" not in text:
        raise DeviceLostError(
            f"the GPU failed ({text.splitlines()[0]}) and this process cannot use it any more; run it again to go on; "
            "if it comes again, see the driver's log (dmesg, Xid) and try another GPU"
        ) from error


def check_flags(config: RunConfig) -> None:
    """Refuses values that would fail with every video.

    Raises:
        UsageError, InputError: unknown background, rasteriser or preset; no such picture.
        AssetError: `model_path` is given and not there.
    """
    from .output.video import PRESETS
    from .render.background import background_for
    from .render.rasterize import BACKENDS

    if config.backend not in BACKENDS:
        raise UsageError(f"--backend is {config.backend!r}; expected one of {', '.join(BACKENDS)}")
    if config.preset not in PRESETS:
        raise UsageError(f"--preset is {config.preset!r}; expected one of {', '.join(PRESETS)}")
    if config.background != "plate":
        background_for(None, config.background, 8)  # type: ignore[arg-type]  # only `plate` looks at the video
    model_source(config)


def model_source(config: RunConfig) -> str:
    """The model to load: `model_path` if given, else assets/GUAVA (here, then below `guava_root`), else "embedded".

    Raises:
        AssetError: `model_path` is given and not there.
    """
    from .model import EMBEDDED

    if config.model_path is not None:
        if str(config.model_path) != EMBEDDED and not config.model_path.exists():
            raise AssetError(
                f"--model_path {config.model_path} does not exist; expected a folder with config.yaml and "
                "checkpoints/, a .pt or a .safetensors file (left out, the embedded model is used)"
            )
        return str(config.model_path)
    places = [DEFAULT_MODEL_PATH] + ([config.guava_root / DEFAULT_MODEL_PATH] if config.guava_root else [])
    return next((str(place) for place in places if place.exists()), EMBEDDED)


def explain(error: BaseException) -> str:
    """The reason in one line: our own messages as they are, others with their kind."""
    from .errors import GuavaAugError

    text = " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError":
        return f"{text} Use a smaller --frames_per_chunk."
    if isinstance(error, GuavaAugError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
