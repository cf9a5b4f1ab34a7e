"""The z-buffer of `raster` as a compiled loop for the CPU."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


def fill(
    screen: NDArray[np.float32],  # [P, 3]
    faces: NDArray[np.int64],
    corners: NDArray[np.float32],
    cutout: NDArray[np.bool_],
    bias: NDArray[np.float32],
    alpha: NDArray[np.uint8],
    cut: int,
    ids: NDArray[np.int64],  # [H, W] -1; written
) -> None:
    """Write the seen face of every pixel into `ids`."""
    _fill(screen, faces, corners, cutout, bias, alpha, cut, 2 * numba.get_num_threads(), ids)


@numba.njit(parallel=True, cache=True, fastmath=False)
def _fill(screen, faces, corners, cutout, bias, alpha, cut, bands, ids):
    height, width = ids.shape
    depth = np.full((height, width), np.inf, np.float32)
    A = alpha.shape[0]
    for band in numba.prange(bands):
        top, bottom = band * height // bands, (band + 1) * height // bands
        for f in range(len(faces)):
            i, j, k = faces[f]
            ax, ay, bx, by, cx, cy = screen[i, 0], screen[i, 1], screen[j, 0], screen[j, 1], screen[k, 0], screen[k, 1]
            y0, y1 = max(int(np.ceil(min(ay, by, cy))), top), min(int(np.floor(max(ay, by, cy))), bottom - 1)
            if y0 > y1:
                continue
            x0, x1 = max(int(np.ceil(min(ax, bx, cx))), 0), min(int(np.floor(max(ax, bx, cx))), width - 1)
            d = (by - cy) * (ax - cx) + (cx - bx) * (ay - cy)
            if x0 > x1 or abs(d) < 1e-12:
                continue
            az, bz, cz = screen[i, 2], screen[j, 2], screen[k, 2]
            for y in range(y0, y1 + 1):
                for x in range(x0, x1 + 1):
                    w0 = ((by - cy) * (x - cx) + (cx - bx) * (y - cy)) / d
                    w1 = ((cy - ay) * (x - cx) + (ax - cx) * (y - cy)) / d
                    w2 = 1 - w0 - w1
                    if w0 < -1e-5 or w1 < -1e-5 or w2 < -1e-5:
                        continue
                    z = w0 * az + w1 * bz + w2 * cz - bias[f]
                    if z >= depth[y, x]:
                        continue
                    if cutout[f]:
                        u = corners[f, 0, 0] * w0 + corners[f, 1, 0] * w1 + corners[f, 2, 0] * w2
                        v = corners[f, 0, 1] * w0 + corners[f, 1, 1] * w1 + corners[f, 2, 1] * w2
                        if alpha[min(max(int(v * A), 0), A - 1), min(max(int(u * A), 0), A - 1)] < cut:
                            continue
                    depth[y, x] = z
                    ids[y, x] = f
