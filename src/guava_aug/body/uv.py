"""The UV chart: the face of each texel, and the position in it."""

from __future__ import annotations

import cv2
import numpy as np

_FARTHEST = (
    2.0  # of a chart's coordinates from 0; larger ones are not those of a chart, and filling would take too long
)


def rasterize_uv(texcoords: np.ndarray, faces_uv: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return face indices (size, size) int32, -1 for none, and barycentrics (size, size, 3) float32.

    Corners are rounded to whole texels, and every face is filled with its outline in index order, later faces over
    earlier ones, as in the original. Hence border texels lie outside their triangle, and texels of triangles that are
    rounded to a line get the weights (0, 0, 0). Trained maps depend on it.

    Raises:
        ValueError: Coordinates are far outside 0..1.
    """
    if not (np.abs(texcoords) <= _FARTHEST).all():
        raise ValueError(f"texcoords go beyond {_FARTHEST:g}, expected 0 to 1")
    corners = np.round(texcoords.astype(np.float64) * size).astype(np.int32)[faces_uv]  # (F, 3, 2) as (u, v)
    face = np.full((size, size), -1, np.int32)
    for i, triangle in enumerate(corners):
        cv2.fillPoly(face, [triangle], i)

    v, u = np.nonzero(face >= 0)
    texel = np.stack([u, v], 1).astype(np.float64)
    a, b, c = np.moveaxis(corners[face[v, u]].astype(np.float64), 1, 0)
    areas = np.stack([_area(texel, b, c), _area(texel, c, a), _area(texel, a, b)], 1)
    bary = np.zeros((size, size, 3), np.float32)
    bary[v, u] = areas / (areas.sum(1, keepdims=True) + 1e-6)
    return face, bary


def vertex_texcoords(texcoords: np.ndarray, faces: np.ndarray, faces_uv: np.ndarray) -> np.ndarray:
    """Return one chart coordinate per vertex (P, 2): that of the last corner in face order that uses it."""
    out = np.zeros((int(faces.max()) + 1, 2), texcoords.dtype)
    out[faces.reshape(-1)] = texcoords[faces_uv.reshape(-1)]
    return out


def _area(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
    d, e = q - p, r - p
    area: np.ndarray = np.abs(d[:, 0] * e[:, 1] - d[:, 1] * e[:, 0]) / 2
    return area
