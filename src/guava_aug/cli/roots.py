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
        UsageError: as `require_journals`.
        OutputError: a journal cannot be read.
    """
    from guava_aug.batch.journal.history import History

    require_journals(root, command)
    return History(root)


def require_journals(root: Path, command: str) -> None:
    """Raise UsageError when an output folder has no journals, or cannot be read.

    It says what to type when the path lies within the output folder of a run.
    """
    from guava_aug.batch.journal.journal import FOLDER

    try:
        if root.is_dir() and (root / FOLDER).is_dir():
            return
        if not root.exists():
            what = "is not there"
        else:
            what = "has no journals (.guava-aug/journal)" if root.is_dir() else "is a file"
        folders = (*root.parents, *root.absolute().parents)  # as it was typed where that will do
        around = next((folder for folder in folders if (folder / FOLDER).is_dir()), None)
    except OSError as error:  # a folder of somebody else
        raise UsageError(f"{root} cannot be read: {error.strerror}") from error
    advice = (
        "give the --output_root of a run, or the --tracked_root of a tracking"
        if around is None
        else f"try: guava-aug {command} {around}"
    )
    raise UsageError(f"{root} {what}; {advice}")
