#!/usr/bin/env python3
"""The original's command line: `guava-aug run` with its names, and one process per view unless --batch is given."""

import sys
from pathlib import Path

try:
    import guava_aug  # noqa: F401
except ImportError:  # from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from guava_aug.cli import script_main

if __name__ == "__main__":
    raise SystemExit(script_main(sys.argv[1:]))
