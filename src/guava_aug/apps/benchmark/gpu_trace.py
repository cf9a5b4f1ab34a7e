"""When the GPU worked and when it copied, whatever code drives it: the driver's own record of kernels and copies."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from guava_aug.runtime.timing import Interval

log = logging.getLogger(__name__)

KERNELS, COPIES = "GPU kernels", "copies"


@contextmanager
def gpu_trace(device: str) -> Iterator[list[Interval]]:
    """Yield a list that holds, after the block, every kernel and copy of the GPU; empty on a CPU.

    Times are those of `time.perf_counter()`, to about 0.1 ms. The record costs some host time per launch: do not
    time the block. Where the driver gives no record (a container without the right), the list stays empty.
    """
    found: list[Interval] = []
    if torch.device(device).type != "cuda":
        yield found
        return
    torch.cuda.synchronize(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        torch.ones(1, device=device)  # its kernel is the first of the record, so it ties the two clocks together
        torch.cuda.synchronize(device)
        mark = time.perf_counter()
        yield found
        torch.cuda.synchronize(device)
    found += from_events(profiler.events() or (), mark)
    if not found:
        log.warning("the GPU driver gives no record of kernels here; GPU-busy time is not known")


def from_events(events: Iterable[Any], mark: float) -> list[Interval]:
    """Return intervals of a profiler's device events; the first of them ended at `mark`, and is left out."""
    device = [
        e for e in events
        if e.device_type == torch.autograd.DeviceType.CUDA  # type: ignore[attr-defined]
        and not getattr(e, "is_user_annotation", False)
    ]  # fmt: skip
    device.sort(key=lambda e: e.time_range.start)  # microseconds
    if not device:
        return []
    zero = mark - 1e-6 * device[0].time_range.end
    return [
        Interval(
            COPIES if e.name.startswith("Memcpy") else KERNELS,
            f"stream {getattr(e, 'device_resource_id', 0)}",
            zero + 1e-6 * e.time_range.start,
            zero + 1e-6 * e.time_range.end,
        )
        for e in device[1:]
    ]
