"""What of the body the source camera sees: the visible face of each pixel, and visibility point by point.

`rasterize_mesh` is a z-buffer. Its rules are those of PyTorch3D's rasteriser with one face per pixel and no blur, as
the original uses it: pixel centres, a pixel is inside only if all three barycentrics are positive, no back-face
culling, perspective-correct depth, the nearest face wins, and the lower index on a tie.

The original marks whole faces: one visible pixel makes every texel of a face visible, so the colour of a hand in front
of the chest is also assigned to the chest beside and behind it, and remains there as an artefact when the hand moves
away. Models with `visibility: point` test for each texel and vertex whether anything nearer lies on its pixel or next
to it (`unhidden`).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guava_aug.body.surface_normals import area_normals
from guava_aug.runtime.numba_cache import cached_njit
from guava_aug.views.cameras import camera_center

NEARER = 0.02  # metres: anything this much nearer is another surface, not the slope of the same one
_AROUND = 3  # half-resolution pixels: an edge of the tracked mesh is at most about this uncertain
_EPS = np.float32(1e-8)


def rasterize_mesh(points: np.ndarray, faces: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return face (size, size) int32, depth (size, size) and perspective-correct barycentrics (size, size, 3).

    The face is -1 where there is none.

    Args:
        points: (P, 3) x, y in -1..1 over the image (x right, y down), z in metres.
        faces: (F, 3) integers into `points`.
        size: Side of the square image in pixels.
    """
    return _rasterize(np.ascontiguousarray(points, np.float32), np.ascontiguousarray(faces, np.int64), size)


def compile_kernel() -> None:
    """Compile the kernel, or load it from numba's cache, before it is needed."""
    rasterize_mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.int32), 8)


@cached_njit()
def _edge(px: float, py: float, ax: float, ay: float, bx: float, by: float) -> float:
    return (px - ax) * (by - ay) - (py - ay) * (bx - ax)


@cached_njit()
def _rasterize(points: np.ndarray, faces: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    face_of = np.full((size, size), -1, np.int32)
    depth = np.full((size, size), np.float32(-1.0), np.float32)
    bary = np.full((size, size, 3), np.float32(-1.0), np.float32)
    half = np.float32(size) / np.float32(2)
    for f in range(len(faces)):
        a, b, c = points[faces[f, 0]], points[faces[f, 1]], points[faces[f, 2]]
        if min(a[2], b[2], c[2]) < _EPS:
            continue
        area = _edge(c[0], c[1], a[0], a[1], b[0], b[1])
        if abs(area) <= _EPS:
            continue
        area += _EPS
        # a pixel's centre is at (2 i + 1) / size - 1; one pixel of slack, the test below decides
        x0 = max(0, int(np.floor((min(a[0], b[0], c[0]) + 1) * half)) - 1)
        x1 = min(size - 1, int(np.ceil((max(a[0], b[0], c[0]) + 1) * half)) + 1)
        y0 = max(0, int(np.floor((min(a[1], b[1], c[1]) + 1) * half)) - 1)
        y1 = min(size - 1, int(np.ceil((max(a[1], b[1], c[1]) + 1) * half)) + 1)
        for y in range(y0, y1 + 1):
            py = np.float32(2 * y + 1) / np.float32(size) - np.float32(1)
            for x in range(x0, x1 + 1):
                px = np.float32(2 * x + 1) / np.float32(size) - np.float32(1)
                w0 = _edge(px, py, b[0], b[1], c[0], c[1]) / area
                w1 = _edge(px, py, c[0], c[1], a[0], a[1]) / area
                w2 = _edge(px, py, a[0], a[1], b[0], b[1]) / area
                if not (w0 > 0 and w1 > 0 and w2 > 0):
                    continue
                t0, t1, t2 = w0 * b[2] * c[2], a[2] * w1 * c[2], a[2] * b[2] * w2
                total = max(t0 + t1 + t2, _EPS)
                w0, w1, w2 = t0 / total, t1 / total, t2 / total
                z = w0 * a[2] + w1 * b[2] + w2 * c[2]
                if z < 0 or (face_of[y, x] >= 0 and z >= depth[y, x]):
                    continue
                face_of[y, x], depth[y, x] = f, z
                bary[y, x, 0], bary[y, x, 1], bary[y, x, 2] = w0, w1, w2
    return face_of, depth, bary


def nearest_depth(
    depth: Tensor,  # [B, S, S] metres, inf where nothing is visible, S even
) -> Tensor:
    """Return the nearest depth of every 2 x 2 pixels, [B, S/2, S/2]."""
    return -F.max_pool2d(-depth[:, None], 2)[:, 0]


def unhidden(
    xy: Tensor,  # [B, n, 2] image coordinates, -1..1
    z: Tensor,  # [B, n] metres
    nearest: Tensor,  # [B, S/2, S/2] of `nearest_depth`
    pixels: int = _AROUND,
    margin: float = NEARER,
) -> Tensor:
    """Return [B, n] bool: whether no part of the body lies in front of the point, on its pixel or next to it.

    pixels: side, at half resolution, of the square that counts as next to it. margin: metres that count as in front.
    """
    around = -F.max_pool2d(-nearest[:, None].float(), pixels, stride=1, padding=pixels // 2)
    around = around.clamp(max=1e6)  # no infinity times zero
    found = F.grid_sample(around, xy[:, None], mode="nearest", padding_mode="border", align_corners=False)
    return z <= found[:, 0, 0] + margin


def facing(
    vertices: Tensor,  # [B, P, 3] world
    faces: Tensor,  # [F, 3]
    viewmats: Tensor,  # [B, 4, 4]
) -> Tensor:
    """Return [B, P] bool: whether the surface at the vertex faces the camera."""
    eye = camera_center(viewmats)  # [B, 3]
    return (area_normals(vertices, faces) * (eye[:, None] - vertices)).sum(-1) > 0


def relative_depth(
    points: Tensor,  # [B, n, 3] world
    viewmats: Tensor,  # [B, 4, 4]
    vertices: Tensor,  # [B, P, 3]
) -> Tensor:
    """Return depths [B, n] relative to that of the mean vertex, metres: small enough for half precision."""
    with torch.autocast(points.device.type, enabled=False):
        axis = viewmats[:, None, 2, :3]
        return ((points - vertices.mean(1, keepdim=True)) * axis).sum(-1)
