"""Locks between processes: one owner, the others wait, a dead owner's lock is taken over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guava_aug.runtime import lock_file as module
from guava_aug.runtime.lock_file import lock_file
from guava_aug.runtime.processes import child_environment, host_id

PROGRAM = """
import sys, time
from collections.abc import Callable
from pathlib import Path
from guava_aug.runtime.lock_file import lock_file
with lock_file(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.01)


def _owner(path: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, text=True, env=child_environment()
    )
    assert child.stdout is not None and child.stdout.readline() == "True\n"
    return child


def test_a_lock_is_held_within_the_block_and_gone_after(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    with lock_file(lock) as mine:
        assert mine and json.loads(lock.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), lock_file(lock):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def held_by_threads(lock: Path, count: int, seconds: float, on_wait: Callable[[str], None]) -> list[int]:
    """Return how many threads had the lock at once, each time that one of `count` got it."""
    held, most = [], []

    def work() -> None:
        with lock_file(lock, on_wait=on_wait) as mine:
            held.append(mine)
            most.append(len(held))
            time.sleep(seconds)
            held.pop()

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return most


def test_others_wait_and_one_at_a_time_has_it(tmp_path: Path) -> None:
    told: list[str] = []
    assert held_by_threads(tmp_path / "a.lock", 4, 0.03, told.append) == [1, 1, 1, 1]
    assert told and set(told) <= {f"process {os.getpid()} on {module.host_name()}"}


def test_waiting_ends_when_the_work_is_done_or_the_run_is_to_end(tmp_path: Path) -> None:
    def end() -> None:
        raise KeyboardInterrupt

    with lock_file(tmp_path / "a.lock"):
        with lock_file(tmp_path / "a.lock", is_done=lambda: True) as mine:
            assert not mine
        with pytest.raises(KeyboardInterrupt), lock_file(tmp_path / "a.lock", check=end):
            raise AssertionError
        assert (tmp_path / "a.lock").exists()  # the owner's


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    child = _owner(tmp_path / "a.lock")
    child.kill()
    child.wait()
    with lock_file(tmp_path / "a.lock") as mine:
        assert mine and json.loads((tmp_path / "a.lock").read_text())["pid"] == os.getpid()
        assert [p.name for p in tmp_path.iterdir()] == ["a.lock"]


def test_an_owner_elsewhere_is_dead_when_it_gives_no_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT_AFTER", 0.3)
    lock = tmp_path / "a.lock"
    lock.write_text(json.dumps({"token": "x", "host_id": "0" * 8, "host": "other", "pid": 1, "since": 0.0}))
    over = threading.Event()

    def touch() -> None:
        while not over.wait(0.05):
            os.utime(lock)

    alive = threading.Thread(target=touch)
    alive.start()
    looks = iter(range(100))
    with lock_file(lock, is_done=lambda: next(looks) > 60) as mine:  # about 0.6 s
        assert not mine
    over.set()
    alive.join()
    with lock_file(lock) as mine:
        assert mine


def test_a_lock_that_another_one_took_over_is_left_alone(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    theirs = json.dumps({"token": "theirs", "host_id": host_id(), "pid": os.getpid(), "since": time.time()})
    module._take_away(tmp_path / "none.lock", "x")
    lock.write_text(theirs)
    module._take_away(lock, "dead")
    assert lock.read_text() == theirs
    with lock_file(tmp_path / "b.lock"):
        (tmp_path / "b.lock").write_text(theirs)
    assert (tmp_path / "b.lock").read_text() == theirs
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.lock", "b.lock"]


def _dead(token: str) -> str:
    """The content of a lock whose owner has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return json.dumps({"token": token, "host_id": host_id(), "pid": child.pid, "since": time.time(), "host": "h"})


def test_a_taker_over_that_was_slow_leaves_the_new_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both see the dead owner's lock; one takes it over while the other is about to: only one has it."""
    lock = tmp_path / "a.lock"
    lock.write_text(_dead("dead"))
    take_away, owners = module._take_away, []

    def slow(path: Path, token: object) -> bool:
        monkeypatch.setattr(module, "_take_away", take_away)
        with lock_file(lock) as mine:  # the other process, from beginning to end of its taking over
            owners.append(mine)
            theirs = lock.read_text()
            assert take_away(path, token)  # what the slow one does now
            assert lock.read_text() == theirs
            with lock_file(lock, is_done=lambda: True) as second:
                assert not second
        return True

    monkeypatch.setattr(module, "_take_away", slow)
    with lock_file(lock) as mine:
        assert mine and owners == [True]
    assert list(tmp_path.iterdir()) == []


def test_many_that_take_over_one_lock_have_it_one_after_the_other(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    lock.write_text(_dead("dead"))
    assert held_by_threads(lock, 8, 0.01, lambda owner: None) == [1] * 8
    assert list(tmp_path.iterdir()) == []


def test_what_a_process_left_that_died_while_it_took_over_does_not_stay(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    lock.write_text(_dead("dead"))
    module._right_to_remove(lock, "dead").write_text(_dead("taker"))
    (tmp_path / "a.lock.0123").write_text("")  # of an earlier version
    os.utime(tmp_path / "a.lock.0123", (0, 0))
    with lock_file(lock) as mine:
        assert mine and [p.name for p in tmp_path.iterdir()] == ["a.lock"]


def test_a_lock_is_never_there_without_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, write = tmp_path / "a.lock", json.dumps

    def killed(content: object) -> str:
        assert not lock.exists()  # a process that ends here leaves no empty lock
        return write(content)

    monkeypatch.setattr(module.json, "dumps", killed)
    with lock_file(lock) as mine:
        assert mine
    monkeypatch.undo()
    monkeypatch.setattr(module, "POLL", 0.01)

    def no_links(source: object, target: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(module.os, "link", no_links)
    with lock_file(lock) as mine:
        assert mine and json.loads(lock.read_text())["pid"] == os.getpid()
        with lock_file(lock, is_done=lambda: True) as second:
            assert not second
    assert list(tmp_path.iterdir()) == []
