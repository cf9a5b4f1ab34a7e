"""Parse command lines into typed flags, in both spellings, and print help with examples."""

from __future__ import annotations

import dataclasses
import difflib
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from guava_aug.cli.exit_codes import WHERE_EXPLAINED
from guava_aug.cli.streams import bare_streams
from guava_aug.errors import printable

# A flag that is off unless given, and values that are optional: their defaults need no words.
Switch = Annotated[bool, arg(help_behavior_hint="")]
MaybePath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]

Flags = TypeVar("Flags")
GIVEN = "given"  # field of flags that want to know which of them were given: tuple[str, ...], suppressed
CONFIG = (OmitArgPrefixes, FlagCreatePairsOff)  # of tyro
SPELLINGS = {"personalise": "personalize"}  # of flags, without dashes: British -> as it is in the code
_MARK = "\0"  # no word of a command line holds it


def parse(
    flags: type[Flags], argv: Sequence[str], prog: str, description: str, examples: str, positionals: str = "",
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> Flags:  # fmt: skip
    """Return the flags on a command line. Ends the process with 0 after --help, with 2 after a usage error.

    A word that begins with - is a name and no flag where there is such an entry below the tracked root, or after `--`
    for a command whose names need no flag.

    Args:
        flags: Dataclass of the flags.
        argv: Words of the command line.
        prog: Name of the command, for the usage line.
        description: What the command does.
        examples: Text below the list of flags.
        positionals: What the usage line shows for words that the caller has turned into flags.
        renamed: Flags of earlier versions, without dashes, and their present names.
    """
    argv = [_present_name(word, {**SPELLINGS, **renamed}) for word in argv]
    harmless = all(word.isprintable() for word in argv)  # its messages repeat them
    wants_given = any(name == GIVEN for name, _ in _fields(flags))
    scanned = scan(flags, argv)
    if wants_given:
        argv = [word for place, word in enumerate(argv) if place not in scanned.off]
    try:
        with bare_streams() if harmless else nullcontext(), _tidy_help(positionals):
            parsed = tyro.cli(
                flags,
                prog=prog,
                description=description,
                args=_mark_names(flags, argv),
                use_underscores=True,
                config=CONFIG,
            )
        parsed = cast(Flags, _unmarked(parsed))
        return cast(Flags, _with_given(parsed, tuple(sorted(scanned.given)))) if wants_given else parsed
    except SystemExit as stop:
        if not stop.code:
            print(f"{examples}\n{WHERE_EXPLAINED}")
        else:
            _suggest(flags, argv, prog)
        raise
    except BrokenPipeError:  # the reader of the help has ended
        raise SystemExit(0) from None


@dataclass
class Scanned:
    """The flags found on a command line before it is parsed."""

    given: set[str] = field(default_factory=set)  # names of flags, also of switches that are turned off
    off: set[int] = field(default_factory=set)  # places of words that turn a switch off: --no_overwrite
    values: dict[str, str] = field(default_factory=dict)  # of flags that take one word
    loose: list[int] = field(default_factory=list)  # places of what belongs to no flag
    unknown: bool = False  # there is a flag that is not known


def scan(flags: type, argv: Sequence[str]) -> Scanned:
    """Return which flags are given, and which words belong to none."""
    known = _known(flags)
    found, taking = Scanned(), None  # taking: the flag that the words after it belong to
    for place, word in enumerate(argv):
        name = _flag_of(word)
        if name in known:
            found.given.add(name)
            taking = None if known[name].words == 0 else name
            if "=" in word and known[name].words == 1:
                found.values[name], taking = word.partition("=")[2], None
        elif name.startswith("no_") and name[3:] in known and known[name[3:]].words == 0 and "=" not in word:
            found.given.add(name[3:])
            found.off.add(place)
            taking = None
        elif taking is not None:
            if known[taking].words == 1:
                found.values[taking], taking = word, None
        elif word.startswith("-") and word not in ("-h", "--help", "-"):
            found.unknown, taking = True, None
        elif not word.startswith("-"):
            found.loose.append(place)
    return found


@dataclass(frozen=True)
class _Known:
    """What is known of a flag before it is parsed."""

    required: bool
    words: int | None  # that it takes; None: any number


def _mark_names(flags: type, argv: Sequence[str]) -> list[str]:
    """Return the words; names of videos that begin with - get a mark, so that the parser takes them for values."""
    known, takes_names = _known(flags), _takes_names(flags)
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
    """Return the same without marks."""
    if isinstance(value, str):
        return value[1:] if value.startswith(_MARK + "-") else value
    if isinstance(value, tuple):
        return tuple(map(_unmarked, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: _unmarked(getattr(value, name)) for name in names})
    return value


def _roots(flags: type, argv: Sequence[str]) -> list[str]:
    """Return what may be the folder of the tracked videos on a command line."""
    if "tracked_root" not in _known(flags):  # where no flag names it, it is one of the words
        return [word for word in argv if not word.startswith("-")] if _takes_names(flags) else []
    given = [word.partition("=")[2] for word in argv if "=" in word and _flag_of(word) == "tracked_root"]
    return given + [after for word, after in pairwise(argv) if "=" not in word and _flag_of(word) == "tracked_root"]


def _flag_of(word: str) -> str:
    """Return `--video-list=a` -> `video_list`; of what is no flag, nothing."""
    name = word.split("=")[0][2:].replace("-", "_") if word.startswith("--") else ""
    return SPELLINGS.get(name, name)


def _present_name(word: str, renamed: Mapping[str, str]) -> str:
    """Return a word; a flag that has another name today under that name."""
    old = word.split("=")[0][2:].replace("-", "_") if word.startswith("--") else ""
    return f"--{renamed[old]}{word[2 + len(old) :]}" if old in renamed else word


def _takes_names(flags: type) -> bool:
    """Return whether any number of names can be given without a flag."""
    kinds = get_type_hints(flags, include_extras=True).values()
    return any(
        Positional in getattr(kind, "__metadata__", ()) and get_origin(kind.__origin__) is tuple for kind in kinds
    )


def _suggest(flags: type, argv: Sequence[str], prog: str) -> None:
    """Print what unknown flags may have meant, and how names that begin with - are given."""
    known = _known(flags)
    given = {_flag_of(word) for word in argv}
    complete = all(name in given for name, flag in known.items() if flag.required)  # then tyro makes suggestions itself
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


def _fields(flags: type) -> Iterator[tuple[str, Any]]:
    """Yield all flags of a dataclass and of those within it: name and (type, field)."""
    kinds = get_type_hints(flags, include_extras=True)
    for entry in dataclasses.fields(flags):
        kind = kinds[entry.name]
        inner = kind.__origin__ if get_origin(kind) is Annotated else kind
        if dataclasses.is_dataclass(inner):
            yield from _fields(inner)  # type: ignore[arg-type]
        else:
            yield entry.name, (kind, entry)


def _known(flags: type) -> dict[str, _Known]:
    """Return every flag, without dashes."""
    found = {}
    for name, (kind, entry) in _fields(flags):
        if name == GIVEN or Positional in getattr(kind, "__metadata__", ()):
            continue
        inner = kind.__origin__ if get_origin(kind) is Annotated else kind
        kinds = get_args(inner) if get_origin(inner) in (Union, UnionType) else (inner,)
        words = 0 if inner is bool else None if any(get_origin(one) is tuple for one in kinds) else 1
        required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        found[name] = _Known(required, words)
    return found


def _with_given(value: Any, given: tuple[str, ...]) -> Any:
    """Return the same, with the names of given flags where they are asked for."""
    changed = {}
    for entry in dataclasses.fields(value):
        inner = getattr(value, entry.name)
        if entry.name == GIVEN:
            changed[GIVEN] = given
        elif dataclasses.is_dataclass(inner):
            changed[entry.name] = _with_given(inner, given)
    return dataclasses.replace(value, **changed) if changed else value


class _Held(io.StringIO):
    """A buffer that reports to be a terminal if the stream it replaces is one."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    def isatty(self) -> bool:
        """Return what the stream itself says."""
        return bool(self._stream.isatty())

    @property
    def encoding(self) -> Any:  # type: ignore[override]
        """Return that of the stream itself, as tyro compares it: boxes are drawn if it is utf-8."""
        return str(self._stream.encoding or "ascii").lower()


@contextmanager
def _tidy_help(positionals: str) -> Iterator[None]:
    """Within the block, standard output is held back; then the help is written, without empty rows, in lines that fit.

    tyro leaves a row empty where a text without a default just fits, and does not break the lines of a description.
    """
    stream = sys.stdout
    held = _Held(stream)
    sys.stdout = held
    try:
        yield
    finally:
        sys.stdout = stream
        if text := held.getvalue():
            stream.write(_tidied(text, positionals, shutil.get_terminal_size().columns))


def _tidied(text: str, positionals: str, width: int) -> str:
    lines = []
    for line in text.split("\n"):
        bare = re.sub(r"\x1b\[[0-9;]*m", "", line)
        if re.fullmatch(r"[│|]\s+[│|]", bare):
            continue
        if positionals and bare.startswith("usage: "):
            line = line.replace("[-h]", f"[-h] {positionals}", 1)
        if len(bare) > width and bare == line and not bare.startswith(("│", "╭", "╰", "+", "|")):
            lines += textwrap.wrap(line, max(width, 40), break_long_words=False, break_on_hyphens=False)
        else:
            lines.append(line)
    return "\n".join(lines)
