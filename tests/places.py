"""Where the repository and the reference data are."""

from __future__ import annotations

import os
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("GUAVA_AUG_SHARED", REPO.parent / "shared"))
