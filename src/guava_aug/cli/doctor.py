"""`guava-aug doctor`: checks of this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from guava_aug.batch.config import RunConfig
from guava_aug.cli.exit_codes import FAILED_TO_START, OK, catch_sigterm
from guava_aug.cli.parsing import MaybePath, Switch, parse
from guava_aug.errors import printable
from guava_aug.runtime.cpus import keep_freed_memory
from guava_aug.runtime.text import pluralize

DESCRIPTION = """\
Check this machine: packages, GPU and driver, Triton and its C compiler, encoders, model, disk, and some frames of a
bundled clip end to end. Prints one line each: ok, warn or fail, and what to do. Exit code 2 when a check fails.
"""

EXAMPLES = """\
examples:
  guava-aug doctor
  guava-aug doctor --model_path assets/GUAVA --output_root /data/augmented
  srun --gres gpu:1 guava-aug doctor
"""


@dataclass(frozen=True)
class DoctorFlags:
    """Flags of doctor, as of `guava-aug run`."""

    model_path: MaybePath = None
    """Folder or file of the GUAVA model. Default: assets/GUAVA if it exists, else the embedded free model."""
    guava_root: MaybePath = None
    """Folder that assets/SMPLX and assets/FLAME of the model's config are relative to, if not beside --model_path."""
    output_root: Annotated[Path, arg(metavar="PATH")] = Path()
    """Output folder of a run, whose disk is checked."""
    device: Annotated[str, arg(metavar="ID")] = "0"
    """GPU number or cpu."""
    json: Switch = False
    """Print one JSON object instead: findings (level, what, text, advice) and counts of ok, warn, fail."""
    verbose: Switch = False
    """Print details and tracebacks too."""


def main(argv: Sequence[str]) -> int:
    """Return 0, or 2 when something fails."""
    flags = parse(DoctorFlags, argv, "guava-aug doctor", DESCRIPTION, EXAMPLES)
    catch_sigterm()
    keep_freed_memory()
    config = RunConfig(
        tracked_root=Path(),
        output_root=flags.output_root,
        model_path=flags.model_path,
        guava_root=flags.guava_root,
        device=flags.device,
    )
    from rich.text import Text

    from guava_aug.apps.doctor import examine
    from guava_aug.cli.terminal import Terminal, speaking

    console, worst = Terminal(soft_wrap=True), {"ok": 0, "warn": 0, "fail": 0}
    findings = []
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    with speaking(not flags.verbose, flags.verbose):
        for finding in examine(config):
            worst[finding.level] += 1
            if flags.json:
                findings.append(asdict(finding))
                continue
            advice = f"; {finding.advice}" if finding.advice else ""
            line = Text.assemble(
                (f"{finding.level:<5}", colours[finding.level]), printable(f"{finding.what}: {finding.text}{advice}")
            )
            console.print(line)
    if flags.json:
        print(json.dumps({"findings": findings, "counts": worst}, indent=2))
        return FAILED_TO_START if worst["fail"] else OK
    print(f"{worst['ok']} ok, {pluralize(worst['warn'], 'warning')}, {pluralize(worst['fail'], 'failure')}")
    return FAILED_TO_START if worst["fail"] else OK
