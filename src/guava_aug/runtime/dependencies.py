"""Check of the required packages: which are missing or too old, according to this package's metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

PACKAGE = "guava-aug"
INSTALL_TORCH = "https://pytorch.org/get-started/locally/"
CPU_FIRST = (
    "on a machine without a GPU install PyTorch for the CPU first, with the command that its start page "
    f"({INSTALL_TORCH}) gives for it: 1.6 GB in all instead of 6 GB with CUDA"
)
_MODULES = {"opencv-python-headless": "cv2", "pyyaml": "yaml"}  # if the module has another name
_AT_LEAST = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?>=\s*([0-9][0-9.]*)")


@dataclass(frozen=True)
class Lack:
    """A package that is missing or too old."""

    name: str
    needed: str  # the lowest accepted version
    found: str | None  # None: it is not installed

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.name} is not installed; guava-aug needs {self.needed} or newer"
        return f"{self.name} {self.found} is too old; guava-aug needs {self.needed} or newer"

    @property
    def advice(self) -> str:
        """Return what to do."""
        command = f"pip install --upgrade '{self.name}>={self.needed}'"
        return f"{CPU_FIRST}; else {command}" if self.name == "torch" and self.found is None else command


def lacking() -> list[Lack]:
    """Return the required packages that are missing or too old; nothing is imported.

    Empty also if guava-aug is not installed but runs from a folder, and has no metadata.
    """
    try:
        needed = requires(PACKAGE) or []
    except PackageNotFoundError:
        return []
    found = []
    for line in needed:
        match = _AT_LEAST.match(line)
        if match is None or ";" in line:  # of an extra
            continue
        name, lowest = match[1].lower(), match[2]
        try:
            there = version(name)
        except PackageNotFoundError:
            if (
                find_spec(_MODULES.get(name, name)) is None
            ):  # else it may be part of another distribution, such as opencv-python
                found.append(Lack(name, lowest, None))
            continue
        if _release(there) < _release(lowest):
            found.append(Lack(name, lowest, there))
    return found


def _release(text: str) -> tuple[int, ...]:
    """Return the numbers of a version: (2, 13) of 2.13.0+cpu; trailing zeros are dropped."""
    match = re.match(r"(?:[0-9]+!)?([0-9]+(?:\.[0-9]+)*)", text)
    numbers = [int(part) for part in match[1].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
