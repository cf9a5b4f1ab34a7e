"""A work list of thousands of videos: `python benchmarks/plan.py [--videos 10000] [--views 3]`.

    python benchmarks/plan.py --views 10 --difficulties easy --short --against OTHER_CHECKOUT

Every video is the same small clip, by hard links, and the renderer is none: it links a file that is ready. What remains
is what `guava-aug run` does around it: finding videos, choosing cameras, looking at what exists, journal, logs,
manifest. Each line is a process of its own: seconds from the start of the process until its first view is begun (with
Python's imports), and until the end; resident memory in MB after 10 % of the views, at the last one, and at the end,
when the manifest is made; open files at most.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent / "tests"
CLOCK = "GUAVA_AUG_PLAN_BEGUN"
LINKS = 30_000  # of one file; ext4 allows 65,000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--views", type=int, default=3, help="of each video; a multiple of the number of difficulties")
    parser.add_argument("--difficulties", nargs="+", default=["easy", "medium", "hard"])
    parser.add_argument("--short", action="store_true", help="only the commands that have nothing to render")
    parser.add_argument("--against", type=Path, help="a checkout of another version, measured on the same files")
    parser.add_argument("--turns", type=int, default=3, help="of each command; the median counts")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make_videos(args.make, args.videos)
        return
    if args.child:
        print(json.dumps(child(*args.child, args.difficulties, args.views // len(args.difficulties))))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        tracked, out = Path(folder) / "tracked", Path(folder) / "out"
        begun = time.monotonic()
        # in a process of its own: what this one has in memory would count as that of the commands it starts
        subprocess.run([sys.executable, __file__, "--make", str(tracked), "--videos", str(args.videos)], check=True)
        print(f"{args.videos} videos made in {time.monotonic() - begun:.1f} s; {args.views} views each\n")
        print("| run | to the first view | all | at 10 % | at the last view | at the end | open files | views/s |")
        print("|---|--:|--:|--:|--:|--:|--:|--:|")
        show("nothing is there", tracked, out, args)
        if not args.short:
            show("all is there", tracked, out, args)
            for path in list(out.glob(f"{args.difficulties[-1]}/*[02468]/*/*/*.mp4")):
                path.unlink()
            show("some are missing", tracked, out, args)
            for path in (out / ".guava-aug" / "journal").iterdir():
                path.unlink()
            show("all is there, the journals are lost", tracked, out, args)
        commands(tracked, out, args)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file() and path.suffix != ".mp4")
        print(f"\njournals, logs and manifest: {size / 1e6:.1f} MB")


def commands(tracked: Path, out: Path, args: argparse.Namespace) -> None:
    """What commands take with nothing to render, each from the same state of the output folder.

    That is complete; for the last one, which makes them, without parameter log and manifest.
    """
    own = Path(__file__).resolve().parent.parent
    versions = {"this": own, **({"other": args.against.resolve()} if args.against else {})}
    kept = out.parent / "kept"
    made = ["augmentation_params.json", "manifest.parquet"]
    state = [".guava-aug", *made]
    copy(state, out, kept)
    views = ["--difficulties", *args.difficulties, "--views_per_difficulty", str(args.views // len(args.difficulties))]
    typed = {
        "status": ["status", str(out)],
        "run": ["run", "--tracked_root", str(tracked), "--output_root", str(out), "--device", "cpu", "--quiet", *views],
        "merge": ["merge", str(out)],
        "merge, both files made": ["merge", str(out)],
    }
    print("\n| command | version | seconds | user CPU seconds | most memory |")
    print("|---|---|--:|--:|--:|")
    for name, words in typed.items():
        found: dict[str, list[tuple[float, float, float]]] = {version: [] for version in versions}
        for _ in range(args.turns):
            for version, checkout in versions.items():
                copy(state, kept, out)
                if "made" in name:
                    for file in made:
                        (out / file).unlink()
                found[version].append(spent([sys.executable, "-m", "guava_aug", *words], checkout / "src"))
        for version, turns in found.items():
            wall, user, memory = (sorted(column)[len(column) // 2] for column in zip(*turns, strict=True))
            print(f"| {name} | {version} | {wall:.1f} | {user:.1f} | {memory:.0f} MB |", flush=True)


def copy(names: Sequence[str], source: Path, target: Path) -> None:
    """Makes the files and folders in `target` what they are in `source`."""
    target.mkdir(exist_ok=True)
    for name in names:
        if (target / name).is_dir():
            shutil.rmtree(target / name)
        (target / name).unlink(missing_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).exists():
            shutil.copy2(source / name, target / name)


def spent(argv: Sequence[str], package: Path) -> tuple[float, float, float]:
    """Wall and user CPU seconds of a command, and its greatest resident memory in MB; package: where guava_aug is."""
    begun = time.monotonic()
    process = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(package)}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)} ended with {process.returncode}")
    return time.monotonic() - begun, usage.ru_utime, usage.ru_maxrss / 1024


def make_videos(tracked: Path, count: int) -> None:
    """Folders that share the files of one clip of three frames."""
    sys.path.insert(0, str(TESTS))
    from fakes import write_clip

    first = write_clip(tracked, "video_000000", frames=3)
    files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    for i in range(1, count):
        folder = tracked / f"video_{i:06d}"
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            os.link(first / file, folder / file)


def show(name: str, tracked: Path, out: Path, args: argparse.Namespace) -> None:
    """Runs a child; prints its line."""
    views = ["--views", str(args.views), "--difficulties", *args.difficulties]
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(tracked), str(out), *views],
        env={**os.environ, CLOCK: repr(time.time())}, stdout=subprocess.PIPE, check=True, text=True, encoding="utf-8",
    )  # fmt: skip
    r = json.loads(done.stdout.splitlines()[-1])
    first = "-" if r["first"] is None else f"{r['first']:.1f} s"
    rate = f"{r['made'] / (r['all'] - r['first']):.0f}" if r["made"] else "-"
    memory = f"{r['early']:.0f} | {r['views'] or r['late']:.0f} | {r['late']:.0f}"
    print(f"| {name} | {first} | {r['all']:.1f} s | {memory} | {r['files']} | {rate} |")


def child(tracked: Path, out: Path, difficulties: Sequence[str], per_difficulty: int) -> dict[str, Any]:
    """One run; what it took."""
    begun = float(os.environ[CLOCK])
    from guava_aug.batch.config import RunConfig
    from guava_aug.batch.run import run

    config = RunConfig(tracked, out, difficulties=tuple(difficulties), views_per_difficulty=per_difficulty)
    executor = Linking(config, tracked.parent)
    result = run(config, executor=executor)
    assert result.ok
    views = executor.memory[-1] if executor.memory else 0  # before the manifest is made
    executor.look_at_memory()
    return {
        "first": None if executor.first is None else executor.first - begun,
        "all": time.time() - begun,
        "early": executor.memory[len(executor.memory) // 10] / 1e6,
        "views": views / 1e6,
        "late": executor.memory[-1] / 1e6,
        "files": executor.files,
        "made": executor.made,
    }


class Linking:
    """An executor that makes every view by linking a file, another one where a file system allows no more links."""

    capacity, in_main_thread = 1, True

    def __init__(self, config: Any, folder: Path) -> None:
        self.config, self.ready = config, folder / "ready.mp4"
        self.first: float | None = None
        self.memory: list[int] = []
        self.files = self.made = 0

    def check(self) -> None: ...

    def start(self, num_jobs: int) -> None:
        """Makes the file and the facts that go with it."""
        import numpy as np

        from guava_aug.batch.fingerprint import input_digest
        from guava_aug.batch.validate import render_settings
        from guava_aug.output.video import VideoWriter
        from guava_aug.tracked import TrackedVideo

        if not self.ready.exists():
            with VideoWriter(self.ready, 64, 64) as writer:
                writer.write(np.zeros((3, 64, 64, 3), np.uint8))
        self.bytes = self.ready.stat().st_size
        look = render_settings(self.config)
        self.made_with = look.made_with(30.0, input_digest(TrackedVideo.open(self.config.tracked_root, "video_000000")))

    def execute(self, job: Any) -> Iterator[Any]:
        """See `Executor`."""
        from guava_aug.batch.executors.base import ViewDone
        from guava_aug.batch.fingerprint import fingerprint, input_signature
        from guava_aug.batch.journal.manifest import STAGE_COLUMNS
        from guava_aug.batch.results import ViewRecord
        from guava_aug.output.tree import video_path

        self.first = self.first or time.time()
        self.look_at_memory()
        signature = input_signature(self.config.tracked_root, job.name) or ""
        for view in job.views:
            path = video_path(self.config.output_root, view.label, job.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.made and self.made % LINKS == 0:
                shutil.copy(self.ready, more := self.ready.with_name(f"ready_{self.made}.mp4"))
                self.ready = more
            os.link(self.ready, path)
            yield ViewDone(
                ViewRecord(
                    job.name, view.label, "success", view.record(), frames=3, fps=30.0, frame_rate="30", size=(64, 64),
                    bytes=self.bytes, digest=self.made_with["input"], camera=_camera(view),
                    fingerprint=fingerprint(view, self.made_with), made_with=self.made_with,
                    input=(signature, self.made_with["input"], None), seconds=0.25,
                    stages=dict.fromkeys(STAGE_COLUMNS, 0.0123),
                )
            )  # fmt: skip
            self.made += 1

    def request_stop(self) -> None: ...

    def stop(self) -> None: ...

    def look_at_memory(self) -> None:
        """Notes resident memory and open files."""
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        self.memory.append(pages * os.sysconf("SC_PAGE_SIZE"))
        self.files = max(self.files, len(os.listdir("/proc/self/fd")))

    def describe(self) -> dict[str, Any]:
        """See `Executor`."""
        return {"machine": {"host": "-", "device": "none"}}


def _camera(view: Any) -> dict[str, Any]:
    """A camera of a journal's usual length; what it says does not matter here."""
    turned = [math.cos(view.yaw), math.sin(view.pitch), math.sin(view.yaw), view.zoom]
    return {"azimuth": view.yaw, "elevation": -view.pitch, "K": [768.0, 768.0, 32.0, 32.0], "viewmat": turned * 3}


if __name__ == "__main__":
    main()
