"""Names of videos that look like flags, flags that are nearly right, and files that are no lists of names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes import write_clip
from guava_aug.cli import main
from guava_aug.cli.flags import RunFlags, read_names
from guava_aug.cli.parsing import parse
from guava_aug.errors import UsageError


def run_flags(*argv: str) -> RunFlags:
    return parse(RunFlags, argv, "guava-aug run", "", "")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("-fZc29_rgb", "--7E2sU=x", "plain", "-5", "--crf"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize("given", [["--tracked_root", "{}"], ["--tracked-root={}"]])
def test_folders_whose_names_begin_with_a_dash(root: Path, given: list[str]) -> None:
    where = [word.format(root) for word in given]
    flags = run_flags(
        *where, "--output_root", "o", "--video_list", "-fZc29_rgb", "--7E2sU=x", "plain", "-5", "--base_seed", "7"
    )
    assert flags["video_list"] == ("-fZc29_rgb", "--7E2sU=x", "plain", "-5")
    assert flags["base_seed"] == 7 and flags["tracked_root"] == root


def test_a_flag_stays_a_flag(root: Path) -> None:
    """Even where a folder has its name."""
    flags = run_flags("--tracked_root", str(root), "--output_root", "o", "--video_list", "plain", "--crf", "12")
    assert flags["video_list"] == ("plain",) and flags["crf"] == 12


def test_what_is_neither_is_explained(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_flags("--tracked_root", str(root), "--output_root", "o", "--video_list", "-fZc30", "plain")
    said = capsys.readouterr().err
    assert f"-fZc30 is no flag, and there is no {root}/-fZc30; names that begin with - can also stand in" in said
    assert main(["check", str(root), "-fZc30"]) == 2
    assert "can also stand after --" in capsys.readouterr().err


def test_check_takes_such_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("-a", "--b", "c"):
        write_clip(tmp_path, name, frames=1)
    assert main(["check", str(tmp_path), "-a", "--b", "--fast"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()[:-1]] == ["-a", "--b"]
    assert main(["check", "--fast", str(tmp_path), "--", "c/", "--b", "-absent"]) == 3
    assert [line.split("\t")[:2] for line in capsys.readouterr().out.splitlines()[:-1]] == [
        ["c", "good"], ["--b", "good"], ["-absent", "bad"],
    ]  # fmt: skip


def test_the_nearest_flag_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    """The parser itself would name --views_per_difficulty first."""
    with pytest.raises(SystemExit):
        run_flags("--tracked_root", "t", "--output_root", "o", "--difficulty", "easy")
    assert "there is no flag --difficulty; did you mean --difficulties?" in capsys.readouterr().err


LISTS = {
    "json": (b'["a", "b"]', r"is JSON \(a list of 2\); expected one video name per line"),
    "json object": (json.dumps({"a": {"fps": 25}}).encode(), r"is JSON \(an object with 1 entry\)"),
    "csv": (b"video,fps\na,25\n", r"is CSV \(it begins with 'video,fps'\)"),
    "csv with semicolons": (b"name;fps\na;25\n", "is CSV with semicolons"),
    "tsv": (b"a\t25\nb\t25\n", "is a table with tabs"),
    "utf-16": ("a\nb\n".encode("utf-16"), "is UTF-16 text; expected UTF-8"),
    "utf-16 without its mark": ("a\nb\n".encode("utf-16-be"), "is UTF-16 text"),
    "latin-1": ("grüße".encode("latin-1"), r"is not UTF-8 text \(byte 2\)"),
    "zeros": (bytes(5000), "is not text: 5000 bytes"),
    "half of it zeros": (b"clip_a\nclip_b\n" + bytes(5000), "contains zero bytes"),
    "nothing": (b"# none\n\n", "holds no name"),
}


@pytest.mark.parametrize("case", LISTS)
def test_files_that_are_no_lists(tmp_path: Path, case: str) -> None:
    content, words = LISTS[case]
    path = tmp_path / "videos.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"^--video_list_file {path}: .*{words}"):
        read_names(path)


def test_odd_names_in_a_list(tmp_path: Path) -> None:
    """Commas, brackets and dashes may stand in names; a list may end in .csv."""
    path = tmp_path / "list.csv"
    path.write_bytes(b"\xef\xbb\xbf-a\r\nb, c\r\n[d]\r\n{e\n#f\nvideo\n")
    assert read_names(path) == ["-a", "b, c", "[d]", "{e", "video"]
