"""What is said of the progress: frames are counted, and no time left is guessed before enough is known."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from guava_aug.runtime import progress
from guava_aug.runtime.progress import PlainLines, ProgressEstimate


class Time:
    """A clock that stands unless it is set forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    stands = Time()
    monkeypatch.setattr(progress, "time", stands)
    return stands


def test_the_first_frames_do_not_decide_the_time_left(time: Time):
    clock = ProgressEstimate()
    clock.start(1, 10)
    clock.video("clip", 10)  # of 1000 frames in views of 100, at ten frames a second
    assert clock.eta() == "?"
    time.now += 60  # compiled, reconstructed
    clock.frames("clip", 4, 100)
    assert clock.eta() == "?"
    for _ in range(4):
        time.now += 0.4
        clock.frames("clip", 4, 100)
        assert clock.eta() == "?"  # 1.6 s and 2 %
    time.now += 0.4
    clock.frames("clip", 4, 100)
    assert clock.eta() == "0:01:38"  # 976 frames, with the rate of the last two seconds


def test_five_percent_are_enough(time: Time):
    clock = ProgressEstimate()
    clock.start(1, 1)
    clock.video("clip", 1)
    time.now += 30
    clock.frames("clip", 4, 100)
    time.now += 0.4
    assert clock.eta() == "?"
    clock.frames("clip", 4, 100)
    assert clock.eta() == "0:00:09"


def test_a_long_video_counts_more_than_a_short_one(time: Time):
    clock = ProgressEstimate()
    clock.start(3, 6)
    clock.video("short", 2)
    for _ in range(2):
        time.now += 1
        clock.frames("short", 10, 10)
    assert (clock.frames_done, clock.frames_left, clock.is_exact) == (20, 40, False)  # the others are taken for short
    clock.finish_video("short")
    clock.video("long", 2)
    time.now += 10
    clock.frames("long", 100, 1000)
    assert clock.video_frames == (100, 2000)
    assert (clock.frames_done, clock.frames_left) == (120, 1900 + 1010)
    assert clock.done == 2.1
    clock.finish_video("long")  # it failed
    clock.video("last", 2)
    clock.frames("last", 10, 10)
    assert (clock.frames_left, clock.is_exact) == (10, True)


def test_a_view_that_is_tried_again_counts_once(time: Time):
    clock = ProgressEstimate()
    clock.start(1, 2)
    clock.video("clip", 2)
    for _ in range(30):
        clock.frames("clip", 1, 10)
    assert (clock.done, clock.frames_left) == (2, 0)


def test_a_video_that_fails_before_its_first_frame(time: Time):
    clock = ProgressEstimate()
    clock.start(2, 2)
    clock.video("broken", 1)
    clock.finish_video("broken")
    assert (clock.done, clock.frames_left, clock.eta()) == (1, 0, "?")
    clock.video("clip", 1)
    clock.frames("clip", 10, 100)
    assert clock.frames_left == 90


def test_several_videos_at_the_same_time():
    clock = ProgressEstimate()
    clock.start(3, 6)
    clock.video("here", 2)
    clock.frames("here", 5, 10)
    clock.video("there", 2)
    clock.frames("there", 10, 10)
    assert (clock.name, clock.video_index, clock.video_frames) == ("there", 2, (10, 20))
    assert clock.done == 1.5
    clock.frames("here", 5, 10)
    assert (clock.name, clock.video_index, clock.video_frames) == ("here", 1, (10, 20))
    assert (clock.done, clock.frames_done, clock.frames_left) == (2, 20, 20 + 20)
    clock.finish_video("there")
    assert (clock.name, clock.video_index) == ("there", 2)
    assert (clock.done, clock.frames_done, clock.frames_left) == (3, 30, 10 + 20)
    clock.video("last", 2)
    clock.frames("last", 10, 10)
    clock.finish_video("here")
    clock.finish_video("last")
    assert (clock.done, clock.frames_left, clock.is_exact) == (6, 0, True)


def test_plain_lines_count_frames(time: Time, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    lines = PlainLines()
    lines.start(1, 2)
    lines.video("clip", 2)
    time.now += 31
    lines.frames("clip", 4, 100)
    assert "clip: frame 4 of 200; in all view 0.0 of 2, ETA ?" in caplog.text
    time.now += 31
    lines.frames("clip", 4, 100)
    assert "clip: frame 8 of 200; in all view 0.1 of 2, ETA 0:24:48" in caplog.text


COMPILES = """
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
from guava_aug.runtime.numba_cache import cached_njit

@cached_njit()
def double(x):
    return 2 * x

@cached_njit()
def triple(x):
    return 3 * x

assert (double(2), triple(2)) == (4, 6)
"""


def test_compiling_is_said_once_and_only_when_it_happens(tmp_path: Path):
    script = tmp_path / "compiles.py"
    script.write_text(COMPILES)
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def said() -> str:
        done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, check=True)
        return done.stderr

    assert said().count("compiling for this CPU, once on this machine") == 1
    assert "compiling" not in said()  # the code is in the cache
