"""`guava-aug status`: what is done, what failed and why, what is left, and when it will be done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from guava_aug.cli.exit_codes import OK
from guava_aug.cli.parsing import Switch, parse
from guava_aug.cli.roots import history_of
from guava_aug.runtime.text import pluralize

if TYPE_CHECKING:
    from guava_aug.batch.status import RunStatus

DESCRIPTION = """\
Say how the work on an output folder stands: done, failed with reasons, left, views per second, time left.

Read from the journals of all workers, on this machine and others, while they work or after they died. Nothing is
changed.
"""

EXAMPLES = """\
examples:
  guava-aug status augmented
  guava-aug status augmented --json | jq .failed
"""

REASONS_SHOWN = 20
WORKERS_SHOWN = 20


@dataclass(frozen=True)
class StatusFlags:
    """Flags of status."""

    output_root: Positional[Path]
    """The --output_root of the runs."""
    json: Switch = False
    """Print all of it as one JSON object."""


def main(argv: Sequence[str]) -> int:
    """0 when there is something to tell about."""
    flags = parse(StatusFlags, argv, "guava-aug status", DESCRIPTION, EXAMPLES)
    from guava_aug.batch.status import run_status

    standing = run_status(history_of(flags.output_root, "status"))
    if flags.json:
        more = {"root": str(standing.root), "running": standing.running}
        print(json.dumps({**asdict(standing), **more}, indent=2))
        return OK
    _show(standing)
    return OK


def _show(standing: RunStatus) -> None:
    """The same for people."""
    from guava_aug.cli.terminal import Terminal
    from guava_aug.runtime.progress import hms

    console = Terminal(soft_wrap=True)
    s = standing
    share = f" ({s.done / s.views:.1%})" if s.views else ""
    unit = "video" if s.of_tracking else "view"
    what = pluralize(s.views, unit) + ("" if s.of_tracking else f" of {pluralize(s.videos, 'video')}")
    console.say(
        f"{s.root}: {what}: {s.done} done{share}, "
        f"{s.failed} failed, {s.left} left{f', {s.missing} missing' if s.missing else ''}"
    )
    if s.missing:
        console.print(
            f"{pluralize(s.missing, unit)} done, as the journals say, but the files are not there: journals were "
            "copied, or files moved or removed; run the same command again to make them"
        )
    if s.damage.passed_over or s.damage.times:
        where = f" ({', '.join(s.damage.examples)}{', ...' if s.damage.passed_over > 3 else ''})"
        console.print(
            f"damaged journals: {pluralize(s.damage.passed_over, 'line')} not understood and passed over"
            f"{where if s.damage.examples else ''}, {pluralize(s.damage.times, 'line')} with an impossible time"
        )
    speed = []
    if s.views_per_second is not None:
        speed.append(f"{s.views_per_second:.3g} {unit}s/s")
    if s.eta is not None and s.left:
        speed.append(f"ETA {hms(s.eta)}")
    if s.device_seconds_per_view is not None:
        speed.append(f"{s.device_seconds_per_view:.3g} {'GPU' if s.on_gpu else 'CPU process'} seconds per {unit}")
    if speed:
        console.say(", ".join(speed))
    for life, words in (
        ("running", "at work"), ("silent", "on other machines, silent for a while"),
        ("died", "died without a word"), ("stopped", "stopped"), ("ended", "did all that was asked"),
    ):  # fmt: skip
        workers = [worker for worker in s.workers if worker.life == life]
        if not workers:
            continue
        console.say(f"{pluralize(len(workers), 'process')} {words}")
        for worker in workers[: WORKERS_SHOWN if life != "ended" else 0]:
            where = f"  {worker.host} {worker.pid}" + (f", part {worker.part}" if worker.part is not None else "")
            flight = f", at {worker.in_flight[0]} ({pluralize(worker.in_flight[1], unit)})" if worker.in_flight else ""
            why = f": {worker.why}" if worker.why else ""
            console.say(
                f"{where}, {worker.device or '?'}: {pluralize(worker.made, unit)}{flight}, {hms(worker.idle)} ago{why}"
            )
    for reason in s.reasons[:REASONS_SHOWN]:
        of_videos = "" if s.of_tracking else f" of {pluralize(reason.videos, 'video')}"
        where = f", stage {reason.stage or '?'}" if reason.stage or not s.of_tracking else ""
        console.say(f"failed ({pluralize(reason.views, unit)}{of_videos}{where}): {reason.text}")
        more = f" and {reason.views - len(reason.examples)} more" if reason.views > len(reason.examples) else ""
        console.say(f"  {'; '.join(reason.examples)}{more}")
    if len(s.reasons) > REASONS_SHOWN:
        console.say(f"... and {pluralize(len(s.reasons) - REASONS_SHOWN, 'more reason')}; see --json")
    if s.left and not s.running:
        console.say("no process is at work: run the same command again to make what is left")
    if s.failed:
        console.say(f"`guava-aug retry {s.root}` tries the failed {unit}s again")
