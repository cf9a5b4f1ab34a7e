"""The flags of `guava-aug run` and of the original script: made over the declarations of `RunConfig`'s fields."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from tyro.conf import Fixed, Suppress, arg

from guava_aug.batch.config import RunConfig, read_config
from guava_aug.batch.options import GROUPS, Declared, option, options_of
from guava_aug.batch.sharding import shard_of_slurm_array
from guava_aug.cli.parsing import GIVEN, SPELLINGS, scan
from guava_aug.errors import InputError, UsageError
from guava_aug.runtime.files import read_text
from guava_aug.runtime.text import briefly

log = logging.getLogger(__name__)

POSITIONALS = "[TRACKED_ROOT OUTPUT_ROOT]"
_ROOTS = ("tracked_root", "output_root")  # may be given as words without a flag, in this order
_HEADERS = ("video", "videos", "name", "names", "video_name", "id", "video_id", "file", "filename", "path")  # of CSV


@dataclass(frozen=True)
class CommandLineOnly:
    """Flags of the command line only; the others are the fields of `RunConfig`."""

    config: Path | None = field(default=None, metadata=option(
        "YAML or TOML file of flags, such as OUTPUT_ROOT/.guava-aug/run_config.yaml of an earlier run. What is on the "
        "command line wins; --no_FLAG turns off a switch that the file turns on.", "input", metavar="FILE",
    ))  # fmt: skip
    video_list_file: Path | None = field(default=None, metadata=option(
        "File with one name per line; empty lines and lines that begin with # do not count.", "input", metavar="PATH",
    ))  # fmt: skip
    skip_frame_png: bool = field(default=False, metadata=option(
        "Write no PNGs (the default; for compatibility with the original).", "output",
    ))  # fmt: skip
    batch: bool = field(default=False, metadata=option(
        "Render in one process: the model is loaded once and each video is prepared once.", "execution",
    ))  # fmt: skip
    quiet: bool = field(default=False, metadata=option("Print only problems and the summary.", "message"))
    verbose: bool = field(default=False, metadata=option("Print details and tracebacks too.", "message"))


_OPPOSITES = (("batch", "mode"), ("save_frame_png", "skip_frame_png"), ("quiet", "verbose"))
_EXCLUDE = {  # flag on the command line -> what it replaces of a configuration file
    **{one: other for pair in _OPPOSITES for one, other in (pair, pair[::-1])},
    "video_list": "video_list_file",
    "video_list_file": "video_list",
}


class _RunFlags:
    """The values of all flags. Made by `flags_of` with one dataclass per group."""

    given: tuple[str, ...]  # names of flags on the command line
    configuration: ClassVar[type[RunConfig]]

    def is_given(self, flag: str) -> bool:
        """Return whether a flag is on the command line or in its --config file."""
        return flag in self._all[1]

    def __getitem__(self, flag: str) -> Any:
        """Return the value of a flag, as `RunConfig` takes it."""
        return self._all[0][flag]

    @cached_property
    def _all(self) -> tuple[dict[str, Any], frozenset[str]]:
        """Return the values of all flags, and which of them were given."""
        typed: dict[str, Any] = {}
        for group in GROUPS:
            typed.update(vars(getattr(self, group)))
        known = {declared.flag: declared for declared in _declared(self.configuration)}
        given = {flag: flag_value(known[flag], typed[flag]) for flag in self.given if flag in known}
        values: dict[str, Any] = {f: None if d.required else d.default for f, d in known.items()}
        filed = _read(typed["config"], known) if typed["config"] is not None else {}
        for flag in given:
            filed.pop(_EXCLUDE.get(flag, ""), None)
        values |= {**{flag: typed[flag] for flag in _ROOTS}, **filed, **given}
        if "video_list" in given:
            values["video_list"] = _names(values["tracked_root"], given["video_list"])
        return values, frozenset({*filed, *given})

    def config(self, default_mode: Literal["batch", "subprocess"]) -> RunConfig:
        """Return the run these flags ask for. Raises UsageError for flags that exclude each other."""
        values, given = dict(self._all[0]), self._all[1]
        mode = values["mode"] if "mode" in given else None
        if values["batch"] and mode == "subprocess":
            raise UsageError("--batch and --mode subprocess exclude each other; leave one out")
        if values["save_frame_png"] and values["skip_frame_png"]:
            raise UsageError("--save_frame_png and --skip_frame_png exclude each other; leave one out")
        if values["quiet"] and values["verbose"]:
            raise UsageError("--quiet and --verbose exclude each other; leave one out")
        values["mode"] = "batch" if values["batch"] else mode or default_mode
        values["video_list"] = self._videos(values)
        if "shard" not in given:
            values["shard"] = self.part_of_array()
        return self.configuration(
            **{declared.name: values[declared.flag] for declared in options_of(self.configuration)}
        )

    def part_of_array(self) -> str | None:
        """Return the part that is taken from the environment: that of this task of a SLURM array."""
        if self.is_given("shard") or self.is_given("part_id"):
            return None
        found = shard_of_slurm_array(os.environ)
        return None if found is None else str(found)

    def say_part(self) -> None:
        """Log a part that was taken from the environment."""
        if (part := self.part_of_array()) is not None:
            words = (
                "this is a task of a SLURM array: only its part of the videos is taken, --shard %s (all: --shard none)"
            )
            log.info(words, part)

    @staticmethod
    def _videos(values: Mapping[str, Any]) -> tuple[str, ...] | None:
        names, file = values["video_list"], values["video_list_file"]
        if names == ():  # as of an unset variable of the shell
            raise UsageError("--video_list names no video; give names, or leave it out for all videos")
        if file is None:
            return tuple(names) if names is not None else None
        return (*(names or ()), *read_names(file))


def flags_of(configuration: type[RunConfig]) -> type[_RunFlags]:
    """Return a dataclass for `parse`: the options of a configuration and those of `CommandLineOnly`, by groups."""
    groups: dict[str, list[tuple[str, Any, Any]]] = {group: [] for group in GROUPS}
    for declared in _declared(configuration):
        groups[declared.option.group].append(flag_field(declared))
    classes = [
        (group, make_dataclass(group.title(), rows, frozen=True, kw_only=True, namespace={"__doc__": GROUPS[group]}))
        for group, rows in groups.items()
    ]
    given = (GIVEN, Annotated[tuple[str, ...], Suppress, Fixed], field(default=()))
    namespace = {"__doc__": "All flags.", "configuration": configuration, "__module__": __name__}
    return make_dataclass("RunFlags", [*classes, given], bases=(_RunFlags,), frozen=True, namespace=namespace)


def _declared(configuration: type) -> list[Declared]:
    return [*options_of(configuration), *options_of(CommandLineOnly)]


def flag_field(declared: Declared) -> tuple[str, Any, Any]:
    """Return the field that the parser makes a flag of: name, type, field."""
    said, kind, default = declared.option, declared.kind, declared.default
    if said.joined or said.parse is not None:
        kind, default = (str, dataclasses.MISSING) if declared.required else (str | None, None)
    elif said.auto and not _takes_text(kind):
        kind = kind | Literal[said.auto]
    more: dict[str, Any] = {"help": said.help}
    if said.metavar:
        more["metavar"] = said.metavar
    if not declared.required and (default is None or default is False or default == () or not said.show_default):
        more["help_behavior_hint"] = ""
    return declared.flag, Annotated[kind, arg(**more)], field(default=default)


def expand(flags: type, argv: Sequence[str], prog: str) -> list[str]:
    """Return a command line with flags for the words without one (TRACKED_ROOT OUTPUT_ROOT), and for --config's roots.

    Raises:
        UsageError: there are more such words than roots that are not given; the --config file cannot be read.
    """
    scanned = scan(flags, argv)
    words, missing = list(argv), [root for root in _ROOTS if root not in scanned.given]
    if not scanned.unknown and scanned.loose:
        loose = [words[place] for place in scanned.loose]
        if len(loose) > len(missing):
            room = " and ".join(root.upper() for root in missing)
            raise UsageError(
                f"{prog}: {loose[len(missing)]!r} belongs to no flag; "
                + (f"without a flag only {room} can be given" if missing else "both roots are given already")
            )
        words = [word for place, word in enumerate(words) if place not in scanned.loose]
        for root, word in zip(missing, loose, strict=False):
            words += [f"--{root}", word]
        missing = missing[len(loose) :]
    if missing and "config" in scanned.values:
        filed = read_config(Path(scanned.values["config"]))
        words += [word for root in missing if isinstance(filed.get(root), str) for word in (f"--{root}", filed[root])]
    return words


def _takes_text(kind: Any) -> bool:
    return str in (get_args(kind) or (kind,))


def flag_value(declared: Declared, typed: Any) -> Any:
    """Return what was typed for a flag, or stands in a file, as its field has it. Raises UsageError."""
    said = declared.option
    if typed is None or (said.auto and typed == said.auto):
        return None
    if said.joined and isinstance(typed, str):
        return tuple(part.strip() for part in typed.split(","))
    if said.parse is not None and isinstance(typed, str):
        try:
            return said.parse(typed)
        except ValueError as error:
            raise UsageError(f"--{declared.flag}: {error}") from None
    if declared.is_list and declared.flag != "video_list":  # names of videos may hold commas
        return tuple(part for word in typed for part in _parts(word))
    return typed


def _read(path: Path, known: Mapping[str, Declared]) -> dict[str, Any]:
    """Return the values of a configuration file, by flag. Raises UsageError."""
    names = {declared.name: flag for flag, declared in known.items()}  # `videos` is `video_list`
    values = {}
    for key, value in read_config(path).items():
        key = SPELLINGS.get(key, key)
        flag = key if key in known else names.get(key)
        if flag is None or flag == "config":
            near = get_close_matches(key, known, n=1)
            advice = f"; did you mean {near[0]}?" if near else "; see guava-aug run --help"
            raise UsageError(f"--config {path}: there is no flag {key}{advice}")
        values[flag] = _value_of_file(known[flag], value, f"--config {path}: {key}")
    return values


def _value_of_file(declared: Declared, value: Any, what: str) -> Any:
    if declared.is_list:
        items = value if isinstance(value, list) else _parts(value) if isinstance(value, str) else [value]
        value = [_text(item) for item in items]
        if not all(isinstance(item, str) for item in value):
            raise UsageError(f"{what} is {briefly(value)}; expected {_in_words(declared)}")
    elif _takes_text(declared.kind) or declared.option.parse is not None:
        value = _text(value)
    value = flag_value(declared, value)
    try:
        return declared.from_plain(value) if value is not None else None
    except TypeError:
        raise UsageError(f"{what} is {briefly(value)}; expected {_in_words(declared)}") from None


def _text(value: Any) -> Any:
    """Return a number as the word it would be on the command line."""
    return str(value) if type(value) in (int, float) else value


def _in_words(declared: Declared) -> str:
    if declared.is_switch:
        return "true or false"
    if declared.is_list:
        return "a list of names"
    words = []
    for kind in get_args(declared.kind) if get_origin(declared.kind) in (Union, UnionType) else (declared.kind,):
        if get_origin(kind) is Literal:
            words.append(f"one of {', '.join(map(str, get_args(kind)))}")
        elif kind is not type(None):
            words.append({int: "a whole number", float: "a number", Path: "a path"}.get(kind, "a word"))
    return " or ".join(words)


def _parts(word: str) -> list[str]:
    """Return the items of a list with commas; a word without one is one item."""
    return [part for part in (part.strip() for part in word.split(",")) if part] or [word]


def _names(root: Path, words: Iterable[str]) -> tuple[str, ...]:
    """Return names of videos. A word with commas is a list, unless it is the name of a video itself."""
    names: list[str] = []
    for word in words:
        parts = _parts(word) if "," in word else [word]
        split = len(parts) > 1 and not _is_there(root, word) and any(_is_there(root, part) for part in parts)
        names += parts if split else [word]
    return tuple(names)


def _is_there(root: Path, name: str) -> bool:
    from guava_aug.tracked.layout import find_video  # late: only for names with commas

    try:
        if os.path.lexists(root / name):
            return True
        find_video(root, name)
    except (InputError, OSError, ValueError):
        return False
    return True


def read_names(path: Path) -> list[str]:
    """Return the names in a list file: one per line, without empty lines and # comments; a byte order mark is no name.

    Raises:
        UsageError: the file cannot be read, or holds no name.
    """
    what = f"--video_list_file {path}:"
    text = read_text(path, what, UsageError)
    if (found := _other_than_list(text, path)) is not None:
        raise UsageError(f"{what} is {found}; expected one video name per line, and nothing else on it")
    lines = text.split("\n")
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise UsageError(f"--video_list_file {path}: holds no name; expected one video name per line")
    return names


def _other_than_list(text: str, path: Path) -> str | None:
    """Return what a file is that is no list of names, such as "a JSON list of 3"; None: it may be one."""
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return f"JSON ({briefly(json.loads(text))})"
        except (ValueError, RecursionError):  # a name may begin so
            if path.suffix.lower() == ".json":
                return "broken JSON"
    lines = [line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        return None
    for separator, name in ((",", "CSV"), (";", "CSV with semicolons"), ("\t", "a table with tabs")):
        columns = [cell.strip().strip('"').lower() for cell in lines[0].split(separator)]
        if len(columns) == 1:
            continue
        everywhere = all(separator in line for line in lines)
        if separator == "\t" or columns[0] in _HEADERS or (everywhere and path.suffix.lower() in (".csv", ".tsv")):
            return f"{name} (it begins with {lines[0][:60]!r})"
    if lines[0].strip().strip('"').lower() in _HEADERS and path.suffix.lower() == ".csv":
        return f"CSV (it begins with the header {lines[0].strip()[:60]!r})"
    return None


if TYPE_CHECKING:
    RunFlags = _RunFlags
else:
    RunFlags = flags_of(RunConfig)
