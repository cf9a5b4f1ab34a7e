"""`guava-aug estimate` and `guava-aug doctor`: what they count, measure and say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest

import guava_aug.apps.estimate
from fakes import FakeModel, write_clip
from guava_aug import InputError, augment
from guava_aug.apps.doctor import examine
from guava_aug.apps.estimate import Amount, Rates, amounts, measure
from guava_aug.batch.config import RunConfig
from guava_aug.cli import main

RATES = Rates(5.0, 10.0, 0.01, 0.1, 1000.0, "clip", 1.0, "CPU", None, None)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    for name, frames in (("a", 2), ("b", 5), ("c", 9)):
        write_clip(tmp_path / "tracked", name, frames=frames)
    (tmp_path / "tracked" / "c" / "img_lmdb" / "data.mdb").write_bytes(b"nothing")
    (tmp_path / "tracked" / "bad").mkdir()
    (tmp_path / "tracked" / "bad" / "videos_info.json").write_text("{")
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *args, **kwargs: FakeModel(0.001))
    return RunConfig(tmp_path / "tracked", tmp_path / "out", device="cpu")


def test_what_is_counted(config: RunConfig):
    assert amounts(config) == ([Amount("a", 2, 3), Amount("b", 5, 3), Amount("c", 9, 3)], ["bad"])
    augment(config.tracked_root, config.output_root, ["a"], ["easy", "hard"], model=FakeModel())
    assert amounts(config)[0][0] == Amount("a", 2, 1)  # easy and hard are there
    assert amounts(replace(config, overwrite=True))[0][0].views == 3
    halves = [amounts(replace(config, shard=f"{i}/2")) for i in (0, 1)]
    assert sorted(v.name for found, _ in halves for v in found) == ["a", "b", "c"]


def test_what_a_video_costs():
    assert RATES.seconds_of(Amount("v", 100, 3), 16) == pytest.approx(10 + 100 * (0.01 + 3 * 0.1))
    assert RATES.seconds_of(Amount("v", 100, 17), 16) == pytest.approx(10 + 100 * (2 * 0.01 + 17 * 0.1))  # two groups
    assert RATES.seconds_of(Amount("v", 100, 0), 16) == 0


def test_a_video_that_can_be_read_is_measured(config: RunConfig):
    rates = measure(config, amounts(config)[0], frames=4)
    assert rates.video in ("a", "b")
    assert min(rates.per_video, rates.per_frame, rates.per_view_frame) >= 0
    assert rates.per_view_frame + rates.per_frame + rates.per_video > 0
    assert 10 < rates.bytes_per_view_frame < 1e5
    assert not config.output_root.exists()  # it works elsewhere


def test_names_are_those_of_the_user(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Also when the first video that is tried cannot be copied, and when the measurement fails."""
    seen = []
    real = guava_aug.apps.estimate.clip_of_length

    def clip(root: Path, name: str, frames: int, out: Path) -> Path:
        seen.append(name)
        if len(seen) == 2:  # the second clip of the first video
            raise InputError("damaged")
        return real(root, name, frames, out)

    monkeypatch.setattr(guava_aug.apps.estimate, "clip_of_length", clip)
    rates = measure(config, amounts(config)[0][:2], frames=4)
    assert seen == [seen[0], seen[0], rates.video, rates.video] and {seen[0], rates.video} == {"a", "b"}
    monkeypatch.setattr("guava_aug.batch.pipeline.source_fault", lambda image, name: f"{name} is empty")
    caplog.clear()
    with pytest.raises(InputError, match=r"^none of [ab], [ab] can be measured; see `guava-aug check`$"):
        measure(config, amounts(config)[0][:2], frames=4)
    said = sorted(m for m in caplog.messages if "cannot be" in m)
    assert said == [f"{name} cannot be measured: the measurement failed: {name} is empty" for name in ("a", "b")]


def test_videos_that_cannot_be_measured_are_passed_over(config: RunConfig, caplog: pytest.LogCaptureFixture):
    """A picture that only shows when it is decoded; what is said names it where the user has it."""
    root = config.tracked_root
    env = lmdb.open(str(root / "b" / "img_lmdb"), map_size=2**26)
    with env.begin(write=True) as transaction:
        transaction.put(b"frame_000002/body_image", b"")
    env.close()
    todo = [Amount("c", 9, 3), Amount("b", 9, 3), Amount("a", 9, 3)]
    assert measure(config, todo, frames=4).video == "a"
    warnings = [m for m in caplog.messages if "cannot be measured" in m]
    data = root / "b" / "img_lmdb" / "data.mdb"
    assert warnings[0].startswith("c cannot be measured: video 'c': ")
    assert warnings[1].startswith(
        f"b cannot be measured: video 'b', frame 'frame_000002', body_image in {data}: 0 bytes"
    )
    assert len(warnings) == 2 and "guava-aug-estimate" not in caplog.text


def test_paths_are_those_of_the_user(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(clips: RunConfig, name: str, *args: object) -> None:
        raise InputError(f"{clips.tracked_root / name} is odd")

    monkeypatch.setattr("guava_aug.apps.estimate._make", fail)
    with pytest.raises(InputError, match="none of a can be"):
        measure(config, [Amount("a", 2, 3)], frames=4)
    assert f"a cannot be measured: {config.tracked_root / 'a'} is odd" in caplog.messages


def test_the_command(config: RunConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("guava_aug.apps.estimate.measure", lambda *args: RATES)
    command = ["estimate", "--tracked_root", str(config.tracked_root), "--output_root", str(config.output_root)]
    assert main([*command, "--shards", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["videos"], found["views"], found["frames"], found["videos_unreadable"]) == (3, 9, 16, 1)
    assert found["disk_bytes"] == 16 * 3 * 1000
    assert found["longest_shard_hours"] <= found["hours"] < 2 * found["longest_shard_hours"] + 1e-9
    monkeypatch.setattr("guava_aug.apps.estimate.measure", lambda *args: replace(RATES, bytes_per_view_frame=1e15))
    assert main(command) == 3
    said = capsys.readouterr().out
    assert "TOO LITTLE" in said and "; 1 more cannot be read (guava-aug check): bad\n" in said
    monkeypatch.setattr("guava_aug.apps.estimate.measure", lambda *args: RATES)
    assert main([*command, "--video_list", "a", "--difficulties", "easy"]) == 0
    said = capsys.readouterr().out
    assert "to make:   1 view of 1 video, 2 frames\n" in said and "disk:      2.0 KiB; " in said
    assert "5.0 s to start; 10.0 s for a video, 10.0 ms for each of its frames, 100.0 ms and 1.0 KiB for each" in said


def test_the_measurement_does_not_speak_of_every_repeat(config: RunConfig, capsys: pytest.CaptureFixture[str]):
    command = ["estimate", "--tracked_root", str(config.tracked_root), "--output_root", str(config.output_root)]
    command += ["--device", "cpu", "--sample_frames", "4"]
    assert main([*command, "--video_list", "a", "b"]) == 0
    said = capsys.readouterr().err
    assert said.count("measuring with 2 frames and 4 of ") == 1 and "clean plate" not in said
    assert main([*command, "--video_list", "a", "b", "--verbose"]) == 0
    assert "clean plate" in capsys.readouterr().err


def test_bad_counts(config: RunConfig):
    command = ["estimate", "--tracked_root", str(config.tracked_root), "--output_root", str(config.output_root)]
    assert main([*command, "--shards", "0"]) == 2


def test_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *args, **kwargs: FakeModel())
    assert main(["doctor", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("ok   end to end: 4 frames")]
    assert [line for line in lines if line.startswith("ok   libx264")]
    assert lines[-1].endswith("0 failures")
    assert main(["doctor", "--device", "cpu", "--model_path", "nowhere"]) == 2
    assert "fail model: " in (out := capsys.readouterr().out)
    assert "nowhere does not exist" in out
    assert main(["doctor", "--device", "cpu", "--model_path", "nowhere", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["counts"]["fail"] == sum(finding["level"] == "fail" for finding in report["findings"]) > 0
    assert any(f["what"] == "model" and "nowhere does not exist" in f["text"] for f in report["findings"])


def test_doctor_without_an_encoder_or_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import guava_aug.apps.doctor as doctor

    config = RunConfig(tmp_path, tmp_path, device="cpu")
    monkeypatch.setattr(doctor, "_encode_problem", lambda codec: "no such codec")
    x264, nvenc = doctor._encoders(config)
    assert (x264.level, nvenc.level) == ("fail", "ok") and "not here; guava-aug does not use it" in nvenc.text
    monkeypatch.setattr(doctor, "_encode_problem", lambda codec: None)
    x264, nvenc = doctor._encoders(config)
    assert (x264.level, nvenc.level) == ("ok", "ok") and "works here; guava-aug does not use it" in nvenc.text
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(doctor, "version", lambda name: "3.0")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    (found,) = doctor._triton(config)
    assert (found.level, "no C compiler" in found.text, "gcc" in found.advice) == ("warn", True, True)

    def broken(config):
        raise RuntimeError("boom")
        yield

    monkeypatch.setattr(doctor, "_packages", broken)
    assert next(examine(config)).text == "RuntimeError: boom"
