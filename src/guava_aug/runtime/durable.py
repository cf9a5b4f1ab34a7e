"""Waiting until what was written is on the disk."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

# What a file system answers that cannot do it (FUSE, some SMB and 9p servers). EIO, ENOSPC and all else are failures.
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}
_told = False


def sync_descriptor(descriptor: int, path: str | os.PathLike[str]) -> None:
    """Return when the data of an open file are on the disk.

    A file system that cannot say so is warned of once per process, and the work goes on: the data are written, only a
    loss of power in the next seconds could take them. The descriptor must be open for writing: some servers refuse
    the others.

    Raises:
        OSError: the data are not on the disk.
    """
    global _told
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        if not _told:
            _told = True
            log.warning(
                "%s: this file system cannot confirm that data are on the disk (fsync: %s); the run goes on. After a "
                "loss of power, look for damaged files with --verify",
                Path(path).parent, error.strerror or error,
            )  # fmt: skip


def sync_file(path: Path) -> None:
    """Return when a file's data are on the disk. See `sync_descriptor`; raises OSError."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        sync_descriptor(descriptor, path)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Return when a rename in `folder` is on the disk, where the system can say so of folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
