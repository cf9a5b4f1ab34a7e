"""Sphinx: `make docs` builds the site into docs/_build/html."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from guava_aug import __version__
from guava_aug.cli import COMMANDS, overview

project = "guava-aug"
author = "guava-aug contributors"
copyright = "guava-aug contributors, Apache-2.0"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "guava-aug"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository that are no pages

HERE = Path(__file__).parent


def write_command_reference(_: object) -> None:
    """Write docs/cli.md: the overview, and every command's own help, as it is printed."""
    parts = [f"# Commands\n\n```text\n{overview().rstrip()}\n```\n"]
    for name in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "guava_aug", name, "--help"], capture_output=True, text=True, check=True,
            env={"COLUMNS": "100", "NO_COLOR": "1", "PATH": "", "PYTHONPATH": ":".join(sys.path)},
        )  # fmt: skip
        parts.append(f"## guava-aug {name}\n\n```text\n{done.stdout.rstrip()}\n```\n")
    (HERE / "cli.md").write_text("\n".join(parts), encoding="utf-8")


def setup(app: object) -> None:
    """Connect what is generated before the pages are read."""
    app.connect("builder-inited", write_command_reference)  # type: ignore[attr-defined]
