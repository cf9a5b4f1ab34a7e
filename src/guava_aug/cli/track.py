"""`guava-aug track`: videos of real people to tracked folders, with nothing licensed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import field, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Fixed, Suppress, arg

from guava_aug.batch.options import GROUPS, options_of
from guava_aug.batch.sharding import shard_of_slurm_array
from guava_aug.batch.tracking.config import TrackConfig
from guava_aug.cli.exit_codes import OK, SOME_FAILED
from guava_aug.cli.flags import flag_field, flag_value
from guava_aug.cli.parsing import GIVEN, Switch, parse, scan
from guava_aug.errors import UsageError
from guava_aug.runtime.cpus import keep_freed_memory
from guava_aug.runtime.shutdown import GracefulShutdown
from guava_aug.runtime.text import pluralize

if TYPE_CHECKING:
    from guava_aug.batch.tracking.run import TrackResult

DESCRIPTION = """\
Track a person in videos: body, hands, face, camera and mask of every frame.

Writes a folder per clip below --tracked_root, as EHM-Tracker does, for `guava-aug run`, and in it tracking.json, which
says how good the tracking is, and tracking.png, which shows it. Run the same command again to track what is missing.
The first GPU is used where there is one.
"""

EXAMPLES = """\
examples:
  guava-aug track interview.mp4
  guava-aug track videos/ --tracked_root tracked            # every video in a folder
  guava-aug track webcam.mp4 --fov 65                       # the camera's lens is known
  guava-aug track panel.mp4 --person 2 --on_cut refuse
  guava-aug track videos/ --workers 4 --device cpu
  guava-aug track videos/ --shard 3/64                      # one part of a cluster job
  guava-aug status tracked; guava-aug retry tracked
"""

POSITIONALS = "VIDEO [VIDEO ...]"
FAILURES_SHOWN = 20


class _TrackFlags:
    """The values of all flags; a dataclass per group, made by `_flags_of`."""

    given: tuple[str, ...]  # names of flags on the command line

    def values(self) -> dict[str, Any]:
        """Return the values by flag, as `TrackConfig` takes them."""
        typed: dict[str, Any] = {}
        for group in GROUPS:
            if hasattr(self, group):
                typed.update(vars(getattr(self, group)))
        return typed

    def config(self, videos: Sequence[str]) -> TrackConfig:
        """Return the tracking that these flags ask for. Raises UsageError for flags that exclude each other."""
        typed = self.values()
        values = {d.name: flag_value(d, typed[d.flag]) for d in options_of(TrackConfig) if d.name != "videos"}
        if "shard" not in self.given and "part_id" not in self.given:
            found = shard_of_slurm_array(os.environ)
            values["shard"] = None if found is None else str(found)
        return TrackConfig(videos=tuple(videos), **values)


def _flags() -> type[_TrackFlags]:
    """Return a dataclass for `parse`: the options of `TrackConfig` but for the videos, by groups."""
    groups: dict[str, list[tuple[str, Any, Any]]] = {}
    for declared in options_of(TrackConfig):
        if declared.name != "videos":
            groups.setdefault(declared.option.group, []).append(flag_field(declared))
    messages = {
        "quiet": "Print only problems and the summary.", "verbose": "Print details and tracebacks too.",
        "json": "Print the result as one JSON object on standard output; all else goes to standard error.",
    }  # fmt: skip
    groups["message"] = [
        (name, Annotated[Switch, arg(help_behavior_hint="", help=text)], field(default=False))
        for name, text in messages.items()
    ]
    classes = [
        (group, make_dataclass(group.title(), groups[group], frozen=True, kw_only=True,
                               namespace={"__doc__": GROUPS[group]}))
        for group in GROUPS if group in groups
    ]  # fmt: skip
    given = (GIVEN, Annotated[tuple[str, ...], Suppress, Fixed], field(default=()))
    namespace = {"__doc__": "All flags.", "__module__": __name__}
    return make_dataclass("TrackFlags", [*classes, given], bases=(_TrackFlags,), frozen=True, namespace=namespace)


TrackFlags = _flags()


def main(argv: Sequence[str]) -> int:
    """0 when every video is tracked, 3 when some failed."""
    prog = "guava-aug track"
    words, videos = split_words(TrackFlags, argv)
    flags = parse(TrackFlags, words, prog, DESCRIPTION, EXAMPLES, POSITIONALS)
    values = flags.values()
    if not videos:
        raise UsageError("no video is named; give files, folders of pictures, or folders of videos")
    if values["quiet"] and values["verbose"]:
        raise UsageError("--quiet and --verbose exclude each other; leave one out")
    config = flags.config(videos)
    keep_freed_memory()
    with GracefulShutdown(config.grace) as stop:  # before the heavy imports
        from guava_aug.batch.journal.run_record import debug_log_path
        from guava_aug.batch.tracking.run import track
        from guava_aug.cli.terminal import speaking

        with speaking(values["quiet"], values["verbose"], debug_log_path(config.tracked_root, config.part_id)) as shown:
            result = track(config, progress=shown, stop=stop)
    if values["json"]:
        print(json.dumps(result.to_json(), indent=2))
    show_tracking(result, values["quiet"], to_stderr=values["json"])
    return OK if result.ok else SOME_FAILED


def split_words(flags: type, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of a command line that are flags and their values, and those that belong to no flag.

    What follows `--` belongs to no flag, so that names may begin with -.
    """
    end = list(argv).index("--") if "--" in argv else len(argv)
    before, after = list(argv[:end]), list(argv[end + 1 :])
    loose = scan(flags, before).loose
    return [word for place, word in enumerate(before) if place not in loose], [before[i] for i in loose] + after


def show_tracking(result: TrackResult, quiet: bool, *, to_stderr: bool = False, next_step: bool = True) -> None:
    """Show how the run ended: counts, failures with reasons, quality, where the time went."""
    from guava_aug.cli.terminal import Terminal, stage_table

    console = Terminal(soft_wrap=True, stderr=to_stderr)
    failed = result.failed
    for record in failed[:FAILURES_SHOWN]:
        console.say(f"failed: {record.video}: {record.error}")
    if len(failed) > FAILURES_SHOWN:
        console.say(f"... and {len(failed) - FAILURES_SHOWN} more; see guava-aug status {result.tracked_root}")
    count = result.count()
    words = ", ".join(f"{count[word]} {word}" for word in ("success", "skipped", "failed") if count[word])
    qualities = [str((r.made_with or {}).get("quality")) for r in result.records if r.status == "success"]
    how = ", ".join(f"{qualities.count(q)} {q}" for q in ("good", "fair", "poor") if q in qualities)
    console.say(
        f"{pluralize(len(result.records), 'video')}{f': {words}' if words else ''}{f' ({how})' if how else ''}; "
        f"{result.seconds:.1f} s; clips in {result.tracked_root}"
    )
    if not quiet and result.stages:
        console.print(stage_table(result.stages))
    if next_step and any(result.clips.values()):
        console.say(f"next: guava-aug run {result.tracked_root} augmented")
