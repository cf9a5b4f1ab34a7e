"""`guava-aug completion`: commands and flags for the Tab key of a shell."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import Positional, arg, subcommand

from guava_aug.cli.commands import COMMANDS
from guava_aug.cli.exit_codes import OK
from guava_aug.cli.parsing import CONFIG, parse
from guava_aug.cli.streams import bare_streams

DESCRIPTION = """\
Write a completion script for a shell to standard output: the Tab key then completes commands, flags and choices.

bash reads completions from ~/.local/share/bash-completion/completions, zsh from any folder in its fpath.
"""

EXAMPLES = """\
examples:
  mkdir -p ~/.local/share/bash-completion/completions
  guava-aug completion bash > ~/.local/share/bash-completion/completions/guava-aug
  guava-aug completion zsh > ~/.zfunc/_guava-aug        # with `fpath+=~/.zfunc; autoload -U compinit; compinit`
"""


@dataclass(frozen=True)
class CompletionFlags:
    """Flags of completion."""

    shell: Annotated[Positional[Literal["bash", "zsh", "tcsh"]], arg(metavar="bash|zsh|tcsh")]
    """The shell."""


def main(argv: Sequence[str]) -> int:
    """Return 0 when the script is written."""
    flags = parse(CompletionFlags, argv, "guava-aug completion", DESCRIPTION, EXAMPLES)
    write_script(flags.shell)
    return OK


def write_script(shell: str) -> None:
    """Write the script that tyro makes for all commands at once."""
    commands: Any = Union[  # noqa: UP007  # of a tuple that is made here
        tuple(
            Annotated[flags_class(import_module(f"guava_aug.cli.{module}")), subcommand(name, description=summary)]
            for name, (module, summary) in COMMANDS.items()
        )
    ]
    try:
        with bare_streams():
            tyro.cli(
                commands, prog="guava-aug", args=["--tyro-print-completion", shell], use_underscores=True, config=CONFIG
            )
    except SystemExit as stop:  # it ends so when all is well, too
        if stop.code:
            raise
    sys.stdout.flush()


def flags_class(module: ModuleType) -> type:
    """Return the dataclass of a command's flags: the last of its module that is called so."""
    found = [
        value
        for name, value in vars(module).items()
        if name.endswith("Flags") and isinstance(value, type) and value.__module__ == module.__name__
    ]
    return found[-1]
