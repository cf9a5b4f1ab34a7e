"""`guava-aug personalize`: the avatars of videos, fitted to their own frames, without rendering views."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from guava_aug.batch.config import RunConfig
from guava_aug.cli.exit_codes import OK, SOME_FAILED
from guava_aug.cli.parsing import MaybePath, Switch, parse
from guava_aug.errors import UsageError
from guava_aug.runtime.cpus import keep_freed_memory
from guava_aug.runtime.shutdown import GracefulShutdown
from guava_aug.runtime.text import pluralize

if TYPE_CHECKING:
    from guava_aug.batch.avatars import AvatarResult

DESCRIPTION = """\
Fit the avatars of tracked videos to the videos' own frames, and say how much nearer they come to the person.

What `guava-aug run --personalize fast` or `full` does before the first view of a video, alone. Every fourth frame is
kept back; an avatar that is no better on those is kept, but no view is made of it. An avatar that is there is not
fitted again. The files hold the likeness of persons: handle them as you would the videos. With official weights they
also hold data under their licence.
"""

EXAMPLES = """\
examples:
  guava-aug personalize tracked
  guava-aug personalize tracked clip_a clip_b --personalize fast --avatar_root avatars
  guava-aug run tracked augmented --personalize fast --avatar_root avatars
"""


@dataclass(frozen=True)
class PersonalizeFlags:
    """Flags of personalize."""

    tracked_root: Positional[Path]
    """Folder that holds the tracked videos."""
    names: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME ...]", help_behavior_hint="")] = ()
    """Videos; all when none is named. A name may begin with - when there is such a folder, or after --."""
    personalize: Literal["fast", "full", "auto"] = "auto"
    """fast: 100 steps; full: 250; auto: full on a GPU, fast on a CPU."""
    avatar_root: MaybePath = None
    """Folder of the avatars. Default: TRACKED_ROOT/.guava-aug/avatars."""
    overwrite: Switch = False
    """Fit avatars again that are there."""
    model_path: MaybePath = None
    """As for run."""
    guava_root: MaybePath = None
    """As for run."""
    device: Annotated[str, arg(metavar="ID")] = "0"
    """As for run."""
    require_gpu: Switch = False
    """Fail on a machine without a GPU."""
    source_frame: Annotated[int, arg(metavar="N")] = 0
    """As for run."""
    accept_tracking: Switch = False
    """As for run."""
    quiet: Switch = False
    """Print only problems and the summary."""
    verbose: Switch = False
    """Print details and tracebacks too."""
    json: Switch = False
    """Print the result as one JSON object on standard output; all other output goes to standard error."""


def main(argv: Sequence[str]) -> int:
    """Return 0 when every video has its avatar, 3 when some failed."""
    flags = parse(PersonalizeFlags, argv, "guava-aug personalize", DESCRIPTION, EXAMPLES)
    if flags.quiet and flags.verbose:
        raise UsageError("--quiet and --verbose exclude each other; leave one out")
    config = RunConfig(
        flags.tracked_root,
        flags.tracked_root,  # whose .guava-aug has the avatars
        avatar_root=flags.avatar_root,
        personalize=flags.personalize,
        model_path=flags.model_path,
        guava_root=flags.guava_root,
        device=flags.device,
        require_gpu=flags.require_gpu,
        source_frame=flags.source_frame,
        accept_tracking=flags.accept_tracking,
    )
    keep_freed_memory()
    results: list[AvatarResult] = []
    complete = False
    try:
        with GracefulShutdown(config.grace) as stop:  # before the heavy imports
            from guava_aug.batch.fit_avatars import fit_avatars
            from guava_aug.cli.terminal import speaking

            with speaking(flags.quiet, flags.verbose):
                fit_avatars(config, flags.names, again=flags.overwrite, stop=stop, on_result=results.append)
        complete = True
    finally:  # also after Ctrl-C: what is known by then
        if complete or results:
            if flags.json:
                print(
                    json.dumps({"complete": complete, "avatars": [r.to_json() for r in results]}, indent=2), flush=True
                )
            _show(results, config, to_stderr=flags.json)
    return SOME_FAILED if any(r.error is not None for r in results) else OK


def _show(results: Sequence[AvatarResult], config: RunConfig, *, to_stderr: bool) -> None:
    """Show every avatar with its figures and its file, then how many there are."""
    from guava_aug.cli.terminal import Terminal

    console = Terminal(soft_wrap=True, stderr=to_stderr)
    for result in results:
        if result.avatar is None:
            console.say(f"failed: {result.name}: {result.error}")
        else:
            there = "" if result.avatar.is_new else " (was there)"
            console.say(f"{result.name}: {result.avatar.in_words()}{there}; {result.avatar.path}")
    found = [r.avatar for r in results if r.avatar is not None]
    used = sum(a.used for a in found)
    failed = len(results) - len(found)
    words = [f"{used} better than before"] * bool(used) + [f"{len(found) - used} no better"] * (len(found) > used)
    words += [f"{failed} failed"] * bool(failed)
    console.say(f"{pluralize(len(results), 'avatar')}: {', '.join(words)}")
    if found:
        console.say("the files hold the likeness of persons, and with official weights licensed data")
        preset = found[0].made_with.get("preset")
        words = ["guava-aug", "run", str(config.tracked_root), "augmented", "--personalize", str(preset)]
        console.say(f"next: {shlex.join([*words, '--avatar_root', str(config.avatars)])}")
