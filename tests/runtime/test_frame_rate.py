"""Frame rates as they are typed, and as a video has them."""

from __future__ import annotations

import json
import pickle
from fractions import Fraction
from pathlib import Path

import pytest

from fakes import FakeModel, write_clip
from guava_aug.batch.config import RunConfig
from guava_aug.cli import main
from guava_aug.errors import InputError, UsageError
from guava_aug.output.metadata import read_sidecar
from guava_aug.output.tree import sidecar_path, video_path
from guava_aug.output.video import open_video
from guava_aug.runtime.frame_rate import exact_rate, parse_rate, rate_text
from guava_aug.tracked.layout import check_fps
from guava_aug.tracked.timemap import load_time_map

NTSC = Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("text", "rate", "exact"),
    [("25", 25.0, Fraction(25)), ("29.97", 29.97, Fraction(2997, 100)), ("30000/1001", NTSC, NTSC),
     (" 60000 / 2002 ", NTSC, NTSC), ("50/2", 25.0, Fraction(25)), ("25/2", Fraction(25, 2), Fraction(25, 2)),
     ("23.976023976", 23.976023976, Fraction(24000, 1001)), ("1e2", 100.0, Fraction(100)),
     ("999983/33331", Fraction(999983, 33331), Fraction(999983, 33331)), ("0.5", 0.5, Fraction(1, 2))],
)  # fmt: skip
def test_rates(text: str, rate: float | Fraction, exact: Fraction):
    found = parse_rate(text)
    assert found == rate and type(found) is type(rate)  # a plain number stays one: it is part of old journals
    assert exact_rate(found) == exact
    assert Fraction(rate_text(found)) == exact and rate_text(25.0) == "25/1"


@pytest.mark.parametrize(
    "text",
    ["", "x", "0", "-25", "nan", "inf", "1001", "1e400", "1/0", "0/1", "-30000/1001", "30000/-1001", "30000/1001/1",
     "30000:1001", "2000000/66667", "1/1000000", "9" * 5000, "1/" + "9" * 5000, "٣٠/1"],
    ids=lambda text: text[:16],
)  # fmt: skip
def test_what_is_no_rate(text: str, tmp_path: Path):
    with pytest.raises(ValueError, match="expected"):
        parse_rate(text)
    with pytest.raises(UsageError, match="--fps: expected"):
        RunConfig(tmp_path, tmp_path, fps=text)
    if text not in ("", "x"):
        with pytest.raises(InputError, match="here: expected fps"):
            check_fps(text, "here")


@pytest.mark.parametrize("value", [10**400, True, [25], {"a": 1}, float("nan"), Fraction(10**400, 3)])
def test_values_that_are_no_rates(value: object):
    with pytest.raises(InputError, match="here: expected fps"):
        check_fps(value, "here")


def test_a_rate_is_itself_again_after_json(tmp_path: Path):
    for fps in (None, 29.97, NTSC, Fraction(999983, 33331)):
        again = RunConfig.from_json(RunConfig(tmp_path, tmp_path, fps=fps).to_json()).fps
        assert again == fps and type(again) is type(fps)


def test_tracked_data_and_time_maps_may_give_a_fraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *args, **kwargs: FakeModel())
    monkeypatch.setattr("guava_aug.batch.validate.cached_weights_digest", lambda *args: "fake")
    tracked, out = tmp_path / "tracked", tmp_path / "out"
    write_clip(tracked, "data", frames=2, fps=NTSC)
    write_clip(tracked, "json", frames=2)
    write_clip(tracked, "csv", frames=2)
    for text, name in (('{"json": {"fps": "24000/1001"}}', "m.json"), ("video,fps\ncsv,60000/1001\n", "m.csv")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert load_time_map(tmp_path / "m.csv")["csv"].fps == 2 * NTSC
    for name in ("m.json", "m.csv"):
        command = ["run", "--tracked_root", str(tracked), "--output_root", str(out / name), "--difficulties", "easy"]
        assert main([*command, "--device", "cpu", "--time_map", str(tmp_path / name)]) == 0
        assert main([*command, "--device", "cpu", "--time_map", str(tmp_path / name)]) == 0  # all is there
    for name, video, rate in (("m.json", "data", NTSC), ("m.json", "json", NTSC * 4 / 5), ("m.csv", "csv", NTSC * 2)):
        with open_video(video_path(out / name, "easy", video)) as (_, stream):
            assert stream.average_rate == rate
        assert Fraction(read_sidecar(sidecar_path(out / name, "easy", video))["frame_rate"]) == rate
    assert main(["check", str(tracked)]) == 0


def test_a_fraction_reaches_workers_child_processes_and_retry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = RunConfig(tmp_path, tmp_path, fps=NTSC)
    for again in (pickle.loads(pickle.dumps(config)), RunConfig.from_json(json.loads(json.dumps(config.to_json())))):
        assert again == config and again.fps == NTSC
    broken = FakeModel(on_render=lambda: (_ for _ in ()).throw(RuntimeError("boom")))
    models = iter([broken, FakeModel()])
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *args, **kwargs: next(models))
    monkeypatch.setattr("guava_aug.batch.validate.cached_weights_digest", lambda *args: "fake")
    write_clip(tmp_path / "tracked", "a", frames=2)
    out = tmp_path / "out"
    command = ["run", "--tracked_root", str(tmp_path / "tracked"), "--output_root", str(out), "--device", "cpu"]
    assert main([*command, "--difficulties", "easy", "--fps", "30000/1001"]) == 3
    assert main(["retry", str(out)]) == 0
    with open_video(video_path(out, "easy", "a")) as (_, stream):
        assert stream.average_rate == NTSC


def test_a_flag_that_is_no_rate_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["run", "--tracked_root", str(tmp_path / "tracked"), "--output_root", str(tmp_path / "out")]
    assert main([*command, "--fps", "1/0"]) == 2
    assert "--fps: expected a number such as 25 or a fraction such as 30000/1001" in capsys.readouterr().err
