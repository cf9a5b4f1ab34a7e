"""Embedded files of the package: the free body model, the small checkpoint, the demo clips and the detection nets."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def embedded_path(*parts: str) -> Path:
    """Return the path of an embedded file or folder.

    Args:
        parts: Names below this folder, such as `"body.npz"` or `"clips", "signer_a"`; none for the folder itself. It
            holds `body.npz` (body model, see `guava_aug.body.load_body_file`), `model.safetensors` (checkpoint),
            `clips` (a tracked root with one folder per clip) and `nets` (see `guava_aug.tracked.detect.nets`).
    """
    return Path(str(files(__package__))).joinpath(*parts)
