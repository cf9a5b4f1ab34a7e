"""The output folder of a command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from guava_aug.errors import UsageError

if TYPE_CHECKING:
    from guava_aug.batch.journal.history import History


def history_of(root: Path, command: str) -> History:
    """Return what the journals of an output folder say.

    Raises:
        UsageError: there are none, or they cannot be read; the message has the command to use when the path lies
            within the output folder of a run.
    """
    from guava_aug.batch.journal.history import History
    from guava_aug.batch.journal.journal import FOLDER

    try:
        if root.is_dir() and (history := History(root)).exists:
            return history
        if not root.exists():
            what = "is not there"
        else:
            what = "has no journals (.guava-aug/journal)" if root.is_dir() else "is a file"
        folders = (*root.parents, *root.absolute().parents)  # as it was typed where that will do
        around = next((folder for folder in folders if (folder / FOLDER).is_dir()), None)
    except OSError as error:  # a folder of somebody else
        raise UsageError(f"{root} cannot be read: {error.strerror}") from error
    advice = "give the --output_root of a run" if around is None else f"try: guava-aug {command} {around}"
    raise UsageError(f"{root} {what}; {advice}")
