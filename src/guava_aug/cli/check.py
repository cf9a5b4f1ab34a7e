"""`guava-aug check`: problems of tracked videos."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from guava_aug.cli.exit_codes import OK, SOME_FAILED
from guava_aug.cli.parsing import MaybePath, Switch, parse
from guava_aug.errors import UsageError, printable
from guava_aug.runtime.text import pluralize

if TYPE_CHECKING:
    from rich.table import Table

    from guava_aug.runtime.frame_rate import Rate
    from guava_aug.tracked import BodyOutline, CheckRow

log = logging.getLogger(__name__)

DESCRIPTION = """\
Check tracked videos: every parameter of every frame, every image, and the posed body against the masks.

Prints a table with frames, size, identity, overlap of mask and posed body (intersection over union, median of three
frames), jitter (distance of joints from their smooth path, pixels at size 512), and problems; to a file or pipe one
line per video, with tabs between name, result (good, odd, bad), frames, size, fps, identity, reasons, overlap and
jitter. Exit code 3 when a video cannot be used.
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
    """Videos to check; all when none is named. A name may begin with - when there is such a folder, or after --."""
    fast: Switch = False
    """Check that images exist without decoding them or comparing them with the body."""
    accept_tracking: Switch = False
    """Accept what `run --accept_tracking` renders."""
    model_path: MaybePath = None
    """Model whose body is compared with the masks. Default: as for run."""
    guava_root: MaybePath = None
    """As for run."""
    time_map: MaybePath = None
    """Also check that this time map fits the videos."""
    source_frame: Annotated[int, arg(metavar="N")] = 0
    """As for `guava-aug run`: this frame must show the person."""
    avatar_root: MaybePath = None
    """Folder of fitted avatars, such as OUTPUT_ROOT/.guava-aug/avatars of a run; those of the videos are listed.
    Default: TRACKED_ROOT/.guava-aug/avatars, where `guava-aug personalize` puts them."""


def main(argv: Sequence[str]) -> int:
    """Return 0 when all videos can be used, else 3."""
    flags = parse(CheckFlags, argv, "guava-aug check", DESCRIPTION, EXAMPLES)
    from rich.text import Text

    from guava_aug.batch.plan import unique_names
    from guava_aug.cli.terminal import Terminal, speaking
    from guava_aug.errors import InputError
    from guava_aug.tracked import load_time_map, warn_unknown_videos
    from guava_aug.tracked.layout import check_root, why_no_videos

    if flags.source_frame < 0:
        raise UsageError(f"--source_frame is {flags.source_frame}; expected the number of a frame, 0 or more")

    time_map = load_time_map(flags.time_map) if flags.time_map else None
    if not flags.names:
        check_root(flags.tracked_root)  # before torch is imported
    from guava_aug.tracked import iter_checks

    rows: list[CheckRow] = []
    waiting, console = Terminal(stderr=True), Terminal()
    with speaking(quiet=True, verbose=False), waiting.status("checking") as status:
        if flags.time_map and time_map:
            warn_unknown_videos(time_map, flags.time_map, flags.tracked_root)
        outline = None if flags.fast else _outline(flags)
        for row in iter_checks(
            flags.tracked_root,
            unique_names(flags.names) or None,
            decode=not flags.fast,
            time_map=time_map,
            source_frame=flags.source_frame,
            outline=outline,
            accept_tracking=flags.accept_tracking,
        ):
            rows.append(row)
            status.update(Text(f"checked {len(rows)}: {printable(row.name)[:40]}"))
    if not rows:
        raise InputError(why_no_videos(flags.tracked_root))

    if console.is_terminal:
        console.print(_table(rows))
    else:
        for row in rows:
            print(_line(row))
    bad = sum(not row.ok for row in rows)
    print(f"{pluralize(len(rows), 'video')}, {len(rows) - bad} good, {bad} that cannot be used")
    for line in _avatars(flags, [row.name for row in rows]):
        print(line)
    return SOME_FAILED if bad else OK


def _avatars(flags: CheckFlags, names: Sequence[str]) -> Iterator[str]:
    """Yield the fitted avatars of the videos, if there are any: what a run with --personalize would say of them."""
    from guava_aug.batch.config import RunConfig

    root = flags.avatar_root or RunConfig(flags.tracked_root, flags.tracked_root).avatars
    if not root.is_dir():
        if flags.avatar_root is not None:
            raise UsageError(f"--avatar_root {root}: there is no such folder")
        return
    from guava_aug.batch.avatars import avatars_there

    found = avatars_there(root, names)
    if found:
        used = sum(r.avatar is not None and r.avatar.used for r in found)
        yield f"fitted avatars in {printable(root)}: {used} used, {len(found) - used} not"
    for r in found:
        yield f"  {printable(r.name)}: {printable(r.error) if r.avatar is None else r.avatar.in_words()}"


def _outline(flags: CheckFlags) -> BodyOutline | None:
    """Return the outline of the run's body model; None, with a warning, if a default one is incomplete."""
    from guava_aug.avatar.model import load_body
    from guava_aug.batch.config import RunConfig
    from guava_aug.batch.validate import model_source
    from guava_aug.errors import AssetError
    from guava_aug.tracked import BodyOutline

    config = RunConfig(flags.tracked_root, Path(), model_path=flags.model_path, guava_root=flags.guava_root)
    try:
        return BodyOutline(load_body(model_source(config), guava_root=flags.guava_root))
    except AssetError as error:
        if flags.model_path is not None:
            raise
        log.warning("the masks are not compared with the posed body: %s", error)
        return None


def _table(rows: Sequence[CheckRow]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    numbers = ("frames", "size", "fps", "overlap", "jitter")
    for name in ("video", "frames", "size", "fps", "identity", "overlap", "jitter", "result"):
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        text = Text("\n".join(map(printable, _notes(row))) or "good", style="red" if row.problems else "")
        table.add_row(Text(printable(row.name)), *_facts(row), *_measures(row), text)
    return table


def _line(row: CheckRow) -> str:
    """Return one line whatever the names and reasons hold, for grep and cut."""
    result = "bad" if row.problems else "odd" if row.warnings else "good"
    parts = [row.name, result, *_facts(row), "; ".join(_notes(row)), *_measures(row)]
    return "\t".join(map(printable, parts))


def _facts(row: CheckRow) -> tuple[str, ...]:
    return _shown(row.frames), _shown(row.size), _shown(row.fps), row.identity or "-"


def _measures(row: CheckRow) -> tuple[str, str]:
    return _rounded(row.overlap, 2), _rounded(row.jitter, 1)


def _notes(row: CheckRow) -> list[str]:
    return [f"wrong: {p}" for p in row.problems] + [f"odd: {w}" for w in row.warnings]


def _rounded(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _shown(value: Rate | None) -> str:
    return "-" if value is None else f"{float(value):g}"
