"""A lock between processes and machines that share a file system: one works, the others wait.

The lock is a file that exactly one process can create, with its content. It holds the identity of its owner
(`runtime.processes`). On the owner's own machine a dead owner is known at once; elsewhere by its not touching the file
any more. Who removes the lock of a dead owner first takes a second lock, whose name comes from that owner: so only one
of many does, and only while the dead owner's lock is still there. The lock saves work only: what it guards must be
written atomically, as the lock of a process that slept for minutes may be taken over.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guava_aug.runtime.atomic import temporary_path
from guava_aug.runtime.plain_json import loads
from guava_aug.runtime.processes import host_id, host_name, process_lives

POLL = 0.5  # seconds between two looks
TOUCH_EVERY = 15.0  # seconds between two signs of life of an owner
TELL_EVERY = 60.0  # seconds between two words on a lock that is waited for; also a sign of work for --timeout
SILENT_AFTER = 120.0  # seconds without one, after which an owner on another machine counts as dead


@contextmanager
def lock_file(
    path: Path,
    *,
    is_done: Callable[[], bool] = lambda: False,
    check: Callable[[], None] = lambda: None,
    on_wait: Callable[[str], None] = lambda owner: None,
) -> Iterator[bool]:
    """Hold the lock within the block. Yield True; or False without the lock when `is_done` while waiting for it.

    Args:
        path: The lock. Its folder is there.
        is_done: Whether what the lock is wanted for has been done by its owner.
        check: Called while waiting; ends the waiting by raising.
        on_wait: Told every minute who owns the lock, in words, while there is something to wait for.

    Raises:
        OSError: The file cannot be created.
    """
    token = f"{host_id()}-{os.getpid()}-{secrets.token_hex(4)}"
    if not _acquire(path, token, is_done, check, on_wait):
        yield False
        return
    released = threading.Event()
    alive = threading.Thread(target=_touch, args=(path, token, released), name="lock", daemon=True)
    alive.start()
    try:
        yield True
    finally:
        released.set()
        alive.join()
        if _read(path).get("token") == token:
            with contextlib.suppress(OSError):
                path.unlink()


def _acquire(
    path: Path, token: str, is_done: Callable[[], bool], check: Callable[[], None], on_wait: Callable[[str], None]
) -> bool:
    seen: tuple[Any, ...] = ()
    since, told = time.monotonic(), -math.inf
    while True:
        if _create(path, token):
            _remove_left_over(path)
            return True
        owner = _read(path)
        state = (owner.get("token"), _modified(path))
        if state != seen:
            seen, since = state, time.monotonic()
        lives = _lives(owner)
        dead = lives is False or (lives is None and time.monotonic() - since > SILENT_AFTER)
        if dead and _take_away(path, owner.get("token")):
            continue
        check()
        if is_done():
            return False
        if owner and time.monotonic() - told >= TELL_EVERY:
            on_wait(f"process {owner.get('pid')} on {owner.get('host')}")
            told = time.monotonic()
        time.sleep(POLL)


def _create(path: Path, token: str) -> bool:
    """Create a lock, whole; return False where there is one. Raises OSError when it cannot be created."""
    content = {"token": token, "host_id": host_id(), "host": host_name(), "pid": os.getpid(), "since": time.time()}
    whole = temporary_path(path)
    try:
        whole.write_text(json.dumps(content), encoding="utf-8")
        try:
            os.link(whole, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: a process that dies in the next lines leaves an empty lock
            with contextlib.suppress(FileExistsError):
                with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644), "w", encoding="utf-8") as file:
                    json.dump(content, file)
                return True
            return False
        return True
    finally:
        with contextlib.suppress(OSError):
            whole.unlink(missing_ok=True)


def _take_away(path: Path, token: object) -> bool:
    """Remove the lock of a dead owner, and not the one that another process has made meanwhile.

    Return whether it may be gone; False: another process is just removing it.
    """
    right = _right_to_remove(path, token)
    mine = f"{host_id()}-{os.getpid()}-{secrets.token_hex(4)}"
    if not _create(right, mine):
        holder = _read(right)
        if _lives(holder) is False or _age(right) > SILENT_AFTER:  # it died between two lines
            _take_away(right, holder.get("token"))
        return False
    try:
        if _read(path).get("token") == token:  # nobody else removes it while the right to do so is ours
            path.unlink(missing_ok=True)
    finally:
        with contextlib.suppress(OSError):
            right.unlink(missing_ok=True)
    return True


def _right_to_remove(path: Path, token: object) -> Path:
    """Return the lock on the removal of the lock that an owner left."""
    return path.with_name(f"{path.name}.{hashlib.sha256(repr(token).encode()).hexdigest()[:8]}")


def _remove_left_over(path: Path) -> None:
    """Remove what processes that died while they took over a lock have left beside it; the lock is ours."""
    for found in path.parent.glob(f"{glob.escape(path.name)}.*"):
        with contextlib.suppress(OSError):
            if _lives(_read(found)) is False or _age(found) > SILENT_AFTER:
                found.unlink(missing_ok=True)


def _lives(owner: dict[str, Any]) -> bool | None:
    began = owner.get("since")
    return process_lives(
        owner.get("host_id"), owner.get("pid"), float(began) if isinstance(began, (int, float)) else None
    )


def _age(path: Path) -> float:
    """Return seconds since the last write, by this machine's clock; 0 where the file is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _touch(path: Path, token: str, released: threading.Event) -> None:
    while not released.wait(TOUCH_EVERY):
        if _read(path).get("token", token) != token:  # another's by now
            return
        with contextlib.suppress(OSError):
            os.utime(path)


def _read(path: Path) -> dict[str, Any]:
    """Return what a lock says; nothing when it is not there, or its owner has not written it yet."""
    try:
        found = loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
