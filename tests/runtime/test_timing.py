"""Stages add up; who listens gets the intervals of all threads, and nobody else pays."""

from __future__ import annotations

import threading
import time

import pytest

from guava_aug.runtime import timing
from guava_aug.runtime.timing import StageTimer


def test_stages_add_up_also_when_the_block_raises():
    stages = StageTimer()
    with stages("data"):
        pass
    with pytest.raises(ValueError, match="x"), stages("data", count=2):
        raise ValueError("x")
    (row,) = stages.rows()
    assert (row.name, row.count) == ("data", 3) and row.seconds > 0


def test_a_listener_gets_intervals_of_all_threads_and_stages():
    def work() -> None:
        with timing.busy(timing.ENCODE):
            time.sleep(0.001)

    begun = time.perf_counter()
    with timing.recording() as found:
        thread = threading.Thread(target=work, name="encode it")
        thread.start()
        thread.join()
        with StageTimer()(timing.DATA):
            pass
    work()  # nobody listens any more
    encode, data = found
    assert (encode.work, encode.thread, data.work) == (timing.ENCODE, "encode it", timing.DATA)
    assert begun <= encode.start < encode.end <= data.start <= data.end <= time.perf_counter()


def test_a_listener_within_another_gives_it_back():
    with timing.recording() as outer:
        with timing.recording() as inner:
            timing.record("a", 0, 1)
        timing.record("b", 1, 2)
    timing.record("c", 2, 3)
    assert [i.work for i in inner] == ["a"] and [i.work for i in outer] == ["b"]
