"""The flags of a run in a file: `guava-aug run --config FILE`, and what every run saves beside its outputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from guava_aug.batch.config import RunConfig
from guava_aug.batch.options import options_of
from guava_aug.batch.sharding import Shard
from guava_aug.errors import OutputError, UsageError
from guava_aug.output.tree import RUN_FOLDER
from guava_aug.runtime.atomic import atomic_write
from guava_aug.runtime.files import read_text
from guava_aug.runtime.text import briefly, one_line
from guava_aug.runtime.version import __version__


def saved_config_path(output_root: Path, part_id: str | None) -> Path:
    """Return where the configuration of the latest run lies; each part of a cluster job has its own."""
    return output_root / RUN_FOLDER / ("run_config.yaml" if part_id is None else f"run_config_part_{part_id}.yaml")


def save_config(config: RunConfig) -> Path:
    """Write all flags of a run beside its outputs, so that `--config` gives the same run, from whatever folder.

    Raises:
        OutputError: the folder or the file cannot be written.
    """
    values: dict[str, Any] = {}
    for declared in options_of(type(config)):
        value = getattr(config, declared.name)
        if declared.names_path(value):
            value = os.path.abspath(value)
        values[declared.flag] = declared.plain(value)
    if config.shard is not None and config.part_id == str(Shard.parse(config.shard).index):
        values["part_id"] = None  # follows from the shard
    path = saved_config_path(config.output_root, config.part_id)
    head = f"# Flags of a run of guava-aug {__version__}; again: guava-aug run --config FILE (null: left out)\n"
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if not all(c.isprintable() or c == "\n" for c in text):  # YAML's own escapes, of all that is not ASCII
        text = yaml.safe_dump(values, sort_keys=False)
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(head + text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: the configuration cannot be saved ({error.strerror or error})") from error
    return path


def read_config(path: Path) -> dict[str, Any]:
    """Return the values of a configuration file by the names of flags, with _; what is null is left out.

    YAML, or by its suffix TOML.

    Raises:
        UsageError: it cannot be read, or is no table of flags.
    """
    what = f"--config {path}:"
    text = read_text(path, what, UsageError)
    if path.suffix.lower() == ".toml":
        values = _toml(text, what)
    else:
        try:
            values = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UsageError(f"{what} is no YAML ({_one_line(error)})") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UsageError(f"{what} expected flags and values, such as crf: 18, found {briefly(values)}")
    flags: dict[str, Any] = {}
    for key, value in values.items():
        name = key.removeprefix("--").replace("-", "_")
        if name in flags:
            raise UsageError(f"{what} {name} is given twice")
        flags[name] = value
    return {name: value for name, value in flags.items() if value is not None}


def _toml(text: str, what: str) -> Any:
    try:
        import tomllib  # late: of Python 3.11 and later  # noqa: PLC0415 - slow to load, and not always needed
    except ModuleNotFoundError:
        raise UsageError(f"{what} TOML needs Python 3.11 or later; write the same flags as YAML (crf: 18)") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is no TOML ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    return one_line(error)
