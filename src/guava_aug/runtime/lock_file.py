"""A lock between processes and machines that share a file system: one works, the others wait.

The lock is a file that exactly one process can create. It holds the identity of its owner (`runtime.processes`). On the
owner's own machine a dead owner is known at once; elsewhere by its not touching the file any more. The lock saves work
only: what it guards must be written atomically, as the lock of a process that slept for minutes may be taken over.
"""

from __future__ import annotations

import contextlib
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
    content = {"token": token, "host_id": host_id(), "host": host_name(), "pid": os.getpid(), "since": time.time()}
    seen: tuple[Any, ...] = ()
    since, told = time.monotonic(), -math.inf
    while True:
        with contextlib.suppress(FileExistsError):
            with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644), "w", encoding="utf-8") as file:
                json.dump(content, file)
            return True
        owner = _read(path)
        state = (owner.get("token"), _modified(path))
        if state != seen:
            seen, since = state, time.monotonic()
        began = owner.get("since")
        lives = process_lives(
            owner.get("host_id"), owner.get("pid"), float(began) if isinstance(began, (int, float)) else None
        )
        if lives is False or (lives is None and time.monotonic() - since > SILENT_AFTER):
            _take_away(path, owner.get("token"))
            continue
        check()
        if is_done():
            return False
        if owner and time.monotonic() - told >= TELL_EVERY:
            on_wait(f"process {owner.get('pid')} on {owner.get('host')}")
            told = time.monotonic()
        time.sleep(POLL)


def _take_away(path: Path, token: object) -> None:
    """Remove the lock of a dead owner, and not the one that another process may have made meanwhile."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        try:
            if _read(aside).get("token") != token:
                with contextlib.suppress(OSError):  # a third process has the lock by now: two work, which does no harm
                    os.link(aside, path)
        finally:
            aside.unlink(missing_ok=True)


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
