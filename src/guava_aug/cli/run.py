"""`guava-aug run`, and the original's script over the same flags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from guava_aug.cli.exit_codes import OK, SOME_FAILED
from guava_aug.cli.flags import POSITIONALS, RunFlags, expand
from guava_aug.cli.parsing import Switch, parse
from guava_aug.errors import UsageError
from guava_aug.runtime.cpus import keep_freed_memory
from guava_aug.runtime.shutdown import GracefulShutdown

if TYPE_CHECKING:
    from guava_aug.batch.config import RunConfig

DESCRIPTION = """\
Render tracked videos again from new cameras.

Results go to OUTPUT_ROOT/{difficulty}/{video}/render_fixed_viewpoint/{video}/, one MP4 per view with a JSON beside it,
the cameras of all to OUTPUT_ROOT/augmentation_params.json. Run the same command again to make what is missing. Flags
may be spelled with - or _, and lists be given as words or with commas.
"""

EXAMPLES = """\
examples:
  guava-aug run tracked augmented
  guava-aug run tracked augmented --dry_run      # views, cameras, disk, time
  guava-aug run tracked augmented --video_list clip_a clip_b --device cpu
  guava-aug run tracked augmented --difficulties easy,hard --limit 2
  guava-aug run tracked augmented --views_per_difficulty 10 --gpus 0,1,2,3
  guava-aug run tracked augmented --video_list_file part_3.txt --part_id 3
  guava-aug run --tracked_root tracked --output_root augmented --shard 3/64
  guava-aug run --config augmented/.guava-aug/run_config.yaml   # once more
"""

SCRIPT_EXAMPLES = """\
examples:
  run_guava_augmentation.py --batch --video_list clip_a clip_b \\
      --tracked_root tracked --output_root augmented --difficulties easy medium
  run_guava_augmentation.py --batch --video_list_file part_3.txt --part_id 3 \\
      --tracked_root tracked --output_root augmented
"""


@dataclass(frozen=True)
class RunCommandFlags:
    """The flags of a run, and what only the command has."""

    run: Annotated[RunFlags, arg(name="")]
    dry_run: Switch = False
    """Render nothing: show what would be rendered, from which cameras, how many frames, how much disk and time."""
    json: Switch = False
    """Print the result as one JSON object on standard output; all other output goes to standard error."""


def main(argv: Sequence[str], *, prog: str = "guava-aug run", script: bool = False) -> int:
    """Return the exit code of a run. The script requires a list of videos and starts a process per view by default."""
    default_mode: Literal["batch", "subprocess"] = "subprocess" if script else "batch"
    if not script:
        argv = expand(RunCommandFlags, argv, prog)
    examples = SCRIPT_EXAMPLES if script else EXAMPLES
    flags = parse(RunCommandFlags, argv, prog, DESCRIPTION, examples, "" if script else POSITIONALS)
    config = flags.run.config(default_mode)
    if script and config.videos is None:
        raise UsageError("give the videos with --video_list NAME [NAME ...] or --video_list_file FILE")
    quiet, verbose = flags.run["quiet"], flags.run["verbose"]
    if flags.dry_run:
        return _dry_run(flags, config)
    keep_freed_memory()
    with GracefulShutdown(config.grace) as stop:  # before the heavy imports: a scheduler may change its mind at once
        from guava_aug.batch.journal.run_record import debug_log_path
        from guava_aug.batch.run import run
        from guava_aug.cli.terminal import show_summary, speaking

        with speaking(quiet, verbose, debug_log_path(config.output_root, config.part_id)) as progress:
            flags.run.say_part()
            result = run(config, progress=progress, stop=stop)
    if flags.json:
        print(json.dumps(result.to_json(), indent=2))
    show_summary(result, quiet, to_stderr=flags.json)
    return OK if result.ok else SOME_FAILED


def _dry_run(flags: RunCommandFlags, config: RunConfig) -> int:
    """Show what a run would make."""
    from guava_aug.batch.dry_run import preview
    from guava_aug.cli.preview import VIDEOS_SHOWN, show_preview
    from guava_aug.cli.terminal import speaking

    with speaking(flags.run["quiet"], flags.run["verbose"]):
        flags.run.say_part()
        found = preview(config, None if flags.json else VIDEOS_SHOWN)
        if flags.json:
            print(json.dumps(found.to_json(), indent=2))
        else:
            show_preview(found)
    return OK if found.ok else SOME_FAILED
