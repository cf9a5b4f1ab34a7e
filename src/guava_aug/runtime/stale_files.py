"""Clears away what killed runs left."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from pathlib import Path

from guava_aug.runtime.processes import process_lives

STALE_AFTER = 24 * 3600  # seconds without a write after which another machine's temporary file is nobody's
# Every file is written under such a name first: .{name}.tmp-{host}-{pid}-{random}. Up to 0.1.0 the suffix of the final
# name followed, and at first there was no host.
_TEMPORARY = re.compile(r"\..+\.tmp-(?:([0-9a-f]{8})-)?(\d+)-[0-9a-f]{8}(\.[A-Za-z0-9]{1,8})?", re.DOTALL)


def remove_stale_files(folder: Path) -> None:
    """Remove the temporary files in `folder` whose process is gone.

    Processes of this machine are looked up (`hosts.process_lives`), and what dead ones left is removed at once. Of all
    others nothing is known, so their files are removed only when nothing was written to them for a day.
    """
    try:
        names = os.listdir(folder)
    except OSError:  # not there yet, or its reader will say what is wrong
        return
    for name in names:
        found = _TEMPORARY.fullmatch(name)
        if found is None:
            continue
        path = folder / name
        with contextlib.suppress(OSError):
            lives = process_lives(found[1], int(found[2][:20]))
            if lives is False or (lives is None and _is_stale(path)):
                os.unlink(path)


def _is_stale(path: Path) -> bool:
    """Whether nothing was written to a file for a day, by the clock of this machine and by that of the file system.

    Dates of files on a network are its server's, and this machine's clock may be ahead by any amount.
    """
    written = path.stat().st_mtime
    if time.time() - written <= STALE_AFTER:
        return False
    with tempfile.TemporaryFile(dir=path.parent) as file:
        return os.fstat(file.fileno()).st_mtime - written > STALE_AFTER
