"""Which failed views are to be tried again, and with what configuration each of them failed."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from guava_aug.batch.config import RunConfig
from guava_aug.batch.journal.history import History
from guava_aug.batch.options import options_of
from guava_aug.batch.status import TRACKED
from guava_aug.errors import UsageError

log = logging.getLogger(__name__)


def failed_runs(history: History) -> list[tuple[RunConfig, set[tuple[str, str]]]]:
    """Return the configurations in which views failed, each with its views (video, label): of those, their videos only.

    Paths are where they were: relative to the folder that each run was started in.
    """
    groups: dict[str, tuple[RunConfig, set[tuple[str, str]]]] = {}
    for video, label, view in sorted(history.items(), key=lambda item: item[:2]):
        if label == TRACKED or view.status != "failed" or view.failed is None:
            continue
        header = history.workers[view.failed.worker].header
        text = json.dumps([header.get("config"), header.get("cwd")], sort_keys=True)
        if text not in groups:
            config = _config(header, history.root)
            if config is None:
                log.warning("%s / %s failed in a run whose flags are not known; it is left out", video, label)
                continue
            groups[text] = config, set()
        groups[text][1].add((video, label))
    return [
        (replace(config, videos=tuple(sorted({video for video, _ in views}))), views)
        for config, views in groups.values()
    ]


def _config(header: dict[str, Any], root: Path) -> RunConfig | None:
    """Return the configuration in a journal's first line, for a run over other videos of the same output root."""
    try:
        return _config_of(header, root)
    except (TypeError, ValueError, OSError, UsageError):  # of another version, or damaged
        return None


def _config_of(header: dict[str, Any], root: Path) -> RunConfig | None:
    values = dict(header.get("config") or {})
    if not values:
        return None
    start = Path(header.get("cwd") or ".")
    for declared in options_of(RunConfig):
        name, value = declared.name, values.get(declared.name)
        if declared.option.one_run:
            values.pop(name, None)
        elif value is not None and declared.names_path(value, start):
            values[name] = str(start / value)
    return RunConfig.from_json({**values, "output_root": str(root)})
