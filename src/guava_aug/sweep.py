"""Clears away what killed runs left."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

# Every file is written under such a name first: the process that writes it is in the name.
_TEMPORARY = re.compile(r"\..+\.tmp-(\d+)-[0-9a-f]{8}(\.mp4|\.png)?")


def sweep(folder: Path) -> None:
    """Removes the temporary files in `folder` whose process is gone.

    Processes are looked up on this machine: two machines must not work on the same view at the same time.
    """
    try:
        names = os.listdir(folder)
    except OSError:  # not there yet, or its reader will say what is wrong
        return
    for name in names:
        found = _TEMPORARY.fullmatch(name)
        if found and not _alive(int(found[1])):
            with contextlib.suppress(OSError):
                os.unlink(folder / name)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's process; or no number a process can have
        return True
    return True
