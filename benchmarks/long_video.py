"""Memory for a long video: `python benchmarks/long_video.py --device cuda [--frames 20000] [--views 10] [--json FILE]`.

The bundled clip, repeated to the wanted length, through the real loop with files on disk, in this process; a thread
reads the memory in use ten times a second. Flat means: the last tenth of the run needs what the second tenth needed.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

import torch

import setting
from guava_aug.bench.measure import WarmEngine
from guava_aug.config import RunConfig

PERIOD = 0.1  # seconds
TENTHS = 10


class MemoryWatch:
    """Samples (seconds, host bytes, GPU bytes) until it is left."""

    def __init__(self, device: str) -> None:
        self._device, self._stop = device, threading.Event()
        self.samples: list[tuple[float, int, int]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD):
            self.samples.append((time.monotonic() - self._begun, host_bytes(), gpu_bytes(self._device)))


def host_bytes() -> int:
    """What this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def gpu_bytes(device: str) -> int:
    """What is in use on the whole GPU: by torch, its context, and any other process."""
    if not device.startswith("cuda"):
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def main() -> None:
    parser = setting.flags(__doc__)
    setting.model_flags(parser)
    setting.video_flags(parser, frames=20_000)
    parser.add_argument("--views", type=int, default=10)
    args = parser.parse_args()
    setting.speak()
    root, names = setting.video_root(args)
    device = setting.device(args)
    with tempfile.TemporaryDirectory(prefix="guava-aug-bench-") as scratch:
        config = RunConfig(
            root, Path(scratch), tuple(names), ("medium",), model_path=Path(setting.model_path(args)),
            guava_root=args.guava_root, device=device,
        )  # fmt: skip
        engine = WarmEngine(config)
        with MemoryWatch(device) as watch:
            seconds, _ = engine.video(args.views)
    rows = []
    for tenth in range(TENTHS):
        last = watch.samples[-1][0]
        part = [s for s in watch.samples if tenth * last / TENTHS <= s[0] <= (tenth + 1) * last / TENTHS]
        if part:
            rows.append(
                {
                    "part of the run": f"{tenth + 1}/{TENTHS}",
                    "host_gb": max(s[1] for s in part) / 1e9,
                    "gpu_gb": max(s[2] for s in part) / 1e9 if device != "cpu" else None,
                }
            )
    peak = {"peak_host_gb": max(s[1] for s in watch.samples) / 1e9, "peak_gpu_gb": None, "peak_torch_gpu_gb": None}
    if device != "cpu":
        peak["peak_gpu_gb"] = max(s[2] for s in watch.samples) / 1e9
        peak["peak_torch_gpu_gb"] = torch.cuda.max_memory_reserved(device) / 1e9
    frames = args.frames * args.views
    setting.report(
        args, f"{args.frames} frames, {args.views} views: most memory in each part of the run", list(rows[0]), rows,
        [
            f"{seconds:.1f} s, {1000 * seconds / frames:.2f} ms a frame and view",
            ", ".join(f"{name} {value:.2f}" for name, value in peak.items() if value is not None),
        ],
        seconds=seconds, **peak,
    )  # fmt: skip


if __name__ == "__main__":
    main()
