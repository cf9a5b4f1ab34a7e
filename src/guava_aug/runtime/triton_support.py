"""Availability of Triton kernels. Triton is part of torch's CUDA builds; it needs a C compiler."""

from __future__ import annotations

import functools
import logging
import shutil
import threading

import torch

from guava_aug.runtime.text import in_short

log = logging.getLogger(__name__)
_probing = threading.Lock()


def is_usable(device: torch.device | str) -> bool:
    """Return whether kernels can be used on `device`; on a GPU where they cannot, the reason is logged once."""
    device = torch.device(device)
    return device.type == "cuda" and unavailable_reason(device.index or 0) is None


def unavailable_reason(index: int = 0) -> str | None:
    """Return the reason why GPU `index` cannot run Triton kernels, None if it can. Compiles a tiny kernel once."""
    with _probing:
        return _cached_reason(index)


@functools.cache
def _cached_reason(index: int) -> str | None:
    reason = _try(index)
    if reason is not None:
        log.warning("Triton cannot be used (%s); plain torch renders the same pictures, but slowly", reason)
    return reason


def _try(index: int) -> str | None:
    try:
        import triton  # noqa: F401, PLC0415 - optional
    except ImportError:
        return "Triton is not installed: pip install triton"
    if torch.cuda.get_device_capability(index) < (7, 0):
        return f"{torch.cuda.get_device_name(index)} is older than compute capability 7.0"
    try:
        from guava_aug.runtime.triton_probe import double  # noqa: PLC0415 - needs Triton

        with torch.cuda.device(index):
            x = torch.ones(16, device="cuda")
            double(x)
            return None if bool((x == 2).all()) else "a test kernel gave a wrong result"
    except Exception as error:  # whatever Triton, its compilers and the driver raise
        if not any(shutil.which(c) for c in ("cc", "gcc", "clang")):
            return "Triton needs a C compiler; install gcc, or set CC"
        return f"Triton cannot compile: {in_short(error)}"
