"""Long functions as generators: the work runs in a thread, and every step is yielded."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.2  # between two looks whether the reader has left
Tick = Callable[[int], None]  # tells how much was done since the last call; raises when nobody listens any more


class _LeftError(BaseException):
    """The reader has left."""


@dataclass(frozen=True)
class _Ended(Generic[T]):
    value: T | None
    error: BaseException | None


def in_steps(work: Callable[[Tick], T], *, most_waiting: int = 100) -> Generator[int, None, T]:
    """Yield the counts that `work` reports by its argument, and return its result.

    Where the generator is closed, or Ctrl-C comes, the work ends at its next call of the argument; the generator waits
    for that. Like `dispatch`, its reader takes no lock of Python, in which Ctrl-C could leave it.

    Args:
        work: the function; it runs in a thread of its own.
        most_waiting: steps that may wait for the reader.
    """
    told: queue.SimpleQueue[int | _Ended[T]] = queue.SimpleQueue()
    room: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(most_waiting):
        room.put(None)
    is_left = False
    ends: list[_Ended[T]] = []  # how the work ended, when it has

    def tick(count: int) -> None:
        while not is_left:
            with contextlib.suppress(queue.Empty):
                room.get(timeout=_POLL_SECONDS)
                told.put(count)
                return
        raise _LeftError

    def run() -> None:
        try:
            ends.append(_Ended(work(tick), None))
        except BaseException as error:  # for the reader, who raises it
            ends.append(_Ended(None, error))
        told.put(ends[0])

    thread = threading.Thread(target=run, name="steps", daemon=True)
    thread.start()
    try:  # no loop within this block: see `dispatch._in_threads`
        yield from _until_end(told, room)
    finally:
        is_left = True
        _wait_for(ends, told)
    if ends[0].error is not None:
        raise ends[0].error
    return ends[0].value  # type: ignore[return-value]  # what `work` returned


def _until_end(told: queue.SimpleQueue[int | _Ended[T]], room: queue.SimpleQueue[None]) -> Generator[int, None, None]:
    while not isinstance(found := told.get(), _Ended):
        room.put(None)
        yield found


def _wait_for(ends: list[_Ended[T]], told: queue.SimpleQueue[int | _Ended[T]]) -> None:
    while not ends:
        with contextlib.suppress(queue.Empty):
            told.get(timeout=_POLL_SECONDS)
