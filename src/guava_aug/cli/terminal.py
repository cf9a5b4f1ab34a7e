"""Log lines, progress and tables of the commands."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.segment import Segment
from rich.table import Table

from guava_aug.batch.results import RunResult
from guava_aug.cli.streams import bare
from guava_aug.errors import printable
from guava_aug.runtime.progress import Bars, NoProgress, PlainLines, Progress
from guava_aug.runtime.text import PrintableFormatter, pluralize
from guava_aug.runtime.timing import StageTime

FAILURES_SHOWN = 20


class Terminal(Console):
    """Where commands show tables and lines. Of text nothing is taken for markup, and what is not printable is escaped.

    Every drawing passes here segment by segment, so this holds for whatever is shown: tables, bars, log lines.
    """

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        stream = bare(sys.stderr if stderr else sys.stdout)
        super().__init__(file=stream, markup=False, highlight=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return the segments of what is shown, as rich calls it; its own control sequences are left alone."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text, "\n"), segment.style)

    def say(self, text: str) -> None:
        """Show one line, whatever names, paths and reasons are in it."""
        self.print(printable(text))


@contextmanager
def speaking(quiet: bool, verbose: bool, debug_log: Path | None = None) -> Iterator[Progress]:
    """Log to stderr for the time of a command, and yield the progress display for it.

    A terminal gets a bar; files and pipes get dated lines. `debug_log` takes everything, with tracebacks.
    """
    root, console = logging.getLogger("guava_aug"), Terminal(stderr=True)
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_level=False, log_time_format="%H:%M:%S ")
        handler.setFormatter(_Plain("%(message)s", hide_traceback=not verbose))
    else:
        handler = logging.StreamHandler()
        line = "%(asctime)s %(levelname)-7s %(message)s"
        handler.setFormatter(_Plain(line, "%Y-%m-%d %H:%M:%S", hide_traceback=not verbose))
    handler.setLevel(level)
    handlers: list[logging.Handler] = [handler]
    if debug_log is not None:
        handlers.append(_DebugFile(debug_log))
    before = root.level, root.propagate
    root.setLevel(logging.DEBUG)
    root.propagate = False
    for each in handlers:
        root.addHandler(each)
    try:
        yield NoProgress() if quiet else Bars(console) if console.is_terminal else PlainLines()
    finally:
        root.setLevel(before[0])
        root.propagate = before[1]
        for each in handlers:
            root.removeHandler(each)
            each.close()


def show_summary(result: RunResult, quiet: bool, *, to_stderr: bool = False) -> None:
    """Print how the run ended: counts, failures with reasons, where things are, and where the time went."""
    console, count = Terminal(soft_wrap=True, stderr=to_stderr), result.count()
    failed = result.failed
    reasons: dict[tuple[str, str], list[str]] = {}
    for view in failed:
        reasons.setdefault((view.video, view.error or ""), []).append(view.label)
    for (video, reason), labels in list(reasons.items())[:FAILURES_SHOWN]:
        console.say(f"failed: {video} ({', '.join(labels)}): {reason}")
    if len(reasons) > FAILURES_SHOWN:
        console.say(f"... and {len(reasons) - FAILURES_SHOWN} more; all are in {result.params_log}")
    words = ", ".join(f"{count[word]} {word}" for word in ("success", "skipped", "failed") if count[word])
    words = f": {words}" if words else ""  # a part may have no video
    console.say(f"{pluralize(len(result.views), 'view')}{words}; {result.seconds:.1f} s; log: {result.params_log}")
    if not quiet and result.stages:
        console.print(stage_table(result.stages))


def stage_table(stages: Sequence[StageTime]) -> Table:
    """Return the timing table."""
    table = Table(title="time by stage", title_justify="left")
    for name in ("stage", "seconds", "count", "mean", "share"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    total = sum(stage.seconds for stage in stages) or 1.0
    for stage in stages:
        table.add_row(
            stage.name, f"{stage.seconds:.2f}", str(stage.count), f"{stage.mean:.3f}", f"{stage.seconds / total:.0%}"
        )
    return table


class _Plain(PrintableFormatter):
    """One line per record: tracebacks are for the debug log."""

    def __init__(self, line: str, date: str | None = None, *, hide_traceback: bool) -> None:
        super().__init__(line, date)
        self._hide = hide_traceback

    def format(self, record: logging.LogRecord) -> str:
        if self._hide and record.exc_info:
            record = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None})
        return super().format(record)


class _DebugFile(logging.FileHandler):
    """The debug log; a folder that cannot be written is reported elsewhere; here it only means no debug log."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, mode="a", encoding="utf-8", delay=True)
        self.setFormatter(PrintableFormatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
        self._usable = True

    def emit(self, record: logging.LogRecord) -> None:
        if not self._usable:
            return
        try:
            Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
            if self.stream is None:
                self.stream = self._open()
        except OSError:
            self._usable = False
            return
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Stop writing, for example when the disk is full; the terminal reports that."""
        self._usable = False

    def close(self) -> None:
        """Close the file, also on a full disk."""
        with suppress(OSError):
            super().close()
