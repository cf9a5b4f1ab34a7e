"""The measurements of `guava-aug bench`: the pipeline in this process, and the two modes as real commands."""

from __future__ import annotations

import gc
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from guava_aug.apps.benchmark.gpu_trace import gpu_trace
from guava_aug.apps.timed_views import make_views
from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.in_process import InProcessExecutor
from guava_aug.batch.journal.run_record import record_path
from guava_aug.batch.validate import model_source
from guava_aug.errors import OutputError
from guava_aug.runtime import timing
from guava_aug.runtime.processes import child_environment
from guava_aug.runtime.text import pluralize
from guava_aug.runtime.timing import Interval, StageTime
from guava_aug.views import plan_views

log = logging.getLogger(__name__)

START = "process start, imports"
MOST_IN_PROCESS = 11  # the marginal cost is taken from this many views at most
STARTS = 3  # processes that only import, of which the median is taken
IMPORTS = (
    "import guava_aug.cli, guava_aug.batch.run, guava_aug.batch.executors.in_process, guava_aug.avatar.model, "
    "guava_aug.batch.pipeline"
)


@dataclass(frozen=True)
class Command:
    """One real run of `guava-aug run`, from the shell."""

    mode: Literal["batch", "subprocess"]
    views: int
    seconds: float  # wall, process start included
    loading: float  # seconds of the stage `model loading` in it, all processes together


@dataclass(frozen=True)
class Measured:
    """Everything that was measured; seconds."""

    model: str
    gaussians: int
    frames: int
    size: int  # pixels
    start: float  # process start and imports, median
    stages: list[StageTime]  # of one view in a warm process, medians; model loading as it was the first time
    warm: dict[int, float]  # views -> a video in a warm process, median
    commands: list[Command]
    intervals: list[Interval]  # of a video in a warm process
    views_recorded: int
    peak_gpu_bytes: int | None

    @property
    def marginal(self) -> float:
        """Return seconds of one more view in a warm process."""
        few, many = min(self.warm), max(self.warm)
        return max(self.warm[many] - self.warm[few], 0.0) / (many - few)

    def seconds(self, stage: str) -> float:
        """Return the seconds of a stage in the table; 0 if it did not run."""
        return next((s.seconds for s in self.stages if s.name == stage), 0.0)


def measure(config: RunConfig, counts: Sequence[int], repeats: int) -> Measured:
    """Measure the one video of `config` with every number of views in `counts`, in both modes.

    `config.output_root` is not used: results go to a temporary folder. First everything is done once in this process,
    so that compiled kernels and files are in their caches for all that is timed.

    Raises:
        UsageError, InputError, AssetError, DeviceError: the video or the model cannot be used.
        OutputError: a command failed; the message has its last words.
    """
    with tempfile.TemporaryDirectory(prefix="guava-aug-bench-") as scratch:
        here = WarmEngine(replace(config, output_root=Path(scratch) / "warm"))
        few, many = 1, max(3, min(max(counts), MOST_IN_PROCESS))
        log.info("one view to warm up")
        here.video(few)
        runs: dict[int, list[tuple[float, list[StageTime]]]] = {}
        for views in (few, many):
            log.info("%s in this process, %s", pluralize(views, "view"), pluralize(repeats, "time"))
            runs[views] = [here.video(views) for _ in range(repeats)]
        log.info("%s with a record of who is busy when", pluralize(many, "view"))
        intervals = here.recorded(many)
        found = here.describe()
        here.close()  # the commands want the GPU's memory

        log.info("process start and imports, %d times", STARTS)
        start = statistics.median(_seconds_of([sys.executable, "-c", IMPORTS])[0] for _ in range(STARTS))
        commands = []
        for mode in ("batch", "subprocess"):
            for views in sorted(set(counts)):
                log.info("guava-aug run --mode %s, %s", mode, pluralize(views, "view"))
                out = Path(scratch) / f"{mode}_{views}"
                commands.append(run_command(replace(config, output_root=out, mode=mode), views))
    return Measured(
        start=start,
        stages=[here.loaded, *_medians([rows for _, rows in runs[few]])],
        warm={views: statistics.median(seconds for seconds, _ in done) for views, done in runs.items()},
        commands=commands,
        intervals=intervals,
        views_recorded=many,
        **found,
    )


class WarmEngine:
    """The engine of batch mode, kept warm; every call makes a video anew."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._executor = InProcessExecutor(config)
        self._executor.check()
        self._executor.start()
        self.loaded = next(s for s in self._executor.stages.rows() if s.name == timing.MODEL_LOADING)
        self.frames = 0

    def video(self, views: int) -> tuple[float, list[StageTime]]:
        """Return wall seconds and stages of the video with so many views."""
        assert self._executor.model is not None and self.config.videos is not None
        name, difficulty = self.config.videos[0], self.config.difficulties[0]
        executor = InProcessExecutor(replace(self.config, overwrite=True), self._executor.model)
        plan = plan_views(name, [difficulty], self.config.base_seed, views)
        made = make_views(executor, name, plan)
        if made.error is not None:
            raise OutputError(f"{name}: a view could not be made: {made.error}")
        self.frames = made.records[0].frames or 0
        return made.seconds, executor.stages.rows()

    def recorded(self, views: int) -> list[Interval]:
        """Return which thread was busy when, while the video was made."""
        assert self._executor.model is not None
        with timing.recording() as found, gpu_trace(str(self._executor.model.device)) as gpu:
            self.video(views)
        return [*found, *gpu]

    def describe(self) -> dict[str, Any]:
        """Return model, sizes and peak memory."""
        from guava_aug.tracked import TrackedVideo  # noqa: PLC0415 - imports torch, which is slow

        model = self._executor.model
        assert model is not None and self.config.videos is not None
        source = TrackedVideo.open(self.config.tracked_root, self.config.videos[0]).source_at(
            model.config.feature_img_size
        )
        cuda = model.device.type == "cuda"
        return {
            "model": model.source,
            "gaussians": model.reconstruct(source).num_gaussians,
            "frames": self.frames,
            "size": model.config.image_size,
            "peak_gpu_bytes": torch.cuda.max_memory_reserved(model.device) if cuda else None,
        }

    def close(self) -> None:
        """Free the memory of the model."""
        self._executor.model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def run_command(config: RunConfig, views: int) -> Command:
    """Run `guava-aug run` on the one video of `config` with `views` views of one difficulty, and return its time.

    Raises:
        OutputError: it failed.
    """
    assert config.videos is not None
    argv = [
        sys.executable, "-m", "guava_aug", "run", "--quiet", "--mode", config.mode,
        "--tracked_root", str(config.tracked_root), "--output_root", str(config.output_root),
        "--video_list", *config.videos, "--difficulties", config.difficulties[0], "--views_per_difficulty", str(views),
        "--model_path", model_source(config), "--device", config.device, "--backend", config.backend,
        "--background", config.background, "--preset", config.preset, "--crf", str(config.crf),
    ]  # fmt: skip
    if config.guava_root is not None:
        argv += ["--guava_root", str(config.guava_root)]
    seconds, done = _seconds_of(argv)
    if done.returncode != 0:
        raise OutputError(f"guava-aug run --mode {config.mode} ended with code {done.returncode}: {_tail(done)}")
    written = json.loads(record_path(config.output_root, config.part_id).read_text(encoding="utf-8"))
    loading = sum(row["seconds"] for row in written["stages"] if row["stage"] == timing.MODEL_LOADING)
    return Command(config.mode, views, seconds, loading)


def _seconds_of(argv: Sequence[str]) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Return wall seconds and result of a command.

    It finds this package also in a checkout, and takes no share of a SLURM array.
    """
    environment = {k: v for k, v in child_environment().items() if not k.startswith("SLURM_ARRAY_")}
    begun = time.perf_counter()
    done = subprocess.run(argv, capture_output=True, text=True, encoding="utf-8", errors="replace", env=environment)
    return time.perf_counter() - begun, done


def _tail(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr or done.stdout).split())[-600:] or "it said nothing"


def _medians(runs: Sequence[Sequence[StageTime]]) -> list[StageTime]:
    """Return the median of each stage over the runs."""
    seconds = lambda name: statistics.median(r.seconds for rows in runs for r in rows if r.name == name)
    return [StageTime(row.name, seconds(row.name), row.count) for row in runs[0]]
