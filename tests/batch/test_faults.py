"""Bad videos among good ones, and processes that are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fakes import FakeModel, write_clip
from forks import Fork, ForkServer
from guava_aug import augment
from guava_aug.output.tree import video_path
from guava_aug.runtime.atomic import STALE_AFTER, remove_stale_files
from guava_aug.runtime.processes import host_id
from run_outputs import logged, tree

VIEWS = ("easy", "medium", "hard")


def truncate_images(clip: Path) -> None:
    mdb = clip / "img_lmdb" / "data.mdb"
    mdb.write_bytes(mdb.read_bytes()[:5000])


def drop_key(clip: Path) -> None:
    _change_frames(clip, lambda frames: frames["frame_000001"]["smplx_coeffs"].pop("body_pose"))


def nan_pose(clip: Path) -> None:
    _change_frames(clip, lambda frames: frames["frame_000001"]["smplx_coeffs"]["body_pose"].fill(np.nan))


def truncate_pickle(clip: Path) -> None:
    path = clip / "optim_tracking_ehm.pkl"
    path.write_bytes(path.read_bytes()[:-200])


def no_frames(clip: Path) -> None:
    (clip / "videos_info.json").write_text(json.dumps({clip.name: {"frames_num": 0, "frames_keys": []}}))


def _change_frames(clip: Path, change) -> None:
    import pickle

    path = clip / "optim_tracking_ehm.pkl"
    frames = pickle.loads(path.read_bytes())
    change(frames)
    path.write_bytes(pickle.dumps(frames))


@pytest.mark.parametrize("damage", [truncate_images, drop_key, nan_pose, truncate_pickle, no_frames])
def test_a_bad_video_is_reported_and_the_rest_goes_on(tmp_path: Path, damage):
    root = tmp_path / "tracked"
    for name in ("a", "bad", "c"):
        write_clip(root, name, frames=3)
    damage(root / "bad")
    result = augment(root, tmp_path / "out", model=FakeModel())
    assert {(v.video, v.status) for v in result.views} == {("a", "success"), ("bad", "failed"), ("c", "success")}
    assert {v.video for v in result.failed} == {"bad"}
    assert all("bad" in (v.error or "") and "Traceback" not in (v.error or "") for v in result.failed)
    entries = logged(tmp_path / "out")["bad"]
    assert {e["status"] for e in entries.values()} == {"failed"}
    assert all(e["error"] and "yaw" in e for e in entries.values())
    assert len(tree(tmp_path / "out")) == 6
    # mended, only the bad one is made
    shutil.rmtree(root / "bad")
    write_clip(root, "bad", frames=3)
    assert augment(root, tmp_path / "out", model=FakeModel()).count() == {"skipped": 6, "success": 3}
    assert "error" not in logged(tmp_path / "out")["bad"]["easy"]


def test_an_empty_mask_is_reported(tmp_path: Path):
    write_clip(tmp_path / "tracked", "ghost", frames=2, mask_level=0)
    result = augment(tmp_path / "tracked", tmp_path / "out", model=FakeModel())
    assert result.count() == {"failed": 3}
    assert "mask" in (result.views[0].error or "")


def test_an_avatar_that_is_not_finite_is_reported_with_its_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_clip(tmp_path / "tracked", "clip", frames=5)
    model = FakeModel()
    avatar = model.avatar(None, None)

    def pose(motion):
        posed = avatar.pose(motion)
        posed.means[-1, 0, 0] = float("inf")
        return posed

    monkeypatch.setattr(model, "avatar", lambda raw, identity: type("A", (), {"pose": staticmethod(pose)}))
    result = augment(tmp_path / "tracked", tmp_path / "out", model=model, frames_per_chunk=3)
    assert "frame 2" in (result.views[0].error or "")
    assert tree(tmp_path / "out") == {}


def test_the_traceback_is_in_the_debug_log_only(forks: ForkServer, tmp_path: Path):
    write_clip(tmp_path / "tracked", "bad", frames=3)
    truncate_pickle(tmp_path / "tracked" / "bad")
    done = _start(forks, tmp_path, 0).communicate()
    assert "Traceback" not in done[0] + done[1]
    assert "truncated" in done[0]
    assert "Traceback" in (tmp_path / "out" / ".guava-aug" / "debug.log").read_text()


def _start(forks: ForkServer, tmp_path: Path, seconds_per_frame: float, *more: str) -> Fork:
    roots = ["--tracked_root", str(tmp_path / "tracked"), "--output_root", str(tmp_path / "out")]
    return forks.start("run", *roots, *more, seconds_per_frame=seconds_per_frame)


def _wait_for(condition, process: Fork) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come so far"
        time.sleep(0.02)


def _in_flight(out: Path) -> list[Path]:
    return list(out.rglob("*.mp4.tmp-*"))


def test_killed_in_the_middle_and_run_again(forks: ForkServer, tmp_path: Path):
    for name, frames in (("a", 2), ("b", 60)):  # b is in flight for a long time
        write_clip(tmp_path / "tracked", name, frames=frames)
    augment(tmp_path / "tracked", tmp_path / "whole", model=FakeModel(), frames_per_chunk=1)
    out = tmp_path / "out"
    process = _start(forks, tmp_path, 0.1, "--frames_per_chunk", "1")
    _wait_for(lambda: video_path(out, "hard", "a").exists() and len(_in_flight(out)) == 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(_in_flight(out)) == 3
    assert set(logged(out)) == {"a"}
    result = augment(tmp_path / "tracked", out, model=FakeModel())
    assert result.count() == {"skipped": 3, "success": 3}
    assert tree(out) == tree(tmp_path / "whole")
    assert not [p for p in out.rglob("*") if ".tmp-" in p.name]


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_stopped_politely(forks: ForkServer, tmp_path: Path, signal_number: int, code: int):
    write_clip(tmp_path / "tracked", "a", frames=6)
    out = tmp_path / "out"
    process = _start(forks, tmp_path, 10, "--frames_per_chunk", "1", "--grace", "0.5")  # three minutes to go
    _wait_for(lambda: len(_in_flight(out)) == 3, process)
    process.send_signal(signal_number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert "run it again" in said
    assert not _in_flight(out)


def test_sweep_takes_only_files_of_dead_processes(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, end = host_id(), "0123abcd"
    gone = [f".v.mp4.tmp-{here}-{dead.pid}-{end}", f".v.mp4.tmp-{here}-{dead.pid}-{end}.mp4"]  # the second: of 0.1.0
    mine = [f".v.mp4.tmp-{here}-{os.getpid()}-{end}"]
    others = [f".v.mp4.tmp-00000000-{dead.pid}-{end}", f".v.json.tmp-{'0' * 8}-{dead.pid}-{end}.json"]
    nameless = [f".v.mp4.tmp-{dead.pid}-{end}.mp4", f".log.json.tmp-{dead.pid}-{end}"]  # of before 0.1.0
    none_of_ours = [f"v.tmp-{here}-{dead.pid}-{end}", ".v.mp4", f".x.tmp-{here}-12-zz", f".v.tmp-{here}-12-{end}.m p"]
    for name in (*gone, *mine, *others, *nameless, *none_of_ours):
        (tmp_path / name).write_text("")
    remove_stale_files(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {*mine, *others, *nameless, *none_of_ours}
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - STALE_AFTER - 60,) * 2)
    remove_stale_files(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {*mine, *none_of_ours}  # a process that was stopped goes on one day
    remove_stale_files(tmp_path / "nowhere")


def test_a_clock_that_is_ahead_does_not_make_files_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    theirs = tmp_path / ".v.mp4.tmp-00000000-1-0123abcd"
    theirs.write_text("")  # a moment ago, by the clock of the file system
    now = time.time() + 30 * STALE_AFTER
    monkeypatch.setattr("guava_aug.runtime.atomic.time.time", lambda: now)
    remove_stale_files(tmp_path)
    assert theirs.exists()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_open_files_do_not_add_up(tmp_path: Path):
    """However many videos, and whether they are good or bad."""
    for i in range(40):
        clip = write_clip(tmp_path / "tracked", f"v{i:02d}", frames=2)
        if i % 4 == 1:
            truncate_images(clip)
        if i % 4 == 2:
            nan_pose(clip)
    seen: list[int] = []
    model = FakeModel(on_render=lambda: seen.append(len(os.listdir("/proc/self/fd"))))
    augment(tmp_path / "tracked", tmp_path / "out", difficulties=["easy"], model=model)
    assert len(seen) == 20
    assert max(seen[10:]) <= max(seen[:10])
