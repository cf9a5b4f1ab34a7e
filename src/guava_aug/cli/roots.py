"""The output folder that a command is asked about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from ..history import History


def history_of(root: Path, command: str) -> History:
    """What the journals of an output folder say.

    Raises:
        UsageError: there are none; it says what to type when the path lies within the output folder of a run.
    """
    from ..history import History
    from ..journal import FOLDER

    if root.is_dir() and (history := History(root)).exists:
        return history
    if not root.exists():
        what = "is not there"
    else:
        what = "has no journals (.guava-aug/journal)" if root.is_dir() else "is a file"
    around = next((folder for folder in root.parents if (folder / FOLDER).is_dir()), None)
    advice = "give the --output_root of a run" if around is None else f"try: guava-aug {command} {around}"
    raise UsageError(f"{root} {what}; {advice}")
