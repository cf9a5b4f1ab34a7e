"""From the start of a process to its first frame: `python benchmarks/startup.py [--json FILE]`.

A fresh interpreter does what `guava-aug run` does, into a file that ends it with the first frames (a chunk of one
view); medians over --repeats processes, after one that does not count, so that the files are in the system's cache
and kernels in theirs. `--cold` gives every process new caches for compiled kernels.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ONCE = ("data", "source inference", "Gaussian setup", "precompute (pose + background)")  # stages before the first frame
CACHES = ("NUMBA_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


class FirstFrame(Exception):
    """Ends the run."""


def child(job: dict[str, Any]) -> None:
    """Runs until the first frames reach a file; prints the clock at every step."""
    clock = {"python": time.time()}
    from guava_aug.batch.config import RunConfig
    from guava_aug.batch.executors.in_process import InProcessExecutor
    from guava_aug.batch.pipeline import ClipVideos, PipelineSettings, augment_video
    from guava_aug.output.view_writer import ViewEnd
    from guava_aug.runtime.cpus import keep_freed_memory
    from guava_aug.runtime.timing import StageTimer
    from guava_aug.tracked import TrackedVideo
    from guava_aug.views import plan_views

    keep_freed_memory()
    clock["imports"] = time.time()
    config = RunConfig.from_json(job)
    stages = StageTimer(config.device)
    here = InProcessExecutor(config)
    here.start()
    clock["model loading"] = time.time()
    assert here.model is not None and config.videos is not None

    class File:
        def write(self, batch: object) -> None:
            clock["first frame"] = time.time()
            raise FirstFrame

        def close(self) -> None: ...

        def abort(self) -> None: ...

    video = TrackedVideo.open(config.tracked_root, config.videos[0])
    settings = PipelineSettings(config.background, config.chunk_length(config.device), 1)
    events = augment_video(
        here.model, ClipVideos.of(video), plan_views(video.name, ["medium"]), lambda view: File(),  # type: ignore[arg-type,return-value]
        settings, stages,
    )  # fmt: skip
    errors = [event.error for event in events if isinstance(event, ViewEnd)]
    if not isinstance(errors[0], FirstFrame):
        raise SystemExit(f"no frame was rendered: {errors[0]!r}")
    found = {"clock": clock, "stages": {row.name: row.seconds for row in [*here.stages.rows(), *stages.rows()]}}
    print(json.dumps({**found, "bytecode": Path(sys.modules["torch"].__cached__).is_file()}))


def one_start(job: dict[str, Any], cold: bool) -> tuple[dict[str, float], bool]:
    """Seconds of every step of one process; whether Python found torch's modules compiled to bytecode."""
    from guava_aug.runtime.processes import child_environment  # not in the child, whose imports are timed

    environment = child_environment()
    with tempfile.TemporaryDirectory(prefix="guava-aug-bench-") as caches:
        if cold:
            environment |= {name: str(Path(caches) / name) for name in CACHES}
        begun = time.time()
        command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(job)]
        done = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", errors="replace", env=environment
        )
    if done.returncode != 0:
        from guava_aug.errors import GuavaAugError

        kind, _, said = done.stderr.rstrip().rpartition("\n")[2].partition(": ")
        if kind.startswith(GuavaAugError.__module__):
            raise GuavaAugError(said)
        raise SystemExit(done.stderr[-2000:])
    answer = json.loads(done.stdout.splitlines()[-1])
    steps, before = {}, begun
    for name, at in answer["clock"].items():
        steps[name] = at - before
        before = at
    inner = {f"  of it {n}": s for n, s in answer["stages"].items() if n in ONCE}
    return {**steps, **inner, "process start to first frame": before - begun}, answer["bytecode"]


def main() -> None:
    import setting

    parser = setting.flags(__doc__, repeats=3)
    setting.model_flags(parser)
    setting.video_flags(parser)
    parser.add_argument("--cold", action="store_true", help="nothing compiled is in a cache")
    args = parser.parse_args()
    setting.speak()
    from guava_aug.batch.config import RunConfig

    root, names = setting.video_root(args)
    device = setting.device(args)
    job = RunConfig(
        root, Path(os.devnull), tuple(names), model_path=Path(setting.model_path(args)), guava_root=args.guava_root,
        device=device,
    ).to_json()  # fmt: skip
    one_start(job, args.cold)
    measured = [one_start(job, args.cold) for _ in range(args.repeats)]
    starts, rows = [steps for steps, _ in measured], []
    for step in starts[0]:
        seconds = [start[step] for start in starts if step in start]
        rows.append({"step": step, "s": statistics.median(seconds), "s_min": min(seconds), "s_max": max(seconds)})
    setting.report(
        args, "a fresh process, seconds", ["step", "s", "s_min", "s_max"], rows,
        [
            "nothing compiled was in a cache" if args.cold else "compiled kernels came from their caches",
            "Python's bytecode came from its caches, as pip leaves it" if measured[-1][1] else
            "Python's bytecode is not kept here (PYTHONDONTWRITEBYTECODE?): each start compiled every module anew",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
    else:
        import setting  # not in the child, whose imports are timed

        setting.guarded(main)
