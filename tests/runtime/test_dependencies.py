"""A package that is missing or too old is named with what to do, also where nothing of it can be used."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from guava_aug.cli import main
from guava_aug.runtime import dependencies
from guava_aug.runtime.dependencies import CPU_FIRST, Lack, lacking
from guava_aug.runtime.processes import child_environment

REPO = Path(__file__).resolve().parents[2]


def installed(monkeypatch: pytest.MonkeyPatch, needed: list[str], **versions: str) -> None:
    """Makes these the requirements of guava-aug and the packages that there are."""

    def version(name: str) -> str:
        if name.replace("-", "_") not in versions:
            raise PackageNotFoundError(name)
        return versions[name.replace("-", "_")]

    monkeypatch.setattr(dependencies, "requires", lambda name: needed)
    monkeypatch.setattr(dependencies, "version", version)


@pytest.mark.parametrize(
    ("needed", "found", "fits"),
    [
        ("av>=17", "16.1.0", False),
        ("av>=17", "17.0.0", True),
        ("av>=17", "18.1.0", True),
        ("tyro>=0.9.17", "0.9.2", False),  # numbers, no text
        ("tyro>=0.9.17", "0.9.17", True),
        ("tyro>=0.9.17", "1.0", True),
        ("tyro (>=0.9.17)", "0.9", False),  # as older tools wrote it
        ("torch>=2.4", "2.13.0+cpu", True),
        ("torch>=2.4", "2.4.0a0+git1234", True),
        ("torch>=2.4", "2.3.1+cu121", False),
        ("numpy>=1.24,<3", "1.23.5", False),
        ("scipy>=1.10; extra == 'test'", "1.0", True),
        ("anything", "0.1", True),
    ],
)
def test_versions(monkeypatch: pytest.MonkeyPatch, needed: str, found: str, fits: bool):
    name = re.split(r"\W", needed)[0]
    installed(monkeypatch, [needed], **{name: found})
    assert (lacking() == []) == fits
    if not fits:
        assert str(lacking()[0]).startswith(f"{name} {found} is too old")


def test_missing_packages(monkeypatch: pytest.MonkeyPatch):
    installed(monkeypatch, ["no-such-package>=1", "opencv-python-headless>=4.8", "torch>=2.4"])
    monkeypatch.setattr(dependencies, "find_spec", lambda name: "there" if name == "cv2" else None)  # of opencv-python
    nothing, torch = lacking()
    assert nothing == Lack("no-such-package", "1", None) and "not installed" in str(nothing)
    assert torch.advice.startswith(CPU_FIRST) and "pip install" not in nothing.advice.split("'")[1]


def test_without_metadata(monkeypatch: pytest.MonkeyPatch):
    def requires(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(dependencies, "requires", requires)
    assert lacking() == []


def test_every_requirement_is_understood():
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[.*?\n(.*?)^\]", text, re.M | re.S)
    assert block is not None
    needed = re.findall(r'"([^"]+)"', block[1])
    assert len(needed) == 12 and all(dependencies._AT_LEAST.match(line) for line in needed)


def test_commands_name_what_is_too_old(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    installed(monkeypatch, ["av>=17"], av="12.0.0")
    assert main(["run", "--tracked_root", "t", "--output_root", "o"]) == 2
    said = capsys.readouterr().err
    assert "av 12.0.0 is too old; guava-aug needs 17 or newer (pip install --upgrade 'av>=17')" in said
    assert main(["--help"]) == 0


OLD_TYRO = """
import sys, types
sys.modules["tyro"] = types.ModuleType("tyro")  # from which nothing can be imported
from guava_aug.runtime import dependencies
dependencies.requires = lambda name: ["tyro>=0.9.17", "rich>=13"]
dependencies.version = lambda name: "0.9.1" if name == "tyro" else "13.0"
import guava_aug.apps.doctor
guava_aug.apps.doctor._clip = guava_aug.apps.doctor._model = lambda config: iter(())
from guava_aug.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_doctor_with_a_tyro_that_cannot_be_used(tmp_path: Path):
    def said(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", OLD_TYRO, *words],
            cwd=tmp_path,
            env=child_environment(),
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    code, report = said("doctor", "--device", "cpu")
    assert code == 2
    assert "fail packages: tyro 0.9.1 is too old; guava-aug needs 0.9.17 or newer; pip install --upgrade" in report
    assert "ok   libx264" in report  # the other checks are made
    code, report = said("check", "tracked")
    assert code == 2 and "tyro 0.9.1 is too old" in report
