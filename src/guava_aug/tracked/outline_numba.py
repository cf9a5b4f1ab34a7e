"""The two loops of `outline`: skinning with projection, and filling of faces. Both are thread-safe."""

from __future__ import annotations

import numpy as np

from guava_aug.runtime.numba_cache import cached_njit


@cached_njit(nogil=True)
def posed(  # pragma: no cover - compiled
    rest: np.ndarray, weights: np.ndarray, transforms: np.ndarray, fx: float, fy: float, cx: float, cy: float
) -> np.ndarray:
    """Return pixel x, y and depth [n, 3] float32 of vertices [n, 3] after skinning.

    weights: [n, J]; transforms: [J, 3, 4].
    """
    points = np.empty(rest.shape, np.float32)
    at = np.empty(3, np.float32)
    for i in range(len(rest)):
        at[:] = 0
        for j in range(weights.shape[1]):
            w = weights[i, j]
            if w != 0:
                for k in range(3):
                    m = transforms[j, k]
                    at[k] += w * (m[0] * rest[i, 0] + m[1] * rest[i, 1] + m[2] * rest[i, 2] + m[3])
        if at[2] > 0:
            points[i, 0], points[i, 1] = at[0] / at[2] * fx + cx, at[1] / at[2] * fy + cy
        else:  # behind the camera: no face with it is drawn
            points[i, 0], points[i, 1] = 0, 0
        points[i, 2] = at[2]
    return points


@cached_njit(nogil=True)
def cover(
    points: np.ndarray, faces: np.ndarray, nearest: float, covered: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Set the pixels of `covered` [S, S] whose centres lie within a face of `points` [n, 3] (pixel x, y, depth)."""
    size = covered.shape[0]
    for f in range(len(faces)):
        ax, ay, az = points[faces[f, 0]]
        bx, by, bz = points[faces[f, 1]]
        cx, cy, cz = points[faces[f, 2]]
        if not (az > nearest and bz > nearest and cz > nearest):  # nor if it is not a number
            continue
        left, right = max(min(ax, bx, cx), 0.0), min(max(ax, bx, cx), size - 1.0)
        top, bottom = max(min(ay, by, cy), 0.0), min(max(ay, by, cy), size - 1.0)
        if not (left <= right and top <= bottom):
            continue
        for y in range(int(np.ceil(top)), int(np.floor(bottom)) + 1):
            for x in range(int(np.ceil(left)), int(np.floor(right)) + 1):
                if covered[y, x]:
                    continue
                u = (x - ax) * (by - ay) - (y - ay) * (bx - ax)
                v = (x - bx) * (cy - by) - (y - by) * (cx - bx)
                w = (x - cx) * (ay - cy) - (y - cy) * (ax - cx)
                if (u >= 0 and v >= 0 and w >= 0) or (u <= 0 and v <= 0 and w <= 0):
                    covered[y, x] = True
