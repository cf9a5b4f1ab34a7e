"""How an option of a run declares itself: in the metadata of its field, from which all else follows.

The command line (`cli.flags`), the transport to workers, `guava-aug retry`, configuration files, what decides the
pixels and the reference of all flags are made over these declarations; see "How to add" in docs/architecture.md.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from guava_aug.errors import UsageError

GROUPS: Mapping[str, str] = {  # in this order on the command line, as "common options" and so on
    "common": "Options of most runs.",
    "input": "Input data.",
    "view": "Cameras.",
    "output": "Output files. Complete views are not rendered again.",
    "model": "Model and device.",
    "execution": "Execution.",
    "message": "Messages.",
}
NOT_PIXELS: Final = object()  # of an option that changes no pixel
_KEY = "option"


@dataclass(frozen=True)
class Option:
    """The declaration of one field. Made by `option`."""

    help: str
    group: str
    metavar: str = ""  # empty: made of the type
    flag: str = ""  # its name on the command line where it is another one than the field's
    valid: Callable[[Any], bool] | None = None
    expected: str = ""  # what is valid, in words
    in_0_1_0: Any = NOT_PIXELS  # the value that version had, of an option that decides pixels
    one_run: bool = False  # concerns one run only: `guava-aug retry` leaves it out
    parse: Callable[[str], Any] | None = None  # text to value, where the type does not say it; raises ValueError
    joined: bool = False  # a list that is typed as one word, with commas
    auto: str = ""  # a word that means what leaving it out means
    maybe_path: bool = False  # names a file where there is one
    no_path: str = ""  # a word that is no path, of an option whose values are paths
    show_default: bool = True


def option(help: str, group: str, **more: Any) -> dict[str, Option]:
    """Return the metadata of a field: `crf: int = field(default=10, metadata=option("x264 quality.", "output"))`.

    Args:
        help: for the command line, in full sentences.
        group: one of `GROUPS`.
        more: the other fields of `Option`.
    """
    if group not in GROUPS:
        raise ValueError(f"group is {group!r}; expected one of {', '.join(GROUPS)}")
    return {_KEY: Option(help, group, **more)}


@dataclass(frozen=True)
class Declared:
    """One option of a dataclass."""

    name: str  # of the field
    kind: Any  # its type
    default: Any  # dataclasses.MISSING: it is required
    option: Option

    @property
    def flag(self) -> str:
        """Return the flag without its dashes."""
        return self.option.flag or self.name

    @property
    def required(self) -> bool:
        """Return whether it has no default."""
        return self.default is dataclasses.MISSING

    @property
    def is_path(self) -> bool:
        """Return whether its values are paths."""
        return Path in _alternatives(self.kind)

    def names_path(self, value: Any, folder: str | os.PathLike[str] = "") -> bool:
        """Return whether a value is a path, which is relative to `folder` if it is not absolute."""
        if value is None or (self.is_path and str(value) == self.option.no_path):
            return False
        return self.is_path or (self.option.maybe_path and os.path.isfile(os.path.join(folder, value)))

    @property
    def is_list(self) -> bool:
        """Return whether its values are tuples of text."""
        return any(get_origin(kind) is tuple for kind in _alternatives(self.kind))

    @property
    def is_switch(self) -> bool:
        """Return whether it is on or off."""
        return self.kind is bool

    @property
    def decides_pixels(self) -> bool:
        """Return whether the pixels of views depend on it."""
        return self.option.in_0_1_0 is not NOT_PIXELS

    def check(self, value: Any) -> None:
        """Raise UsageError for a value that makes no sense whatever the other options are."""
        valid = self.option.valid
        if valid is not None and value is not None and not valid(value):
            shown = f"{value:g}" if isinstance(value, float) else f"{value}"
            raise UsageError(f"--{self.flag} is {shown}; expected {self.option.expected}")

    def plain(self, value: Any) -> Any:
        """Return a value as JSON and YAML have it."""
        if isinstance(value, (Path, Fraction)):  # a frame rate as "30000/1001"
            return str(value)
        return list(value) if isinstance(value, tuple) else value

    def from_plain(self, value: Any) -> Any:
        """Return the value that `plain` was made of.

        Raises:
            TypeError: it is no value of this option.
        """
        if value is not None and self.is_path:
            value = Path(value)
        elif isinstance(value, list) and self.is_list:
            value = tuple(value)
        elif isinstance(value, str) and self.option.parse is not None:
            try:
                value = self.option.parse(value)
            except ValueError as error:
                raise TypeError(f"{self.name} cannot be {value!r:.100} ({error})") from None
        if not _fits(value, self.kind):
            raise TypeError(f"{self.name} cannot be {value!r:.100}")
        return value


def option_of(config: type, name: str) -> Option:
    """Return what a dataclass declares of one of its fields."""
    return next(declared.option for declared in options_of(config) if declared.name == name)


def options_of(config: type) -> tuple[Declared, ...]:
    """Return the options that a dataclass declares, in its order."""
    return _declared(config)


@functools.cache
def _declared(config: type) -> tuple[Declared, ...]:
    kinds = get_type_hints(config)
    return tuple(
        Declared(field.name, kinds[field.name], field.default, field.metadata[_KEY])
        for field in dataclasses.fields(config)
        if _KEY in field.metadata
    )


def path_options(config: type) -> tuple[str, ...]:
    """Return the names of the fields that hold paths."""
    return tuple(declared.name for declared in options_of(config) if declared.is_path)


@functools.cache
def pixel_options(config: type) -> Mapping[str, Any]:
    """Return the options that decide pixels, each with the value that version 0.1.0 had."""
    return MappingProxyType({d.name: d.option.in_0_1_0 for d in options_of(config) if d.decides_pixels})


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a value is of a type."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, args[0]) for item in value)
    if args:  # a union
        return any(_fits(value, one) for one in args)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind if kind in (int, bool, str) else isinstance(value, kind)
