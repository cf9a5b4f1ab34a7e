"""`guava-aug bench` whole with the tiny model, and that the programs in benchmarks/ can be asked what they do."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from rich.console import Console

from fakes import write_clip
from guava_aug.apps.benchmark import measure
from guava_aug.apps.benchmark.chart import COLOURS
from guava_aug.apps.benchmark.costs import WANTED
from guava_aug.apps.benchmark.report import SCHEMA, Grid
from guava_aug.cli import main
from guava_aug.cli.bench import show
from guava_aug.errors import OutputError
from tiny_model import SIZE, write_tiny_model

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and a tracked root with one clip of 3 frames."""
    out = tmp_path_factory.mktemp("tiny")
    write_clip(out / "tracked", "clip", frames=3)
    return write_tiny_model(out / "tiny.safetensors"), out / "tracked"


@pytest.fixture(scope="module")
def bench(tiny: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of one run on one short clip, and what it printed."""
    out = tmp_path_factory.mktemp("bench")
    model, tracked = tiny
    with pytest.MonkeyPatch.context() as patch, (out / "printed.txt").open("w") as printed:
        patch.setattr(measure, "STARTS", 1)
        patch.setattr(sys, "stdout", printed)
        argv = ["bench", "--model_path", str(model), "--tracked_root", str(tracked), "--device", "cpu"]
        assert main([*argv, "--frames", "2", "--measure", "1", "--repeats", "1", "--output", str(out), "--quiet"]) == 0
    return out, (out / "printed.txt").read_text()


@pytest.mark.slow
@pytest.mark.thorough
def test_the_figures_are_in_the_file(bench):
    figures = json.loads((bench[0] / "bench.json").read_text(encoding="utf-8"))
    assert figures["schema"] == SCHEMA and figures["video"] == "clip" and figures["model"].endswith("tiny.safetensors")
    assert (figures["frames"], figures["size"], figures["measured"], figures["repeats"]) == (2, SIZE, [1], 1)
    assert figures["machine"]["device"] == "cpu" and figures["machine"]["cpu"] and figures["versions"]["torch"]
    stages = {row["stage"]: row for row in figures["stages"]}
    assert {
        "process start, imports", "model loading", "data", "source inference", "Gaussian setup",
        "precompute (pose + background)", "render per view", "encode wait",
    } == set(stages)  # fmt: skip
    assert all(row["seconds"] > 0 for row in stages.values())
    assert stages["model loading"]["batch"] == "once per process" and stages["render per view"]["batch"] == "per view"
    rows = figures["parameter_sets"]
    assert [row["views"] for row in rows] == list(WANTED)
    assert [row["extrapolated"] for row in rows] == [False, True, True, True, True]
    assert [c["mode"] for c in figures["commands"]] == ["batch", "subprocess"]
    for row in rows:
        assert row["speedup"] == pytest.approx(row["subprocess"]["seconds"] / row["batch"]["seconds"])
        assert all(row[mode]["without_loading"] < row[mode]["seconds"] for mode in ("batch", "subprocess"))
    lanes = {lane["lane"]: lane for lane in figures["utilisation"]["lanes"]}
    assert {"render", "decode input", "avatar, pose, plate", "encode", "verify (decode back)"} <= set(lanes)
    assert all(0 < lane["busy_share"] <= 1 for lane in lanes.values())


@pytest.mark.slow
@pytest.mark.thorough
def test_the_tables_mark_what_is_extrapolated(bench):
    text = bench[1]
    lines = {line.split()[0]: line for line in text.splitlines() if line[:1].isdigit()}
    assert "~" not in lines["1"] and all(lines[str(n)].count("~") == 6 for n in WANTED[1:])
    assert "source inference" in text and "once per video" in text and "extrapolated" in text
    assert "torch" in text.splitlines()[0] and str(bench[0] / "bench.png") in text


@pytest.mark.slow
@pytest.mark.thorough
def test_the_chart_has_the_lanes(bench):
    picture = cv2.imread(str(bench[0] / "bench.png"), cv2.IMREAD_COLOR)[..., ::-1]
    lanes = json.loads((bench[0] / "bench.json").read_text())["utilisation"]["lanes"]
    for colour, lane in zip(COLOURS, lanes, strict=False):
        assert (picture == colour).all(-1).any(), lane["lane"]


def test_a_table_on_a_terminal_and_in_a_file(capsys: pytest.CaptureFixture):
    grid = Grid("title", ("a", "b"), [("long name", "1"), ("x", "~2")], ["note"])
    show(Console(force_terminal=True, width=60), grid)
    drawn = capsys.readouterr().out
    show(Console(force_terminal=False, width=60), grid)
    plain = capsys.readouterr().out
    assert "─" in drawn and "long name" in drawn and "note" in drawn
    assert plain.splitlines() == [
        "title", "", "a           b", "---------  --", "long name   1", "x          ~2", "note", ""
    ]  # fmt: skip


def test_a_command_that_fails_says_why(tmp_path: Path):
    from guava_aug.batch.config import RunConfig

    config = RunConfig(tmp_path / "nowhere", tmp_path / "out", ("x",), model_path=Path("embedded"), device="cpu")
    with pytest.raises(OutputError, match=r"ended with code 2.*nowhere"):
        measure.run_command(config, 1)


@pytest.mark.parametrize("flags", [["--measure", "0"], ["--repeats", "0"]])
def test_numbers_that_make_no_sense(flags: list[str], capsys: pytest.CaptureFixture):
    assert main(["bench", *flags]) == 2
    assert "expected numbers of 1 or more" in capsys.readouterr().err


PROGRAMS = sorted(path for path in BENCHMARKS.glob("*.py") if path.stem != "setting")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_programs_explain_themselves(program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [str(program), "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(program), run_name="__main__")
    assert stop.value.code == 0 and f"benchmarks/{program.name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("startup", "--repeats 0", "argument --repeats: '0'; expected a number of 1 or more"),
        ("startup", "--device toaster", "argument --device: 'toaster' is no torch device"),
        ("stages", "--device cuda", "argument --device: cuda: torch finds no CUDA GPU here"),
        ("deform", "--model_path nomodel", "error: --model_path nomodel does not exist"),
        ("startup", "--model_path nomodel", "error: --model_path nomodel does not exist"),
        ("plate", "--video nope", "error: video 'nope' is not below"),
        ("many_gpus", "--gpus 2", "--gpus and --device cpu exclude each other"),
        ("many_gpus", "--videos 2", "give more than that"),
        ("many_gpus", "--repeats 2", "unrecognized arguments: --repeats"),
    ],
)
def test_programs_say_in_a_line_what_is_wrong(
    name: str, flags: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    if name == "many_gpus":
        flags = f"--device cpu {flags}"
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags.split()])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    assert stop.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def run_here(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """A Python program as a part of this process: what it measures would be the start of another one."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", command[1:])
        runpy.run_path(command[1], run_name="__main__")
    return subprocess.CompletedProcess(command, 0, said.getvalue(), "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("rendering", ["--engine", "doors", "pipeline", "reference", "--batches", "1", "2", "--views", "2"]),
        ("refiner", []),
        ("deform", ["--batches", "1", "2"]),
        ("once_per_video", []),
        ("stages", []),
        ("long_video", ["--views", "2"]),
        ("end_to_end", ["--views", "1", "2"]),
        ("startup", []),
        ("plate", ["--size", "64"]),
        ("encode", ["--writers", "1", "2", "--size", "64"]),
        ("rasterizer", ["--gaussians", "300", "--size", "64", "--channels", "5", "--batches", "2"]),
    ],
)
@pytest.mark.thorough
def test_programs_measure_the_tiny_model(
    name: str, flags: list[str], tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The calls they use are still there."""
    model, tracked = tiny
    if name == "startup":
        monkeypatch.setattr(subprocess, "run", run_here)
    argv = [name, "--json", str(tmp_path / "figures.json"), *flags]
    argv += ["--repeats", "1"] if name != "long_video" else []
    if name != "rasterizer":
        argv += ["--tracked_root", str(tracked), "--frames", "4"] if name != "refiner" else []
        argv += ["--model_path", str(model)] if name not in ("plate", "encode") else []
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", argv)
    runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["rows"] and figures["machine"]["cpu"] and figures["versions"]["torch"]
    times = [value for row in figures["rows"] for key, value in row.items() if key in ("ms", "s", "seconds")]
    assert all(isinstance(value, float) for value in times) and (times or name == "long_video")


@pytest.mark.slow
@pytest.mark.thorough
def test_a_long_video_is_measured_with_the_tests_model(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    argv = ["--tiny", "--views", "1", "--frames", "40", "--tracked_root", str(tiny[1]), "--json", str(tmp_path / "j")]
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["long_video", *argv])
    runpy.run_path(str(BENCHMARKS / "long_video.py"), run_name="__main__")
    figures = json.loads((tmp_path / "j").read_text())
    assert figures["rows"][0]["part of the run"] == "before" and figures["peak_host_gb"] > 0.05
    said = capsys.readouterr()
    assert "40 frames, 1 view: most memory" in said.out and "40 frames is written" in said.err


def test_memory_is_told_for_each_tenth_of_the_frames(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    program = runpy.run_path(str(BENCHMARKS / "long_video.py"))
    watch = program["Watch"]("cpu", total=30)
    watch.samples = [program["Sample"](done, 100 + done, 0) for done in range(31)]
    parts = {name: [sample.done for sample in samples] for name, samples in watch.parts()}
    assert list(parts) == ["before", *(f"{i}/10" for i in range(1, 11)), "checking the files"]
    assert (parts["before"], parts["2/10"], parts["checking the files"]) == ([0], [4, 5, 6], [30])
    assert sorted(done for part in parts.values() for done in part) == list(range(31))


def test_there_are_programs():
    assert len(PROGRAMS) >= 13
