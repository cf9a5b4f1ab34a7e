"""Stopwatches for things that are called again and again, on a CPU or a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Times:
    """Milliseconds of every timed call, by the wall clock and, on a GPU, between two events of its stream."""

    wall_ms: tuple[float, ...]
    gpu_ms: tuple[float, ...] | None  # None on a CPU

    @property
    def ms(self) -> float:
        """Return median wall time."""
        return statistics.median(self.wall_ms)

    def to_json(self, per: int = 1) -> dict[str, Any]:
        """Return medians and extremes, divided by `per` (frames of a batch)."""
        row: dict[str, Any] = {
            "ms": self.ms / per, "ms_min": min(self.wall_ms) / per, "ms_max": max(self.wall_ms) / per,
            "calls": len(self.wall_ms),
        }  # fmt: skip
        row["gpu_ms"] = None if self.gpu_ms is None else statistics.median(self.gpu_ms) / per
        return row


def time_calls(call: Callable[[], object], repeats: int, device: str | torch.device, warm_up: int = 1) -> Times:
    """Return the times of `repeats` calls after `warm_up` calls that do not count; each call is waited for."""
    on_gpu = torch.device(device).type == "cuda"
    walls: list[float] = []
    gpu: list[float] = []
    for i in range(warm_up + repeats):
        if on_gpu:
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize(device)
            with torch.cuda.device(device):
                begun = time.perf_counter()
                first.record()
                call()
                last.record()
            torch.cuda.synchronize(device)
        else:
            begun = time.perf_counter()
            call()
        wall = time.perf_counter() - begun
        if i >= warm_up:
            walls.append(1000 * wall)
            if on_gpu:
                gpu.append(first.elapsed_time(last))
    return Times(tuple(walls), tuple(gpu) if on_gpu else None)


def union_seconds(spans: Sequence[tuple[float, float]]) -> float:
    """Return the time covered by at least one of the (start, end) spans."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered
