"""`guava-aug estimate`: time, disk and GPU memory of a run before it starts."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from guava_aug.cli.exit_codes import OK, SOME_FAILED, catch_sigterm
from guava_aug.cli.flags import POSITIONALS, RunFlags, expand
from guava_aug.cli.parsing import Switch, parse
from guava_aug.cli.streams import say
from guava_aug.errors import UsageError
from guava_aug.runtime.cpus import keep_freed_memory
from guava_aug.runtime.files import nearest_existing
from guava_aug.runtime.text import pluralize

if TYPE_CHECKING:
    from guava_aug.apps.estimate import Rates

DESCRIPTION = """\
Estimate the time, the disk and the GPU memory of a run.

Takes the flags of `guava-aug run`. Counts the frames of all videos and the missing views, and renders a few frames of
a video of median length in a temporary folder: run it on the machine of the job. Exit code 3 when the disk is too
small.
"""

EXAMPLES = """\
examples:
  guava-aug estimate tracked augmented
  guava-aug estimate tracked augmented --views_per_difficulty 10 --shards 64
  srun --gres gpu:1 guava-aug estimate tracked augmented --shards 64
"""

GIB = 2**30


@dataclass(frozen=True)
class EstimateFlags:
    """Flags of estimate; the others are those of `guava-aug run`."""

    run: Annotated[RunFlags, arg(name="")]
    shards: Annotated[int, arg(metavar="N")] = 1
    """Number of parts of the job (as `guava-aug slurm --array N`)."""
    sample_frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Frames to measure with. Default: two chunks."""
    json: Switch = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> int:
    """Return 0; 3 when the free disk is less than what is needed."""
    prog = "guava-aug estimate"
    flags = parse(EstimateFlags, expand(EstimateFlags, argv, prog), prog, DESCRIPTION, EXAMPLES, POSITIONALS)
    if flags.shards < 1 or (flags.sample_frames or 1) < 1:
        raise UsageError("--shards and --sample_frames are counts of 1 or more")
    config = flags.run.config("batch")
    if config.mode == "subprocess":
        raise UsageError("--mode subprocess cannot be estimated; `guava-aug bench` compares both modes")
    catch_sigterm()
    keep_freed_memory()
    from guava_aug.apps.estimate import amounts, measure, to_json
    from guava_aug.batch.sharding import number_of
    from guava_aug.cli.terminal import speaking

    with speaking(flags.run["quiet"], flags.run["verbose"]):
        flags.run.say_part()
        videos, bad = amounts(config)
        todo = [video for video in videos if video.views][: config.limit]
        if not todo:
            if flags.json:
                print(json.dumps({"videos": 0, "videos_unreadable": len(bad), "views": 0, "hours": 0.0}, indent=2))
            else:
                say(f"nothing is left to make of {pluralize(len(videos), 'video')}{_unreadable(bad)}")
            return OK
        with _quiet_rendering(flags.run["verbose"]):
            rates = measure(config, todo, flags.sample_frames)

    parts = [0.0] * flags.shards
    for video in todo:
        parts[number_of(video.name) % flags.shards] += rates.seconds_of(video, config.views_in_flight)
    hours = [(seconds + rates.start) / 3600 for seconds in parts if seconds]
    needed = rates.bytes_per_view_frame * sum(video.frames * video.views for video in todo)
    free = shutil.disk_usage(nearest_existing(config.output_root)).free
    totals = {
        "videos": len(todo), "videos_unreadable": len(bad), "views": sum(v.views for v in todo),
        "frames": sum(v.frames for v in todo), "view_frames": sum(v.frames * v.views for v in todo),
        "hours": sum(hours), "shards": flags.shards, "longest_shard_hours": max(hours),
        "disk_bytes": round(needed), "disk_free_bytes": free,
    }  # fmt: skip
    if flags.json:
        print(to_json(rates, totals))
        return SOME_FAILED if needed > free else OK
    views, frames = sum(v.views for v in todo), sum(v.frames for v in todo)
    what = f"{pluralize(views, 'view', ',')} of {pluralize(len(todo), 'video', ',')}, {pluralize(frames, 'frame', ',')}"
    say(f"to make:   {what}{_unreadable(bad)}")
    say(f"measured:  {rates.video}, {rates.seconds:.0f} s on {rates.device}: {_in_words(rates)}")
    shared = (
        f"; in {pluralize(flags.shards, 'part')}: mean {_time(sum(hours) / len(hours))}, longest {_time(max(hours))}"
    )
    workers = (config.workers or 1) * len(config.gpus or ("",))
    together = f"; {pluralize(workers, 'worker')} at best {_time(sum(hours) / workers)}" if workers > 1 else ""
    print(f"time:      {_time(sum(hours))} of one worker{together}{shared if flags.shards > 1 else ''}")
    short = "  TOO LITTLE" if needed > free else ""
    say(f"disk:      {_size(needed)}; {_size(free)} are free in {config.output_root}{short}")
    gpu = "none" if rates.gpu_bytes is None else f"{_size(rates.gpu_bytes)} at most"
    host = "?" if rates.host_bytes is None else _size(rates.host_bytes)
    print(f"memory:    GPU {gpu}; host {host} at most, per worker")
    return SOME_FAILED if needed > free else OK


def _unreadable(names: Sequence[str]) -> str:
    from guava_aug.tracked.layout import named

    return f"; {len(names)} more cannot be read (guava-aug check): {named(names)}" if names else ""


def _time(hours: float) -> str:
    """Return `26.4 h`; below an hour minutes and seconds."""
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min" if hours >= 1 / 6 else f"{3600 * hours:.0f} s"


def _size(number: float) -> str:
    """Return `26.4 GiB`; below one MiB, then KiB."""
    mib = number / 2**20
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{mib:.1f} MiB" if mib >= 0.1 else f"{1024 * mib:.1f} KiB"


@contextmanager
def _quiet_rendering(verbose: bool) -> Iterator[None]:
    """Hide the log of rendering, which repeats for every measurement."""
    speaker = logging.getLogger("guava_aug.render")
    before = speaker.level
    if not verbose:
        speaker.setLevel(logging.WARNING)
    try:
        yield
    finally:
        speaker.setLevel(before)


def _in_words(rates: Rates) -> str:
    per_frame, per_view_frame = f"{1000 * rates.per_frame:.1f} ms", f"{1000 * rates.per_view_frame:.1f} ms"
    return (
        f"{rates.start:.1f} s to start; {rates.per_video:.1f} s for a video, {per_frame} for each of its frames, "
        f"{per_view_frame} and {rates.bytes_per_view_frame / 1024:.1f} KiB for each frame of a view"
    )
