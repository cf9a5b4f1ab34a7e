"""What `guava-aug check` prints where there is no terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from guava_aug.cli import main


def test_one_line_for_each_video(write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("a good one", fps=25)
    long = "half_" + "copied" * 20
    (write(long) / "id_share_params.pkl").unlink()
    info = write("odd") / "videos_info.json"
    info.write_text(info.read_text().replace('"frames_num": 5', '"frames_num": 6'))
    times = tmp_path / "times.csv"
    times.write_text("video,fps\nzzz,10\n")
    assert main(["check", str(tmp_path), "--time_map", str(times)]) == 3
    said = capsys.readouterr()
    *lines, last = said.out.splitlines()
    good, half, odd = (line.split("\t") for line in lines)
    assert good[:5] == ["a good one", "good", "5", "64", "25"] and len(good[5]) == 8 and good[6] == ""
    assert half[:2] == [long, "bad"] and half[6].startswith(f"wrong: {tmp_path / long} is incomplete: id_share")
    assert odd[:2] == ["odd", "odd"] and odd[6].startswith("odd: videos_info.json: frames_num is 6")
    assert last == "3 videos, 2 good, 1 that cannot be used"
    assert f"time map {times}: no such video below {tmp_path}: zzz" in said.err


def test_a_terminal_gets_a_table(write, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    write("v")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["check", str(tmp_path)]) == 0
    assert "┃" in capsys.readouterr().out
