"""What a view leaves behind: one module per kind of file, found by its place in this folder.

The name of a module is what is typed after `--sinks`. A module is imported when its sink is used, so that names can be
checked without torch or an encoder.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable

from guava_aug.errors import UsageError
from guava_aug.output.settings import OutputSettings
from guava_aug.output.sinks.base import FrameBatch, Need, Sink, ViewTarget

__all__ = [
    "FrameBatch", "Need", "OutputSettings", "Sink", "ViewTarget", "check_sinks", "find_sinks", "needs_of", "sink_names",
]  # fmt: skip

MP4 = "mp4"  # of every view
_NOT_SINKS = ("base",)


def sink_names() -> list[str]:
    """Return the names of all sinks, in alphabetical order."""
    names = (found.name for found in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if name not in _NOT_SINKS and not name.startswith("_"))


def check_sinks(names: Iterable[str]) -> list[str]:
    """Return names of sinks, each once, the MP4 last: when it has its name, all other files are there.

    Raises:
        UsageError: There is no such sink.
    """
    known, once = sink_names(), list(dict.fromkeys(names))
    for name in once:
        if name not in known:
            raise UsageError(f"--sinks: {name!r} is not known; expected {', '.join(known)}")
    return sorted(once, key=lambda name: name == MP4)


def find_sinks(names: Iterable[str]) -> list[type[Sink]]:
    """Return the sinks with these names, the MP4 last.

    Raises:
        UsageError: there is no such sink.
    """
    return [importlib.import_module(f"{__name__}.{name}").SINK for name in check_sinks(names)]


def needs_of(names: Iterable[str]) -> frozenset[Need]:
    """Return what these sinks need from the renderer."""
    return frozenset(need for sink in find_sinks(names) for need in sink.needs)
