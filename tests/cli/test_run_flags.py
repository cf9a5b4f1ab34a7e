"""What is given to `run` in other ways than one flag per value, and what it says instead of making views."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from fakes import FakeModel, write_clip
from guava_aug import RunConfig, UsageError
from guava_aug.batch.config import read_config, save_config
from guava_aug.batch.dry_run import preview
from guava_aug.batch.options import GROUPS, options_of
from guava_aug.cli import main
from guava_aug.cli.augment import AugmentFlags
from guava_aug.cli.commands import COMMANDS
from guava_aug.cli.completion import flags_class
from guava_aug.cli.flags import CommandLineOnly, RunFlags, expand
from guava_aug.cli.parsing import parse
from guava_aug.cli.run import RunCommandFlags
from guava_aug.views import plan_views
from run_outputs import tree

ROOTS = ("--tracked_root", "t", "--output_root", "o")


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two clips; the fake model is the one that is loaded, and the working directory is the folder above."""
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *args, **options: FakeModel())
    monkeypatch.chdir(tmp_path)
    for name, frames in (("one", 3), ("two", 2)):
        write_clip(tmp_path / "tracked", name, frames=frames)
    return tmp_path / "tracked"


def flags(*words: str) -> RunFlags:
    return parse(RunFlags, expand(RunFlags, words, "run"), "run", "", "")


def config(*words: str) -> RunConfig:
    return flags(*words).config("batch")


# declarations


def test_every_option_is_declared_and_ten_are_common() -> None:
    declared = options_of(RunConfig)
    assert [each.name for each in declared] == list(RunConfig.__dataclass_fields__)
    assert sum(each.option.group == "common" for each in declared) == 10
    assert all(each.option.group in GROUPS and each.option.help.endswith((".", "...")) for each in declared)
    names = [each.flag for each in (*declared, *options_of(CommandLineOnly))]
    assert len(set(names)) == len(names)


def test_personalize_has_two_spellings_and_its_own_default_in_augment(tmp_path: Path) -> None:
    assert config(*ROOTS).personalize == "off"
    assert config(*ROOTS, "--personalise", "fast").personalize == "fast"
    assert config(*ROOTS, "--personalise=full", "--avatar-root", "a").avatars == Path("a")
    assert config(*ROOTS).avatars == Path("o/.guava-aug/avatars")
    (tmp_path / "flags.yaml").write_text("personalise: fast\n", encoding="utf-8")
    assert config(*ROOTS, "--config", str(tmp_path / "flags.yaml")).personalize == "fast"
    words = list(ROOTS)
    assert parse(AugmentFlags, words, "augment", "", "").run.config("batch").personalize == "auto"
    chosen = parse(AugmentFlags, [*words, "--personalise", "off"], "augment", "", "")
    assert chosen.run.config("batch").personalize == "off"
    assert main(["personalise", "--help"]) == 0


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits(command: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["help", command]) == 0
    help_text = capsys.readouterr().out.split("examples:")[0]
    for line in help_text.splitlines():
        assert len(line) <= columns or " " not in line.strip("│ "), line
    assert not re.search(r"│ +│", help_text)  # empty rows
    assert not re.search(r"\(default: *(None|False)?\)", help_text)
    assert not re.search(r"─ \w+\.\w+", help_text)  # titles of groups within groups


def test_common_options_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "estimate", "slurm"):
        assert main([command, "--help"]) == 0
        said = capsys.readouterr().out
        titles = re.findall(r"╭─ (.+?) ─", said)
        common = titles.index("common options")
        assert titles[:common] in (["options"], ["options", "job options"])
        assert titles[common + 1 :] == [f"{group} options" for group in list(GROUPS)[1:]]
        assert f"usage: guava-aug {command} [-h] [TRACKED_ROOT OUTPUT_ROOT] [" in said
        assert said.count("exit codes") == 1 and "75" not in said.split("exit codes")[1]
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "  75   stopped by SIGTERM" in said and max(map(len, said.splitlines())) <= 80


# roots without a flag, and lists with commas


@pytest.mark.parametrize(
    "words",
    [
        ("t", "o"), ("--crf", "12", "t", "o"), ("t", "--overwrite", "o"), ("t", "--output_root", "o"),
        ("--tracked-root=t", "o"), ("t", "o", "--difficulties", "easy", "hard"), ("--gpus", "0,1", "t", "o"),
    ],
)  # fmt: skip
def test_roots_without_a_flag(words: tuple[str, ...]) -> None:
    found = config(*words)
    assert (found.tracked_root, found.output_root) == (Path("t"), Path("o"))


def test_words_too_many_and_unknown_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="run: 'x' belongs to no flag; without a flag only TRACKED_ROOT and"):
        config("t", "o", "x")
    with pytest.raises(UsageError, match="run: 't' belongs to no flag; both roots are given already"):
        config(*ROOTS, "t")
    assert main(["run", "t", "o", "--crfs", "12"]) == 2
    assert "--crf" in capsys.readouterr().err


def test_lists_with_commas(tmp_path: Path) -> None:
    found = config(*ROOTS, "--difficulties", "easy,hard", "--sinks", "png, mp4", "--gpus", "0, 1")
    assert (found.difficulties, found.sinks, found.gpus) == (("easy", "hard"), ("png", "mp4"), ("0", "1"))
    for name in ("one", "two", "a,b"):
        write_clip(tmp_path / "tracked", name, frames=1)
    names = lambda *words: config(str(tmp_path / "tracked"), "o", "--video_list", *words).videos
    assert names("one,two") == ("one", "two")
    assert names("a,b", "one, two") == ("a,b", "one", "two")  # a video has this name
    assert names("x,y") == ("x,y",)  # neither is there: said as it was typed
    assert names("one,typo") == ("one", "typo")
    with pytest.raises(UsageError, match="--gpus is '0,'; expected different GPUs"):
        config(*ROOTS, "--gpus", "0,")


# configuration files

VALUES = """
tracked_root: t
output-root: o
video_list: [a, b]
difficulties: easy,hard
device: 0
fps: 30000/1001
timeout: auto
shard: 1/3
overwrite: true
batch: true
crf: 18
gpus: null
"""


def test_a_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text(VALUES, encoding="utf-8")
    typed = config(
        *ROOTS, "--video_list", "a", "b", "--difficulties", "easy", "hard", "--device", "0", "--fps", "30000/1001",
        "--timeout", "auto", "--shard", "1/3", "--overwrite", "--batch", "--crf", "18",
    )  # fmt: skip
    assert config("--config", str(file)) == typed


def test_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text(VALUES, encoding="utf-8")
    found = config("--config", str(file), "--crf", "20", "--output_root", "p", "--no_overwrite", "--shard", "none")
    assert (found.crf, found.output_root, found.overwrite, found.shard) == (20, Path("p"), False, None)
    assert config("--config", str(file), "q").tracked_root == Path("q")
    assert config("--config", str(file), "--mode", "subprocess", "--no-overwrite").mode == "subprocess"
    names = tmp_path / "names.txt"
    names.write_text("c\n")
    assert config("--config", str(file), "--video_list_file", str(names)).videos == ("c",)
    file.write_text("save_frame_png: true\nverbose: true\n")
    found = config("--config", str(file), *ROOTS, "--skip_frame_png")
    assert not found.save_frame_png
    assert not flags("--config", str(file), *ROOTS, "--quiet")["verbose"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("crf: a\n", "crf is 'a'; expected a whole number"),
        ("crf: true\n", "crf is true; expected a whole number"),
        ("overwrite: 1\n", "overwrite is 1; expected true or false"),
        ("backend: cuda\n", "backend is 'cuda'; expected one of auto, torch, numba, triton"),
        ("difficulties: {a: 1}\n", "difficulties is .*; expected a list of names"),
        ("difficulties: [[1]]\n", "difficulties is .*; expected a list of names"),
        ("model_path: 3\n", "model_path is 3; expected a path"),
        ("fps: fast\n", "--fps: expected a number such as 25"),
        ("difficulty: easy\n", "there is no flag difficulty; did you mean difficulties"),
        ("config: other.yaml\n", "there is no flag config"),
        ("output_root: a\noutput-root: b\n", "output_root is given twice"),
        ("- a\n- b\n", "expected flags and values, such as crf: 18, found a list of 2"),
        ("just words\n", "expected flags and values"),
        ("a: [\n", "is no YAML"),
        ("!!python/object/apply:os.system ['true']\n", "is no YAML"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=words):
        config(*ROOTS, "--config", str(file))


def test_a_configuration_in_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "flags.toml"
    file.write_text('tracked_root = "t"\noutput_root = "o"\ndifficulties = ["easy"]\ncrf = 18\n')
    if sys.version_info >= (3, 11):
        assert config("--config", str(file)) == config(*ROOTS, "--difficulties", "easy", "--crf", "18")
        file.write_text("crf = \n")
        with pytest.raises(UsageError, match="is no TOML"):
            read_config(file)
    monkeypatch.setitem(sys.modules, "tomllib", None)  # as in Python 3.10
    with pytest.raises(UsageError, match=r"TOML needs Python 3.11 or later; write the same flags as YAML"):
        read_config(file)


def test_what_a_run_saves_gives_the_same_run(tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "wall.png"
    picture.write_bytes(b"x")
    first = RunConfig(
        Path("tracked"), Path("out"), ("one", "b, c"), ("hard",), 7, shard="1/3", fps="30000/1001", gpus=("0", "1"),
        background="wall.png", model_path=Path("embedded"), timeout=9.0, retries=0, sinks=("png",),
    )  # fmt: skip
    saved = save_config(first)
    assert saved == Path("out/.guava-aug/run_config_part_1.yaml")
    monkeypatch.chdir("/")
    again = config("--config", str(tmp_path / saved))
    places = {"tracked_root": tracked, "output_root": tmp_path / "out", "background": str(picture)}
    assert again.to_json() == {**first.to_json(), **{name: str(place) for name, place in places.items()}}


def test_odd_names_in_what_a_run_saves(tmp_path: Path) -> None:
    names = ("手", "x\x1b[31m", "a: b", "- c", "\u202e", "null", "1e3")
    saved = save_config(RunConfig(tmp_path, tmp_path, names))
    assert all(c.isprintable() or c == "\n" for c in saved.read_text(encoding="utf-8"))
    assert tuple(read_config(saved)["video_list"]) == names


def test_a_run_is_replayed(tracked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "tracked", "out", "--device", "cpu", "--background", "black", "--difficulties", "easy"]
    assert main([*words, "--crf", "12"]) == 0
    saved = "out/.guava-aug/run_config.yaml"
    assert yaml.safe_load(Path(saved).read_text())["crf"] == 12
    assert main(["run", "--config", saved]) == 0
    assert "2 skipped" in capsys.readouterr().out
    assert main(["run", "--config", saved, "--output_root", "again"]) == 0
    made = lambda root: {name: data for name, data in tree(Path(root)).items() if name.endswith(".mp4")}
    assert made("again") == made("out") and len(made("out")) == 2


# without making anything, a few only, and for programs


def test_dry_run(tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "tracked", "out", "--device", "cpu", "--background", "black", "--difficulties", "easy,hard"]
    assert main([*words, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert "one: 3 frames" in said and "to make:  4 views of 2 videos, 10 frames; complete already: 0" in said
    assert "guava-aug estimate" in said and "nothing was rendered" in said
    assert main([*words, "--limit", "1"]) == 0
    facts = json.loads(next((tmp_path / "out").glob("easy/one/*/*/*.json")).read_text())
    (line,) = [line for line in said.splitlines() if line.startswith("  easy")][:1]
    assert f"azimuth {facts['azimuth']:+.1f}, elevation {facts['elevation']:+.1f} degrees" in line  # as it was made
    before = tree(tmp_path / "out")
    capsys.readouterr()
    assert main([*words, "--dry_run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert tree(tmp_path / "out") == before
    assert [video["name"] for video in found["videos"]] == ["two"] and found["complete"] == 2
    assert found["to_make"] == 2 and found["view_frames"] == 4 and found["measured"] == 2
    assert found["disk_bytes"] > 0 and found["seconds"] > 0
    assert found["videos"][0]["views"][0]["params"]["seed"] == plan_views("two", ["easy", "hard"])[0].seed


def test_dry_run_of_what_cannot_be_made(tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tracked / "two" / "optim_tracking_ehm.pkl").write_bytes(b"")
    words = ["run", "tracked", "out", "--device", "cpu", "--keep_cameras", "--dry_run"]
    assert main(words) == 3
    assert "cannot be made: two (3 views): " in capsys.readouterr().out
    assert main([*words, "--sinks", "nothing"]) == 2  # as the run itself
    assert not (tmp_path / "out").exists()


def test_dry_run_gives_the_angles_of_all_that_it_lists(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A video that cannot be made takes none of the places."""
    write_clip(tracked, "three", frames=2)
    (tracked / "one" / "optim_tracking_ehm.pkl").write_bytes(b"")
    config = RunConfig(tracked, tracked.parent / "out", device="cpu", background="black", difficulties=("easy",))
    found = {video.name: video for video in preview(config, cameras_of=2).videos}
    assert found["one"].problem is not None
    assert all(found[name].views[0].azimuth is not None for name in ("two", "three"))


def test_limit(tracked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "tracked", "out", "--device", "cpu", "--background", "black", "--difficulties", "easy", "--quiet"]
    counts = []
    for _ in range(3):
        assert main([*words, "--limit", "1"]) == 0
        counts.append(capsys.readouterr().out.split(";")[0])
    assert counts == ["1 view: 1 success", "2 views: 1 success, 1 skipped", "2 views: 2 skipped"]
    assert main([*words, "--limit", "0"]) == 2
    assert "--limit is 0; expected 1 or more" in capsys.readouterr().err


def test_the_result_as_json(tracked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "tracked", "out", "--device", "cpu", "--background", "black", "--difficulties", "easy", "--json"]
    assert main([*words, "--video_list", "one,nobody"]) == 3
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["ok"], found["counts"]) == (False, {"success": 1, "failed": 1})
    one, nobody = found["views"]
    assert Path(one["path"]).is_file() and (one["view"], one["frames"]) == ("easy", 3)
    assert nobody["status"] == "failed" and "nobody" in nobody["error"]
    assert "failed: nobody" in said.err and "time by stage" in said.err


# pages, and completion


@pytest.mark.parametrize("page", ["README.md", "docs/options.md", "docs/cluster.md", "docs/guarantees.md"])
def test_flags_that_pages_name_exist(page: str) -> None:
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    known = {entry.name for command in COMMANDS for entry in every_field(command)}
    other = {"array", "gres", "nproc", "signal", "help", "version", "no_FLAG", "no_overwrite", "ntasks"}
    named = set(re.findall(r"(?<![\w-])--([A-Za-z]\w*)", text)) - other
    assert named <= known, named - known


def every_field(command: str) -> list[dataclasses.Field]:
    """The flags of a command, of all groups."""
    todo, found = [flags_class(import_module(f"guava_aug.cli.{COMMANDS[command][0]}"))], []
    while todo:
        kind = todo.pop()
        hints = get_type_hints(kind)
        for entry in dataclasses.fields(kind):
            inner = hints[entry.name]
            if dataclasses.is_dataclass(inner):
                todo.append(inner)
            else:
                found.append(entry)
    return found


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command_and_flag(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in COMMANDS)
    for declared in options_of(RunConfig):
        assert f"--{declared.flag}" in script
    assert "--max_requeues" in script and "--given" not in script
    assert main(["--tyro-print-completion", shell]) == 0
    assert capsys.readouterr().out == script


def test_a_switch_is_turned_off_where_it_is_one() -> None:
    assert parse(RunCommandFlags, [*ROOTS, "--no_overwrite"], "run", "", "").run.config("batch").overwrite is False
    with pytest.raises(SystemExit):
        parse(RunCommandFlags, [*ROOTS, "--no_crf"], "run", "", "")
