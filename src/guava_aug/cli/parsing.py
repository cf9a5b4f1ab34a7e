"""Command lines to typed flags: both spellings, and help with examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, arg

from .exit_codes import explain_codes

# A flag that is off unless given, and values that are optional: their defaults need no words.
Switch = Annotated[bool, arg(help_behavior_hint="")]
MaybePath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]

Flags = TypeVar("Flags")


def parse(flags: type[Flags], argv: Sequence[str], prog: str, description: str, examples: str) -> Flags:
    """The flags on a command line. Ends the process with 0 after --help, with 2 after a usage error."""
    try:
        return tyro.cli(
            flags,
            prog=prog,
            description=description,
            args=list(argv),
            use_underscores=True,
            config=(OmitArgPrefixes, FlagCreatePairsOff),
        )
    except SystemExit as stop:
        if not stop.code:
            print(f"{examples}\n{explain_codes()}", end="")
        raise
