"""A work list of thousands of videos: `python benchmarks/plan.py [--videos 10000] [--views 3]`.

Every video is the same small clip, by hard links, and the renderer is none: it links a file that is ready. What remains
is what `guava-aug run` does around it: finding videos, choosing cameras, looking at what exists, journal, logs,
manifest. Each line is a process of its own: seconds from the start of the process until its first view is begun (with
Python's imports), and until the end; resident memory in MB after 10 % of the views, at the last one, and at the end,
when the manifest is made; open files at most.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent / "tests"
CLOCK = "GUAVA_AUG_PLAN_BEGUN"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--views", type=int, default=3, help="a multiple of 3")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(*args.child, args.views // 3)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        tracked, out = Path(folder) / "tracked", Path(folder) / "out"
        begun = time.monotonic()
        make_videos(tracked, args.videos)
        print(f"{args.videos} videos made in {time.monotonic() - begun:.1f} s; {args.views} views each\n")
        print("| run | to the first view | all | at 10 % | at the last view | at the end | open files | views/s |")
        print("|---|--:|--:|--:|--:|--:|--:|--:|")
        show("nothing is there", tracked, out, args.views)
        show("all is there", tracked, out, args.views)
        for path in list(out.glob("hard/*[02468]/*/*/*.mp4")):
            path.unlink()
        show("a sixth is missing", tracked, out, args.views)
        for path in (out / ".guava-aug" / "journal").iterdir():
            path.unlink()
        show("all is there, the journals are lost", tracked, out, args.views)
        for command in ("status", "merge"):
            begun = time.monotonic()
            subprocess.run([sys.executable, "-m", "guava_aug", command, str(out)], check=True, capture_output=True)
            print(f"\nguava-aug {command}: {time.monotonic() - begun:.1f} s")
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file() and path.suffix != ".mp4")
        print(f"\njournals, logs and manifest: {size / 1e6:.1f} MB")


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


def show(name: str, tracked: Path, out: Path, views: int) -> None:
    """Runs a child; prints its line."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(tracked), str(out), "--views", str(views)],
        env={**os.environ, CLOCK: repr(time.time())}, stdout=subprocess.PIPE, check=True, text=True, encoding="utf-8",
    )  # fmt: skip
    r = json.loads(done.stdout.splitlines()[-1])
    first = "-" if r["first"] is None else f"{r['first']:.1f} s"
    rate = f"{r['made'] / (r['all'] - r['first']):.0f}" if r["made"] else "-"
    memory = f"{r['early']:.0f} | {r['views'] or r['late']:.0f} | {r['late']:.0f}"
    print(f"| {name} | {first} | {r['all']:.1f} s | {memory} | {r['files']} | {rate} |")


def child(tracked: Path, out: Path, per_difficulty: int) -> dict[str, Any]:
    """One run; what it took."""
    begun = float(os.environ[CLOCK])
    from guava_aug.config import RunConfig
    from guava_aug.jobs import run

    config = RunConfig(tracked, out, views_per_difficulty=per_difficulty)
    engine = Linking(config, tracked.parent / "ready.mp4")
    result = run(config, engine=engine)
    assert result.ok
    views = engine.memory[-1] if engine.memory else 0  # before the manifest is made
    engine.look_at_memory()
    return {
        "first": None if engine.first is None else engine.first - begun,
        "all": time.time() - begun,
        "early": engine.memory[len(engine.memory) // 10] / 1e6,
        "views": views / 1e6,
        "late": engine.memory[-1] / 1e6,
        "files": engine.files,
        "made": engine.made,
    }


class Linking:
    """An engine that makes every view by linking one file."""

    def __init__(self, config: Any, ready: Path) -> None:
        self.config, self.ready = config, ready
        self.first: float | None = None
        self.memory: list[int] = []
        self.files = self.made = 0

    def check(self) -> None: ...

    def prepare(self) -> None:
        """Makes the file and the facts that go with it."""
        import numpy as np

        from guava_aug.engine import look_of
        from guava_aug.fingerprint import input_digest
        from guava_aug.output.video import VideoWriter
        from guava_aug.tracked import TrackedVideo

        if not self.ready.exists():
            with VideoWriter(self.ready, 64, 64) as writer:
                writer.write(np.zeros((3, 64, 64, 3), np.uint8))
        self.bytes = self.ready.stat().st_size
        look = look_of(self.config)
        self.made_with = look.made_with(30.0, input_digest(TrackedVideo.open(self.config.tracked_root, "video_000000")))

    def make(self, name: str, views: Sequence[Any], on_view: Callable[[Any], None]) -> None:
        """See `Engine`."""
        from guava_aug.engine import Content, Made
        from guava_aug.fingerprint import fingerprint, input_signature
        from guava_aug.output.tree import video_path

        self.first = self.first or time.time()
        self.look_at_memory()
        signature = input_signature(self.config.tracked_root, name) or ""
        for view in views:
            path = video_path(self.config.output_root, view.label, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(self.ready, path)
            said = (signature, self.made_with["input"], None)
            content = Content(30.0, 64, self.made_with, fingerprint(view, self.made_with), said, self.bytes)
            on_view(Made(view, None, 0.0, 3, content))
            self.made += 1

    def look_at_memory(self) -> None:
        """Notes resident memory and open files."""
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        self.memory.append(pages * os.sysconf("SC_PAGE_SIZE"))
        self.files = max(self.files, len(os.listdir("/proc/self/fd")))

    def describe(self) -> dict[str, Any]:
        """See `Engine`."""
        return {"machine": {"host": "-", "device": "none"}}


if __name__ == "__main__":
    main()
