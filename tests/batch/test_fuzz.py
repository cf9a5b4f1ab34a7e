"""Files with random damage, read as the commands read them: see `fuzz_files.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "fuzz_files.py"
COUNT = int(os.environ.get("GUAVA_AUG_MUTATIONS", "70"))
SEED = os.environ.get("GUAVA_AUG_SEED", "1")


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_in_little_time_and_memory():
    command = [sys.executable, str(PROGRAM), "--count", str(COUNT), "--seed", SEED]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=600 + COUNT)
    assert done.returncode == 0, done.stdout + done.stderr
