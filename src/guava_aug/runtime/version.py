"""The version of the installed package; it is defined in `pyproject.toml`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("guava-aug")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
