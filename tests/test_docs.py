"""What the documentation says is run: the Python blocks of docs/walkthrough.md, and examples/."""

from __future__ import annotations

import re
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guava_aug.apps.synthetic import demo_root
from guava_aug.avatar.model import EMBEDDED_DIR
from guava_aug.tracked import TrackedVideo, list_videos, write_tracked
from places import REPO, SHARED
from tiny_model import write_tiny_model

PAGE = REPO / "docs" / "walkthrough.md"
PACKAGE = REPO / "src" / "guava_aug"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Function of a Python program, its arguments, and the folder and environment in which it runs."""

    def run(script: Path, *args: str, folder: Path, **environment: str | Path) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        monkeypatch.setattr(sys, "argv", [str(script), *args])
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.chdir(folder)
        runpy.run_path(str(script), run_name="__main__")

    before = set(sys.modules)
    yield run
    for name in ({"weights"} - before) & set(sys.modules):  # of the golden data that the page was given
        del sys.modules[name]


def _blocks(page: Path, *, official: bool) -> str:
    """The page with everything but its Python blocks blanked, so that line numbers in errors are the page's."""
    out, inside = [], False
    for line in page.read_text(encoding="utf-8").split("\n"):
        if line.startswith("```"):
            inside = not inside and (line == "```python" or (official and line == "```python official"))
            out.append("")
        else:
            out.append(line if inside else "")
    return "\n".join(out)


@pytest.mark.skipif((SHARED / "golden" / "infer.npz").exists(), reason="test_all_examples_of_the_page runs them")
def test_examples_of_the_page_that_need_no_licensed_indices(golden: Path, run: Callable, tmp_path: Path) -> None:
    data = tmp_path / "golden"
    data.mkdir()
    for file in golden.iterdir():
        name = {"golden_weights.py": "weights.py", "raster_small.npz": "raster.npz"}.get(file.name, file.name)
        (data / name).symlink_to(file)
    script = tmp_path / PAGE.with_suffix(".py").name
    script.write_text(_blocks(PAGE, official=False), encoding="utf-8")
    run(script, folder=tmp_path, GOLDEN=data)


@pytest.mark.parity
@pytest.mark.slow
def test_all_examples_of_the_page(shared_golden: Path, official_assets: Path, run: Callable, tmp_path: Path) -> None:
    script = tmp_path / PAGE.with_suffix(".py").name
    text = _blocks(PAGE, official=True)
    assert text.count("np.load(GOLDEN") >= 9
    script.write_text(text, encoding="utf-8")
    run(script, folder=tmp_path, GOLDEN=shared_golden, ASSETS=official_assets)


def test_places_that_the_parity_page_names_exist() -> None:
    """Files, and the names in them, as in `body/uv.py: rasterize_uv`."""
    text = (REPO / "docs" / "parity.md").read_text(encoding="utf-8")
    places = re.findall(r"`([a-z_/]+\.py)(?:: ([A-Za-z_.]+))?`", text)
    assert len(places) > 50
    for file, name in places:
        path = PACKAGE / file if (PACKAGE / file).exists() else REPO / file
        assert path.exists(), file
        assert all(part in path.read_text(encoding="utf-8") for part in name.split(".")), f"{file}: {name}"


def test_tests_that_the_pages_name_exist() -> None:
    pages = [*(REPO / "docs").glob("*.md"), REPO / "README.md", REPO / "CONTRIBUTING.md", REPO / "Makefile"]
    named = {name for page in pages for name in re.findall(r"\btests/[\w/]+\.(?:py|sh)", page.read_text("utf-8"))}
    assert len(named) > 20
    assert not [name for name in named if not (REPO / name).exists()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model if it is there, else the tests' tiny one."""
    embedded = EMBEDDED_DIR / "model.safetensors"
    return embedded if embedded.is_file() else write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracked root with the first frames of a bundled clip."""
    video = TrackedVideo.open(demo_root(), list_videos(demo_root())[0])
    root = tmp_path_factory.mktemp("clips")
    frames = [video.read_frame(i) for i in range(3)]
    write_tracked(root, "short", video.identity, video.motion[:3], video.viewmats[:3], frames)
    return root


EXAMPLES = sorted((REPO / "examples").glob("*.py"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_examples(script: Path, model: Path, clips: Path, run: Callable, tmp_path: Path) -> None:
    # one on the bundled clips as they are; the others write whole videos, so of a short one
    root = [] if script.stem == "02_stage_by_stage" else ["--tracked-root", str(clips)]
    run(script, "--model-path", str(model), "--output", str(tmp_path / "out"), *root, folder=tmp_path)
    made = [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".mp4", ".png")]
    assert made and all(path.stat().st_size > 0 for path in made)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
