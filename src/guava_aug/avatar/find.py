"""Where a model's checkpoint is; without torch, for a work list asks for it."""

from __future__ import annotations

from pathlib import Path

from ..errors import AssetError

EMBEDDED = "embedded"  # the name of the model that ships with the package
EMBEDDED_DIR = Path(__file__).parent.parent / "demo" / "data"


def find_checkpoint(model_dir: Path) -> Path:
    """The checkpoint of a model directory: `*.safetensors`, else newest `best*.pt`, else newest `latest*.pt`."""
    folders = [model_dir, model_dir / "checkpoints"]
    for pattern in ("*.safetensors", "best*.pt", "latest*.pt"):
        found = [p for d in folders if d.is_dir() for p in d.glob(pattern)]
        if found:
            return max(found, key=lambda p: p.stat().st_mtime)
    raise AssetError(
        f"no checkpoint below {model_dir}: expected checkpoints/best*.pt or latest*.pt (official) or *.safetensors "
        f"(made by `guava-aug convert`)"
    )
