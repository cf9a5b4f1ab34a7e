"""An option that a stranger adds: one field of `RunConfig`, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import guava_aug

TESTS = Path(__file__).resolve().parent.parent
FIELD = """\
    toy_level: int = field(default=3, metadata=option(
        "A number that a stranger added.", "view", metavar="LEVEL", in_0_1_0=3,
        valid=lambda n: n > 0, expected="a level, more than 0",
    ))  # fmt: skip
"""
BEFORE = "    def __post_init__(self)"
PROGRAM = """
import json, pickle, sys
from dataclasses import replace
from pathlib import Path

import guava_aug.avatar.model
from fakes import FakeModel, write_clip
from guava_aug import UsageError
from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.ray_workers import portable
from guava_aug.batch.fingerprint import RenderSettings
from guava_aug.batch.journal.history import History
from guava_aug.batch.retry import failed_runs
from guava_aug.cli import main
from guava_aug.cli.flags import RunFlags
from guava_aug.cli.parsing import parse

tracked, out = Path("tracked"), Path("out")
write_clip(tracked, "clip", frames=2)
words = ["--tracked_root", "tracked", "--output_root", "out"]

# the command line, in both spellings, with its check
flags = parse(RunFlags, [*words, "--toy-level", "5"], "run", "", "")
config = flags.config("batch")
assert config.toy_level == 5 and parse(RunFlags, words, "run", "", "").config("batch").toy_level == 3
assert main(["run", *words, "--toy_level", "0"]) == 2
assert main(["run", "--help"]) == 0

# workers
assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
assert pickle.loads(pickle.dumps(config)) == config and portable(config, {}).toy_level == 5

# pixels
assert "toy_level" not in RenderSettings.of(replace(config, toy_level=3), "w").made_with(30, "i")
assert RenderSettings.of(config, "w").made_with(30, "i")["toy_level"] == 5

# a run that fails, and what a retry of it would do; its saved flags, and a job script
class Failing(FakeModel):
    def infer(self, source):
        raise ValueError("no avatar today")

guava_aug.avatar.model.load_model = lambda *args, **options: Failing()
more = ["--background", "black", "--difficulties", "easy", "--toy_level", "5"]
assert main(["run", *words, "--device", "cpu", *more]) == 3
((again, views),) = failed_runs(History(out))
assert again.toy_level == 5 and views == {("clip", "easy")}
guava_aug.avatar.model.load_model = lambda *args, **options: FakeModel()
saved = "out/.guava-aug/run_config.yaml"
assert "toy_level: 5" in Path(saved).read_text()
assert main(["retry", "out"]) == 0
assert main(["run", "--config", saved]) == 0
assert main(["run", "--config", saved, "--toy_level", "3"]) == 2
assert main(["slurm", *words, "--toy_level", "5"]) == 0
"""


@pytest.mark.slow
def test_one_field_is_all(tmp_path: Path) -> None:
    """The package is copied, and its configuration gets the field."""
    package = Path(guava_aug.__file__).parent
    copy = tmp_path / "source" / "guava_aug"
    shutil.copytree(package, copy, ignore=lambda folder, names: {"assets", "__pycache__"} & set(names))
    (copy / "assets").symlink_to(package / "assets")
    config = copy / "batch" / "config.py"
    text = config.read_text(encoding="utf-8")
    assert text.count(BEFORE) == 1
    config.write_text(text.replace(BEFORE, f"{FIELD}\n{BEFORE}"), encoding="utf-8")
    path = os.pathsep.join([str(copy.parent), str(TESTS)])
    env = {**os.environ, "PYTHONPATH": path, "COLUMNS": "100", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "--toy_level LEVEL" in done.stdout and "A number that a stranger added. (default: 3)" in done.stdout
    assert "--toy_level is 0; expected a level, more than 0" in done.stderr
    assert "--toy_level: made with 5, this run 3 (clip / easy)" in done.stderr
    assert "--toy_level 5 " in done.stdout.split("srun --ntasks")[1].replace("\\\n", " ")
