"""Bias, sums and activations of the detection nets on a CPU, each in one pass over a map instead of two or three."""

from __future__ import annotations

from typing import Any

import numpy as np

from guava_aug.runtime.numba_cache import cached_njit

NO_SLOPE = np.zeros(0, np.float32)


@cached_njit(nogil=True, error_model="numpy")
def finish(
    x: np.ndarray, bias: np.ndarray, slope: np.ndarray, low: Any, high: Any
) -> None:  # pragma: no cover - compiled
    """Replace the values of a map by those after bias and activation; thread-safe.

    Args:
        x: [P, C] float32, C-contiguous.
        bias: [C] float32.
        slope: [C] float32, of negative values (PReLU); empty: values are clamped instead.
        low: float32, the least value.
        high: float32, the highest.
    """
    pixels, channels = x.shape
    if len(slope) == 0:
        for p in range(pixels):
            for c in range(channels):
                v = x[p, c] + bias[c]
                v = low if v < low else v
                x[p, c] = high if v > high else v
    else:
        for p in range(pixels):
            for c in range(channels):
                v = x[p, c] + bias[c]
                x[p, c] = v * slope[c] if v < 0 else v


@cached_njit(nogil=True, error_model="numpy")
def add(
    a: np.ndarray, b: np.ndarray, slope: np.ndarray, low: Any, high: Any, out: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Write the sum of two maps after its activation to `out`; thread-safe.

    Args:
        a: [P, C] float32, C-contiguous.
        b: [P, D] float32, C-contiguous, D at most C; the other channels of `a` stay as they are.
        slope: As in `finish`.
        low: As in `finish`.
        high: As in `finish`.
        out: [P, C] float32, C-contiguous.
    """
    pixels, channels = a.shape
    common = b.shape[1]
    if len(slope) == 0:
        for p in range(pixels):
            for c in range(common):
                v = a[p, c] + b[p, c]
                v = low if v < low else v
                out[p, c] = high if v > high else v
            for c in range(common, channels):
                v = a[p, c]
                v = low if v < low else v
                out[p, c] = high if v > high else v
    else:
        for p in range(pixels):
            for c in range(common):
                v = a[p, c] + b[p, c]
                out[p, c] = v * slope[c] if v < 0 else v
            for c in range(common, channels):
                v = a[p, c]
                out[p, c] = v * slope[c] if v < 0 else v
