"""Many videos on 1, 2, ... GPUs: `python benchmarks/many_gpus.py --gpus 1 4 [--videos 16] [--views 3] [--json FILE]`.

The same videos each time, dealt to one `guava-aug run` per GPU, all from the start of the processes to the last file.
The steady columns leave out what every process does once (start, imports, model loading), as in a run of hours.
On a machine without GPUs `--device cpu` runs that many processes on its CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import setting
from guava_aug import timing
from guava_aug.record import record_path

SOURCE = str(Path(__file__).resolve().parent.parent / "src")


def run_on(gpus: int, root: Path, names: list[str], args: Any, out: Path) -> tuple[float, float]:
    """Wall seconds of all processes, and the most that one of them spent before its first video."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([SOURCE, os.environ.get("PYTHONPATH", "")])}
    cores = max(1, len(os.sched_getaffinity(0)) // gpus)
    environment["OMP_NUM_THREADS"] = str(cores)  # the processes share the machine
    begun = time.perf_counter()
    processes = []
    for i in range(gpus):
        command = [
            sys.executable, "-m", "guava_aug", "run", "--quiet", "--tracked_root", str(root), "--output_root", str(out),
            "--video_list", *names[i::gpus], "--difficulties", "medium", "--views_per_difficulty", str(args.views),
            "--model_path", setting.model_path(args), "--device", "cpu" if args.device == "cpu" else str(i),
            "--part_id", str(i),
        ]  # fmt: skip
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
    codes = [process.wait() for process in processes]
    seconds = time.perf_counter() - begun
    if any(codes):
        raise SystemExit(f"a process ended with {max(codes)}")
    once = []
    for i in range(gpus):
        record = json.loads(record_path(out, str(i)).read_text())
        loading = sum(row["seconds"] for row in record["stages"] if row["stage"] == timing.MODEL_LOADING)
        once.append(seconds - record["seconds"] + loading)
    return seconds, max(once)


def main() -> None:
    parser = setting.flags(__doc__)
    setting.model_flags(parser)
    setting.video_flags(parser)
    parser.set_defaults(device="cuda")
    parser.add_argument("--gpus", type=int, nargs="+", help="default: 1 and all")
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--views", type=int, default=3)
    args = parser.parse_args()
    setting.speak()
    counts = args.gpus or sorted({1, max(1, torch.cuda.device_count())})
    root, names = setting.video_root(args, copies=args.videos)
    setting.model_path(args)  # made before the clock starts
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="guava-aug-bench-") as scratch:
        run_on(1, root, names[:1], args, Path(scratch) / "warm")  # caches of files and kernels
        for gpus in counts:
            seconds, once = run_on(gpus, root, names, args, Path(scratch) / str(gpus))
            first = rows[0] if rows else {"s": seconds, "steady_s": seconds - once}
            rows.append(
                {
                    "gpus": gpus,
                    "s": seconds,
                    "times": first["s"] / seconds,
                    "steady_s": seconds - once,
                    "steady_times": first["steady_s"] / (seconds - once),
                }
            )
    setting.report(
        args, f"{args.videos} videos of {args.frames} frames, {args.views} views each; seconds", list(rows[0]), rows,
        ["steady: without process start, imports and model loading, as in a run of hours"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
