"""Removal of temporary files and folders of killed runs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from guava_aug.runtime.processes import process_lives

STALE_AFTER = 24 * 3600  # seconds without a write after which another machine's temporary file is stale
# Every file is written under such a name first: .{name}.tmp-{host}-{pid}-{random}. Up to 0.1.0 the suffix of the final
# name followed, and at first there was no host.
_TEMPORARY = re.compile(r"\..+\.tmp-(?:([0-9a-f]{8})-)?(\d+)-[0-9a-f]{8}(\.[A-Za-z0-9]{1,8})?", re.DOTALL)


def remove_stale_files(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` whose process has ended.

    Processes of this machine are looked up (`processes.process_lives`), and the files of dead ones are removed at once.
    The state of all others is unknown, so their files are removed only if they have not been written to for a day.
    """
    try:
        names = os.listdir(folder)
    except OSError:  # does not exist yet, or its reader reports the error
        return
    for name in names:
        found = _TEMPORARY.fullmatch(name)
        if found is None:
            continue
        path = folder / name
        with contextlib.suppress(OSError):
            lives = process_lives(found[1], int(found[2][:20]))
            if lives is False or (lives is None and _is_stale(path)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    os.unlink(path)


def _is_stale(path: Path) -> bool:
    """Return whether a file has not been written to for a day, by the clocks of this machine and of the file system.

    Time stamps of network files are those of the server, and this machine's clock may be ahead by any amount.
    """
    written = path.stat().st_mtime
    if time.time() - written <= STALE_AFTER:
        return False
    with tempfile.TemporaryFile(dir=path.parent) as file:
        return os.fstat(file.fileno()).st_mtime - written > STALE_AFTER
