"""The parameters of a view inside its video file, so that a file without journals still identifies its view."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guava_aug.errors import OutputError
from guava_aug.runtime.plain_json import is_integer, is_number, is_object, is_scalar, is_text, loads
from guava_aug.views import View
from guava_aug.views.view import ORIGINAL_PARAMS


@dataclass(frozen=True)
class Tag:
    """The metadata that this package writes into a video file."""

    camera: dict[str, Any]  # of `View.record`
    fingerprint: str | None = None  # None: made by a version that did not write it
    made_with: dict[str, Any] | None = None  # see `fingerprint.RenderSettings.made_with`


def tag_comment(view: View, fingerprint: str, made_with: Mapping[str, Any]) -> str:
    """Return the comment for the metadata of the video of `view`; `tag_of_file` reads it."""
    return json.dumps({**view.record(), "fingerprint": fingerprint, "made_with": dict(made_with)}, allow_nan=False)


def tag_of_file(path: Path) -> Tag | None:
    """Return the tag of a video file; None if it has none: it is not ours, or the original's.

    Raises:
        OutputError: The file cannot be opened, or its tag is damaged.
    """
    from guava_aug.output.video import read_comment  # noqa: PLC0415 - loads an encoder, which a work list rarely needs

    comment = read_comment(path) or ""
    try:
        values = loads(comment)
        camera = _camera(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if comment.startswith("{"):  # as only tags of this package do
            raise OutputError(f"{path}: its camera tag is damaged ({error})") from error
        return None
    fingerprint, made_with = values.get("fingerprint"), values.get("made_with")
    if (
        type(made_with) is not dict
        or not all(map(is_scalar, made_with.values()))
        or not all(made_with.get(key) is None or check(made_with[key]) for key, check in _MADE_WITH.items())
    ):
        made_with = None
    return Tag(camera, fingerprint if type(fingerprint) is str else None, made_with)


_MADE_WITH = {"fps": is_number, "input": is_text, "weights": is_text}  # compared and reported


def _camera(values: Any) -> dict[str, Any]:
    """Return the record of the view in a tag.

    Raises:
        KeyError, TypeError, ValueError: The tag contains no camera.
    """
    if not is_object(values):
        raise TypeError("expected an object")
    if "sampler" in values:
        return {"sampler": values["sampler"], "params": dict(values["params"])}
    if not is_integer(values["seed"]) or not all(is_number(values[key]) for key in ORIGINAL_PARAMS):
        raise ValueError("expected numbers")
    moving = {"trajectory": values["trajectory"]} if "trajectory" in values else {}
    return {**{key: values[key] for key in ORIGINAL_PARAMS}, **moving}
