"""Killed at any instant and run again: the same tree, the same labels, the same frames as of a run that was left alone.

Twelve random kills here; `make test-faults` makes 500. Runs that are killed are processes of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

from fakes import FakeModel, write_clip
from forks import Fork, ForkServer
from guava_aug import augment
from guava_aug.batch.journal.history import History
from guava_aug.batch.journal.journal import Journal, Reader
from guava_aug.output.tree import sidecar_path, video_path
from guava_aug.runtime.processes import FAULT_POINTS, FAULT_VARIABLE, host_id

KILLS = int(os.environ.get("GUAVA_AUG_KILLS", "12"))
NAMES = ("a", "b c é", "d")
VIEWS = 2 * len(NAMES)
IN_FLIGHT = 1  # so that a video has two groups of views
OPTIONS: dict = {"difficulties": ["easy", "hard"], "views_in_flight": IN_FLIGHT, "frames_per_chunk": 2}
OPTIONS["save_frame_png"] = True


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tracked")
    for name in NAMES:
        write_clip(root, name, frames=4)
    return root


@pytest.fixture(scope="module")
def whole(tracked: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a run that was left alone leaves."""
    out = tmp_path_factory.mktemp("whole")
    assert augment(tracked, out, model=FakeModel(), **OPTIONS).ok
    return left_by(out)


def left_by(out: Path) -> dict[str, object]:
    """What is below an output root: digest of the decoded frames, bytes of PNGs, sidecars, cameras of the log."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.is_dir() or name.startswith(".guava-aug"):
            continue
        if path.suffix == ".mp4" and not path.name.startswith("."):
            found[name] = frames_digest(path)
        elif path.name == "augmentation_params.json":
            log = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {
                (video, label): [entry[key] for key in ("difficulty", "seed", "yaw", "pitch", "zoom", "frames")]
                for video, views in log.items()
                for label, entry in views.items()
            }
        elif path.name != "manifest.parquet":
            found[name] = path.read_bytes()
    return found


def frames_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            digest.update(frame.to_ndarray(format="rgb24").tobytes())
    return digest.hexdigest()


def arguments(tracked: Path, out: Path) -> list[str]:
    return [
        "run", "--tracked_root", str(tracked), "--output_root", str(out), "--difficulties", "easy", "hard",
        "--views_in_flight", str(IN_FLIGHT), "--frames_per_chunk", "2", "--save_frame_png", "--quiet",
    ]  # fmt: skip


def start(forks: ForkServer, tracked: Path, out: Path, seconds_per_frame: float = 0.0, **environment: str) -> Fork:
    return forks.start(*arguments(tracked, out), seconds_per_frame=seconds_per_frame, environment=environment)


def videos(out: Path) -> list[Path]:
    return [path for path in out.rglob("*.mp4") if not path.name.startswith(".")]


def finish(tracked: Path, out: Path, whole: dict) -> None:
    """Runs again; afterwards everything is as if nothing had happened, and no whole view was made again."""
    there = len(videos(out))
    result = augment(tracked, out, model=FakeModel(), **OPTIONS)
    assert result.count() == {k: v for k, v in {"skipped": there, "success": VIEWS - there}.items() if v}
    assert left_by(out) == whole
    assert {view.status for _, _, view in History(out).items()} == {"done"}


@pytest.mark.parametrize(
    "point", ["after-plan", "mid-encode:3", "before-fsync:2", "before-video:4", "before-journal:2"], ids=lambda p: p
)
def test_killed_at_a_named_point(forks: ForkServer, tracked: Path, tmp_path: Path, whole: dict, point: str):
    name = point.partition(":")[0]
    assert name in FAULT_POINTS
    process = start(forks, tracked, tmp_path, **{FAULT_VARIABLE: point})
    assert process.wait() == -signal.SIGKILL, "it did not come by that point"
    done = {"after-plan": 0, "mid-encode": 1, "before-fsync": 1, "before-video": 3, "before-journal": 2}[name]
    assert len(videos(tmp_path)) == done
    told = [view for _, _, view in History(tmp_path).items() if view.made is not None]
    assert len(told) == done - (name == "before-journal")
    if name == "before-video":  # the sidecar came first
        assert len(list(tmp_path.rglob("*_video.json"))) == done + 1
    finish(tracked, tmp_path, whole)


def test_what_makes_views_is_told_before_the_first(tracked: Path, tmp_path: Path):
    """So no kill leaves a view without its device."""
    augment(tracked, tmp_path, model=FakeModel(), **OPTIONS)
    kinds = [line.kind for line in Reader(tmp_path).new_lines()]
    assert kinds.index("used") < kinds.index("view")


def test_every_point_is_passed() -> None:
    """A point that is not in the program cannot be killed at."""
    source = Path(__file__).parents[2] / "src" / "guava_aug"
    text = "".join(path.read_text(encoding="utf-8") for path in source.rglob("*.py"))
    assert all(text.count(f'fault_point("{name}")') == 1 for name in FAULT_POINTS)


def test_killed_at_random_times(forks: ForkServer, tracked: Path, tmp_path: Path, whole: dict):
    """Each run goes on where the last was killed; what is at a final name is right at any time."""
    rng = random.Random(int(os.environ.get("GUAVA_AUG_SEED", "0")))
    begun = time.monotonic()
    assert start(forks, tracked, tmp_path / "timed", 0.01).wait() == 0
    lasts = time.monotonic() - begun
    tree, ends = 0, {0: 0, -signal.SIGKILL: 0}
    for _ in range(KILLS):
        out = tmp_path / str(tree)
        process, begun = start(forks, tracked, out, 0.01), time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.0, 1.1) * lasts)
            lasts = time.monotonic() - begun  # it was not killed: the machine is less busy than before
        process.kill()
        ends[code := process.wait()] += 1
        for path in videos(out):
            assert frames_digest(path) == whole[str(path.relative_to(out))]
            assert sidecar_path(out, path.parents[3].name, path.parents[0].name).exists()
        if code == 0 or rng.random() < 0.3:
            finish(tracked, out, whole)
            tree += 1
    finish(tracked, tmp_path / str(tree), whole)
    assert ends[-signal.SIGKILL] >= KILLS / 6  # the others came too late


def test_a_torn_journal_costs_no_file(tracked: Path, tmp_path: Path, whole: dict):
    augment(tracked, tmp_path, model=FakeModel(), **OPTIONS)
    (path,) = (tmp_path / ".guava-aug" / "journal").iterdir()
    data = path.read_bytes()
    for length in (0, 1, 150, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert augment(tracked, tmp_path, model=FakeModel(), **OPTIONS).count() == {"skipped": VIEWS}
        assert left_by(tmp_path) == whole
        for other in path.parent.iterdir():
            if other != path:
                other.unlink()


def test_two_processes_do_the_same_work_at_once(forks: ForkServer, tracked: Path, tmp_path: Path, whole: dict):
    processes = [start(forks, tracked, tmp_path, 0.01) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert left_by(tmp_path) == whole
    finish(tracked, tmp_path, whole)


def test_what_a_dead_process_left_beside_a_whole_file_is_swept(tracked: Path, tmp_path: Path, whole: dict):
    """Two worked at the same view; one was killed, the other has made it, so nobody opens that folder again."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    journal = Journal(tmp_path, {"pid": dead.pid})
    journal.append("begin", {"video": "a", "views": ["easy"]})
    augment(tracked, tmp_path, model=FakeModel(), **OPTIONS)
    left = video_path(tmp_path, "easy", "a").with_name(f".x.mp4.tmp-{host_id()}-{dead.pid}-0123abcd.mp4")
    left.touch()
    assert augment(tracked, tmp_path, model=FakeModel(), **OPTIONS).count() == {"skipped": VIEWS}
    assert left_by(tmp_path) == whole
