"""`guava-aug retry`: render failed views again with their own configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from guava_aug.cli.exit_codes import OK, SOME_FAILED
from guava_aug.cli.parsing import Switch, parse
from guava_aug.cli.roots import history_of
from guava_aug.errors import UsageError
from guava_aug.render.backends import PRECISIONS
from guava_aug.runtime.cpus import keep_freed_memory
from guava_aug.runtime.shutdown import GracefulShutdown

if TYPE_CHECKING:
    from guava_aug.batch.tracking.config import TrackConfig

DESCRIPTION = """\
Render the failed views of an output folder again, and no others, also those that failed too often for `run`. Of a
folder that `guava-aug track` wrote, the videos that could not be tracked.

The flags of the runs in which they failed are read from the journals; only the flags below can be changed. Exit code 3
when views fail again.
"""

EXAMPLES = """\
examples:
  guava-aug retry augmented
  guava-aug retry augmented --device cpu
  guava-aug retry tracked
  guava-aug retry augmented --precision fp32     # if half precision is not enough for the model
"""


@dataclass(frozen=True)
class RetryFlags:
    """Flags of retry."""

    output_root: Positional[Path]
    """The --output_root of the runs, or the --tracked_root of `guava-aug track`."""
    device: Annotated[str | None, arg(metavar="ID", help_behavior_hint="")] = None
    """Another device: GPU number, cpu, or a torch device."""
    precision: Annotated[str | None, arg(metavar="auto|fp16|fp32", help_behavior_hint="")] = None
    """Another precision of rendering."""
    accept_tracking: Switch = False
    """Also render videos that were refused for implausible tracking."""
    quiet: Switch = False
    """Print only problems and the summary."""
    verbose: Switch = False
    """Print details and tracebacks too."""


def main(argv: Sequence[str]) -> int:
    """Return 0 when all of them could be made now, or there were none."""
    flags = parse(RetryFlags, argv, "guava-aug retry", DESCRIPTION, EXAMPLES)
    precision = next((p for p in PRECISIONS if p == flags.precision), None)
    if flags.precision != precision:
        raise UsageError(f"--precision is {flags.precision!r}; expected one of {', '.join(PRECISIONS)}")
    keep_freed_memory()
    root = flags.output_root
    from guava_aug.batch.retry import failed_runs
    from guava_aug.batch.tracking.retry import failed_tracking

    history = history_of(root, "retry")
    failed, not_tracked = failed_runs(history), failed_tracking(history)
    if not_tracked:
        return _track_again(flags, not_tracked)
    if not failed:
        print(f"{root}: no view has failed")
        return OK
    with GracefulShutdown() as stop:
        from dataclasses import replace

        from guava_aug.batch.journal.run_record import debug_log_path
        from guava_aug.batch.run import run
        from guava_aug.cli.terminal import show_summary, speaking

        results = []
        for config, views in failed:
            if flags.device is not None:
                config = replace(config, device=flags.device, gpus=None, require_gpu=False)
            if precision is not None:
                config = replace(config, precision=precision)
            if flags.accept_tracking:
                config = replace(config, accept_tracking=True)
            stop.grace = config.grace
            with speaking(flags.quiet, flags.verbose, debug_log_path(root, config.part_id)) as progress:
                results.append(run(config, progress=progress, stop=stop, only=views, again=True))
    for result in results:
        show_summary(result, flags.quiet)
    return OK if all(result.ok for result in results) else SOME_FAILED


def _track_again(flags: RetryFlags, failed: Sequence[TrackConfig]) -> int:
    """0 when all videos could be tracked now."""
    from dataclasses import replace

    from guava_aug.batch.journal.run_record import debug_log_path
    from guava_aug.batch.tracking.run import track
    from guava_aug.cli.terminal import speaking
    from guava_aug.cli.track import show_tracking

    results = []
    with GracefulShutdown() as stop:
        for config in failed:
            if flags.device is not None:
                config = replace(config, device=flags.device, gpus=None, require_gpu=False)
            stop.grace = config.grace
            with speaking(flags.quiet, flags.verbose, debug_log_path(flags.output_root, config.part_id)) as progress:
                results.append(track(config, progress=progress, stop=stop, again=True))
    for result in results:
        show_tracking(result, flags.quiet)
    return OK if all(result.ok for result in results) else SOME_FAILED
