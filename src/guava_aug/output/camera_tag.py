"""What a view is, inside its video file, so that a file whose journals are lost still says what it shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guava_aug.errors import OutputError
from guava_aug.output.video import read_comment
from guava_aug.runtime.plain_json import is_integer, is_number, is_object, is_scalar, is_text, loads
from guava_aug.views import View
from guava_aug.views.view import ORIGINAL_PARAMS


@dataclass(frozen=True)
class Tag:
    """What a video of ours says of itself."""

    camera: dict[str, Any]  # of `View.record`
    fingerprint: str | None = None  # None: made by a version that did not write it
    made_with: dict[str, Any] | None = None  # see `fingerprint.Look.made_with`


def tag_comment(view: View, fingerprint: str, made_with: Mapping[str, Any]) -> str:
    """The comment for the metadata of the video of `view`; `tag_of_file` reads it."""
    return json.dumps({**view.record(), "fingerprint": fingerprint, "made_with": dict(made_with)}, allow_nan=False)


def tag_of_file(path: Path) -> Tag | None:
    """Return what a video says of itself; None when it says nothing: it is not ours, or the original's.

    Raises:
        OutputError: it cannot be opened, or what it says of itself is damaged.
    """

    comment = read_comment(path) or ""
    try:
        said = loads(comment)
        camera = _camera(said)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if comment.startswith("{"):  # as only ours do
            raise OutputError(f"{path}: what it says of its camera is damaged ({error})") from error
        return None
    fingerprint, made_with = said.get("fingerprint"), said.get("made_with")
    if (
        type(made_with) is not dict
        or not all(map(is_scalar, made_with.values()))
        or not all(made_with.get(key) is None or check(made_with[key]) for key, check in _MADE_WITH.items())
    ):
        made_with = None
    return Tag(camera, fingerprint if type(fingerprint) is str else None, made_with)


_MADE_WITH = {"fps": is_number, "input": is_text, "weights": is_text}  # what is compared and told


def _camera(said: Any) -> dict[str, Any]:
    """Return what of a tag is the view's record. Raises KeyError, TypeError, ValueError where it tells no camera."""
    if not is_object(said):
        raise TypeError("expected an object")
    if "sampler" in said:
        return {"sampler": said["sampler"], "params": dict(said["params"])}
    if not is_integer(said["seed"]) or not all(is_number(said[key]) for key in ORIGINAL_PARAMS):
        raise ValueError("expected numbers")
    moving = {"trajectory": said["trajectory"]} if "trajectory" in said else {}
    return {**{key: said[key] for key in ORIGINAL_PARAMS}, **moving}
