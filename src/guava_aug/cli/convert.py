"""`guava-aug convert`: one file of an official checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from guava_aug.cli.exit_codes import OK
from guava_aug.cli.parsing import MaybePath, Switch, parse
from guava_aug.cli.streams import say

DESCRIPTION = """\
Convert an official GUAVA checkpoint to one .safetensors file.

The file contains the weights, the configuration and the body model, loads in a second or two, and is used with
`guava-aug run --model_path OUT.safetensors`. Like the checkpoint it contains licensed body-model data: do not
distribute it.
"""

EXAMPLES = """\
examples:
  guava-aug convert assets/GUAVA guava.safetensors
  guava-aug convert assets/GUAVA/checkpoints/best_160000.pt guava.safetensors
"""


@dataclass(frozen=True)
class ConvertFlags:
    """Flags of convert."""

    checkpoint: Annotated[Positional[Path], arg(metavar="CKPT")]
    """A best*.pt or latest*.pt, or the model folder that holds config.yaml and checkpoints/."""
    out: Annotated[Positional[Path], arg(metavar="OUT.safetensors")]
    """The file to write."""
    config: MaybePath = None
    """config.yaml of the model, if it is not beside the checkpoint."""
    guava_root: MaybePath = None
    """Folder that holds assets/SMPLX and assets/FLAME, if they are not beside the model folder."""
    overwrite: Switch = False
    """Replace OUT if it exists."""


def main(argv: Sequence[str]) -> int:
    """Return 0 when the file is written."""
    flags = parse(ConvertFlags, argv, "guava-aug convert", DESCRIPTION, EXAMPLES)
    from guava_aug.avatar.model import convert_checkpoint

    out = convert_checkpoint(
        flags.checkpoint, flags.out, config=flags.config, guava_root=flags.guava_root, overwrite=flags.overwrite
    )
    say(f"{out}: {out.stat().st_size / 1e6:.0f} MB, from {flags.checkpoint}")
    return OK
