"""Every text file is read and written in an encoding that is named: that of the locale is another on every machine."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "benchmarks", "examples", "scripts")
PIPES = ("text", "universal_newlines")  # of subprocess


def unnamed(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that open a text file, or the pipes of a process, without an encoding."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(k.arg in ("encoding", None) for k in node.keywords):
            continue
        words = {k.arg: k.value for k in node.keywords}
        is_method = isinstance(node.func, ast.Attribute)
        name = node.func.attr if is_method else getattr(node.func, "id", "")
        if name in ("open", "fdopen"):
            place = 0 if is_method and name == "open" else 1
            mode = words.get("mode") or (node.args[place] if len(node.args) > place else ast.Constant("r"))
            if is_method and name == "open" and node.args and not _is_mode(node.args[0]):
                continue  # os.open, av.open, TrackedVideo.open and so on; a path's has a mode or nothing
            if _is_mode(mode) and "b" not in mode.value:
                yield node
        elif (is_method and name in ("read_text", "write_text")) or any(_is_true(words.get(word)) for word in PIPES):
            yield node


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _is_mode(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and set(node.value) <= set("rwaxbt+")


def test_encodings_are_named():
    wrong = [
        f"{path.relative_to(REPO)}:{call.lineno}"
        for folder in FOLDERS
        for path in sorted((REPO / folder).rglob("*.py"))
        for call in unnamed(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not wrong


def test_calls_without_an_encoding_are_seen():
    text = """
open(p); open(p, "rb"); open(p, "w", encoding="utf-8"); p.open(); p.open("a", newline=""); p.open("rb"); os.open(p, 0)
p.read_text(); p.write_text("x"); run(a, text=True); run(a, text=True, encoding="utf-8"); av.open(str(p)); x.open(root)
"""
    seen = [ast.unparse(call) for call in unnamed(ast.parse(text))]
    assert sorted(seen) == sorted(
        ["open(p)", "p.open()", "p.open('a', newline='')", "p.read_text()", "p.write_text('x')", "run(a, text=True)"]
    )
