"""Names, paths and reasons of others on their way to a terminal, a pipe and the logs."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fakes import FakeModel, write_clip
from guava_aug.cli import main
from guava_aug.cli.slurm import _word
from guava_aug.errors import InputError, printable
from guava_aug.runtime.text import PrintableFormatter, printable_json

# What it would do, shown raw; how the name is shown.
NAMES = {
    "esc\x1b[31mred": r"esc\x1b[31mred",
    "title\x1b]0;owned\x07": r"title\x1b]0;owned\x07",
    "c1\x9b2Jgone": r"c1\x9b2Jgone",
    "2026 INFO    forged\n2026 INFO    line": r"2026 INFO    forged\n2026 INFO    line",
    "over\rwritten\bby": r"over\rwritten\x08by",
    "bidi\u202egpj": r"bidi\u202egpj",
    "isolate\u2067x\u200b": r"isolate\u2067x\u200b",
    "[bold red]markup": "[bold red]markup",
    ":smile: {braces} %s %d": ":smile: {braces} %s %d",
    "grüße 手話 नमस्ते": "grüße 手話 नमस्ते",
}
BAD = "bad\x1b[8m\nhidden\u202e"  # its tracking cannot be read


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a hostile name that holds tracked videos with hostile names."""
    root = tmp_path_factory.mktemp("x") / "tracked\x1b[7m\u202e"
    for name in (*NAMES, BAD):
        write_clip(root, name, frames=2)
    (root / BAD / "optim_tracking_ehm.pkl").write_bytes(b"\x80\x04no pickle")
    return root


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *args, **kwargs: FakeModel())
    monkeypatch.setattr("guava_aug.batch.validate.cached_weights_digest", lambda *args: "fake")


def commands(root: Path, out: Path) -> list[list[str]]:
    run = ["run", "--tracked_root", str(root), "--output_root", str(out), "--difficulties", "easy", "--device", "cpu"]
    return [["check", str(root)], run, ["status", str(out)], ["retry", str(out)], ["merge", str(out)]]


@pytest.mark.usefixtures("fake")
def test_pipes_and_logs_hold_no_control_characters(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    out, said = tmp_path / "out\x1b[5m\n\u2066", []
    for command in commands(root, out):
        code = main(command)
        assert code == (0 if command[0] in ("status", "merge") else 3), command
        said.append("".join(capfd.readouterr()))
    assert main(["check", str(tmp_path / "no\x1b[31m\nfolder")]) == 2
    assert main(["run", "--tracked_root", str(root), "--output_root", str(out), "--no\x1b[31mflag", "x"]) == 2
    said.append("".join(capfd.readouterr()))
    said += [p.read_text(encoding="utf-8") for p in (out / ".guava-aug").glob("*.*")]
    said += [p.read_text(encoding="utf-8") for p in (out / "augmentation_params.json", *out.rglob("*_video.json"))]
    for text in said:
        assert [c for c in set(text) if not c.isprintable() and c not in "\n\t"] == []
    checked, ran, *_ = said
    for shown in (*NAMES.values(), printable(BAD)):
        assert shown in checked and shown in ran
    assert len(checked.splitlines()) == len(NAMES) + 2  # a line for each, and the sum
    assert set(json.loads((out / "augmentation_params.json").read_text(encoding="utf-8"))) == {*NAMES, BAD}  # as it is


@pytest.mark.usefixtures("fake")
def test_a_terminal_gets_no_instructions_of_others(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "400")
    leader, follower = pty.openpty()
    pieces: list[bytes] = []

    def listen() -> None:
        while piece := os.read(leader, 65536):
            pieces.append(piece)
            if piece.endswith(b"THE END\r\n"):
                return

    listener = threading.Thread(target=listen)
    listener.start()
    with os.fdopen(follower, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        for command in commands(root, tmp_path / "out"):
            main(command)
        print("THE END", flush=True)
        listener.join(30)
    os.close(leader)
    said = b"".join(pieces).decode()
    assert "\x1b[" in said  # a bar was drawn
    for bad in (
        "\x1b[31mred",
        "\x1b]",
        "\x07",
        "\x9b",
        "\u202e",
        "\u2067",
        "\u200b",
        "\x1b[8m",
        "\x1b[7m\u202e",
        "\x08",
    ):
        assert bad not in said, bad
    assert "forged\r\n" not in said and "over\rw" not in said
    for shown in NAMES.values():
        assert shown in said


def test_what_nobody_expected_is_shown_escaped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("\x1b[31mred\u202e")

    monkeypatch.setattr("guava_aug.cli.import_module", broken)
    assert main(["status", "x"]) == 1
    said = capsys.readouterr().err
    assert r"RuntimeError: \x1b[31mred\u202e" in said and "Traceback" in said and "\x1b" not in said


def test_a_stream_without_the_letters_of_a_name(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """As with LC_ALL=C where Python's UTF-8 mode is off."""
    with open(tmp_path / "said", "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        assert main(["check", str(root)]) == 3
    assert "gr\\xfc\\xdfe" in (tmp_path / "said").read_text(encoding="ascii")


def test_printable_leaves_text_alone_and_is_stable():
    for name, shown in NAMES.items():
        assert printable(name) == shown == printable(shown)
    assert printable("a\n\x1bb\t", "\n") == r"a" + "\n" + r"\x1bb\t"
    assert printable("\udcff") == r"\udcff"
    assert str(InputError("a\n\x1bb")) == r"a\n\x1bb"
    text = json.dumps({"a\u202e\x9b": "é\n"}, ensure_ascii=False, indent=1)
    assert printable_json(text) == '{\n "a\\u202e\\u009b": "é\\n"\n}' and json.loads(
        printable_json(text)
    ) == json.loads(text)


def test_records_are_escaped_in_their_arguments():
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s at\n%s %d %r", ("a\nb", Path("c\x1b"), 3, "d\n"), None)
    assert PrintableFormatter().format(record) == r"a\nb at" + "\n" + r"c\x1b 3 'd\\n'"
    assert record.args == ("a\nb", Path("c\x1b"), 3, "d\n")  # other handlers get it as it was


@pytest.mark.parametrize("name", [*NAMES, "it's", "back\\slash\x1b'", ""])
def test_words_of_a_job_script_are_the_names(name: str):
    word = _word(name)
    assert word.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout == os.fsencode(name)
