"""Names of unfinished files: beside the final one, hidden, and recognisable when a killed run left them."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import time
from pathlib import Path

STALE_AFTER = 6 * 3600  # seconds without a write after which a temporary file was left by a killed run


def temporary_beside(path: Path) -> Path:
    """`.{name}.tmp-<pid>-<random>{suffix}` in the same folder, so that a rename to `path` is atomic."""
    return path.with_name(f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")


def remove_stale_temporaries(path: Path) -> None:
    """Removes what killed runs left for this file; what was written to of late may belong to a live one elsewhere."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.tmp-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_AFTER:
                left.unlink()
