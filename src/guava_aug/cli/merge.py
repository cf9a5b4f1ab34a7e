"""`guava-aug merge`: one parameter log and one manifest of all parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from guava_aug.cli.exit_codes import OK
from guava_aug.cli.parsing import parse
from guava_aug.cli.roots import require_journals
from guava_aug.cli.streams import say
from guava_aug.runtime.text import pluralize

DESCRIPTION = """\
Merge the parameter logs and manifests of all parts of a job.

Writes augmentation_params.json and manifest.parquet into the first folder, from the journals of all workers in all
folders. It can be run at any time, also during the job, and repeatedly.
"""

EXAMPLES = """\
examples:
  guava-aug merge augmented                 # the parts of a job array, which share one --output_root
  guava-aug merge node1/out node2/out       # several folders; the column `root` of the manifest has that of each view
"""


@dataclass(frozen=True)
class MergeFlags:
    """Flags of merge."""

    output_root: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="OUTPUT_ROOT [OUTPUT_ROOT ...]", help_behavior_hint="")
    ]
    """The --output_root of the runs."""


def main(argv: Sequence[str]) -> int:
    """Return 0 when both files are written."""
    flags = parse(MergeFlags, argv, "guava-aug merge", DESCRIPTION, EXAMPLES)
    from collections import Counter

    from guava_aug.batch.journal.run_log import merge
    from guava_aug.errors import UsageError
    from guava_aug.output.tree import LOG_NAME

    for root in flags.output_root:
        if not any(root.glob(f"{LOG_NAME}*.json")):  # of the original: it has no journals
            require_journals(root, "merge")
    if not flags.output_root:
        raise UsageError("give at least one --output_root of a run")
    history, log, manifest = merge(flags.output_root)
    count = Counter(view.status for _, _, view in history.items())
    parts = len({worker.part for worker in history.workers.values()})
    print(
        f"{pluralize(sum(count.values()), 'view')} of {pluralize(parts, 'part')} by "
        f"{pluralize(len(history.workers), 'process')}: {count['done']} done, {count['failed']} failed, "
        f"{count['left']} left"
    )
    say(str(log))
    say(str(manifest))
    return OK
