"""From intervals to lanes: exact sums, and a picture that shows them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guava_aug.apps.benchmark.chart import COLOURS, WIDTH, chart, draw_chart, ticks
from guava_aug.apps.benchmark.clock import time_calls, union_seconds
from guava_aug.apps.benchmark.gpu_trace import COPIES, KERNELS, from_events, gpu_trace
from guava_aug.apps.benchmark.lanes import HOST_RENDER, Lane, lanes_of, without
from guava_aug.errors import OutputError
from guava_aug.runtime import timing
from guava_aug.runtime.timing import Interval

spans = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 20)).map(lambda p: (float(p[0]), float(p[0] + p[1]))), max_size=8
)


def on_a_grid(some: list[tuple[float, float]]) -> np.ndarray:
    """How many spans cover each unit of 0..100."""
    count = np.zeros(100)
    for start, end in some:
        count[int(start) : int(end)] += 1
    return count


@given(spans)
def test_union_profile_and_most_agree_with_counting(some):
    lane, count = Lane("x", some, 100.0), on_a_grid(some)
    assert lane.busy_seconds == pytest.approx((count > 0).sum())
    assert lane.most == count.max()
    np.testing.assert_allclose(lane.profile(100), count, atol=1e-9)
    assert lane.profile(7).mean() == pytest.approx(lane.mean_threads)


@given(spans, spans)
def test_without_takes_away_exactly_the_holes(some, holes):
    def apart(these):  # spans of one thread do not overlap
        out = []
        for start, end in sorted(these):
            if not out or start >= out[-1][1]:
                out.append((start, end))
        return out

    some, holes = apart(some), apart(holes)
    expected = (on_a_grid(some) > 0) & ~(on_a_grid(holes) > 0)
    assert (on_a_grid(without(some, holes)) == expected).all()
    assert union_seconds(without(some, holes)) == expected.sum()


def test_lanes_of_a_record():
    record = [
        Interval(timing.RENDER, "MainThread", 10.0, 14.0),
        Interval(timing.ENCODE_WAIT, "MainThread", 13.0, 14.0),  # inside the view's render time
        Interval(timing.ENCODE, "a", 11.0, 15.0),
        Interval(timing.ENCODE, "b", 12.0, 13.0),
        Interval("something unknown", "c", 10.0, 20.0),
    ]
    lanes = {lane.name: lane for lane in lanes_of(record)}
    assert list(lanes) == ["render", "encode", "main thread waits"]
    assert lanes["render"].spans == [(0.0, 3.0)] and lanes["encode"].most == 2
    assert lanes["encode"].busy_share == pytest.approx(0.4)
    assert lanes_of([]) == []


def test_a_gpu_has_lanes_of_its_own():
    record = [Interval(work, "x", 0.0, 1.0) for work in (timing.RENDER, KERNELS, COPIES)]
    assert [lane.name for lane in lanes_of(record)] == [KERNELS, COPIES, HOST_RENDER]


def test_the_drivers_record_is_put_on_our_clock():
    def event(name: str, start: float, end: float, device=torch.autograd.DeviceType.CUDA) -> SimpleNamespace:
        return SimpleNamespace(name=name, device_type=device, time_range=SimpleNamespace(start=start, end=end))

    events = [
        event("gemm", 2e6, 3e6), event("cudaLaunchKernel", 0, 9e6, torch.autograd.DeviceType.CPU),
        event("fill", 0.5e6, 1e6), event("Memcpy DtoH (Device -> Pinned)", 3e6, 3.5e6),
    ]  # fmt: skip
    kernel, copy = from_events(events, mark=100.0)  # `fill` is the marker: it ended at 100
    assert (kernel.work, kernel.start, kernel.end) == (KERNELS, 101.0, 102.0)
    assert (copy.work, copy.start, copy.end) == (COPIES, 102.0, 102.5)
    assert from_events([], 0.0) == []
    with gpu_trace("cpu") as nothing:
        pass
    assert nothing == []


def test_the_picture_shows_each_lane_in_its_colour_where_it_was_busy():
    lanes = [Lane("first half", [(0.0, 1.0)], 2.0), Lane("last half", [(1.0, 2.0), (1.0, 2.0)], 2.0)]
    picture = chart(lanes, "a title", "a subtitle")
    assert picture.dtype == np.uint8 and picture.shape[1] == WIDTH
    for colour, (low, high) in zip(COLOURS, ((0.15, 0.53), (0.52, 0.9)), strict=False):
        columns = np.flatnonzero((picture == colour).all(-1).sum(0) > 40)  # full height of a strip, not letters
        assert len(columns) > 400 and low * WIDTH <= columns.min() and columns.max() <= high * WIDTH


def test_nothing_recorded_is_said(tmp_path):
    with pytest.raises(OutputError, match="nothing was recorded"):
        draw_chart([], "", "", tmp_path / "x.png")


@given(st.floats(1e-3, 1e5))
def test_ticks_are_round_and_few(total):
    found = ticks(total)
    assert found[0][0] == 0 and found[-1][0] <= total * (1 + 1e-9) and 4 <= len(found) <= 13
    assert len({label for _, label in found}) == len(found)
    assert all(float(label) == pytest.approx(at, rel=1e-6, abs=1e-9) for at, label in found)


def test_time_calls_leaves_out_the_warm_up():
    calls = []
    times = time_calls(lambda: calls.append(1), 4, "cpu", warm_up=2)
    assert len(calls) == 6 and len(times.wall_ms) == 4 and times.gpu_ms is None
    assert times.to_json(per=2)["ms"] == pytest.approx(times.ms / 2)
