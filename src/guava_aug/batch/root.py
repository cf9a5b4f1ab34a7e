"""The folder that a run writes to, before anything is written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from guava_aug.errors import OutputError
from guava_aug.output.tree import RUN_FOLDER
from guava_aug.runtime.atomic import remove_stale_files
from guava_aug.runtime.files import nearest_existing


def refuse_file_in_the_way(root: Path, flag: str) -> None:
    """Raise OutputError when a file stands where the folder of `flag`, such as --output_root, is to be made."""
    there = nearest_existing(root)
    if not os.path.isdir(there):
        raise OutputError(f"{flag} {root} cannot be made: {there} is a file; choose another folder")


def make_writable(root: Path, flag: str) -> None:
    """Make the folder of `flag`, and find out now rather than after an hour whether it can be written.

    Raises:
        OutputError: it cannot.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise OutputError(
            f"{flag} {root} cannot be written ({error.strerror or error}); choose another folder, or change its "
            "permissions"
        ) from error
    remove_stale_files(root)
    remove_stale_files(root / RUN_FOLDER)
