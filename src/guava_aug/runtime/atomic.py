"""Files that are complete or not there: written under a temporary name, flushed to the disk, renamed.

Temporary names are hidden, beside the final file, and tell which process wrote them: those of killed runs are removed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guava_aug.runtime.processes import host_id, process_lives

log = logging.getLogger(__name__)

STALE_AFTER = 24 * 3600  # seconds without a write after which another machine's temporary file is stale
# Every file is written under such a name first: .{name}.tmp-{host}-{pid}-{random}. Up to 0.1.0 the suffix of the final
# name followed, and at first there was no host.
_TEMPORARY = re.compile(r"\..+\.tmp-(?:([0-9a-f]{8})-)?(\d+)-[0-9a-f]{8}(\.[A-Za-z0-9]{1,8})?", re.DOTALL)
# Errors of file systems without fsync (FUSE, some SMB and 9p servers). EIO, ENOSPC and all others are failures.
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}
_warned = False


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
