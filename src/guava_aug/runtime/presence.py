"""Whether something is there: only "no such file" says that it is not.

`os.path.exists` and its kin also say no when a server does not answer (EIO, ESTALE), when a folder belongs to somebody
else (EACCES), or when links go in circles (ELOOP). Here all these are raised, so that nothing is passed over for them.
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
    """What the file system says of `path`; None: it is not there.

    follow: of what a link leads to (None also when that is not there); otherwise of the link itself.

    Raises:
        OSError: it cannot be looked at.
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
    """Whether anything is at `path`, be it a link to nothing.

    Raises:
        OSError: it cannot be looked at; `error` with the path and the reason, if one is given.
    """
    return _look(path, error, follow=False) is not None


def is_file(path: str | Path, error: type[Exception] | None = None) -> bool:
    """Whether a regular file is at `path`. Raises as `is_there`."""
    found = _look(path, error)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: str | Path, error: type[Exception] | None = None) -> bool:
    """Whether a folder is at `path`. Raises as `is_there`."""
    found = _look(path, error)
    return found is not None and stat.S_ISDIR(found.st_mode)


def _look(path: str | Path, error: type[Exception] | None, *, follow: bool = True) -> os.stat_result | None:
    try:
        return status_of(path, follow=follow)
    except OSError as e:
        if error is None:
            raise
        raise error(f"{path} cannot be looked at: {e.strerror or e}") from e


def kind_of(found: os.stat_result) -> str:
    """In words what kind of thing it is: "a folder", "a pipe (FIFO)"."""
    return _KINDS.get(stat.S_IFMT(found.st_mode), "something else")


def link_to_nothing(path: str | Path) -> str | None:
    """Where `path` points to, if it is a link to what is not there; else None."""
    found = status_of(path, follow=False)
    if found is None or not stat.S_ISLNK(found.st_mode) or status_of(path) is not None:
        return None
    return os.readlink(path)
