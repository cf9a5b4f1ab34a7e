"""`guava-aug status`: views done, failed with reasons, and left, and the remaining time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from guava_aug.cli.exit_codes import OK
from guava_aug.cli.parsing import Switch, parse
from guava_aug.cli.roots import history_of
from guava_aug.runtime.text import pluralize

if TYPE_CHECKING:
    from guava_aug.batch.status import RunStatus, WorkerStatus

DESCRIPTION = """\
Show the progress of an output folder: views done, failed with reasons, and left; views per second; time left.

It is read from the journals of all workers, on this machine and others, during and after a run. Nothing is changed.
"""

EXAMPLES = """\
examples:
  guava-aug status augmented
  guava-aug status augmented --json | jq .failed
"""

REASONS_SHOWN = 20
WORKERS_SHOWN = 20
AVATARS_SHOWN = 20
STATES = {  # of workers, in words
    "running": "running", "silent": "on other machines without news for a while", "died": "died", "stopped": "stopped",
    "ended": "finished",
}  # fmt: skip


@dataclass(frozen=True)
class StatusFlags:
    """Flags of status."""

    output_root: Positional[Path]
    """The --output_root of the runs."""
    json: Switch = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> int:
    """Return 0 when there is a run."""
    flags = parse(StatusFlags, argv, "guava-aug status", DESCRIPTION, EXAMPLES)
    from guava_aug.batch.status import run_status

    status = run_status(history_of(flags.output_root, "status"))
    if flags.json:
        more = {"root": str(status.root), "running": status.running}
        print(json.dumps({**asdict(status), **more}, indent=2))
        return OK
    _show(status)
    return OK


def _show(status: RunStatus) -> None:
    """Print the status as text."""
    from guava_aug.cli.terminal import Terminal

    console = Terminal(soft_wrap=True)
    for line in (
        *_counts(status),
        *_avatars(status),
        *_speed(status),
        *_workers(status),
        *_reasons(status),
        *_advice(status),
    ):
        console.say(line)


def _counts(s: RunStatus) -> Iterator[str]:
    """Yield how many views are done, failed, left and missing, and what is wrong with the journals."""
    share = f" ({s.done / s.views:.1%})" if s.views else ""
    yield (
        f"{s.root}: {pluralize(s.views, s.unit)}{_of_videos(s, s.videos)}: {s.done} done{share}, "
        f"{s.failed} failed, {s.left} left{f', {s.missing} missing' if s.missing else ''}"
    )
    if s.missing:
        yield (
            f"{pluralize(s.missing, s.unit)} done, as the journals say, but the files are not there: journals were "
            "copied, or files moved or removed; run the same command again to make them"
        )
    if s.damage.passed_over or s.damage.times:
        where = f" ({', '.join(s.damage.examples)}{', ...' if s.damage.passed_over > 3 else ''})"
        yield (
            f"damaged journals: {pluralize(s.damage.passed_over, 'line')} not understood and passed over"
            f"{where if s.damage.examples else ''}, {pluralize(s.damage.times, 'line')} with an impossible time"
        )


def _avatars(s: RunStatus) -> Iterator[str]:
    """Yield how many videos have a fitted avatar, how much it gained, and those whose is not used."""
    if not s.avatars:
        return
    used = [a for a in s.avatars if a.used]
    gains = sorted(a.after - a.before for a in used if a.before is not None and a.after is not None)
    gain = f" (median {gains[len(gains) // 2]:+.2f} dB on frames kept back)" if gains else ""
    yield f"fitted avatars: {len(used)} used{gain}, {len(s.avatars) - len(used)} no better and not used"
    others = [a for a in s.avatars if not a.used]
    for a in others[:AVATARS_SHOWN]:
        known = a.before is not None and a.after is not None
        yield f"  {a.video}: not used" + (f", {a.before:.2f} dB before, {a.after:.2f} after" if known else "")
    if len(others) > AVATARS_SHOWN:
        yield f"  ... and {len(others) - AVATARS_SHOWN} more; see --json"


def _speed(s: RunStatus) -> Iterator[str]:
    """Yield the rate and the remaining time, if they are known."""
    from guava_aug.runtime.progress import hms

    known = []
    if s.views_per_second is not None:
        known.append(f"{s.views_per_second:.3g} {s.unit}s/s")
    if s.eta is not None and s.left:
        known.append(f"ETA {hms(s.eta)}")
    if s.device_seconds_per_view is not None:
        known.append(f"{s.device_seconds_per_view:.3g} {'GPU' if s.on_gpu else 'CPU process'} seconds per {s.unit}")
    if known:
        yield ", ".join(known)


def _workers(s: RunStatus) -> Iterator[str]:
    """Yield the number of processes in each state, and the single ones but for those that have finished."""
    for life, words in STATES.items():
        workers = [worker for worker in s.workers if worker.life == life]
        if not workers:
            continue
        yield f"{pluralize(len(workers), 'process')} {words}"
        if life != "ended":
            yield from (_worker(worker, s.unit) for worker in workers[:WORKERS_SHOWN])


def _worker(worker: WorkerStatus, unit: str) -> str:
    """Return the line of one process."""
    from guava_aug.runtime.progress import hms

    part = "" if worker.part is None else f", part {worker.part}"
    flight = f", at {worker.in_flight[0]} ({pluralize(worker.in_flight[1], unit)})" if worker.in_flight else ""
    why = f": {worker.why}" if worker.why else ""
    return (
        f"  {worker.host} {worker.pid}{part}, {worker.device or '?'}: {pluralize(worker.made, unit)}{flight}, "
        f"{hms(worker.idle)} ago{why}"
    )


def _reasons(s: RunStatus) -> Iterator[str]:
    """Yield why views failed, with examples."""
    for reason in s.reasons[:REASONS_SHOWN]:
        yield (
            f"failed ({pluralize(reason.views, s.unit)}{_of_videos(s, reason.videos)}, "
            f"stage {reason.stage or '?'}): {reason.text}"
        )
        more = f" and {reason.views - len(reason.examples)} more" if reason.views > len(reason.examples) else ""
        yield f"  {'; '.join(reason.examples)}{more}"
    if len(s.reasons) > REASONS_SHOWN:
        yield f"... and {pluralize(len(s.reasons) - REASONS_SHOWN, 'more reason')}; see --json"


def _advice(s: RunStatus) -> Iterator[str]:
    """Yield what to do next."""
    if s.left and not s.running:
        yield "no process is running: run the same command again to make what is left"
    if s.failed:
        yield f"`guava-aug retry {s.root}` tries the failed {s.unit}s again"


def _of_videos(s: RunStatus, count: int) -> str:
    return "" if s.of_tracking else f" of {pluralize(count, 'video')}"
