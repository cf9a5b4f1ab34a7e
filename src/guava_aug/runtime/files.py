"""Files of others: what is at a path, the text of a file, its digest. Errors say which file and why.

Only "no such file" counts as absent. `os.path.exists` and similar functions also return False when a server does not
respond (EIO, ESTALE), when a folder belongs to another user (EACCES), or when links form a loop (ELOOP). Here all these
are raised, so that no file is skipped because of them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from pathlib import Path

from guava_aug.errors import GuavaAugError, InputError

LONGEST_TEXT = 2**29  # bytes; a merged set of 100,000 videos has half of it
_BLOCK = 2**20  # bytes read at a time
_BOMS_16 = (b"\xff\xfe", b"\xfe\xff")
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


def read_text(path: Path, what: str, error: type[GuavaAugError] = InputError, *, regular: bool = False) -> str:
    r"""Return the text of a UTF-8 file, without its byte order mark; line ends as "\n".

    Args:
        path: The file.
        what: Name of the file in messages, such as "time map x.json".
        error: Type of exception to raise.
        regular: Accept only a regular file; otherwise also a pipe, as of a shell's `<(...)`.

    Raises:
        error: The file cannot be read, is longer than half a GiB, or is not UTF-8; says what it is instead.
    """
    try:
        data = _read(path, what, error, regular)
    except OSError as e:
        with contextlib.suppress(OSError):
            if (target := broken_link_target(path)) is not None:
                raise error(f"{what} cannot be read: it is a link to {target}, which is not there.") from e
        raise error(f"{what} cannot be read: {e.strerror or e}") from e
    if data[:2] in _BOMS_16 or (len(data) > 1 and (data[0] == 0) != (data[1] == 0)):
        raise error(f"{what} is UTF-16 text; expected UTF-8: save it with that encoding.")
    if b"\0" in data[:_BLOCK]:
        raise error(f"{what} contains zero bytes: it is not text, or only a part was copied. Copy it again.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise error(f"{what} is not UTF-8 text (byte {e.start}); save it with that encoding.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(path: Path, what: str, error: type[GuavaAugError], regular: bool) -> bytes:
    # without O_NONBLOCK, opening a FIFO would wait for a writer without limit
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_NONBLOCK if regular else 0))
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if regular and not stat.S_ISREG(found.st_mode):
            raise error(f"{what} is not a regular file.")
        data = file.read(_BLOCK)
        if found.st_size > LONGEST_TEXT or (data and not data.strip(b"\0")):
            raise error(f"{what} is not text: {found.st_size} bytes, beginning with {data[:8]!r}. Copy it again.")
        if b"\0" in data:  # the rest is not needed
            return data
        data += file.read(LONGEST_TEXT + 1 - len(data))
    if len(data) > LONGEST_TEXT:
        raise error(f"{what} is too long: more than {LONGEST_TEXT} bytes.")
    return data


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Return the first 32 hexadecimal digits of a file's SHA-256: 128 bits, as in the records of videos.

    Raises:
        OSError: The file cannot be read.
    """
    return file_sha256(path)[:32]
