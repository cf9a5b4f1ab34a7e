"""What a run is asked to do: one frozen record, the same for the command line and for Python."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from guava_aug.batch.sharding import Shard
from guava_aug.errors import UsageError
from guava_aug.render.backends import Backend, Precision
from guava_aug.runtime.frame_rate import Rate, check_rate, parse_rate
from guava_aug.runtime.shutdown import GRACE

if TYPE_CHECKING:
    from guava_aug.output.settings import OutputSettings

EngineName = Literal["local", "ray"]
DEFAULT_DIFFICULTIES = ("easy", "medium", "hard")
DEFAULT_MODEL_PATH = Path("assets/GUAVA")
DEFAULT_FPS = 30.0  # the original's, whatever the source's rate
MOST_BASE_SEED = 1 << 62
FRAMES_PER_CHUNK_CPU = 4
FRAMES_PER_CHUNK_GPU = 32


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run. Paths are relative to the caller's working directory."""

    tracked_root: Path
    output_root: Path
    videos: tuple[str, ...] | None = None  # directory names below tracked_root; None: all of them
    difficulties: tuple[str, ...] = DEFAULT_DIFFICULTIES  # number and order decide the seeds
    base_seed: int = 42
    views_per_difficulty: int = 1
    keep_cameras: bool = False  # logged views keep their cameras when `difficulties` became longer at its end
    overwrite: bool = False  # make existing views again, also with another camera
    part_id: str | None = None  # names the parameter log of this part of a cluster job; None with a shard: its index
    shard: str | None = None  # "i/n": only the videos of part i (from 0) of n, by a hash of their names
    retries: int = 1  # times that a failed view is tried again within the run
    verify: bool = False  # decode what exists, and make again what does not decode
    mode: Literal["batch", "subprocess"] = "batch"
    engine: EngineName = "local"  # who runs the worker processes, if there are any
    gpus: tuple[str, ...] | None = None  # a worker process on each: numbers among the visible GPUs, or UUIDs
    workers: int | None = None  # worker processes on each GPU, or on the device; None: 1, and none without `gpus`
    timeout: float | None = None  # seconds without a sign of life until a worker is ended; None: by what was measured
    ray_address: str | None = None  # of a running cluster; None: the environment's, else a new one on this machine
    cpus_per_worker: int | None = None  # of a Ray actor; None: all, shared evenly

    model_path: Path | None = None  # None: assets/GUAVA if it is there, else the embedded default
    guava_root: Path | None = None  # where the config's assets/SMPLX and assets/FLAME are relative to
    device: str = "0"  # GPU id, "cpu" or a torch device
    require_gpu: bool = False  # a machine without a GPU is an error, too
    backend: Backend = "auto"  # rasteriser
    precision: Precision = "auto"  # auto: fp16 where the fast GPU path runs

    background: str = "plate"  # the clean plate; "original", "black", "#rrggbb" or a file
    fps: Rate | None = None  # None: what the tracked data says, else 30; also as text, "30000/1001"
    crf: int = 10
    preset: str = "veryfast"
    save_frame_png: bool = False
    time_map: Path | None = None
    source_frame: int = 0  # number of the tracked frame (from 0) that avatars are made from
    accept_tracking: bool = False  # also render videos whose tracking cannot be right

    grace: float = GRACE  # seconds that views in flight may take when the run is asked to end
    views_in_flight: int = 16  # writers open at once
    frames_per_chunk: int | None = None  # None: 4 on the CPU, 32 on a GPU

    def __post_init__(self) -> None:
        """Refuses what makes no sense whatever the files are.

        Raises:
            UsageError: names the flag, what was given, and what would do.
        """
        for flag in ("views_in_flight", "frames_per_chunk", "workers", "cpus_per_worker"):
            value = getattr(self, flag)
            if value is not None and value < 1:
                raise UsageError(f"--{flag} is {value}; expected 1 or more")
        if not 0 <= self.grace < float("inf"):
            raise UsageError(f"--grace is {self.grace:g}; expected seconds, 0 or more")
        if self.retries < 0:
            raise UsageError(f"--retries is {self.retries}; expected 0 or more")
        if not 0 <= self.crf <= 51:
            raise UsageError(f"--crf is {self.crf}; expected 0 (lossless) to 51 (worst)")
        if self.source_frame < 0:
            raise UsageError(f"--source_frame is {self.source_frame}; expected the number of a frame, 0 or more")
        if not -MOST_BASE_SEED <= self.base_seed <= MOST_BASE_SEED:  # seeds must fit into 64 bits with a sign
            raise UsageError(f"--base_seed is {self.base_seed}; expected at most {MOST_BASE_SEED}, with either sign")
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
        if self.part_id is not None and (not self.part_id or set(self.part_id) & set("/\\\0") or ".." in self.part_id):
            raise UsageError(f"--part_id is {self.part_id!r}; expected a number or a word for a file name")

    def _check_workers(self) -> None:
        if self.require_gpu and self.device.strip().lower() == "cpu":
            raise UsageError("--require_gpu and --device cpu exclude each other; leave one out")
        if self.timeout is not None and not 0 < self.timeout < float("inf"):
            raise UsageError(f"--timeout is {self.timeout:g}; expected seconds, more than 0")
        if self.gpus is not None and (len(set(self.gpus)) < len(self.gpus) or not all(self.gpus) or not self.gpus):
            raise UsageError(f"--gpus is {','.join(self.gpus)!r}; expected different GPUs, such as 0,1,2,3")
        if self.mode == "subprocess" and (self.has_workers or self.engine != "local"):
            raise UsageError("--mode subprocess excludes --engine, --gpus, --workers and --timeout; leave it out")
        if self.engine == "ray" and self.gpus is not None:
            raise UsageError("--engine ray finds its GPUs itself; leave out --gpus")
        if self.engine != "ray" and (self.ray_address is not None or self.cpus_per_worker is not None):
            raise UsageError("--ray_address and --cpus_per_worker belong to --engine ray")

    @property
    def has_workers(self) -> bool:
        """Whether worker processes are asked for."""
        return self.engine == "ray" or any(x is not None for x in (self.gpus, self.workers, self.timeout))

    @property
    def output(self) -> OutputSettings:
        """What of it concerns the files of views."""
        from guava_aug.output.settings import OutputSettings  # late: its package loads the encoders

        return OutputSettings(self.output_root, self.overwrite, self.save_frame_png, self.crf, self.preset)

    def chunk_length(self, device: str) -> int:
        """Frames posed and rendered at a time on `device`."""
        if self.frames_per_chunk is not None:
            return self.frames_per_chunk
        return FRAMES_PER_CHUNK_GPU if device.startswith("cuda") else FRAMES_PER_CHUNK_CPU

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the run record and the child processes of `subprocess` mode get them."""
        plain = (Path, Fraction)  # a frame rate as "30000/1001"
        return {
            f.name: str(v) if isinstance(v := getattr(self, f.name), plain) else v for f in dataclasses.fields(self)
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunConfig:
        """The record that `to_json` was made from (also after a trip through JSON text).

        Raises:
            TypeError: a value is not of its field's type, or there is no such field.
            UsageError: as when it is made.
        """
        values = json.loads(json.dumps(values))
        for name in ("tracked_root", "output_root", "model_path", "guava_root", "time_map"):
            if values.get(name) is not None:
                values[name] = Path(values[name])
        for name in ("videos", "difficulties", "gpus"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        kinds = get_type_hints(cls)
        for name, value in values.items():
            if name not in kinds or not _fits(value, kinds[name]):
                raise TypeError(f"RunConfig: {name} cannot be {value!r:.100}")
        return cls(**values)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, args[0]) for item in value)
    if args:  # a union
        return any(_fits(value, one) for one in args)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind if kind in (int, bool, str) else isinstance(value, kind)
