"""The loops of `colour`: YCbCr to RGB of an SDR display."""

from __future__ import annotations

import math

import numpy as np

from guava_aug.runtime.numba_cache import cached_njit


@cached_njit(nogil=True)
def convert(  # pragma: no cover - compiled
    yuv: np.ndarray,
    matrix: np.ndarray,
    offset: np.ndarray,
    to_light: np.ndarray,
    ootf: float,
    gain: np.ndarray,
    gamut: np.ndarray,
    code: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill `out` [H, W, 3] uint8 from `yuv` [H, W, 3] uint16; the tables are those of `colour._Tables`."""
    steps, tones = len(to_light) - 1, len(gain) - 1
    signal = np.empty(3, np.float32)
    light = np.empty(3, np.float32)
    most = np.float32(10000.0 / 203.0)
    for y in range(yuv.shape[0]):
        for x in range(yuv.shape[1]):
            a, b, c = yuv[y, x, 0] - offset[0], yuv[y, x, 1] - offset[1], yuv[y, x, 2] - offset[2]
            for k in range(3):
                signal[k] = matrix[k, 0] * a + matrix[k, 1] * b + matrix[k, 2] * c
                light[k] = to_light[int(min(max(signal[k], 0.0), 1.0) * steps + 0.5)]
            if ootf != 0:
                luminance = 0.2627 * light[0] + 0.6780 * light[1] + 0.0593 * light[2]
                factor = luminance**ootf if luminance > 0 else 0.0
                for k in range(3):
                    light[k] *= factor
            brightest = max(light[0], light[1], light[2])
            at = math.sqrt(math.sqrt(min(brightest / most, 1.0))) * tones
            i = min(int(at), tones - 1)
            scale = gain[i] + (at - i) * (gain[i + 1] - gain[i])
            for k in range(3):
                value = scale * (gamut[k, 0] * light[0] + gamut[k, 1] * light[1] + gamut[k, 2] * light[2])
                out[y, x, k] = code[int(math.sqrt(min(max(value, 0.0), 1.0)) * (len(code) - 1) + 0.5)]


@cached_njit(nogil=True, fastmath=True)
def convert_420(  # pragma: no cover - compiled
    luma: np.ndarray, cb: np.ndarray, cr: np.ndarray, factors: np.ndarray, black: np.float32, out: np.ndarray
) -> None:
    """Fill `out` [H, W, 3] uint8 from planes [H, W] and [(H + 1) / 2, (W + 1) / 2] uint8.

    Chroma is interpolated linearly; its samples lie at even columns and between two rows (as MPEG-2 and H.264 have it).
    `factors` [5] float32 and `black` are those of `colour._factors`.
    """
    height, width = luma.shape
    rows, columns = cb.shape
    f0, f1, f2, f3, f4 = factors[0], factors[1], factors[2], factors[3], factors[4]
    none, most, half = np.float32(0), np.float32(255), np.float32(0.5)
    blue, red = np.empty(2 * columns, np.float32), np.empty(2 * columns, np.float32)
    line = np.empty((3, width), np.uint8)
    for y in range(height):
        near = y // 2
        far = max(near - 1, 0) if y % 2 == 0 else min(near + 1, rows - 1)
        _chroma_row(cb, near, far, blue)
        _chroma_row(cr, near, far, red)
        for x in range(width):  # one plane at a time: this loop is vectorised
            grey = (np.float32(luma[y, x]) - black) * f0 + half
            line[0, x] = np.uint8(min(max(grey + red[x] * f1, none), most))
            line[1, x] = np.uint8(min(max(grey + blue[x] * f2 + red[x] * f3, none), most))
            line[2, x] = np.uint8(min(max(grey + blue[x] * f4, none), most))
        for x in range(width):
            out[y, x, 0], out[y, x, 1], out[y, x, 2] = line[0, x], line[1, x], line[2, x]


@cached_njit(nogil=True, fastmath=True)
def _chroma_row(  # pragma: no cover - compiled
    plane: np.ndarray, near: int, far: int, row: np.ndarray
) -> None:
    """Fill `row` with a row of chroma, of twice as many columns, without its offset of 128."""
    columns = plane.shape[1]
    most, least = np.float32(0.75), np.float32(0.25)
    for x in range(columns):
        row[2 * x] = most * np.float32(plane[near, x]) + least * np.float32(plane[far, x]) - np.float32(128)
    for x in range(columns - 1):
        row[2 * x + 1] = (row[2 * x] + row[2 * x + 2]) * np.float32(0.5)
    row[2 * columns - 1] = row[2 * columns - 2]
