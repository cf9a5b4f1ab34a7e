"""Sampling of a region of a picture, on the CPU."""

from __future__ import annotations

import numpy as np

from guava_aug.runtime.numba_cache import cached_njit

BITS = 5  # of a pixel's fraction, to which places are rounded
STEPS = 1 << BITS  # per pixel


@cached_njit(nogil=True)
def sample(
    picture: np.ndarray, matrix: np.ndarray, replicate: bool, out: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Write a picture [H, W, 3] uint8, sampled bilinearly, to `out` [h, w, 3] uint8.

    Pixel x, y of `out` is at `matrix` [2, 3] float64 times (x, y, 1). Outside, the picture's rim is continued, or
    it is black.
    """
    height, width = picture.shape[:2]
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            x = int(np.rint((matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2]) * STEPS))
            y = int(np.rint((matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2]) * STEPS))
            left, top = x >> BITS, y >> BITS
            u, v = x & (STEPS - 1), y & (STEPS - 1)
            right, bottom = left + 1, top + 1
            a, b, c, d = (STEPS - u) * (STEPS - v), u * (STEPS - v), (STEPS - u) * v, u * v
            if left < 0 or top < 0 or right >= width or bottom >= height:
                if not replicate:
                    if left < 0 or left >= width:
                        a, c = 0, 0
                    if right < 0 or right >= width:
                        b, d = 0, 0
                    if top < 0 or top >= height:
                        a, b = 0, 0
                    if bottom < 0 or bottom >= height:
                        c, d = 0, 0
                left, right = min(max(left, 0), width - 1), min(max(right, 0), width - 1)
                top, bottom = min(max(top, 0), height - 1), min(max(bottom, 0), height - 1)
            for k in range(3):  # a constant, so that the loop is unrolled
                total = a * picture[top, left, k] + b * picture[top, right, k]
                total += c * picture[bottom, left, k] + d * picture[bottom, right, k]
                out[j, i, k] = (total + STEPS * STEPS // 2) >> (2 * BITS)
