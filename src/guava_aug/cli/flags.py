"""The flags of `guava-aug run` and of the original script, as they are typed and explained."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from guava_aug.batch.config import DEFAULT_DIFFICULTIES, EngineName, RunConfig
from guava_aug.batch.sharding import shard_of_slurm_array
from guava_aug.cli.parsing import MaybePath, Switch
from guava_aug.errors import UsageError
from guava_aug.render.backends import Backend, Precision
from guava_aug.runtime.frame_rate import Rate, parse_rate
from guava_aug.runtime.shutdown import GRACE
from guava_aug.runtime.text_files import briefly, read_text

log = logging.getLogger(__name__)

_HEADERS = ("video", "videos", "name", "names", "video_name", "id", "video_id", "file", "filename", "path")  # of CSV

Mode = Annotated[Literal["batch", "subprocess"] | None, arg(metavar="batch|subprocess", help_behavior_hint="")]
Names = Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")]


@dataclass(frozen=True)
class Videos:
    """What to read."""

    tracked_root: Path
    """Folder that holds one folder per tracked video, as EHM-Tracker writes them."""
    video_list: Annotated[tuple[str, ...] | None, arg(metavar="NAME [NAME ...]", help_behavior_hint="")] = None
    """Names of the videos (folders below --tracked_root). A name may begin with - when there is such a folder."""
    video_list_file: MaybePath = None
    """File with one name per line; empty lines and lines that begin with # do not count."""
    shard: Annotated[str | None, arg(metavar="i/n", help_behavior_hint="")] = None
    """Only part i of n of the videos, 0/4 to 3/4, by a hash of their names. Left out: in a task of a SLURM array its
    own part, unless --part_id is given; none: all videos."""
    time_map: MaybePath = None
    """File that gives fps and source frame numbers, which the tracker does not store."""
    source_frame: Annotated[int, arg(metavar="N")] = 0
    """Number of the tracked frame (from 0) that shows the person best: the avatars are made from it."""
    accept_tracking: Switch = False
    """Render also videos whose tracking cannot be right: impossible cameras, masks far from the posed body."""


@dataclass(frozen=True)
class Views:
    """Which cameras."""

    difficulties: Names = DEFAULT_DIFFICULTIES
    """How far the camera may move: easy, medium, hard. Their number and order decide the seeds, as in the original."""
    base_seed: Annotated[int, arg(metavar="INT")] = 42
    """Another number gives other cameras."""
    views_per_difficulty: Annotated[int, arg(metavar="K")] = 1
    """Views of each difficulty; the first is the original's, the others go to {difficulty}_001 and so on."""
    keep_cameras: Switch = False
    """The list of --difficulties became longer at its end: views that are in the log keep their cameras and files, new
    ones get those of the longer list. Give it with every run of this output folder from then on."""


@dataclass(frozen=True)
class Output:
    """What to write. Videos that are complete are not made again."""

    output_root: Path
    """Folder of the results; a second run with the same command makes only what is missing."""
    overwrite: Switch = False
    """Make existing views again, also with another camera than the log says."""
    verify: Switch = False
    """Read the videos that exist and what lies beside them first, to the last byte, and make again what is damaged."""
    retries: Annotated[int, arg(metavar="K")] = 1
    """How often a view that failed is tried again at once. Bad tracked data are not: they would fail again."""
    part_id: Annotated[str | None, arg(metavar="ID", help_behavior_hint="")] = None
    """Name of this part of a cluster job: the log is augmentation_params_part_ID.json. Left out with --shard: i."""
    background: Annotated[str, arg(metavar="MODE")] = "plate"
    """plate: without the person, from other frames; original: the fill of the original; black; #rrggbb; or an image."""
    fps: Annotated[str | None, arg(metavar="FPS", help_behavior_hint="")] = None
    """Frame rate of the videos: 25, 29.97, or exactly 30000/1001. Left out: what the tracked data says, else 30."""
    crf: Annotated[int, arg(metavar="CRF")] = 10
    """x264 quality, lower is better and bigger."""
    preset: Annotated[str, arg(metavar="PRESET")] = "veryfast"
    """x264 preset, ultrafast to veryslow."""
    save_frame_png: Switch = False
    """Also write every frame as render/00000.png ..."""
    skip_frame_png: Switch = False
    """Write no PNGs (the default; for command lines of the original)."""


@dataclass(frozen=True)
class Model:
    """With which model, on which machine."""

    model_path: MaybePath = None
    """Folder or file of the GUAVA model. Left out: assets/GUAVA if it is there, else the embedded free model."""
    guava_root: MaybePath = None
    """Folder that assets/SMPLX and assets/FLAME of the model's config are relative to, if not beside --model_path."""
    device: Annotated[str, arg(metavar="ID")] = "0"
    """GPU number, cpu, or a torch device such as cuda:1. A machine without a GPU uses its CPU and says so; a GPU that
    is there, or that a scheduler gave, but cannot be used is an error."""
    require_gpu: Switch = False
    """A machine without a GPU is an error, too."""
    backend: Backend = "auto"
    """Rasteriser: auto takes the fastest that works here."""
    precision: Precision = "auto"
    """Of rendering: auto is fp16 where the fast GPU path works (within 2/255 of fp32), else fp32."""


@dataclass(frozen=True)
class Running:
    """How to run, and what to say meanwhile."""

    batch: Switch = False
    """One process does everything: the model is loaded once and each video is prepared once."""
    mode: Mode = None
    """batch, or subprocess: a fresh process per view that loads everything, as the original without --batch."""
    gpus: Annotated[str | None, arg(metavar="0,1,2,3", help_behavior_hint="")] = None
    """GPUs of this machine to use at the same time, each by a process of its own (instead of --device)."""
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Worker processes on each GPU, or with --device cpu on this machine. A worker that dies is replaced."""
    engine: Annotated[EngineName, arg(metavar="local|ray", help_behavior_hint="")] = "local"
    """ray: a worker per GPU, or without GPUs per --cpus_per_worker cores, of a Ray cluster."""
    ray_address: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="")] = None
    """Of a running Ray cluster, or auto. Left out: RAY_ADDRESS, else Ray is started on this machine."""
    cpus_per_worker: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Cores per Ray worker. Left out: with GPUs an even share of them; else 4, or all cores of a smaller machine."""
    timeout: Annotated[float | Literal["auto"] | None, arg(metavar="SECONDS|auto", help_behavior_hint="")] = None
    """Give a video up when nothing happened for so long; a number works in a worker process of its own. Left out, or
    auto: with --gpus, --workers or --engine ray after 20 times the longest step so far, at least 600 s."""
    grace: Annotated[float, arg(metavar="SECONDS")] = GRACE
    """How long views in flight may take after SIGUSR1, SIGTERM (at most 20 s; the exit code is 75) or Ctrl-C (130)."""
    views_in_flight: Annotated[int, arg(metavar="N")] = 16
    """Video files written at the same time, and the most that is lost when the process is killed."""
    frames_per_chunk: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Frames rendered at a time. Left out: 4 on a CPU, 32 on a GPU. The pictures depend on it by rounding at most."""
    quiet: Switch = False
    """Only problems and the summary."""
    verbose: Switch = False
    """Also details and tracebacks."""


@dataclass(frozen=True)
class RunFlags:
    """All flags."""

    videos: Videos
    output: Output
    views: Views
    model: Model
    running: Running

    def config(self, default_mode: Literal["batch", "subprocess"]) -> RunConfig:
        """The run these flags ask for. Raises UsageError for flags that exclude each other."""
        o, m, r = self.output, self.model, self.running
        if r.batch and r.mode == "subprocess":
            raise UsageError("--batch and --mode subprocess exclude each other; leave one out")
        if o.save_frame_png and o.skip_frame_png:
            raise UsageError("--save_frame_png and --skip_frame_png exclude each other; leave one out")
        if r.quiet and r.verbose:
            raise UsageError("--quiet and --verbose exclude each other; leave one out")
        return RunConfig(
            tracked_root=self.videos.tracked_root,
            output_root=o.output_root,
            videos=self._names(),
            difficulties=self.views.difficulties,
            base_seed=self.views.base_seed,
            views_per_difficulty=self.views.views_per_difficulty,
            keep_cameras=self.views.keep_cameras,
            overwrite=o.overwrite,
            part_id=o.part_id,
            verify=o.verify,
            retries=o.retries,
            shard=self._shard(),
            mode="batch" if r.batch else r.mode or default_mode,
            model_path=m.model_path,
            guava_root=m.guava_root,
            device=m.device,
            require_gpu=m.require_gpu,
            backend=m.backend,
            precision=m.precision,
            background=o.background,
            fps=None if o.fps is None else _rate(o.fps),
            crf=o.crf,
            preset=o.preset,
            save_frame_png=o.save_frame_png,
            time_map=self.videos.time_map,
            source_frame=self.videos.source_frame,
            accept_tracking=self.videos.accept_tracking,
            engine=r.engine,
            gpus=None if r.gpus is None else tuple(gpu.strip() for gpu in r.gpus.split(",")),
            workers=r.workers,
            timeout=None if r.timeout == "auto" else r.timeout,
            ray_address=r.ray_address,
            cpus_per_worker=r.cpus_per_worker,
            grace=r.grace,
            views_in_flight=r.views_in_flight,
            frames_per_chunk=r.frames_per_chunk,
        )

    def _shard(self) -> str | None:
        """What --shard says, else the task of a SLURM array this process belongs to."""
        given = self.videos.shard
        if given is not None:
            return None if given == "none" else given
        return self.part_of_array()

    def part_of_array(self) -> str | None:
        """The part that was chosen without being asked for: that of this task of a SLURM array."""
        if self.videos.shard is not None or self.output.part_id is not None:
            return None
        found = shard_of_slurm_array(os.environ)
        return None if found is None else str(found)

    def say_part(self) -> None:
        """Tells in the log of a part that nobody asked for."""
        if (part := self.part_of_array()) is not None:
            words = (
                "this is a task of a SLURM array: only its part of the videos is taken, --shard %s (all: --shard none)"
            )
            log.info(words, part)

    def _names(self) -> tuple[str, ...] | None:
        if self.videos.video_list == ():  # as of an unset variable of the shell
            raise UsageError("--video_list names no video; give names, or leave it out for all videos")
        if self.videos.video_list is None and self.videos.video_list_file is None:
            return None
        names = list(self.videos.video_list or ())
        if self.videos.video_list_file is not None:
            names += read_names(self.videos.video_list_file)
        return tuple(names)


def _rate(text: str) -> Rate:
    try:
        return parse_rate(text)
    except ValueError as error:
        raise UsageError(f"--fps: {error}") from None


def read_names(path: Path) -> list[str]:
    """The names in a list file: one per line, without empty lines and # comments; a byte order mark is no name.

    Raises:
        UsageError: the file cannot be read, or holds no name.
    """
    what = f"--video_list_file {path}:"
    text = read_text(path, what, UsageError)
    if (found := _other_than_list(text, path)) is not None:
        raise UsageError(f"{what} is {found}; expected one video name per line, and nothing else on it")
    lines = text.split("\n")
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise UsageError(f"--video_list_file {path}: holds no name; expected one video name per line")
    return names


def _other_than_list(text: str, path: Path) -> str | None:
    """What a file is that is no list of names, such as "a JSON list of 3"; None: it may be one."""
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return f"JSON ({briefly(json.loads(text))})"
        except (ValueError, RecursionError):  # a name may begin so
            if path.suffix.lower() == ".json":
                return "broken JSON"
    lines = [line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        return None
    for separator, name in ((",", "CSV"), (";", "CSV with semicolons"), ("\t", "a table with tabs")):
        columns = [cell.strip().strip('"').lower() for cell in lines[0].split(separator)]
        if len(columns) == 1:
            continue
        everywhere = all(separator in line for line in lines)
        if separator == "\t" or columns[0] in _HEADERS or (everywhere and path.suffix.lower() in (".csv", ".tsv")):
            return f"{name} (it begins with {lines[0][:60]!r})"
    if lines[0].strip().strip('"').lower() in _HEADERS and path.suffix.lower() == ".csv":
        return f"CSV (it begins with the header {lines[0].strip()[:60]!r})"
    return None
