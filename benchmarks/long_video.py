"""Memory for a long video: `python benchmarks/long_video.py --device cuda [--frames 20000] [--views 10] [--json FILE]`.

A clip, repeated to the wanted length, through the real loop with files on disk, in this process; a thread reads the
memory in use ten times a second. Flat means: the last tenth of the frames needs what the second tenth needed, but for
the index of an open MP4, 0.1 KiB a frame and view. How far it is goes to stderr.

On a CPU the pictures are what takes long, 10 views of 20,000 frames are 200,000 of them. In 10 to 20 minutes:
`python benchmarks/long_video.py --tiny --views 1`. The tests' model goes the same way through the program with
pictures of 128 pixels; what is kept of every frame by mistake shows with it as well.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

import setting
from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.base import FramesDone, ViewDone
from guava_aug.batch.executors.in_process import InProcessExecutor
from guava_aug.batch.jobs import Clip, VideoJob
from guava_aug.errors import OutputError
from guava_aug.output.video import PRESET
from guava_aug.runtime.cpus import keep_freed_memory
from guava_aug.runtime.progress import NoProgress, hms
from guava_aug.runtime.text import pluralize
from guava_aug.views import plan_views

TESTS = Path(__file__).resolve().parent.parent / "tests"
DIFFICULTY = "medium"
PERIOD = 0.1  # seconds
SAID_EVERY = 15.0  # seconds
TENTHS = 10


class Sample(NamedTuple):
    """What is in use at a moment."""

    done: int  # frames of all views
    host: int  # bytes
    gpu: int  # bytes


class Watch(NoProgress):
    """The progress of the run, with samples of its memory until it is left."""

    def __init__(self, device: str, total: int) -> None:
        self.device, self.total, self.done = device, total, 0
        self.samples: list[Sample] = []
        self._said, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def frames(self, name: str, done: int, total: int) -> None:
        """See `Progress`."""
        self.done += done

    def __enter__(self) -> Watch:
        self._begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        self._look()
        while not self._stop.wait(PERIOD):
            self._look()
            seconds = time.monotonic() - self._begun
            if seconds - self._said >= SAID_EVERY:
                self._said = seconds
                left = hms(seconds / self.done * (self.total - self.done)) if self.done else "?"
                memory = f"host {self.samples[-1].host / 1e6:.0f} MB"
                if self.device != "cpu":
                    memory += f", GPU {self.samples[-1].gpu / 1e6:.0f} MB"
                say(f"{self.done} of {self.total} pictures in {hms(seconds)}, ETA {left}, memory: {memory}")

    def _look(self) -> None:
        self.samples.append(Sample(self.done, host_bytes(), gpu_bytes(self.device)))

    def parts(self) -> list[tuple[str, list[Sample]]]:
        """The samples before the first frames were done, of every tenth of the frames, and after the last ones."""
        edges = [1 + self.total * tenth // TENTHS for tenth in range(TENTHS)] + [self.total]
        parts = [("before", [s for s in self.samples if s.done == 0])]
        for tenth, (first, end) in enumerate(pairwise(edges)):
            parts.append((f"{tenth + 1}/{TENTHS}", [s for s in self.samples if first <= s.done < end]))
        parts.append(("checking the files", [s for s in self.samples if s.done >= self.total]))
        return [(name, samples) for name, samples in parts if samples]


def host_bytes() -> int:
    """What this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def gpu_bytes(device: str) -> int:
    """What is in use on the whole GPU: by torch, its context, and any other process."""
    if not device.startswith("cuda"):
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def say(text: str) -> None:
    """A line for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def make(config: RunConfig, views: int, watch: Watch) -> float:
    """Seconds for the views of the one video of `config`, watched from when the model is loaded."""
    assert config.videos is not None
    executor = InProcessExecutor(config)
    executor.check()
    executor.start()
    plan = plan_views(config.videos[0], [DIFFICULTY], config.base_seed, views)
    begun = time.perf_counter()
    failed = []
    with watch:
        for event in executor.execute(VideoJob(config.videos[0], tuple(plan), Clip.of(config.videos[0]))):
            if isinstance(event, FramesDone):
                watch.frames(event.video, event.done, event.total)
            elif isinstance(event, ViewDone) and event.record.error is not None:
                failed.append(event.record.error)
    if failed:
        raise OutputError(f"{config.videos[0]}: a view could not be made: {failed[0]}")
    return time.perf_counter() - begun


def tiny_model(folder: Path) -> Path:
    """The tests' model."""
    sys.path.insert(0, str(TESTS))
    from tiny_model import write_tiny_model

    return write_tiny_model(folder / "tiny.safetensors")


def arguments() -> argparse.Namespace:
    parser = setting.flags(__doc__, repeats=None)
    setting.model_flags(parser)
    parser.add_argument("--tiny", action="store_true", help="take the tests' model of 128 pixels: for a CPU")
    setting.video_flags(parser, frames=20_000)
    parser.add_argument("--preset", default=PRESET, help="of x264; a faster one where encoding is the limit")
    parser.add_argument("--views", type=int, default=10)
    args = parser.parse_args()
    if args.views < 1 or args.frames < 1:
        parser.error("--views and --frames are counts of 1 or more")
    if args.tiny and args.model_path:
        parser.error("--tiny and --model_path exclude each other")
    return args


def main() -> None:
    args = arguments()
    setting.speak()
    keep_freed_memory()  # as `guava-aug run` does
    say(f"a clip of {args.frames} frames is written")
    root, names = setting.video_root(args)
    device = setting.device(args)
    with tempfile.TemporaryDirectory(prefix="guava-aug-bench-") as scratch:
        model = tiny_model(Path(scratch)) if args.tiny else Path(setting.model_path(args))
        config = RunConfig(
            root, Path(scratch) / "out", tuple(names), (DIFFICULTY,), views_per_difficulty=args.views,
            model_path=model, guava_root=args.guava_root, device=device, preset=args.preset,
        )  # fmt: skip
        watch = Watch(device, args.frames * args.views)
        seconds = make(config, args.views, watch)

    most = {name: (max(s.host for s in part), max(s.gpu for s in part)) for name, part in watch.parts()}
    rows = [
        {"part of the run": name, "host_mb": host / 1e6, "gpu_mb": gpu / 1e6 if device != "cpu" else None}
        for name, (host, gpu) in most.items()
    ]
    peak = {"peak_host_gb": max(s.host for s in watch.samples) / 1e9, "peak_gpu_gb": None, "peak_torch_gpu_gb": None}
    if device != "cpu":
        peak["peak_gpu_gb"] = max(s.gpu for s in watch.samples) / 1e9
        peak["peak_torch_gpu_gb"] = torch.cuda.max_memory_reserved(device) / 1e9
    notes = [
        f"{seconds:.1f} s, {1000 * seconds / watch.total:.2f} ms a frame and view",
        ", ".join(f"{name} {value:.2f}" for name, value in peak.items() if value is not None),
    ]
    second, last = f"2/{TENTHS}", f"{TENTHS}/{TENTHS}"
    growth = None
    if second in most and last in most:  # a clip of a few frames has no tenths
        growth = [most[last][i] - most[second][i] for i in (0, 1)]
        kib = growth[0] / 1024 / (args.frames * (TENTHS - 2) / TENTHS)
        gpu = "" if device == "cpu" else f", GPU {growth[1] / 1e6:+.1f} MB"
        notes.append(f"from the second to the last tenth: host {growth[0] / 1e6:+.1f} MB ({kib:+.2f} KiB a frame){gpu}")
    what = f"{pluralize(args.frames, 'frame')}, {pluralize(args.views, 'view')}"
    setting.report(
        args, f"{what}: most memory in each part of the run", list(rows[0]), rows, notes,
        seconds=seconds, growth_bytes=growth, **peak,
    )  # fmt: skip


if __name__ == "__main__":
    setting.guarded(main)
