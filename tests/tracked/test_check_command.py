"""What `guava-aug check` prints where there is no terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from guava_aug.cli import main
from person_clip import inverted, write_person


def test_one_line_for_each_video(write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_person(tmp_path, "a good one", frames=5, fps=25)
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
    assert good[:5] == ["a good one", "good", "5", "128", "25"] and len(good[5]) == 8 and good[6] == ""
    assert 0.7 < float(good[7]) < 1 and float(good[8]) < 0.5  # overlap, jitter
    assert half[:2] == [long, "bad"] and half[6].startswith(f"wrong: {tmp_path / long} is incomplete: id_share")
    assert odd[:2] == ["odd", "odd"] and odd[6].startswith("odd: videos_info.json: frames_num is 6")
    assert last == "3 videos, 2 good, 1 that cannot be used"
    assert f"time map {times}: no such video below {tmp_path}: zzz" in said.err


def test_frames_left_out_of_the_plate_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_person(tmp_path, "v", masks={4: inverted, 5: inverted})
    assert main(["check", str(tmp_path)]) == 0
    (line, _) = capsys.readouterr().out.splitlines()
    assert line.startswith("v\todd\t")
    assert "nothing of the clean plate is taken from it: 2 frames (4-5, from 'frame_000004' to 'frame_000005')" in line


def test_what_a_run_would_accept_is_odd_with_its_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_person(tmp_path, "v", masks=dict.fromkeys(range(12), inverted))
    assert main(["check", str(tmp_path)]) == 3
    assert main(["check", str(tmp_path), "--accept_tracking"]) == 0
    assert main(["check", str(tmp_path), "--fast"]) == 0  # nothing is decoded
    assert main(["check", str(tmp_path), "--model_path", str(tmp_path / "nothing")]) == 2


def test_a_default_model_without_body_files_leaves_the_rest_of_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_person(tmp_path / "tracked", "v")
    (tmp_path / "assets" / "GUAVA").mkdir(parents=True)  # half copied
    monkeypatch.chdir(tmp_path)
    assert main(["check", "tracked"]) == 0
    said = capsys.readouterr()
    assert "the masks are not compared with the posed body" in said.err
    assert said.out.splitlines()[0].split("\t")[7] == "-"


def test_a_terminal_gets_a_table(write, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    write("v")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["check", str(tmp_path)]) == 0
    assert "┃" in capsys.readouterr().out
