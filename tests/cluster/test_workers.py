"""`--workers`, `--timeout` and what they survive, through the real command. `--gpus` is the same with other devices."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from cluster.conftest import NAMES, ended, start, wait_until
from guava_aug import UsageError
from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.local_workers import worker_slots
from guava_aug.errors import DeviceError
from run_outputs import logged, tree


def command(tracked: Path, out: Path, *more: str) -> list[str]:
    return ["run", "--tracked_root", str(tracked), "--output_root", str(out), "--device", "cpu", *more]


def children_of(pid: int) -> list[int]:
    """Its child processes."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.cluster
def test_a_worker_that_dies_is_replaced_and_its_video_done_again(tracked: Path, whole: Path, tmp_path: Path):
    out, mark = tmp_path / "out", tmp_path / "mark"
    code, said = ended(
        start(*command(tracked, out, "--workers", "2"), die_once=["b", str(mark)], die="d", seconds=0.02)
    )
    assert code == 3, said
    assert mark.exists()
    assert "SIGKILL" in said
    assert "failed: d (easy, medium, hard)" in said
    assert "SIGSEGV" in said.split("failed: d")[1]
    assert {v: {e["status"] for e in views.values()} for v, views in logged(out).items()} == {
        name: {"failed" if name == "d" else "success"} for name in NAMES
    }
    expected = {path: data for path, data in tree(whole).items() if "/d/" not in path}
    assert tree(out) == expected


@pytest.mark.cluster
def test_a_hanging_video_is_given_up(tracked: Path, tmp_path: Path):
    out = tmp_path / "out"
    code, said = ended(start(*command(tracked, out, "--timeout", "3", "--video_list", "a", "b"), hang="a"))
    assert code == 3, said
    assert "failed: a" in said
    assert "nothing happened for 3 s" in said
    assert "3 success, 3 failed" in said
    assert not [p for p in out.rglob("*") if ".tmp-" in p.name and "mp4" in p.name and "/b/" in str(p)]


@pytest.mark.cluster
def test_ctrl_c_reaches_all_workers(tracked: Path, tmp_path: Path):
    out = tmp_path / "out"
    process = start(*command(tracked, out, "--workers", "2", "--frames_per_chunk", "1", "--grace", "60"), seconds=3)
    wait_until(lambda: len({p.parent.name for p in out.rglob("*.mp4.tmp-*")}) == 2, process)
    workers = children_of(process.pid)
    assert len(workers) >= 2
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None  # the first only asks
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert code == 130, said
    assert not [p for p in out.rglob("*") if ".tmp-" in p.name]
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


@pytest.mark.cluster
def test_asked_to_end_the_videos_in_flight_are_finished(tracked: Path, whole: Path, tmp_path: Path):
    out = tmp_path / "out"
    process = start(*command(tracked, out, "--workers", "2"), seconds=0.1)
    wait_until(lambda: len(list(out.rglob("*.mp4.tmp-*"))) >= 3, process)
    process.send_signal(signal.SIGTERM)
    code, said = ended(process)
    assert code == 75, said
    assert {e["status"] for views in logged(out).values() for e in views.values()} == {"success"}
    assert 0 < len(tree(out)) < len(tree(whole))
    assert tree(out).items() <= tree(whole).items()


@pytest.mark.cluster
def test_workers_do_not_outlive_a_run_that_is_killed(tracked: Path, tmp_path: Path):
    out = tmp_path / "out"
    process = start(*command(tracked, out, "--workers", "2"), seconds=3)
    wait_until(lambda: list(out.rglob("*.mp4.tmp-*")), process)
    workers = children_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), seconds=30)
    assert not list(out.rglob("*.mp4.tmp-*"))


@pytest.mark.parametrize("more", [[], pytest.param(["--workers", "2"], marks=pytest.mark.cluster)], ids=len)
def test_a_full_disk_stops_the_run(tracked: Path, tmp_path: Path, more: list[str]):
    """Not one video after the other: what is there is kept, and the message says what is needed."""
    out = tmp_path / "out"
    code, said = ended(start(*command(tracked, out, *more), full_after=[3, str(out)]))
    assert code == 2, said
    assert "no space" in said
    assert "are needed" in said
    assert 3 <= len(tree(out)) <= 8
    assert not [p for p in out.rglob("*") if ".tmp-" in p.name]
    failed = [v for v, views in logged(out).items() for e in views.values() if e["status"] == "failed"]
    assert len(set(failed)) <= 2  # those that were in work


@pytest.mark.cluster
def test_a_broken_gpu_stops_a_process_and_not_the_crew(tracked: Path, tmp_path: Path):
    names = ["--video_list", "a", "b", "c"]
    code, said = ended(start(*command(tracked, tmp_path / "one", *names), cuda_error="b"))
    assert code == 2
    assert "illegal memory access" in said
    assert len(tree(tmp_path / "one")) == 3
    code, said = ended(start(*command(tracked, tmp_path / "crew", *names, "--workers", "1"), cuda_error="b"))
    assert code == 3, said
    assert "6 success, 3 failed" in said


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = lambda **more: RunConfig(tmp_path, tmp_path, **more)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    found = worker_slots(config(gpus=("1", "0"), workers=2), 3)  # fewer videos than workers: first one on each GPU
    assert [p.environment["CUDA_VISIBLE_DEVICES"] for p in found] == ["7", "5", "7"]
    assert {p.device for p in found} == {"0"}
    assert found[2].name == "GPU 1 worker 1"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    found = worker_slots(config(gpus=("0", "GPU-1a2b")), 2)
    assert [p.environment["CUDA_VISIBLE_DEVICES"] for p in found] == ["0", "GPU-1a2b"]
    with pytest.raises(DeviceError, match="no GPU 2; torch finds GPUs 0 to 1"):
        worker_slots(config(gpus=("0", "2")), 2)
    assert [p.device for p in worker_slots(config(device="cpu", workers=3), 3)] == ["cpu"] * 3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"gpus": ("0", "0")}, "--gpus"),
        ({"gpus": ("",)}, "--gpus"),
        ({"workers": 0}, "--workers"),
        ({"timeout": 0.0}, "--timeout"),
        ({"mode": "subprocess", "workers": 2}, "--mode subprocess"),
        ({"engine": "ray", "gpus": ("0",)}, "--engine ray"),
        ({"ray_address": "auto"}, "--ray_address"),
        ({"grace": -1.0}, "--grace"),
    ],
)
def test_flags_that_make_no_sense(tmp_path: Path, options: dict, match: str):
    with pytest.raises(UsageError, match=match):
        RunConfig(tmp_path, tmp_path, **options)
