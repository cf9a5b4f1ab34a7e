"""Flushing of written data to the disk."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

# Errors of file systems without fsync (FUSE, some SMB and 9p servers). EIO, ENOSPC and all others are failures.
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}
_warned = False


def sync_descriptor(descriptor: int, path: str | os.PathLike[str]) -> None:
    """Wait until the data of an open file are on the disk.

    If a file system does not support it, a warning is logged once per process and the work continues: the data are
    written, and only a loss of power in the next seconds could lose them. The descriptor must be open for writing, as
    some servers require it.

    Raises:
        OSError: The data are not on the disk.
    """
    global _warned
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        if not _warned:
            _warned = True
            log.warning(
                "%s: this file system cannot confirm that data are on the disk (fsync: %s); the run goes on. After a "
                "loss of power, look for damaged files with --verify",
                Path(path).parent, error.strerror or error,
            )  # fmt: skip


def sync_file(path: Path) -> None:
    """Wait until a file's data are on the disk. See `sync_descriptor`.

    Raises:
        OSError: The data are not on the disk.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        sync_descriptor(descriptor, path)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until a rename in `folder` is on the disk, if the system supports it for folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
