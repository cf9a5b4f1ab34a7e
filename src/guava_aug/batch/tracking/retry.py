"""Which videos are to be tracked again, and with what flags each of them failed."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from guava_aug.batch.journal.history import History
from guava_aug.batch.options import options_of
from guava_aug.batch.tracking.config import TrackConfig
from guava_aug.batch.tracking.plan import LABEL
from guava_aug.errors import UsageError

log = logging.getLogger(__name__)


def failed_tracking(history: History) -> list[TrackConfig]:
    """Return the configurations in which videos could not be tracked, each with those videos only.

    Paths are where they were: relative to the folder that each run was started in.
    """
    groups: dict[str, tuple[TrackConfig, list[str]]] = {}
    for video, label, view in sorted(history.items(), key=lambda item: item[:2]):
        if label != LABEL or view.status != "failed" or view.failed is None:
            continue
        header = history.workers[view.failed.worker].header
        source = view.failed.get("tracked_path")
        text = json.dumps([header.get("config"), header.get("cwd")], sort_keys=True)
        if text not in groups:
            config = _config(header, history.root)
            if config is None or not source:
                log.warning("%s failed in a run whose flags are not known; it is left out", video)
                continue
            groups[text] = config, []
        groups[text][1].append(str(source))
    return [replace(config, videos=tuple(sources)) for config, sources in groups.values()]


def _config(header: dict[str, Any], root: Path) -> TrackConfig | None:
    """Return the configuration in a journal's first line, for other videos of the same tracked root."""
    values = dict(header.get("config") or {})
    values.pop("kind", None)
    start = Path(header.get("cwd") or ".")
    try:
        for declared in options_of(TrackConfig):
            if declared.option.one_run:
                values.pop(declared.name, None)
            elif declared.is_path and values.get(declared.name) is not None:
                values[declared.name] = str(start / values[declared.name])
        return TrackConfig.from_json({**values, "videos": ["-"], "tracked_root": str(root)})
    except (TypeError, ValueError, OSError, UsageError):  # of another version, or damaged
        return None
