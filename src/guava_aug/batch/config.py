"""The configuration of a run: one frozen record, the same for the command line, for Python and in a file.

A field of `RunConfig` is all that an option needs: with its help, its group on the command line and its checks. Flags,
workers, `retry`, configuration files and the reference of all flags follow; see `batch.options`. Every run saves its
flags beside its outputs; `guava-aug run --config FILE` reads them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from guava_aug.avatar.config import EMBEDDED
from guava_aug.batch.options import option, options_of
from guava_aug.batch.sharding import Shard
from guava_aug.errors import OutputError, UsageError
from guava_aug.output.sinks import OutputSettings
from guava_aug.output.tree import RUN_FOLDER
from guava_aug.render.backends import Backend, Precision
from guava_aug.runtime.atomic import atomic_write
from guava_aug.runtime.files import read_text
from guava_aug.runtime.frame_rate import Rate, check_rate, parse_rate
from guava_aug.runtime.shutdown import GRACE
from guava_aug.runtime.text import briefly, one_line
from guava_aug.runtime.version import __version__
from guava_aug.tracked.report import Quality

EngineName = Literal["local", "ray"]
PersonalizeName = Literal["off", "fast", "full", "auto"]
DEFAULT_DIFFICULTIES = ("easy", "medium", "hard")
DEFAULT_MODEL_PATH = Path("assets/GUAVA")
DEFAULT_FPS = 30.0  # the original's, whatever the source's rate
MOST_BASE_SEED = 1 << 62  # seeds must fit into 64 bits with a sign
FRAMES_PER_CHUNK_CPU = 4
FRAMES_PER_CHUNK_GPU = 32

COUNT: dict[str, Any] = {"metavar": "N", "valid": lambda n: n >= 1, "expected": "1 or more"}


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run. Paths are relative to the caller's working directory."""

    tracked_root: Path = field(metadata=option(
        "Folder that holds one folder per tracked video, as EHM-Tracker writes them.", "common", metavar="PATH",
    ))  # fmt: skip
    output_root: Path = field(metadata=option(
        "Folder of the results; a second run with the same command makes only what is missing.",
        "common", metavar="PATH",
    ))  # fmt: skip
    videos: tuple[str, ...] | None = field(default=None, metadata=option(  # directory names below tracked_root
        "Names of the videos (folders below --tracked_root), also as one list with commas. A name may begin with - "
        "when there is such a folder. Default: all of them.",
        "common", metavar="NAME [NAME ...]", flag="video_list", one_run=True,
    ))  # fmt: skip
    difficulties: tuple[str, ...] = field(default=DEFAULT_DIFFICULTIES, metadata=option(
        "Ranges of the camera: easy, medium, hard. Their number and order decide the seeds, as in the original.",
        "common", metavar="NAME [NAME ...]",
    ))  # fmt: skip
    base_seed: int = field(default=42, metadata=option(
        "Seed of the cameras.", "view", metavar="INT",
        valid=lambda n: -MOST_BASE_SEED <= n <= MOST_BASE_SEED,
        expected=f"at most {MOST_BASE_SEED}, with either sign",
    ))  # fmt: skip
    views_per_difficulty: int = field(default=1, metadata=option(
        "Views of each difficulty; the first is the original's, the others go to {difficulty}_001 and so on.",
        "common", metavar="K",
    ))  # fmt: skip
    keep_cameras: bool = field(default=False, metadata=option(
        "When --difficulties was extended at its end: views in the log keep their cameras and files, new ones get "
        "those of the longer list. Give it with every later run of this output folder.",
        "view",
    ))  # fmt: skip
    overwrite: bool = field(default=False, metadata=option(
        "Render existing views again, also with another camera than in the log.", "common", one_run=True,
    ))  # fmt: skip
    part_id: str | None = field(default=None, metadata=option(  # None with a shard: its index
        "Name of this part of a cluster job: the log is augmentation_params_part_ID.json. Default with --shard: i.",
        "output", metavar="ID",
    ))  # fmt: skip
    shard: str | None = field(default=None, metadata=option(
        "Only part i of n of the videos, 0/4 to 3/4, by a hash of their names. Default: in a task of a SLURM array "
        "its own part, unless --part_id is given; none: all videos.",
        "input", metavar="i/n", auto="none", one_run=True,
    ))  # fmt: skip
    limit: int | None = field(default=None, metadata=option(
        "Only the first N videos with views to render; the others are left for another run.",
        "input", one_run=True, **COUNT,
    ))  # fmt: skip
    retries: int = field(default=1, metadata=option(
        "How often a failed view is tried again at once; views of bad tracked data are not.",
        "execution", metavar="K", valid=lambda n: n >= 0, expected="0 or more",
    ))  # fmt: skip
    verify: bool = field(default=False, metadata=option(
        "Read existing videos and their other files completely, and render damaged views again.",
        "output", one_run=True,
    ))  # fmt: skip
    mode: Literal["batch", "subprocess"] = field(default="batch", metadata=option(
        "batch, or subprocess: a new process per view that loads everything, as the original without --batch.",
        "execution", metavar="batch|subprocess", show_default=False,
    ))  # fmt: skip
    engine: EngineName = field(default="local", metadata=option(
        "ray: a worker per GPU, or without GPUs per --cpus_per_worker cores, of a Ray cluster.",
        "execution", metavar="local|ray",
    ))  # fmt: skip
    gpus: tuple[str, ...] | None = field(default=None, metadata=option(  # numbers among the visible GPUs, or UUIDs
        "GPUs of this machine to use at the same time, one process each (instead of --device).",
        "common", metavar="0,1,2,3", joined=True,
    ))  # fmt: skip
    workers: int | None = field(default=None, metadata=option(  # None: 1, and none without `gpus`
        "Worker processes on each GPU, or with --device cpu on this machine. A worker that dies is replaced.",
        "execution", **COUNT,
    ))  # fmt: skip
    timeout: float | None = field(default=None, metadata=option(  # None: by what was measured
        "Abort a video after this time without progress; a number starts a worker process. Default, or auto: with "
        "--gpus, --workers or --engine ray 20 times the longest step so far, at least 600 s.",
        "execution", metavar="SECONDS|auto", auto="auto",
        valid=lambda t: 0 < t < float("inf"), expected="seconds, more than 0",
    ))  # fmt: skip
    ray_address: str | None = field(default=None, metadata=option(
        "Address of a running Ray cluster, or auto. Default: RAY_ADDRESS, else Ray is started on this machine.",
        "execution", metavar="ADDRESS",
    ))  # fmt: skip
    cpus_per_worker: int | None = field(default=None, metadata=option(
        "CPU cores per Ray worker. Default: with GPUs an even share; else 4, or all cores of a smaller machine.",
        "execution", **COUNT,
    ))  # fmt: skip

    model_path: Path | None = field(default=None, metadata=option(
        "Folder or file of the GUAVA model. Default: assets/GUAVA if it exists, else the embedded free model.",
        "common", metavar="PATH", no_path=EMBEDDED,
    ))  # fmt: skip
    guava_root: Path | None = field(default=None, metadata=option(
        "Folder that assets/SMPLX and assets/FLAME of the model's config are relative to, if not beside "
        "--model_path.",
        "model", metavar="PATH",
    ))  # fmt: skip
    device: str = field(default="0", metadata=option(
        "GPU number, cpu, or a torch device such as cuda:1. A machine without a GPU uses its CPU with a message; a "
        "GPU of the machine, or from a scheduler, that cannot be used is an error.",
        "common", metavar="ID",
    ))  # fmt: skip
    require_gpu: bool = field(default=False, metadata=option("Fail on a machine without a GPU.", "model"))
    backend: Backend = field(default="auto", metadata=option(
        "Rasteriser; auto: the fastest available.", "model",
    ))  # fmt: skip
    precision: Precision = field(default="auto", metadata=option(
        "Precision of rendering; auto: fp16 where the fast GPU path works (within 2/255 of fp32), else fp32.", "model",
    ))  # fmt: skip

    personalize: PersonalizeName = field(default="off", metadata=option(
        "Fit the avatar of each video to the video's own frames before its first view: the person's own face and "
        "clothes. fast: 100 steps; full: 250; auto: as the views that are there, else full on a GPU and off on a CPU "
        "(of this machine, also with --engine ray: give full where only its workers have GPUs).",
        "model", metavar="off|fast|full|auto", in_0_1_0="off",
    ))  # fmt: skip
    avatar_root: Path | None = field(default=None, metadata=option(
        "Folder of the fitted avatars, which hold the likeness of persons and, with official weights, licensed data. "
        "Default: OUTPUT_ROOT/.guava-aug/avatars.",
        "model", metavar="PATH",
    ))  # fmt: skip

    background: str = field(default="plate", metadata=option(
        "plate: without the person, from other frames; original: the fill of the original; black; #rrggbb; or an "
        "image.",
        "common", metavar="MODE", maybe_path=True,
    ))  # fmt: skip
    fps: Rate | None = field(default=None, metadata=option(  # also as text, "30000/1001"
        "Frame rate of the videos: 25, 29.97, or exactly 30000/1001. Default: that of the tracked data, else 30.",
        "output", metavar="FPS", parse=parse_rate,
    ))  # fmt: skip
    crf: int = field(default=10, metadata=option(
        "x264 quality; lower is better and larger.", "output", metavar="CRF",
        valid=lambda n: 0 <= n <= 51, expected="0 (lossless) to 51 (worst)",
    ))  # fmt: skip
    preset: str = field(default="veryfast", metadata=option(
        "x264 preset, ultrafast to veryslow.", "output", metavar="PRESET",
    ))  # fmt: skip
    audio: Literal["copy", "none"] = field(default="copy", metadata=option(
        "copy: the sound of clips that have it (those of guava-aug track) is in the videos of their views.",
        "output", metavar="copy|none",
    ))  # fmt: skip
    save_frame_png: bool = field(default=False, metadata=option(
        "Also write every frame as render/00000.png ...", "output",
    ))  # fmt: skip
    sinks: tuple[str, ...] = field(default=(), metadata=option(  # see `output.sinks`
        "Further kinds of files to write per view besides the MP4, such as png. An unknown name lists them.",
        "output", metavar="NAME [NAME ...]",
    ))  # fmt: skip
    time_map: Path | None = field(default=None, metadata=option(
        "File with fps and source frame numbers, which the tracker does not store.", "input", metavar="PATH",
    ))  # fmt: skip
    source_frame: int = field(default=0, metadata=option(
        "Number of the tracked frame (from 0) that the avatar is reconstructed from.",
        "input", metavar="N", in_0_1_0=0,
        valid=lambda n: n >= 0, expected="the number of a frame, 0 or more",
    ))  # fmt: skip
    accept_tracking: bool = field(default=False, metadata=option(
        "Also render videos with implausible tracking: impossible cameras, masks far from the posed body.",
        "input",
    ))  # fmt: skip
    min_tracking: Quality | None = field(default=None, metadata=option(
        "Render only clips whose tracking is at least so good, as their tracking.json says; clips of other trackers "
        "have none and are rendered.",
        "input", metavar="poor|fair|good",
    ))  # fmt: skip

    grace: float = field(default=GRACE, metadata=option(
        "Time for views in progress to finish after SIGUSR1, SIGTERM (at most 20 s; exit code 75) or Ctrl-C (130).",
        "execution", metavar="SECONDS", valid=lambda t: 0 <= t < float("inf"), expected="seconds, 0 or more",
    ))  # fmt: skip
    views_in_flight: int = field(default=16, metadata=option(
        "Videos written at the same time, which is also the most that is lost when the process is killed.",
        "execution", **COUNT,
    ))  # fmt: skip
    frames_per_chunk: int | None = field(default=None, metadata=option(
        "Frames rendered at a time. Default: 4 on a CPU, 32 on a GPU. It changes pixels by rounding at most.",
        "execution", **COUNT,
    ))  # fmt: skip

    def __post_init__(self) -> None:
        """Check all values that can be checked without files.

        Raises:
            UsageError: Names the flag, its value, and what is expected.
        """
        for declared in options_of(type(self)):
            declared.check(getattr(self, declared.name))
        if self.fps is not None:
            try:
                fps = parse_rate(self.fps) if isinstance(self.fps, str) else self.fps
                check_rate(fps)
            except ValueError as error:
                raise UsageError(f"--fps: {error}") from None
            object.__setattr__(self, "fps", fps)
        self._check_workers()
        if self.shard is not None:
            index = Shard.parse(self.shard).index
            if self.part_id is None:  # parts of one job must not share a log
                object.__setattr__(self, "part_id", str(index))
        check_part_id(self.part_id)

    def _check_workers(self) -> None:
        check_worker_flags(self)
        if self.mode == "subprocess" and (self.has_workers or self.engine != "local"):
            raise UsageError("--mode subprocess excludes --engine, --gpus, --workers and --timeout; leave it out")

    @property
    def all_sinks(self) -> tuple[str, ...]:
        """Return the sinks of each view."""
        return tuple(dict.fromkeys(("mp4", *(("png",) if self.save_frame_png else ()), *self.sinks)))

    @property
    def has_workers(self) -> bool:
        """Return whether worker processes are requested."""
        return self.engine == "ray" or any(x is not None for x in (self.gpus, self.workers, self.timeout))

    @property
    def avatars(self) -> Path:
        """Return the folder of the fitted avatars."""
        return self.output_root / RUN_FOLDER / "avatars" if self.avatar_root is None else self.avatar_root

    @property
    def output(self) -> OutputSettings:
        """Return the settings of the output files."""
        return OutputSettings(self.output_root, self.overwrite, self.all_sinks, self.crf, self.preset)

    def chunk_length(self, device: str) -> int:
        """Return the number of frames posed and rendered at a time on `device`."""
        if self.frames_per_chunk is not None:
            return self.frames_per_chunk
        return FRAMES_PER_CHUNK_GPU if device.startswith("cuda") else FRAMES_PER_CHUNK_CPU

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as the run record and the child processes of `subprocess` mode get them."""
        return {declared.name: declared.plain(getattr(self, declared.name)) for declared in options_of(type(self))}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunConfig:
        """Return the record that `to_json` was made from (also after a trip through JSON text).

        Raises:
            TypeError: a value is not of its field's type, or there is no such field.
            UsageError: as when it is made.
        """
        values = json.loads(json.dumps(values))
        known = {declared.name: declared for declared in options_of(cls)}
        for name, value in values.items():
            if name not in known:
                raise TypeError(f"RunConfig: {name} cannot be {value!r:.100}")
            try:
                values[name] = known[name].from_plain(value)
            except TypeError as error:
                raise TypeError(f"RunConfig: {error}") from None
        return cls(**values)


class WorkerFlags(Protocol):
    """The options of worker processes, common to every kind of work."""

    @property
    def device(self) -> str: ...  # noqa: D102 - as the fields of `RunConfig`
    @property
    def require_gpu(self) -> bool: ...  # noqa: D102
    @property
    def gpus(self) -> tuple[str, ...] | None: ...  # noqa: D102
    @property
    def engine(self) -> EngineName: ...  # noqa: D102
    @property
    def ray_address(self) -> str | None: ...  # noqa: D102
    @property
    def cpus_per_worker(self) -> int | None: ...  # noqa: D102


def check_worker_flags(config: WorkerFlags) -> None:
    """Raise UsageError for options that exclude each other."""
    if config.require_gpu and config.device.strip().lower() == "cpu":
        raise UsageError("--require_gpu and --device cpu exclude each other; leave one out")
    gpus = config.gpus
    if gpus is not None and (len(set(gpus)) < len(gpus) or not all(gpus) or not gpus):
        raise UsageError(f"--gpus is {','.join(gpus)!r}; expected different GPUs, such as 0,1,2,3")
    if config.engine == "ray" and gpus is not None:
        raise UsageError("--engine ray finds its GPUs itself; leave out --gpus")
    if config.engine != "ray" and (config.ray_address is not None or config.cpus_per_worker is not None):
        raise UsageError("--ray_address and --cpus_per_worker belong to --engine ray")


def check_part_id(part_id: str | None) -> None:
    """Raise UsageError for the name of a part that cannot be in a file's name."""
    if part_id is not None and (not part_id or set(part_id) & set("/\\\0") or ".." in part_id):
        raise UsageError(f"--part_id is {part_id!r}; expected a number or a word for a file name")


def saved_config_path(output_root: Path, part_id: str | None) -> Path:
    """Return where the configuration of the latest run lies; each part of a cluster job has its own."""
    return output_root / RUN_FOLDER / ("run_config.yaml" if part_id is None else f"run_config_part_{part_id}.yaml")


def save_config(config: RunConfig) -> Path:
    """Write all flags of a run beside its outputs, so that `--config` gives the same run, from whatever folder.

    Raises:
        OutputError: the folder or the file cannot be written.
    """
    values: dict[str, Any] = {}
    for declared in options_of(type(config)):
        value = getattr(config, declared.name)
        if declared.names_path(value):
            value = os.path.abspath(value)
        values[declared.flag] = declared.plain(value)
    if config.shard is not None and config.part_id == str(Shard.parse(config.shard).index):
        values["part_id"] = None  # follows from the shard
    path = saved_config_path(config.output_root, config.part_id)
    head = f"# Flags of a run of guava-aug {__version__}; again: guava-aug run --config FILE (null: left out)\n"
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if not all(c.isprintable() or c == "\n" for c in text):  # YAML's own escapes, of all that is not ASCII
        text = yaml.safe_dump(values, sort_keys=False)
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(head + text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: the configuration cannot be saved ({error.strerror or error})") from error
    return path


def read_config(path: Path) -> dict[str, Any]:
    """Return the values of a configuration file by the names of flags, with _; what is null is left out.

    YAML, or by its suffix TOML.

    Raises:
        UsageError: it cannot be read, or is no table of flags.
    """
    what = f"--config {path}:"
    text = read_text(path, what, UsageError)
    if path.suffix.lower() == ".toml":
        values = _toml(text, what)
    else:
        try:
            values = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UsageError(f"{what} is no YAML ({one_line(error)})") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UsageError(f"{what} expected flags and values, such as crf: 18, found {briefly(values)}")
    flags: dict[str, Any] = {}
    for key, value in values.items():
        name = key.removeprefix("--").replace("-", "_")
        if name in flags:
            raise UsageError(f"{what} {name} is given twice")
        flags[name] = value
    return {name: value for name, value in flags.items() if value is not None}


def _toml(text: str, what: str) -> Any:
    try:
        import tomllib  # late: of Python 3.11 and later  # noqa: PLC0415 - slow to load, and not always needed
    except ModuleNotFoundError:
        raise UsageError(f"{what} TOML needs Python 3.11 or later; write the same flags as YAML (crf: 18)") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is no TOML ({one_line(error)})") from error
