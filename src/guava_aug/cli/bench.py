"""`guava-aug bench`: the time of views on this machine, in both modes, and the utilisation."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from guava_aug.batch.config import RunConfig
from guava_aug.cli.exit_codes import OK, catch_sigterm
from guava_aug.cli.parsing import MaybePath, Switch, parse
from guava_aug.errors import UsageError
from guava_aug.render.backends import Backend
from guava_aug.runtime.cpus import keep_freed_memory
from guava_aug.runtime.text import pluralize

if TYPE_CHECKING:
    from rich.console import Console

    from guava_aug.apps.benchmark.report import Grid

DESCRIPTION = """\
Measure the time of new views of a video on this machine.

Prints the time of a view by stage, and the time of 1, 3, 10, 50 and 100 views of one video in batch mode and with a
process per view. The numbers of views in --measure are measured with `guava-aug run`; the others are extrapolated and
marked with ~. Writes bench.json and bench.png, a chart of the threads and the GPU over time.
"""

EXAMPLES = """\
examples:
  guava-aug bench
  guava-aug bench --measure 1 3 10 --device 0
  guava-aug bench --model_path assets/GUAVA --tracked_root tracked --video clip_a --frames 137
"""

FRAMES_CPU = 24  # a CPU draws few frames a second


@dataclass(frozen=True)
class BenchFlags:
    """Flags of bench."""

    model_path: MaybePath = None
    """As for `guava-aug run`. Default without --tracked_root: the embedded model."""
    guava_root: MaybePath = None
    """As for `guava-aug run`."""
    tracked_root: MaybePath = None
    """Folder of tracked videos. Default: the bundled clips."""
    video: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Name of the video. Default: the first."""
    frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Use the first N frames, repeated if there are fewer. Default: all; on a CPU 24."""
    measure: Annotated[tuple[int, ...], arg(metavar="N [N ...]")] = (1, 3)
    """Numbers of views to measure, in both modes."""
    repeats: Annotated[int, arg(metavar="R")] = 3
    """Runs within one process, for medians. Commands run once."""
    device: Annotated[str, arg(metavar="ID")] = "0"
    """GPU number or cpu. A machine without a GPU uses its CPU."""
    backend: Backend = "auto"
    """Rasteriser."""
    output: Annotated[Path, arg(metavar="DIR")] = Path("bench_output")
    """Output folder of bench.json and bench.png."""
    json: MaybePath = None
    """Write the results to this file instead of bench.json."""
    chart: MaybePath = None
    """Write the chart to this file instead of bench.png."""
    quiet: Switch = False
    """Print only problems and the tables."""


def main(argv: Sequence[str]) -> int:
    """Return 0 when everything is measured."""
    flags = parse(BenchFlags, argv, "guava-aug bench", DESCRIPTION, EXAMPLES)
    if not flags.measure or min(flags.measure) < 1 or flags.repeats < 1:
        raise UsageError(
            f"--measure {' '.join(map(str, flags.measure))} --repeats {flags.repeats}: expected numbers of 1 or more"
        )
    catch_sigterm()
    keep_freed_memory()

    from guava_aug.apps.benchmark import chart, lanes, machine, measure, report
    from guava_aug.apps.benchmark.clips import clip_of_length
    from guava_aug.batch.journal.run_record import versions, write_record
    from guava_aug.cli.terminal import Terminal, speaking
    from guava_aug.tracked import TrackedVideo

    with speaking(flags.quiet, False), tempfile.TemporaryDirectory(prefix="guava-aug-bench-") as scratch:
        config, device = chosen(flags)
        assert config.videos is not None
        name, frames = config.videos[0], flags.frames or (None if device.startswith("cuda") else FRAMES_CPU)
        if frames is not None and frames != TrackedVideo.open(config.tracked_root, name).num_frames:
            clip_of_length(config.tracked_root, name, frames, Path(scratch))
            config = replace(config, tracked_root=Path(scratch))
        measured = measure.measure(config, flags.measure, flags.repeats)
    on = machine.describe_machine(device)
    costs, shown = report.Costs.of(measured, config.views_in_flight), lanes.lanes_of(measured.intervals)
    target, picture = flags.json or flags.output / "bench.json", flags.chart or flags.output / "bench.png"
    software = versions()
    write_record(
        target,
        report.to_json(
            measured, costs, shown, machine=on, versions=software, video=name, measured=sorted(set(flags.measure)),
            repeats=flags.repeats,
        ),
    )  # fmt: skip
    made = f"{pluralize(measured.views_recorded, 'view')} of {pluralize(measured.frames, 'frame')}"
    what = f"{made}, {measured.gaussians:,} Gaussians"
    said = f"{machine.in_words(on)}; guava-aug {software['guava_aug']}, torch {software['torch']}"
    chart.draw_chart(shown, f"guava-aug: {what}", said, picture)
    console = Terminal(soft_wrap=True)
    for line in (f"{said}, Python {software['python']}", f"model: {measured.model}", f"video: {name}", ""):
        console.say(line)
    for grid in (
        report.stages_grid(measured),
        report.costs_grid(costs),
        report.lanes_grid(shown, measured.views_recorded),
    ):
        show(console, grid)
    console.say(f"figures: {target}")
    console.say(f"chart:   {picture}")
    return OK


def chosen(flags: BenchFlags) -> tuple[RunConfig, str]:
    """Return the run to measure, with its one video, and the torch device.

    Raises:
        UsageError, InputError, DeviceError: no such video, folder or device.
    """
    from guava_aug.apps.synthetic import demo_root
    from guava_aug.avatar.model import EMBEDDED
    from guava_aug.runtime.device import choose_device
    from guava_aug.tracked import list_videos

    device = choose_device(flags.device)
    root = flags.tracked_root or demo_root()
    there = list_videos(root)
    if not there:
        raise UsageError(f"--tracked_root {root} holds no tracked video; expected folders with a videos_info.json")
    embedded = flags.model_path is None and flags.tracked_root is None
    config = RunConfig(
        tracked_root=root,
        output_root=Path("bench_output"),  # replaced by temporary folders
        videos=(flags.video or there[0],),
        difficulties=("medium",),
        model_path=Path(EMBEDDED) if embedded else flags.model_path,
        guava_root=flags.guava_root,
        device=device,
        backend=flags.backend,
    )
    return config, device


def show(console: Console, grid: Grid) -> None:
    """Print a drawn table on a terminal, aligned text elsewhere."""
    if not console.is_terminal:
        console.print(grid.plain() + "\n")
        return
    from rich.table import Table

    table = Table(title=grid.title, title_justify="left")
    for i, column in enumerate(grid.columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in grid.rows:
        table.add_row(*row)
    console.print(table)
    console.print("\n".join(grid.notes) + "\n", style="dim")
