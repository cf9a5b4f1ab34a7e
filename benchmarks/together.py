"""Runs that share their cores: `python benchmarks/together.py [--runs 2] [--frames 16] [--json FILE]`.

`guava-aug run` of one view on the CPU, one run alone and several at once, from start to end; as the command waits for
work (`guava_aug.runtime.cpus`), and as OpenMP does by default (300000 turns, about 15 ms).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import setting
from guava_aug.errors import OutputError
from guava_aug.runtime.cpus import SPINS
from guava_aug.runtime.processes import child_environment

SETTINGS = {"guava-aug": SPINS, "OpenMP's default": "300000"}


def seconds_of(runs: int, spins: str, root: Path, name: str, args: Any) -> float:
    """From the start of so many runs at once to the end of the last."""
    with tempfile.TemporaryDirectory(prefix="guava-aug-bench-") as scratch:
        begun = time.perf_counter()
        started = [
            subprocess.Popen(
                [
                    sys.executable, "-m", "guava_aug", "run", "--quiet", "--device", "cpu", "--difficulties", "medium",
                    "--tracked_root", str(root), "--video_list", name, "--output_root", str(Path(scratch) / str(i)),
                    "--model_path", setting.model_path(args),
                ],
                env={**child_environment(), "GOMP_SPINCOUNT": spins}, stdout=subprocess.DEVNULL,
            )
            for i in range(runs)
        ]  # fmt: skip
        codes = [process.wait() for process in started]
        if any(codes):
            raise OutputError(f"`guava-aug run` ended with codes {codes}; it says above why")
        return time.perf_counter() - begun


def main() -> None:
    parser = setting.flags(__doc__, repeats=3)
    setting.model_flags(parser)
    setting.video_flags(parser, frames=16)
    parser.set_defaults(model_path="embedded")
    parser.add_argument("--runs", type=setting.count, default=2, help="at once")
    args = parser.parse_args()
    if args.device != "cpu":
        parser.error("this is about runs on the CPU")
    root, names = setting.video_root(args)
    seconds_of(1, SPINS, root, names[0], args)  # files and compiled functions come into their caches
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(args.repeats):
        for what, spins in SETTINGS.items():
            for runs in (1, args.runs):
                times.setdefault((what, runs), []).append(seconds_of(runs, spins, root, names[0], args))
    rows: list[dict[str, Any]] = []
    for what in SETTINGS:
        alone, together = (statistics.median(times[what, runs]) for runs in (1, args.runs))
        rows.append({"waiting": what, "alone_s": alone, "together_s": together, "ratio": together / alone})
    setting.report(
        args, f"{args.runs} runs of one view of {args.frames} frames on the same cores", list(rows[0]), rows,
        [f"ratio: {args.runs} at once against one; {args.runs} one after the other would be {args.runs}"],
    )  # fmt: skip


if __name__ == "__main__":
    setting.guarded(main)
