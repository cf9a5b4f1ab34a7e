"""`guava-aug run`, and the original's script over the same flags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from guava_aug.cli.exit_codes import OK, SOME_FAILED
from guava_aug.cli.flags import RunFlags
from guava_aug.cli.parsing import parse
from guava_aug.errors import UsageError
from guava_aug.runtime.allocator import keep_freed_memory
from guava_aug.runtime.shutdown import GracefulShutdown

DESCRIPTION = """\
Render tracked videos again from new cameras.

Results go to OUTPUT_ROOT/{difficulty}/{video}/render_fixed_viewpoint/{video}/{video}_fixed_viewpoint_video.mp4, the
cameras to OUTPUT_ROOT/augmentation_params.json. Run the same command again to make what is missing. Flags may be
spelled with - or _.
"""

EXAMPLES = """\
examples:
  guava-aug run --tracked_root tracked --output_root augmented
  guava-aug run --tracked_root tracked --output_root augmented --video_list clip_a clip_b --difficulties easy hard
  guava-aug run --tracked_root tracked --output_root augmented --views_per_difficulty 10 --device cpu
  guava-aug run --tracked_root tracked --output_root augmented --video_list_file part_3.txt --part_id 3
  guava-aug run --tracked_root tracked --output_root augmented --shard 3/64
"""


def main(argv: Sequence[str], *, prog: str = "guava-aug run", script: bool = False) -> int:
    """The exit code of a run. The script differs in two things: it needs a list, and without --batch it is slow."""
    default_mode: Literal["batch", "subprocess"] = "subprocess" if script else "batch"
    flags = parse(RunFlags, argv, prog, DESCRIPTION, EXAMPLES.replace("guava-aug run", prog))
    config = flags.config(default_mode)
    if script and config.videos is None:
        raise UsageError("give the videos with --video_list NAME [NAME ...] or --video_list_file FILE")
    keep_freed_memory()
    quiet, verbose = flags.running.quiet, flags.running.verbose
    with GracefulShutdown(config.grace) as stop:  # before the heavy imports: a scheduler may change its mind at once
        from guava_aug.batch.journal.run_record import debug_log_path
        from guava_aug.batch.run import run
        from guava_aug.cli.terminal import show_summary, speaking

        with speaking(quiet, verbose, debug_log_path(config.output_root, config.part_id)) as progress:
            flags.say_part()
            result = run(config, progress=progress, stop=stop)
    show_summary(result, quiet)
    return OK if result.ok else SOME_FAILED
