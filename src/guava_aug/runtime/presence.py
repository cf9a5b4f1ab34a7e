"""Existence of files: only "no such file" counts as absent.

`os.path.exists` and similar functions also return False when a server does not respond (EIO, ESTALE), when a folder
belongs to another user (EACCES), or when links form a loop (ELOOP). Here all these are raised, so that no file is
skipped because of them.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)  # no name of the file system is longer

_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket", stat.S_IFREG: "a file",
}  # fmt: skip


def status_of(path: str | Path, *, follow: bool = True) -> os.stat_result | None:
    """Return the file system's status of `path`; None: it does not exist.

    Args:
        path: A file, folder or link.
        follow: Return the status of the target of a link (None if it does not exist); otherwise that of the link
            itself.

    Raises:
        OSError: The status cannot be read.
    """
    try:
        return os.stat(path) if follow else os.lstat(path)
    except ValueError:  # NUL in the name
        return None
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def is_there(path: str | Path, error: type[Exception] | None = None) -> bool:
    """Return whether anything is at `path`, including a broken link.

    Args:
        path: A file, folder or link.
        error: Exception to raise instead of OSError, with the path and the reason.

    Raises:
        OSError: The status cannot be read, and no `error` is given.
    """
    return _look(path, error, follow=False) is not None


def is_file(path: str | Path, error: type[Exception] | None = None) -> bool:
    """Return whether a regular file is at `path`. Arguments and errors as `is_there`."""
    found = _look(path, error)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: str | Path, error: type[Exception] | None = None) -> bool:
    """Return whether a folder is at `path`. Arguments and errors as `is_there`."""
    found = _look(path, error)
    return found is not None and stat.S_ISDIR(found.st_mode)


def _look(path: str | Path, error: type[Exception] | None, *, follow: bool = True) -> os.stat_result | None:
    try:
        return status_of(path, follow=follow)
    except OSError as e:
        if error is None:
            raise
        raise error(f"{path} cannot be accessed: {e.strerror or e}") from e


def kind_of(found: os.stat_result) -> str:
    """Return the type of a file as text: "a folder", "a pipe (FIFO)"."""
    return _KINDS.get(stat.S_IFMT(found.st_mode), "something else")


def broken_link_target(path: str | Path) -> str | None:
    """Return the target of `path` if it is a broken link, else None."""
    found = status_of(path, follow=False)
    if found is None or not stat.S_ISLNK(found.st_mode) or status_of(path) is not None:
        return None
    return os.readlink(path)


def nearest_existing(path: Path) -> Path:
    """Return `path` if anything is there that can be looked at, else the nearest folder above it that is."""
    return next(p for p in (path, *path.absolute().parents) if os.path.exists(p))
