"""The embedded default: a free body model and synthetic signers in the tracker's own format.

Only paths here, so that importing the room costs nothing; the makers are in its modules.
"""

from __future__ import annotations

from pathlib import Path

from guava_aug.assets import embedded_path


def default_body_path() -> Path:
    """Return the free body model that ships with the package (see `bake`), readable by `body.load_body_file`."""
    return embedded_path("body.npz")


def demo_root() -> Path:
    """Return the tracked root that holds the bundled demo clips, one directory per clip."""
    return embedded_path("clips")
