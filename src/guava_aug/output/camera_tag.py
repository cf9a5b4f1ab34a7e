"""What a view is, inside its video file, so that a file whose journals are lost still says what it shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guava_aug.plain_json import is_integer, is_number, is_object, is_scalar, is_text, loads
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
    return json.dumps({**camera, "fingerprint": fingerprint, "made_with": dict(made_with)}, allow_nan=False)


def tag_of_file(path: Path) -> Tag | None:
    """What a video says of itself; None when it says nothing: it is not ours, or the original's."""
    from guava_aug.output.video import read_comment

    try:
        said = loads(read_comment(path) or "")
    except ValueError:
        return None
    if not is_object(said) or not is_integer(said.get("seed")) or not all(is_number(said.get(k)) for k in CAMERA):
        return None
    fingerprint, made_with = said.get("fingerprint"), said.get("made_with")
    if (
        type(made_with) is not dict
        or not all(map(is_scalar, made_with.values()))
        or not all(made_with.get(key) is None or check(made_with[key]) for key, check in _MADE_WITH.items())
    ):
        made_with = None
    return Tag(
        camera={key: said[key] for key in CAMERA},
        fingerprint=fingerprint if type(fingerprint) is str else None,
        made_with=made_with,
    )


_MADE_WITH = {"fps": is_number, "input": is_text, "weights": is_text}  # what is compared and told
