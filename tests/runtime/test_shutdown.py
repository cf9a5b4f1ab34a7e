"""Preemption: the real command gets signals; what is in flight ends or is dropped; the exit code says: run it again."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from fakes import FakeModel, write_clip
from forks import Fork, ForkServer
from guava_aug.cli import main
from guava_aug.output.tree import video_path
from guava_aug.runtime.shutdown import GracefulShutdown, ShutdownRequested
from run_outputs import logged, tree

LABELS = ("easy", "medium", "hard")


@pytest.fixture
def tracked(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write_clip(tmp_path / "tracked", name, frames=5)
    return tmp_path / "tracked"


def start(forks: ForkServer, tracked: Path, out: Path, *more: str, seconds_per_frame: float = 0.1) -> Fork:
    """A run whose every view writes frame by frame; returns when the first video's views are in flight."""
    command = ["run", "--tracked_root", str(tracked), "--output_root", str(out), "--frames_per_chunk", "1"]
    process = forks.start(*command, "--device", "cpu", *more, seconds_per_frame=seconds_per_frame)
    end = time.monotonic() + 300
    while len(list(out.rglob("*.mp4.tmp-*"))) < len(LABELS):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    return process


def ended(process: Fork) -> tuple[int | None, str]:
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in err
    return process.returncode, out + err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_video_in_flight_is_finished_and_the_next_is_not_begun(
    tracked: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Here the process that gets the signal is this one."""
    signals = [number] * (2 if number == signal.SIGTERM else 1)  # a script and what it started may both be told

    def once() -> None:
        if signals:
            signal.raise_signal(signals.pop())

    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *args, **kwargs: FakeModel(on_render=once))
    monkeypatch.setattr("guava_aug.batch.validate.cached_weights_digest", lambda *args: "fake")
    out = tmp_path / "out"
    command = ["run", "--tracked_root", str(tracked), "--output_root", str(out), "--device", "cpu"]
    assert main(command) == (130 if number == signal.SIGINT else 75)
    assert "run it again" in capsys.readouterr().err
    assert {v: {e["status"] for e in views.values()} for v, views in logged(out).items()} == {"a": {"success"}}
    assert len(tree(out)) == 3
    signals.append(signal.SIGTERM)  # asked during the last video, the run ends well
    assert main(command) == 0
    assert "3 success, 3 skipped" in capsys.readouterr().out
    assert main([*command[:4], str(tmp_path / "whole")]) == 0
    assert tree(out) == tree(tmp_path / "whole")


def test_what_does_not_end_within_the_grace_time_is_dropped(forks: ForkServer, tracked: Path, tmp_path: Path):
    out = tmp_path / "out"
    process = start(forks, tracked, out, "--grace", "0.3", seconds_per_frame=3)  # 45 s to go
    process.send_signal(signal.SIGUSR1)
    code, _ = ended(process)
    assert code == 75
    assert not [p for p in out.rglob("*") if ".tmp-" in p.name]
    assert tree(out) == {}


def test_a_second_ctrl_c_does_not_wait(forks: ForkServer, tracked: Path, tmp_path: Path):
    out = tmp_path / "out"
    process = start(forks, tracked, out, "--grace", "1000", seconds_per_frame=30)
    process.send_signal(signal.SIGINT)
    while "shutdown requested" not in process.stderr():
        time.sleep(0.02)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 130
    assert not [p for p in out.rglob("*") if ".tmp-" in p.name]


def test_no_group_of_views_begins_after_the_question(tracked: Path, tmp_path: Path):
    stop = GracefulShutdown(grace=60)
    model = FakeModel(on_render=stop.ask)
    with pytest.raises(ShutdownRequested) as stopped, stop:
        from guava_aug.batch.config import RunConfig
        from guava_aug.batch.run import run

        run(RunConfig(tracked, tmp_path / "out", views_in_flight=2), model=model, stop=stop)
    assert stopped.value.code == 75
    assert set(tree(tmp_path / "out")) == {
        str(video_path("", label, "a")) for label in LABELS[:2]
    }  # the group in flight is complete


def test_handlers_are_given_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with GracefulShutdown() as stop:
        assert signal.getsignal(signal.SIGTERM) not in before
        stop()
        assert not stop.asked
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
