"""The camera of a view inside its video file, so that a file whose log is lost still says what it shows."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from guava_aug.output.video import read_comment
from guava_aug.views import View

log = logging.getLogger(__name__)

CAMERA = ("seed", "yaw", "pitch", "zoom")


def camera_comment(view: View) -> str:
    """The comment for the metadata of the video of `view`; `camera_of_file` reads it."""
    return json.dumps({key: getattr(view, key) for key in CAMERA})


def camera_of_file(path: Path) -> dict[str, Any] | None:
    """seed, yaw, pitch and zoom that a video of ours carries; None, told in the log, when it carries none."""
    try:
        camera = json.loads(read_comment(path) or "")
        return {key: camera[key] for key in CAMERA}
    except (ValueError, KeyError, TypeError):
        log.warning("%s is not in the parameter log and does not say its camera", path)
        return None
