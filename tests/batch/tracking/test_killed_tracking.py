"""The real tracker, killed at any instant and shared in any way: the same folders as of a run that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from guava_aug.assets import embedded_path
from guava_aug.batch.journal.history import History
from guava_aug.batch.status import run_status
from guava_aug.tracked import TrackedVideo

pytestmark = pytest.mark.thorough
KILLS = int(os.environ.get("GUAVA_AUG_KILLS", "3"))
SIZE, FRAMES = 256, 6


def write_videos(folder: Path) -> None:
    """Four clips, two of them in a folder below, one that is broken, and one without a person."""
    (folder / "more").mkdir(parents=True)
    for clip, name in (("signer_a", "a.mp4"), ("signer_b", "more/b é 1.mp4"), ("signer_c", "c.mp4")):
        video = TrackedVideo.open(embedded_path("clips"), clip)
        pictures = [cv2.resize(video.read_frame(i)[0], (SIZE, SIZE)) for i in range(20, 20 + FRAMES)]
        write_mp4(folder / name, pictures)
    write_mp4(folder / "empty.mp4", [np.full((64, 64, 3), 50 + i, np.uint8) for i in range(4)])
    (folder / "broken.mp4").write_bytes((folder / "a.mp4").read_bytes()[:2000])


def write_mp4(path: Path, pictures: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))


def start(folder: Path, root: Path, *more: str) -> subprocess.Popen[bytes]:
    """`guava-aug track` of all videos, in a group of its own; one thread, as results depend on their number."""
    words = ["track", str(folder), str(folder / "more"), "--tracked_root", str(root), "--device", "cpu", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "guava_aug", *words], env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def files_of(root: Path) -> dict[str, bytes]:
    """Everything below a tracked root but the records of its runs."""
    files = {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    return {name: content for name, content in files.items() if not name.startswith(".guava-aug")}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder)
    return folder


@pytest.fixture(scope="module")
def whole(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """What a run leaves that was left alone, and how long it took in seconds."""
    root = tmp_path_factory.mktemp("whole")
    begun = time.monotonic()
    process = start(videos, root)
    _, said = process.communicate()
    assert process.returncode == 3, said.decode()
    assert {name.split("/")[0] for name in files_of(root)} == {"a", "b é 1", "c", "empty", "broken"}
    return files_of(root), time.monotonic() - begun


@pytest.mark.parametrize("way", [(), ("--workers", "2")])
def test_killed_again_and_again(
    videos: Path, whole: tuple[dict[str, bytes], float], tmp_path: Path, way: tuple[str, ...]
):
    expected, seconds = whole
    rng = random.Random(str(way))
    for _ in range(KILLS):
        process = start(videos, tmp_path, *way)
        time.sleep(rng.uniform(0.2, 0.9) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(videos, tmp_path, *way)
    _, said = process.communicate()
    assert process.returncode == 3, said.decode()
    assert files_of(tmp_path) == expected  # also nothing temporary
    standing = run_status(History(tmp_path))
    assert (standing.views, standing.done, standing.failed, standing.left) == (5, 3, 2, 0)


def test_shared_by_shards(videos: Path, whole: tuple[dict[str, bytes], float], tmp_path: Path):
    processes = [start(videos, tmp_path, "--shard", f"{part}/2") for part in (0, 1)]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode in (0, 3), said.decode()
    assert files_of(tmp_path) == whole[0]
    assert start(videos, tmp_path).wait() == 3
    assert run_status(History(tmp_path)).done == 3
