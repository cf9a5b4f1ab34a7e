"""Work in a thread whose steps are heard one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from guava_aug.runtime.steps import in_steps

pytestmark = pytest.mark.fast


def test_steps_and_the_result_come_in_order():
    def work(tick: Callable[[int], None]) -> str:
        for i in range(500):  # more than may wait
            tick(i)
        return "done"

    steps = in_steps(work, most_waiting=3)
    heard = []
    while True:
        try:
            heard.append(next(steps))
        except StopIteration as end:
            assert end.value == "done"
            break
    assert heard == list(range(500))


def test_an_error_comes_after_the_steps_before_it():
    def work(tick: Callable[[int], None]) -> None:
        tick(1)
        raise ValueError("no")

    steps = in_steps(work)
    assert next(steps) == 1
    with pytest.raises(ValueError, match="no"):
        next(steps)


def test_a_reader_that_leaves_ends_the_work():
    ended = threading.Event()

    def work(tick: Callable[[int], None]) -> None:
        try:
            while True:
                tick(1)
        finally:
            ended.set()

    steps = in_steps(work, most_waiting=2)
    next(steps)
    steps.close()
    assert ended.is_set()
