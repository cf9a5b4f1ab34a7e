"""Atomic writes, and names of temporary files: hidden, beside the final file, recognisable after a killed run."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guava_aug.runtime.durable import sync_file
from guava_aug.runtime.processes import host_id


def temporary_path(path: Path) -> Path:
    """Return `.{name}.tmp-<host>-<pid>-<random>` in the same folder, so that a rename to `path` is atomic.

    It does not end as `path` does, so that a search for `*.mp4` during a run finds complete files only.
    """
    return path.with_name(f".{path.name}.tmp-{host_id()}-{os.getpid()}-{secrets.token_hex(4)}")


@contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary file to write; rename it to `path` at the end of the block, or remove it after an exception.

    Readers see the old file or the new one, complete; with `durable` also after a loss of power.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        if durable:
            sync_file(temporary)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
