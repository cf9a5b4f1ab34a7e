"""Command lines to typed flags: both spellings, and help with examples."""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from guava_aug.cli.exit_codes import explain_codes
from guava_aug.cli.streams import bare_streams
from guava_aug.runtime.printable import printable

# A flag that is off unless given, and values that are optional: their defaults need no words.
Switch = Annotated[bool, arg(help_behavior_hint="")]
MaybePath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]

Flags = TypeVar("Flags")
_MARK = "\0"  # no word of a command line holds it


def parse(flags: type[Flags], argv: Sequence[str], prog: str, description: str, examples: str) -> Flags:
    """Return the flags on a command line. Ends the process with 0 after --help, with 2 after a usage error.

    A word that begins with - is a name and no flag where there is such an entry below the tracked root, or after `--`
    for a command whose names need no flag.
    """
    harmless = all(word.isprintable() for word in argv)  # its messages repeat them
    try:
        with bare_streams() if harmless else nullcontext():
            parsed = tyro.cli(
                flags,
                prog=prog,
                description=description,
                args=_mark_names(flags, argv),
                use_underscores=True,
                config=(OmitArgPrefixes, FlagCreatePairsOff),
            )
        return _unmarked(parsed)
    except SystemExit as stop:
        if not stop.code:
            print(f"{examples}\n{explain_codes()}", end="")
        else:
            _suggest(flags, argv, prog)
        raise


def _mark_names(flags: type, argv: Sequence[str]) -> list[str]:
    """The words, those that begin with - and are names of videos behind a mark that the parser takes for a value."""
    known, takes_names = dict(_known(flags)), _takes_names(flags)
    roots, out = _roots(flags, argv), list[str]()
    for i, word in enumerate(argv):
        if word == "--" and takes_names:
            return [*out, *(_MARK + name if name.startswith("-") else name for name in argv[i + 1 :])]
        is_flag = word in ("-h", "--help") or _flag_of(word) in known
        if word.startswith("-") and not is_flag and any(os.path.lexists(os.path.join(root, word)) for root in roots):
            word = _MARK + word
        out.append(word)
    return out


def _unmarked(value: Any) -> Any:
    """The same without marks."""
    if isinstance(value, str):
        return value[1:] if value.startswith(_MARK + "-") else value
    if isinstance(value, tuple):
        return tuple(map(_unmarked, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: _unmarked(getattr(value, name)) for name in names})
    return value


def _roots(flags: type, argv: Sequence[str]) -> list[str]:
    """What may be the folder of the tracked videos on a command line."""
    if "tracked_root" not in dict(_known(flags)):  # where no flag names it, it is one of the words
        return [word for word in argv if not word.startswith("-")] if _takes_names(flags) else []
    given = [word.partition("=")[2] for word in argv if "=" in word and _flag_of(word) == "tracked_root"]
    return given + [after for word, after in pairwise(argv) if "=" not in word and _flag_of(word) == "tracked_root"]


def _flag_of(word: str) -> str:
    """`--video-list=a` -> `video_list`; of what is no flag, nothing."""
    return word.split("=")[0][2:].replace("-", "_") if word.startswith("--") else ""


def _takes_names(flags: type) -> bool:
    """Whether any number of names can be given without a flag."""
    kinds = get_type_hints(flags, include_extras=True).values()
    return any(
        Positional in getattr(kind, "__metadata__", ()) and get_origin(kind.__origin__) is tuple for kind in kinds
    )


def _suggest(flags: type, argv: Sequence[str], prog: str) -> None:
    """Says what unknown flags may have meant, and how names that begin with - are given."""
    known = dict(_known(flags))
    given = {_flag_of(word) for word in argv}
    complete = all(name in given for name, needed in known.items() if needed)  # then tyro makes suggestions itself
    for word in argv:
        name = _flag_of(word)
        if not word.startswith("-") or len(word) < 2 or name in known or word in ("--", "-h", "--help"):
            continue
        if near := difflib.get_close_matches(name, known, n=1):
            # of --difficulty it would have --views_per_difficulty first, as that contains the word
            if complete and not any(name in other for other in known if other != near[0]):
                continue
            flag = printable(word.split("=")[0])
            print(f"{prog}: there is no flag {flag}; did you mean --{near[0]}?", file=sys.stderr)
        elif roots := _roots(flags, argv):
            how = "after --" if _takes_names(flags) else "in a --video_list_file"
            what = printable(f"{word} is no flag, and there is no {os.path.join(roots[-1], word)}")
            print(f"{prog}: {what}; names that begin with - can also stand {how}", file=sys.stderr)


def _known(flags: type) -> Iterator[tuple[str, bool]]:
    """Every flag, without dashes, and whether it is required."""
    kinds = get_type_hints(flags, include_extras=True)
    for field in dataclasses.fields(flags):
        kind = kinds[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _known(kind)  # type: ignore[arg-type]
        elif Positional not in getattr(kind, "__metadata__", ()):
            yield field.name, field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
