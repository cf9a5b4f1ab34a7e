"""What a view is, inside its video file, so that a file whose journals are lost still says what it shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guava_aug.views import View

CAMERA = ("seed", "yaw", "pitch", "zoom")


@dataclass(frozen=True)
class Tag:
    """What a video of ours says of itself."""

    camera: dict[str, Any]  # seed, yaw, pitch, zoom
    fingerprint: str | None = None  # None: made by a version that did not write it
    made_with: dict[str, Any] | None = None  # see `fingerprint.Look.made_with`


def tag_comment(view: View, fingerprint: str, made_with: Mapping[str, Any]) -> str:
    """The comment for the metadata of the video of `view`; `tag_of_file` reads it."""
    camera = {key: getattr(view, key) for key in CAMERA}
    return json.dumps({**camera, "fingerprint": fingerprint, "made_with": dict(made_with)})


def tag_of_file(path: Path) -> Tag | None:
    """What a video says of itself; None when it says nothing: it is not ours, or the original's."""
    from guava_aug.output.video import read_comment

    try:
        said = json.loads(read_comment(path) or "")
        made_with = said.get("made_with")
        return Tag(
            camera={key: said[key] for key in CAMERA},
            fingerprint=said.get("fingerprint"),
            made_with=made_with if isinstance(made_with, dict) else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
