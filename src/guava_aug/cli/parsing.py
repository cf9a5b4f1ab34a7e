"""Command lines to typed flags: both spellings, and help with examples."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, TypeVar, get_type_hints

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from ..printable import printable
from .exit_codes import explain_codes
from .streams import bare_streams

# A flag that is off unless given, and values that are optional: their defaults need no words.
Switch = Annotated[bool, arg(help_behavior_hint="")]
MaybePath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]

Flags = TypeVar("Flags")


def parse(flags: type[Flags], argv: Sequence[str], prog: str, description: str, examples: str) -> Flags:
    """The flags on a command line. Ends the process with 0 after --help, with 2 after a usage error."""
    harmless = all(word.isprintable() for word in argv)  # its messages repeat them
    try:
        with bare_streams() if harmless else nullcontext():
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
        else:
            _suggest(flags, argv, prog)
        raise


def _suggest(flags: type, argv: Sequence[str], prog: str) -> None:
    """Says what unknown flags may have meant, where tyro does not: when a required flag is missing as well."""
    given = {word.split("=")[0][2:].replace("-", "_"): word.split("=")[0] for word in argv if word.startswith("--")}
    known = dict(_known(flags))
    if all(name in given for name, needed in known.items() if needed):
        return
    for name, word in given.items():
        for near in difflib.get_close_matches(name, known, n=1) if name not in known else ():
            print(f"{prog}: there is no flag {printable(word)}; did you mean --{near}?", file=sys.stderr)


def _known(flags: type) -> Iterator[tuple[str, bool]]:
    """Every flag, without dashes, and whether it is required."""
    kinds = get_type_hints(flags, include_extras=True)
    for field in dataclasses.fields(flags):
        kind = kinds[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _known(kind)  # type: ignore[arg-type]
        elif Positional not in getattr(kind, "__metadata__", ()):
            yield field.name, field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
