"""Location of a model's checkpoint; without torch, as it is needed for planning."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path

from guava_aug.assets import embedded_path
from guava_aug.errors import AssetError
from guava_aug.runtime.files import is_folder

EMBEDDED = "embedded"  # the name of the model that ships with the package
EMBEDDED_DIR = embedded_path()


def model_location(model_path: Path | str | None) -> Path:
    """Return the folder or file of a model; None and "embedded" stand for that of the package."""
    return EMBEDDED_DIR if model_path is None or str(model_path) == EMBEDDED else Path(model_path)


def find_checkpoint(model_dir: Path) -> Path:
    """Return the checkpoint of a model directory.

    That is `*.safetensors`, else the newest `best*.pt`, else the newest `latest*.pt`.
    """
    folders = [d for d in (model_dir, model_dir / "checkpoints") if is_folder(d, AssetError)]
    try:
        files = [d / name for d in folders for name in os.listdir(d)]  # glob would pass over what it may not read
        for pattern in ("*.safetensors", "best*.pt", "latest*.pt"):
            if found := [p for p in files if fnmatchcase(p.name, pattern)]:
                return max(found, key=lambda p: p.stat().st_mtime)
    except OSError as error:
        raise AssetError(f"the model {model_dir} cannot be read: {error.strerror or error}") from error
    raise AssetError(
        f"no checkpoint below {model_dir}: expected checkpoints/best*.pt or latest*.pt (official) or *.safetensors "
        f"(made by `guava-aug convert`)"
    )
