"""The rules of docs/architecture.md: few rooms, and imports in one direction."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "architecture.md"
PACKAGE = REPO / "src" / "guava_aug"
ENTRIES = 12  # at the root of the package, without __init__, __main__ and py.typed
ARROWS = 80  # pairs of a room and a room that it imports
FLOORS = 9  # rooms on the longest way down
INNER = {  # within a room: from -> what it may import of its own room
    "batch.journal": {"journal", "results", "fingerprint", "config", "jobs"},
    "apps.synthetic": {"synthetic"},
}


def _rows() -> list[list[str]]:
    """The lines of the page's list, from the top."""
    text = PAGE.read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    return [line.split(", ") for line in text.splitlines()]


def _imports(path: Path) -> set[str]:
    """Dotted names below the package that a file imports, also late and for type checking."""
    folder = ("guava_aug", *path.relative_to(PACKAGE).parent.parts)
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(folder[: len(folder) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names += [f"{module}.{alias.name}" for alias in node.names]
    return {name.removeprefix("guava_aug.") for name in names if name.startswith("guava_aug.")}


def _modules() -> list[tuple[str, Path]]:
    """Dotted names below the package, and the files."""
    found = [(p.relative_to(PACKAGE).with_suffix(""), p) for p in sorted(PACKAGE.rglob("*.py"))]
    return [(".".join(name.parts).removesuffix(".__init__"), path) for name, path in found]


def test_the_root_has_few_entries_and_the_page_names_them_all() -> None:
    found = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p.is_dir() and p.name != "__pycache__")}
    found -= {"__init__", "__main__"}
    assert found == {room for row in _rows() for room in row}
    assert len(found) <= ENTRIES


def test_imports_go_down() -> None:
    """A room imports only from lines below its own; rooms of one line never import each other."""
    rank = {room: i for i, row in enumerate(_rows()) for room in row}
    wrong = [
        f"{name} imports {there}"
        for name, path in _modules()
        if (here := name.split(".")[0]) in rank
        for there in _imports(path)
        if (other := there.split(".")[0]) in rank and other != here and rank[other] <= rank[here]
    ]
    assert not wrong


def test_few_rooms_import_each_other_over_few_floors() -> None:
    rooms = {room for row in _rows() for room in row}
    below: dict[str, set[str]] = {room: set() for room in rooms}
    for name, path in _modules():
        if (here := name.split(".")[0]) in rooms:
            below[here] |= {there.split(".")[0] for there in _imports(path)} & rooms - {here}
    floors = lambda room: 1 + max(map(floors, below[room]), default=0)  # imports go down, so it ends
    assert sum(map(len, below.values())) <= ARROWS
    assert max(map(floors, rooms)) <= FLOORS


@pytest.mark.parametrize("room", INNER)
def test_imports_within_a_room(room: str) -> None:
    top = room.split(".")[0]
    wrong = [
        f"{name} imports {there}"
        for name, path in _modules()
        if name.startswith(room)
        for there in _imports(path)
        if there.split(".")[0] == top and not INNER[room] & set(there.split(".")[1:2])
    ]
    assert not wrong


def test_no_circle_of_modules() -> None:
    """Also within a room, no module imports itself in the end; late imports aside."""
    modules = dict(_modules())
    graph = {
        name: {_module(there, modules) for there in _top_imports(path)} - {name, None} for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name in done:
            return
        for other in sorted(graph[name]):  # type: ignore[type-var]
            visit(str(other), (*way, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def _top_imports(path: Path) -> set[str]:
    """What a file imports when it is loaded."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("guava_aug") and not node.level:
            names |= {f"{node.module}.{alias.name}".removeprefix("guava_aug.") for alias in node.names}
    return names


def _module(name: str, modules: dict[str, Path]) -> str | None:
    """The longest beginning of a dotted name that is a module."""
    parts = name.split(".")
    return next((m for n in range(len(parts), 0, -1) if (m := ".".join(parts[:n])) in modules), None)


def test_every_import_is_absolute() -> None:
    relative = [
        str(path) for _, path in _modules() if re.search(r"^\s*from \.", path.read_text(encoding="utf-8"), re.M)
    ]
    assert not relative
