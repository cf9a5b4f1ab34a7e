"""What the documentation says is run: the Python blocks of docs/architecture.md, its import rule, and examples/."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from guava_aug.apps.synthetic import demo_root
from guava_aug.avatar.model import EMBEDDED_DIR
from guava_aug.tracked import TrackedVideo, list_videos, write_tracked
from tiny_model import write_tiny_model

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "architecture.md"
PACKAGE = REPO / "src" / "guava_aug"


def _run(script: Path, *args: str, **environment: str | Path) -> str:
    """Standard output of a Python program run in the script's folder."""
    env = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    done = subprocess.run(
        [sys.executable, str(script), *args], cwd=environment.get("CWD", script.parent), env=env,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


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


def test_examples_of_the_page_that_need_no_licensed_indices(golden: Path, tmp_path: Path) -> None:
    data = tmp_path / "golden"
    data.mkdir()
    for file in golden.iterdir():
        name = {"golden_weights.py": "weights.py", "raster_small.npz": "raster.npz"}.get(file.name, file.name)
        (data / name).symlink_to(file)
    script = tmp_path / PAGE.with_suffix(".py").name
    script.write_text(_blocks(PAGE, official=False), encoding="utf-8")
    _run(script, GOLDEN=data, TMPDIR=tmp_path)


@pytest.mark.parity
@pytest.mark.slow
def test_all_examples_of_the_page(shared_golden: Path, official_assets: Path, tmp_path: Path) -> None:
    script = tmp_path / PAGE.with_suffix(".py").name
    text = _blocks(PAGE, official=True)
    assert text.count("np.load(GOLDEN") >= 9
    script.write_text(text, encoding="utf-8")
    _run(script, GOLDEN=shared_golden, ASSETS=official_assets, TMPDIR=tmp_path)


def test_imports_go_one_way() -> None:
    """Each module imports only from lines of the page's list below its own, and the list names every module."""
    text = PAGE.read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    rank = {
        name: i for i, line in enumerate(text.splitlines()) for name in re.split(r"\s{2,}", line)[0].split(", ") if name
    }
    rooms = {p.relative_to(PACKAGE).with_suffix("").parts[0] for p in PACKAGE.rglob("*.py")}
    assert rooms - {"__init__", "__main__"} == set(rank)
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {there}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if (here := path.relative_to(PACKAGE).with_suffix("").parts[0]) in rank
        for there in _imported_rooms(path) & set(rank) - {here}
        if rank[there] <= rank[here]
    ]
    assert not wrong


def test_the_mathematics_knows_nothing_of_runs() -> None:
    """No configuration of a run, no journal and no command line in what renders; only each other and small tools."""
    mathematics = {"avatar", "body", "model", "render", "views"}
    tools = {"compiled", "errors", "plural", "safe_pickle", "triton_support"}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room in mathematics:
            also = {"tracked"} if room == "model" else set()  # `Source`, what a model reconstructs from
            assert _imported_rooms(path) <= mathematics | tools | also, path.relative_to(PACKAGE)


def _imported_rooms(path: Path) -> set[str]:
    """Top-level modules of the package that a file imports, also those it imports late."""
    folder = ("guava_aug", *path.relative_to(PACKAGE).parent.parts)
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(folder[: len(folder) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names += [f"{module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("guava_aug.")}


def test_places_that_the_parity_page_names_exist() -> None:
    """Files, and the names in them, as in `body/uv.py: rasterize_uv`."""
    text = (REPO / "docs" / "parity.md").read_text(encoding="utf-8")
    places = re.findall(r"`([a-z_/]+\.py)(?:: ([A-Za-z_.]+))?`", text)
    assert len(places) > 50
    for file, name in places:
        path = PACKAGE / file if (PACKAGE / file).exists() else REPO / file
        assert path.exists(), file
        assert all(part in path.read_text(encoding="utf-8") for part in name.split(".")), f"{file}: {name}"


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
def test_examples(script: Path, model: Path, clips: Path, tmp_path: Path) -> None:
    # one on the bundled clips as they are; the others write whole videos, so of a short one
    root = [] if script.stem == "02_stage_by_stage" else ["--tracked-root", str(clips)]
    _run(script, "--model-path", str(model), "--output", str(tmp_path / "out"), *root, CWD=tmp_path)
    made = [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".mp4", ".png")]
    assert made and all(path.stat().st_size > 0 for path in made)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
