"""The command line: flags, exit codes, what is said, and the two modes with a real (tiny) model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import guava_aug
from fakes import FakeModel, write_clip
from guava_aug.cli import COMMANDS, main, script_main
from guava_aug.cli.flags import RunFlags, read_names
from guava_aug.cli.parsing import parse
from guava_aug.errors import UsageError
from guava_aug.output.tree import video_path
from run_outputs import logged, tree
from tiny_model import write_tiny_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "run_guava_augmentation.py"
VIEWS = ("easy", "medium", "hard")


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Makes the fake model the one that is loaded; gives the list of calls of load_model."""
    calls = []

    def load_model(*args, **kwargs) -> FakeModel:
        calls.append((args, kwargs))
        return FakeModel()

    monkeypatch.setattr("guava_aug.avatar.model.load_model", load_model)
    return calls


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def tracked(tmp_path: Path) -> Path:
    write_clip(tmp_path / "tracked", "one", frames=3)
    write_clip(tmp_path / "tracked", "two", frames=2)
    return tmp_path / "tracked"


def run_flags(*argv: str) -> RunFlags:
    return parse(RunFlags, ["--tracked_root", "t", "--output_root", "o", *argv], "test", "", "")


def test_every_flag_in_both_spellings():
    values = {
        "video_list": ["a", "b c"], "video_list_file": None, "time_map": ["t.json"], "difficulties": ["hard", "easy"],
        "base_seed": ["7"], "views_per_difficulty": ["3"], "overwrite": [], "part_id": ["12"], "shard": ["1/3"],
        "background": ["#102030"],
        "fps": ["24"], "crf": ["18"], "preset": ["fast"], "save_frame_png": [], "model_path": ["m"],
        "guava_root": ["g"], "device": ["cuda:1"], "backend": ["torch"], "batch": [], "views_in_flight": ["2"],
        "frames_per_chunk": ["5"],
    }  # fmt: skip
    argv = [word for flag, words in values.items() if words is not None for word in (f"--{flag}", *words)]
    under, hyphen = run_flags(*argv), run_flags(*(w.replace("_", "-") if w.startswith("--") else w for w in argv))
    assert under == hyphen
    config = under.config("subprocess")
    assert (config.videos, config.difficulties, config.base_seed) == (("a", "b c"), ("hard", "easy"), 7)
    assert (config.device, config.mode, config.part_id, config.fps, config.crf) == ("cuda:1", "batch", "12", 24.0, 18)
    assert (config.views_per_difficulty, config.views_in_flight, config.frames_per_chunk) == (3, 2, 5)
    assert (config.overwrite, config.save_frame_png, config.model_path) == (True, True, Path("m"))
    assert guava_aug.RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_defaults_are_the_originals():
    config = run_flags().config("batch")
    assert (config.videos, config.difficulties, config.base_seed) == (None, VIEWS, 42)
    assert (config.device, config.crf, config.fps, config.save_frame_png) == ("0", 10, None, False)
    assert run_flags().config("subprocess").mode == "subprocess"
    assert run_flags("--batch").config("subprocess").mode == "batch"
    assert run_flags("--mode", "subprocess").config("batch").mode == "subprocess"


@pytest.mark.parametrize(
    "argv", [("--batch", "--mode", "subprocess"), ("--save_frame_png", "--skip_frame_png"), ("--quiet", "--verbose")]
)
def test_flags_that_exclude_each_other(argv: tuple[str, ...]):
    with pytest.raises(UsageError, match="exclude each other"):
        run_flags(*argv).config("batch")


def test_a_mistyped_required_flag_is_suggested(capsys: pytest.CaptureFixture[str]):
    assert main(["run", "--tracked_rot=t", "--output-root", "o"]) == 2
    assert "no flag --tracked_rot; did you mean --tracked_root?" in capsys.readouterr().err
    assert main(["slurm", "--tracked_root", "t", "--output_root", "o", "--tme", "3"]) == 2
    said = capsys.readouterr().err
    assert "--time" in said and "did you mean" not in said  # tyro says it
    assert main(["run", "--output_root", "o", "--video_list", "--bare"]) == 2
    assert "did you mean" not in capsys.readouterr().err
    assert main(["convert", "--ckpt", "x"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_list_file(tmp_path: Path):
    file = tmp_path / "list.txt"
    file.write_bytes("\ufeffone\r\n\r\n# a comment\r\n  two words é \n#three".encode())
    assert read_names(file) == ["one", "two words é"]
    flags = run_flags("--video_list", "zero", "--video_list_file", str(file))
    assert flags.config("batch").videos == ("zero", "one", "two words é")
    assert run_flags().config("batch").videos is None
    with pytest.raises(UsageError, match="names no video"):  # of an unset variable: not all videos
        run_flags("--video_list").config("batch")
    file.write_text("# nothing\n\n")
    with pytest.raises(UsageError, match="holds no name"):
        read_names(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        read_names(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_names(tmp_path / "nowhere")


def test_exit_codes(tracked: Path, tmp_path: Path, fake_model: list, capsys: pytest.CaptureFixture[str]):
    command = ["run", "--tracked_root", str(tracked), "--output_root", str(tmp_path / "out")]
    assert main([*command, "--video_list", "one"]) == 0
    assert "3 success" in capsys.readouterr().out
    assert main(command) == 0
    assert "3 success, 3 skipped" in capsys.readouterr().out
    assert main(command) == 0
    assert len(fake_model) == 2  # the third run had nothing to make
    assert main([*command, "--video_list", "one", "nobody"]) == 3
    out = capsys.readouterr().out
    assert "failed: nobody" in out
    assert "is not below" in out
    assert main([*command, "--base_seed", "1"]) == 2
    assert "another camera" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--base_seed", "1"]) == 0
    assert main([*command, "--difficulties", "easy", "easy"]) == 2
    assert main([*command, "--model_path", "nowhere"]) == 2
    assert main([*command, "--wrong"]) == 2
    assert main(["run"]) == 2
    assert main(["walk"]) == 2
    assert main([]) == 2


def test_help_and_version_as_words(capsys: pytest.CaptureFixture[str]):
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"guava-aug {guava_aug.__version__}\n"
    assert main(["help", "status"]) == 0
    assert "usage: guava-aug status" in capsys.readouterr().out
    assert main(["help", "walk"]) == 2
    assert "no command 'walk'" in capsys.readouterr().err


def test_a_failure_of_the_model_stops_the_run(
    tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def load_model(*args, **kwargs):
        raise guava_aug.AssetError("the checkpoint lacks everything")

    monkeypatch.setattr("guava_aug.avatar.model.load_model", load_model)
    assert main(["run", "--tracked_root", str(tracked), "--output_root", str(tmp_path / "out")]) == 2
    assert "lacks everything" in capsys.readouterr().err
    assert tree(tmp_path / "out") == {}


def test_without_a_gpu_the_cpu_is_taken_and_said_once(
    tracked: Path, tmp_path: Path, fake_model: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("guava_aug.runtime.device.ROOT", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert main(["run", "--tracked_root", str(tracked), "--output_root", str(tmp_path / "out"), "--device", "3"]) == 0
    assert capsys.readouterr().err.count("no GPU") == 1
    assert fake_model[0][0][1] == "cpu"


def test_a_gpu_that_is_not_there_is_an_error(
    tracked: Path, tmp_path: Path, fake_model: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    command = ["run", "--tracked_root", str(tracked), "--output_root", str(tmp_path / "out"), "--device"]
    assert main([*command, "2"]) == 2
    assert "0 to 1" in capsys.readouterr().err
    assert main([*command, "gpu"]) == 2
    assert not fake_model


def test_quiet_says_only_the_summary(
    tracked: Path, tmp_path: Path, fake_model: list, capsys: pytest.CaptureFixture[str]
):
    command = ["run", "--tracked_root", str(tracked), "--output_root", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*command, "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert len(said.out.splitlines()) == 1
    assert main([*command, "--overwrite"]) == 0
    said = capsys.readouterr()
    assert "[2/2] two: easy, medium, hard done" in said.err
    assert "render per view" in said.out


def test_one_is_not_counted_as_many(tmp_path: Path, fake_model: list, capsys: pytest.CaptureFixture[str]):
    write_clip(tmp_path / "tracked", "one", frames=1)
    tracked, out = str(tmp_path / "tracked"), str(tmp_path / "out")
    run = ["run", "--tracked_root", tracked, "--output_root", out, "--device", "cpu", "--difficulties", "easy"]
    said = []
    for command in (run, run, [*run, "--verify"], ["status", out], ["merge", out], ["check", tracked]):
        assert main(command) == 0
        said.append(capsys.readouterr())
    assert main([*run, "--base_seed", "1"]) == 2
    text = "\n".join(part for both in (*said, capsys.readouterr()) for part in both)
    for words in (
        "1 video, 1 view to make", "complete already: 1 of 1 view", "reading 1 view", "1 view: 1 success",
        "1 view of 1 video: 1 done", "1 view of 1 part by ", "1 video, 1 good", "1 view made with",
    ):  # fmt: skip
        assert words in text
    assert re.findall(r"\b1 (?:\w+ )?(?:videos|views|parts|processes|workers)\b", text) == []


def test_a_part_that_nobody_asked_for_is_told_first(
    tracked: Path, tmp_path: Path, fake_model: list, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    command = ["run", "--tracked_root", str(tracked), "--output_root", str(tmp_path / "out"), "--device", "cpu"]
    for key, value in (("ID", 3), ("COUNT", 2), ("MIN", 2), ("MAX", 3), ("STEP", 1)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{key}", str(value))
    assert main(command) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert "SLURM array" in first and "--shard 1/2 (all: --shard none)" in first
    for own in (["--shard", "none"], ["--shard", "1/2"], ["--part_id", "7"]):
        assert main([*command, *own]) == 0
        assert "SLURM" not in capsys.readouterr().err


def test_a_wrong_folder_is_named_without_torch(tmp_path: Path):
    code = (
        "import sys\nfrom guava_aug.cli import main\n"
        f"assert main(['check', {str(tmp_path / 'nowhere')!r}]) == 2\n"
        "assert not {'torch', 'numba', 'cv2', 'av'} & set(sys.modules), 'something heavy was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "is not a folder" in done.stderr


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom guava_aug.cli import main\n"
        "assert [main(a) for a in (['--help'], ['--version'], ['run', '--help'], ['check', '--help'])] == [0] * 4\n"
        "assert not {'torch', 'numba', 'cv2', 'av'} & set(sys.modules), 'something heavy was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert guava_aug.__version__ in done.stdout
    assert "--views_per_difficulty" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples_and_codes(command: str, capsys: pytest.CaptureFixture[str]):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"guava-aug {command}" in out
    assert "examples:" in out
    assert "exit codes:" in out


@pytest.mark.parametrize("words", [["--help"], ["track", "--help"]], ids=" ".join)
def test_help_into_a_pipe_that_nobody_reads(words: list[str]):
    """As `guava-aug track --help | head` has it when head has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "guava_aug", *words], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_names_of_the_package_are_there():
    for name in guava_aug.__all__:
        assert getattr(guava_aug, name) is not None
    with pytest.raises(AttributeError):
        _ = guava_aug.nothing


def test_script_wants_a_list(tracked: Path, tmp_path: Path, fake_model: list, capsys: pytest.CaptureFixture[str]):
    paths = ["--tracked_root", str(tracked), "--output_root", str(tmp_path / "out")]
    assert script_main(["--batch", *paths]) == 2
    assert "--video_list" in capsys.readouterr().err
    assert script_main(["--batch", "--video_list", "one", "--device", "0", *paths]) == 0
    assert set(logged(tmp_path / "out")) == {"one"}


@pytest.mark.thorough
def test_both_modes_give_the_same(tracked: Path, tmp_path: Path, tiny_model: Path):
    """The script as a process: without --batch every view is a process of its own that loads a real model."""
    command = [
        "--video_list", "two", "nobody", "--tracked_root", str(tracked),
        "--difficulties", "hard", "easy", "--model_path", str(tiny_model), "--device", "cpu",
    ]  # fmt: skip
    for mode in ([], ["--batch"]):
        out = tmp_path / ("batch" if mode else "legacy")
        if mode:
            assert script_main([*command, "--output_root", str(out), *mode]) == 3
        else:
            words = [sys.executable, str(SCRIPT), *command, "--output_root", str(out)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 3, done.stdout + done.stderr
        assert {k: {v["status"] for v in e.values()} for k, e in logged(out).items()} == {
            "two": {"success"}, "nobody": {"failed"}
        }  # fmt: skip
        assert "nobody" in logged(out)["nobody"]["easy"]["error"]
    assert tree(tmp_path / "legacy") == tree(tmp_path / "batch")
    legacy, batch = logged(tmp_path / "legacy")["two"], logged(tmp_path / "batch")["two"]
    for label in ("hard", "easy"):
        for key in ("seed", "yaw", "pitch", "zoom", "frames"):
            assert legacy[label][key] == batch[label][key]
    record = json.loads((tmp_path / "legacy" / ".guava-aug" / "last_run.json").read_text())
    assert {row["stage"]: row["count"] for row in record["stages"]}["model loading"] == 2
    assert record["used"]["model"] == str(tiny_model)


def test_check(tracked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["check", str(tracked)]) == 0
    assert "2 good, 0 that cannot be used" in capsys.readouterr().out
    (tracked / "two" / "optim_tracking_ehm.pkl").write_bytes(b"")
    assert main(["check", str(tracked)]) == 3
    out = capsys.readouterr().out
    assert "optim_tracking_ehm.pkl" in out
    assert "empty" in out
    assert main(["check", str(tracked), "one"]) == 0
    assert main(["check", str(tracked / "nowhere")]) == 2


def test_convert_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["convert", str(tmp_path / "best.pt"), str(tmp_path / "out.safetensors")]) == 2
    said = capsys.readouterr().err
    assert "best.pt does not exist; expected a folder" in said and "--model_path" not in said


def test_convert_of_a_file_that_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import torch

    file, argv = tmp_path / "best.pt", ["convert", str(tmp_path / "best.pt"), str(tmp_path / "out.safetensors")]
    for content in (b"", b"no checkpoint"):
        file.write_bytes(content)
        assert main(argv) == 2
        said = capsys.readouterr().err
        assert f"cannot read the checkpoint {file}" in said and "config.yaml" not in said
    torch.save({"model": {}, "render_model": {}}, file)
    assert main(argv) == 2
    assert "no config.yaml beside" in capsys.readouterr().err


def test_convert_replaces_no_file_unasked(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    argv = ["convert", str(tiny_model), str(out)]
    assert main(argv) == 2
    assert f"{out} exists already" in (said := capsys.readouterr().err) and "--overwrite" in said
    assert out.read_bytes() == b"mine"
    assert main([*argv, "--overwrite"]) == 0
    assert out.stat().st_size > 1000
    out.unlink()
    assert main(argv) == 0


def test_demo_of_a_clip_that_is_not_there(tracked: Path, tmp_path: Path, fake_model: list, monkeypatch, capsys):
    monkeypatch.setattr("guava_aug.apps.synthetic.demo_root", lambda: tracked)
    assert main(["demo", "--output", str(tmp_path / "out"), "--clips", "one", "nope"]) == 2
    assert "no bundled clip 'nope'; expected some of one, two" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not fake_model


def test_demo_of_whole_clips(tracked: Path, tmp_path: Path, fake_model: list, monkeypatch: pytest.MonkeyPatch, capsys):
    import cv2

    monkeypatch.setattr("guava_aug.apps.synthetic.demo_root", lambda: tracked)
    assert main(["demo", "--output", str(tmp_path / "out"), "--moments", "2", "--clips", "one", "two"]) == 0
    assert video_path(tmp_path / "out", "hard", "two").exists()
    sheet = cv2.imread(str(tmp_path / "out" / "contact_sheet.png"))
    assert sheet.shape[0] > 8 * 256  # two clips, each with its input and three views
    assert "contact_sheet.png" in capsys.readouterr().out
    assert str(fake_model[0][0][0]) == "embedded"
    assert not (tmp_path / "out" / "tracked").exists()


def test_demo_into_a_folder_of_another_version(
    tracked: Path, tmp_path: Path, fake_model: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("guava_aug.apps.synthetic.demo_root", lambda: tracked)
    argv = ["demo", "--output", str(tmp_path / "out"), "--moments", "2", "--clips", "one", "--difficulties", "easy"]
    assert main(argv) == 0
    monkeypatch.setattr("guava_aug.batch.validate.cached_weights_digest", lambda *args: "newer weights")
    capsys.readouterr()
    assert main(argv) == 2
    said = capsys.readouterr().err
    for words in ("the embedded model", "this run newer weights", "another --output DIR", "--overwrite"):
        assert words in said
    assert "--output_root" not in said and "--model_path" not in said  # the demo has no such flags
    assert main([*argv, "--overwrite"]) == 0


def test_demo_of_one_clip_and_a_second_of_the_others(
    tmp_path: Path, fake_model: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    root, out = tmp_path / "clips", tmp_path / "out"
    for name, frames in (("one", 4), ("two", 30)):
        write_clip(root, name, frames=frames)
    monkeypatch.setattr("guava_aug.apps.synthetic.demo_root", lambda: root)
    argv = ["demo", "--output", str(out), "--moments", "2", "--difficulties", "easy"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    views = {name: video_path(out, "easy", name) for name in ("one", "two_1s")}
    assert all(str(path) in said for path in views.values())
    log = json.loads((out / "augmentation_params.json").read_text())
    assert {name: log[name]["easy"]["frames"] for name in views} == {"one": 4, "two_1s": 25}
    assert main(argv) == 0
    assert "2 skipped" in capsys.readouterr().out
    other = tmp_path / "other"
    assert main([*argv[:2], str(other), *argv[3:], "--base_seed", "7"]) == 0
    there = json.loads((other / "augmentation_params.json").read_text())
    assert all(there[name]["easy"]["yaw"] != log[name]["easy"]["yaw"] for name in views)


def test_progress_on_a_terminal(tmp_path: Path):
    from io import StringIO

    from guava_aug.runtime.progress import Bars

    console = Console(file=StringIO(), force_terminal=True, width=120)
    bars = Bars(console)
    bars.start(2, 4)
    bars.video("clip [bold]", 2)
    bars.frames("clip [bold]", 5, 10)
    assert bars.clock.done == 0.5
    bars.finish_video("clip [bold]", "good")
    assert bars.clock.done == 2
    bars.close()
    assert "clip [bold]" in console.file.getvalue()
