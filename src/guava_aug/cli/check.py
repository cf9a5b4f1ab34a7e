"""`guava-aug check`: what is right and wrong with tracked videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..plural import counted
from ..printable import printable
from .exit_codes import OK, SOME_FAILED
from .parsing import MaybePath, Switch, parse

if TYPE_CHECKING:
    from rich.table import Table

    from ..frame_rate import Rate
    from ..tracked import CheckRow

DESCRIPTION = """\
Check tracked videos: every parameter of every frame, and every image.

Prints a table with frames, size, identity, and what is wrong and where; to a file or pipe one line per video, with
tabs between name, result (good, odd, bad), frames, size, fps, identity and reasons. Exit code 3 when a video cannot
be used.
"""

EXAMPLES = """\
examples:
  guava-aug check tracked
  guava-aug check tracked clip_a clip_b
  guava-aug check tracked | grep -P '\\tbad\\t'
"""


@dataclass(frozen=True)
class CheckFlags:
    """Flags of check."""

    tracked_root: Positional[Path]
    """Folder that holds the tracked videos (or one tracked video)."""
    names: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME ...]", help_behavior_hint="")] = ()
    """Videos to check; all when none is named."""
    fast: Switch = False
    """Look whether the images are there, without decoding them."""
    time_map: MaybePath = None
    """Check this time map too: it must fit the videos."""


def main(argv: Sequence[str]) -> int:
    """0 when all videos can be used, else 3."""
    flags = parse(CheckFlags, argv, "guava-aug check", DESCRIPTION, EXAMPLES)
    from rich.text import Text

    from ..errors import InputError
    from ..tracked import iter_checks, load_time_map, warn_of_strangers
    from .terminal import Terminal, speaking

    time_map = load_time_map(flags.time_map) if flags.time_map else None
    rows: list[CheckRow] = []
    waiting, console = Terminal(stderr=True), Terminal()
    with speaking(quiet=True, verbose=False), waiting.status("checking") as status:
        if flags.time_map and time_map:
            warn_of_strangers(time_map, flags.time_map, flags.tracked_root)
        for row in iter_checks(flags.tracked_root, flags.names or None, decode=not flags.fast, time_map=time_map):
            rows.append(row)
            status.update(Text(f"checked {len(rows)}: {printable(row.name)[:40]}"))
    if not rows:
        raise InputError(f"{flags.tracked_root} holds no tracked video; check the path")

    if console.is_terminal:
        console.print(_table(rows))
    else:
        for row in rows:
            print(_line(row))
    bad = sum(not row.ok for row in rows)
    print(f"{counted(len(rows), 'video')}, {len(rows) - bad} good, {bad} that cannot be used")
    return SOME_FAILED if bad else OK


def _table(rows: Sequence[CheckRow]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in ("video", "frames", "size", "fps", "identity", "result"):
        table.add_column(name, justify="right" if name in ("frames", "size", "fps") else "left", overflow="fold")
    for row in rows:
        text = Text("\n".join(map(printable, _notes(row))) or "good", style="red" if row.problems else "")
        table.add_row(Text(printable(row.name)), *_facts(row), text)
    return table


def _line(row: CheckRow) -> str:
    """One line whatever the names and reasons hold, for grep and cut."""
    result = "bad" if row.problems else "odd" if row.warnings else "good"
    parts = [row.name, result, *_facts(row), "; ".join(_notes(row))]
    return "\t".join(map(printable, parts))


def _facts(row: CheckRow) -> tuple[str, ...]:
    return _shown(row.frames), _shown(row.size), _shown(row.fps), row.identity or "-"


def _notes(row: CheckRow) -> list[str]:
    return [f"wrong: {p}" for p in row.problems] + [f"odd: {w}" for w in row.warnings]


def _shown(value: Rate | None) -> str:
    return "-" if value is None else f"{float(value):g}"
