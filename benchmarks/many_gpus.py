"""Many videos on 1, 2, ... GPUs: `python benchmarks/many_gpus.py --gpus 1 4 [--workers 1 2] [--videos 16] [--views 3]`.

The same videos each time by one `guava-aug run --gpus 0,1,.. --workers N`, from the start of the process to its end;
and views a second, by its journal, while all workers are at work: from when as many videos have ended as there are
workers to when one of them finds nothing left to begin. On a machine without GPUs: `--device cpu --workers 1 2`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import setting
from guava_aug.batch.journal.journal import Reader
from guava_aug.errors import OutputError
from guava_aug.runtime.processes import child_environment
from guava_aug.runtime.text import pluralize


def run_on(gpus: int, workers: int, root: Path, names: list[str], args: Any, out: Path) -> dict[str, float | None]:
    """Seconds of `guava-aug run`, what the CPU did, and views a second while all workers are at work (None: never)."""
    command = [
        sys.executable, "-m", "guava_aug", "run", "--quiet", "--tracked_root", str(root), "--output_root", str(out),
        "--video_list", *names, "--difficulties", "medium", "--views_per_difficulty", str(args.views),
        "--model_path", setting.model_path(args), "--workers", str(workers),
    ]  # fmt: skip
    command += ["--device", "cpu"] if args.device == "cpu" else ["--gpus", ",".join(map(str, range(gpus)))]
    started, cpu = time.perf_counter(), _cpu_seconds()
    if code := subprocess.run(command, env=child_environment(), stdout=subprocess.DEVNULL, check=False).returncode:
        raise OutputError(f"`guava-aug run` ended with code {code}; it says above why")
    seconds, cpu = time.perf_counter() - started, _cpu_seconds() - cpu
    found = {"s": seconds, "cores_busy": cpu / seconds, "cpu_s_a_view": cpu / (len(names) * args.views)}
    lines = list(Reader(out).new_lines())
    begun = sorted(line.key[0] for line in lines if line.kind == "begin")  # a worker begins when it has ended another
    if len(begun) <= 2 * gpus * workers:
        return {**found, "views_a_s": None}
    first, last = begun[2 * gpus * workers - 1], begun[-1]
    views = sum(first < line.key[0] <= last for line in lines if line.kind == "view")
    return {**found, "views_a_s": views / (last - first)}


def _cpu_seconds() -> float:
    """Of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = setting.flags(__doc__, repeats=None)
    setting.model_flags(parser)
    setting.video_flags(parser)
    parser.set_defaults(device="cuda")
    parser.add_argument("--gpus", type=setting.count, nargs="+", help="default: 1 and all; not with --device cpu")
    parser.add_argument(
        "--workers", type=setting.count, nargs="+", default=[1], help="processes on each GPU, or on the CPU"
    )
    parser.add_argument(
        "--videos", type=setting.count, default=16,
        help="more than 2 x gpus x workers, the most of each: so many are begun before the rate is taken",
    )  # fmt: skip
    parser.add_argument("--views", type=setting.count, default=3, help="of each video")
    args = parser.parse_args()
    on_cpu = args.device == "cpu"
    if on_cpu and args.gpus:
        parser.error("--gpus and --device cpu exclude each other; for more processes on a CPU: --workers")
    setting.speak()
    counts = args.gpus or ([1] if on_cpu else sorted({1, torch.cuda.device_count()}))
    if args.videos <= (most := 2 * max(counts) * max(args.workers)):
        parser.error(f"--videos {args.videos}: workers begin {most} to warm up; give more than that")
    root, names = setting.video_root(args, copies=args.videos)
    setting.model_path(args)  # made before the clock starts
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="guava-aug-bench-") as scratch:
        run_on(1, 1, root, names[:1], args, Path(scratch) / "warm")  # caches of files and kernels
        for gpus in counts:
            for workers in args.workers:
                found = run_on(gpus, workers, root, names, args, Path(scratch) / f"{gpus}_{workers}")
                where = {"workers": workers} if on_cpu else {"gpus": gpus, "workers a GPU": workers}
                row: dict[str, Any] = {**where, **found}
                rows.append(row)
                row["times"] = rows[0]["s"] / row["s"]
                rate, one = row["views_a_s"], rows[0]["views_a_s"]
                row["steady_times"] = rate / one if rate and one else None
    what = (
        f"{pluralize(args.videos, 'video')} of {pluralize(args.frames, 'frame')}, {pluralize(args.views, 'view')} each"
    )
    setting.report(
        args, what, list(rows[0]), rows,
        [
            "s, cores_busy, cpu_s_a_view: the whole command; views_a_s, steady: while all workers are at work, as in a "
            "run of hours",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    setting.guarded(main)
