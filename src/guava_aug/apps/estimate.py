"""What a run will cost, from a short measurement of one of its videos and the counted frames of all."""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from guava_aug.apps.benchmark.clips import clip_of_length
from guava_aug.apps.timed_views import make_views
from guava_aug.avatar.model import GuavaModel
from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.in_process import DedupLogFilter, InProcessExecutor
from guava_aug.batch.plan import refused_name, unique_names
from guava_aug.batch.sharding import Shard
from guava_aug.errors import AssetError, DeviceError, InputError, OutputError, UsageError
from guava_aug.output.tree import video_path
from guava_aug.runtime.files import is_there
from guava_aug.runtime.text import in_short, pluralize
from guava_aug.tracked import TrackedVideo, layout, scan_videos
from guava_aug.views import View, plan_views

log = logging.getLogger(__name__)

VIDEOS_TRIED = 5  # to measure one that can be read


@dataclass(frozen=True)
class Amount:
    """What a video has to be made for."""

    name: str
    frames: int
    views: int  # that are not there


@dataclass(frozen=True)
class Rates:
    """What was measured. Seconds of one worker."""

    start: float  # once per process: the model
    per_video: float  # reconstruction, background, opening and verifying files
    per_frame: float  # reading and posing, for each group of views in flight
    per_view_frame: float  # rendering and encoding
    bytes_per_view_frame: float  # of all files
    video: str
    seconds: float  # that the measurement took
    device: str
    gpu_bytes: int | None  # peak; None: no GPU
    host_bytes: int | None  # peak of the process; None: not known here

    def seconds_of(self, video: Amount, views_in_flight: int) -> float:
        """Return seconds that one worker needs for a video."""
        groups = -(-video.views // views_in_flight)
        frames = video.frames * (groups * self.per_frame + video.views * self.per_view_frame)
        return self.per_video + frames if video.views else 0.0


def amounts(config: RunConfig) -> tuple[list[Amount], list[str]]:
    """Return what there is to make, and the videos that cannot be read. Looks at names and at `videos_info.json` only.

    Raises:
        UsageError: no video.
    """
    if config.videos is None:
        names, _, incomplete = scan_videos(config.tracked_root)
        if not names:
            raise UsageError(layout.why_no_videos(config.tracked_root))
        names = sorted([*names, *incomplete])
    else:
        names = layout.real_names(config.tracked_root, unique_names(config.videos))
    if config.shard is not None:
        names = Shard.parse(config.shard).select(names)
    found: list[Amount] = []
    bad: list[str] = []
    for name in names:
        try:
            if refused_name(name) is not None:
                raise InputError(name)
            frames = len(layout.find_video(config.tracked_root, name).frame_keys)
        except Exception as error:  # whatever it is: it is this video's
            log.debug("%s: %s", name, error, exc_info=not isinstance(error, InputError))
            bad.append(name)
            continue
        views = _views(config, name)
        if not config.overwrite:
            views = [v for v in views if not _is_made(video_path(config.output_root, v.label, name))]
        found.append(Amount(name, frames, len(views)))
    return found, bad


def _is_made(path: Path) -> bool:
    try:
        return is_there(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be looked at: {error.strerror or error}; see to --output_root") from error


def measure(config: RunConfig, todo: Sequence[Amount], frames: int | None = None) -> Rates:
    """Make some frames of a video of median length, as the run will, in a temporary folder; return the rates.

    frames: of the longer of two clips; None: two chunks.

    Raises:
        AssetError, DeviceError: as the run. InputError: none of the videos that were tried can be used.
    """
    begun = time.perf_counter()
    if config.personalize != "off":
        log.warning("the fits of avatars (--personalize) are not counted; guava-aug personalize tells what one takes")
    with tempfile.TemporaryDirectory(prefix="guava-aug-estimate-") as folder:
        scratch = Path(folder)
        executor = InProcessExecutor(config)
        executor.check()
        executor.start()
        start = time.perf_counter() - begun
        model = executor.model
        assert model is not None
        chunk = config.chunk_length(str(model.device))
        many = max(2, frames or 2 * chunk)
        lengths = {"few": max(1, many // 2), "many": many}
        tried = []
        for amount in _nearest_to_median(todo):
            try:
                _cut(config, amount.name, lengths, scratch)
                log.info("measuring with %s and %d of %s", pluralize(lengths["few"], "frame"), many, amount.name)
                found = _measured(config, amount.name, lengths, scratch, model)
                break
            except (UsageError, AssetError, DeviceError):  # would be so with every video
                raise
            except Exception as error:
                log.debug("%s cannot be measured", amount.name, exc_info=True)
                reason = str(error) if isinstance(error, (InputError, OutputError)) else in_short(error)
                for length in lengths:  # what is said is of a video the user has
                    reason = reason.replace(str(scratch / length), str(config.tracked_root))
                log.warning("%s cannot be measured: %s", amount.name, reason)
                tried.append(amount.name)
        else:
            raise InputError(f"none of {', '.join(tried)} can be measured; see `guava-aug check`")
        cuda = str(model.device).startswith("cuda")
        return Rates(
            **found,
            start=start,
            video=amount.name,
            seconds=time.perf_counter() - begun,
            device=torch.cuda.get_device_name(model.device) if cuda else "CPU",
            gpu_bytes=torch.cuda.max_memory_reserved(model.device) if cuda else None,
            host_bytes=_peak_memory(),
        )


def _measured(
    config: RunConfig, name: str, lengths: Mapping[str, int], scratch: Path, model: GuavaModel
) -> dict[str, float]:
    """Return the rates measured on clips of a video in folders of `scratch`."""
    few, many = lengths["few"], lengths["many"]
    views = _views(config, name)
    one, more = views[:1], views[: max(2, min(3, len(views)))]
    if len(more) == 1:  # a run of one view
        more = plan_views(name, config.difficulties, config.base_seed, 2)[:2]

    def seconds(length: str, views: Sequence[View]) -> tuple[float, int]:
        clips = replace(config, tracked_root=scratch / length, output_root=scratch / length / "out")
        return _make(clips, name, views, model)

    with DedupLogFilter().of(name):
        seconds("few", more)  # kernels are compiled, a GPU's launches recorded, files are in the cache
        (few_more, _), (many_more, size), (many_one, _) = (
            seconds("few", more),
            seconds("many", more),
            seconds("many", one),
        )
    per_view_frame = max((many_more - many_one) / (len(more) - 1) / many, 0.0)
    slope = max((many_more - few_more) / (many - few), len(more) * per_view_frame)
    return {
        "per_video": max(many_more - many * slope, 0.0),
        "per_frame": slope - len(more) * per_view_frame,
        "per_view_frame": per_view_frame,
        "bytes_per_view_frame": size / (many * len(more)),
    }


def _views(config: RunConfig, name: str) -> list[View]:
    return plan_views(name, config.difficulties, config.base_seed, config.views_per_difficulty)


def _nearest_to_median(todo: Sequence[Amount]) -> list[Amount]:
    """Return the few videos that are tried, best first."""
    middle = statistics.median(video.frames for video in todo)
    return sorted(todo, key=lambda video: abs(video.frames - middle))[:VIDEOS_TRIED]


def _cut(config: RunConfig, name: str, lengths: Mapping[str, int], scratch: Path) -> None:
    """Make clips of a video in folders of `scratch`. Its own frames are looked at, as those of clips are renamed."""
    first = config.source_frame  # the clips' frame 0
    video = TrackedVideo.open(config.tracked_root, name, source_frame=first)
    for index in range(min(video.num_frames, max(lengths.values()))):
        video.read_frame((first + index) % video.num_frames)
    cut = partial(clip_of_length, first=first) if first else clip_of_length
    for length, frames in lengths.items():
        cut(config.tracked_root, name, frames, scratch / length)


def _make(config: RunConfig, name: str, views: Sequence[View], model: GuavaModel) -> tuple[float, int]:
    """Return seconds that views of a clip take, and the bytes of their files."""
    plain = replace(config, overwrite=True, time_map=None, source_frame=0, personalize="off")  # `measure` says so
    executor = InProcessExecutor(plain, model)
    made = make_views(executor, name, views)
    if made.error is not None:
        raise InputError(f"the measurement failed: {made.error}")
    size = 0
    for view in views:
        folder = video_path(config.output_root, view.label, name).parent
        size += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return made.seconds, size


def _peak_memory() -> int | None:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration, ValueError):
        return None


def to_json(rates: Rates, totals: Mapping[str, object]) -> str:
    """Return everything as one JSON object."""
    return json.dumps({**totals, "measured": rates.__dict__}, indent=2)
