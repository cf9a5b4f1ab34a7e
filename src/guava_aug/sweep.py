"""Clears away what killed runs left."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from .hosts import alive, host_id

STALE_AFTER = 24 * 3600  # seconds without a write after which another machine's temporary file is nobody's
# Every file is written under such a name first: .{name}.tmp-{host}-{pid}-{random}{suffix}; once without the host.
_TEMPORARY = re.compile(r"\..+\.tmp-(?:([0-9a-f]{8})-)?(\d+)-[0-9a-f]{8}(\.mp4|\.png|\.json|\.parquet)?", re.DOTALL)


def sweep(folder: Path) -> None:
    """Removes the temporary files in `folder` whose process is gone.

    Processes of this machine are looked up. Of other machines nothing is known, so their files are removed only when
    nothing was written to them for a day.
    """
    try:
        names = os.listdir(folder)
    except OSError:  # not there yet, or its reader will say what is wrong
        return
    for name in names:
        found = _TEMPORARY.fullmatch(name)
        if found is None:
            continue
        with contextlib.suppress(OSError):
            here = found[1] is None or found[1] == host_id()
            age = time.time() - (folder / name).stat().st_mtime
            if age > STALE_AFTER or (here and not alive(int(found[2]))):
                os.unlink(folder / name)
