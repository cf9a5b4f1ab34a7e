"""Silhouette and joints of the tracked body in an image, coarse and fast, on the CPU.

For comparing a tracked video with its masks, not for rendering: vertices within `CELL` of each other are merged, and
the effect of expressions and pose-corrective shapes (millimetres) is ignored. All of it may be called from several
threads.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from guava_aug.body import EhmModel, Identity, Motion
from guava_aug.runtime.numba_cache import cached_njit
from guava_aug.views.cameras import tracked_cameras

SIZE = 128  # pixels of a silhouette: 1.4 cm each at the distance of the tracker's cameras
CELL = 0.015  # metres: side of the cubes whose vertices become one
NEAREST = 0.01  # metres in front of the camera; faces that come nearer are not drawn


class BodyOutline:
    """A body model reduced to what its silhouette needs. Made once per model; holds no state of any video."""

    def __init__(self, body: EhmModel) -> None:
        self.body = body if body.assets.faces.device.type == "cpu" else body.to("cpu")
        assets = self.body.assets
        self.vertices, self.faces = _merged(assets.v_canonical.numpy(), assets.faces.numpy())  # [P'], [F', 3] into them
        self._weights = assets.body.lbs_weights[self.vertices].numpy()  # [P', J]

    @torch.inference_mode()
    def rest(self, identity: Identity) -> tuple[Tensor, Tensor]:
        """Return the reduced vertices [P', 3] and the joints [J, 3] of one identity at rest, metres.

        Raises:
            InputError: The identity belongs to another body model.
        """
        zeros = torch.zeros
        still = Motion(
            zeros(1, 3), zeros(1, 21, 3), zeros(1, 15, 3), zeros(1, 15, 3), zeros(1, 50), zeros(1, 50),
            zeros(1, 3), zeros(1, 2, 3), zeros(1, 2),
        )  # fmt: skip
        posed = self.body(identity, still)  # joints without rotation leave everything at rest
        return posed.vertices[0, self.vertices], posed.joints_rest[0]

    @torch.inference_mode()
    def joints(
        self,
        rest: tuple[Tensor, Tensor],
        motion: Motion,
        viewmats: Tensor,
        size: int = 512,
        K: Tensor | None = None,  # [3, 3] the clip's lens for `size`; None: the format's own
    ) -> np.ndarray:
        """Return pixel x, y of a picture of `size` and depth in metres, [T, J, 3] float32, for `viewmats` [T, 4, 4]."""
        posed, _ = self.body.pose_joints(rest[1], motion)
        return _project(posed, viewmats, size, K)

    @torch.inference_mode()
    def silhouettes(
        self,
        rest: tuple[Tensor, Tensor],
        motion: Motion,
        viewmats: Tensor,
        size: int = SIZE,
        K: Tensor | None = None,  # [3, 3] the clip's lens for `size`; None: the format's own
    ) -> np.ndarray:
        """Return [T, size, size] bool: the pixels whose centre the posed body covers, for `viewmats` [T, 4, 4]."""
        _, relative = self.body.pose_joints(rest[1], motion)
        seen = (viewmats[:, None, :3] @ relative).numpy()  # [T, J, 3, 4] rest -> camera
        (fx, _, cx), (_, fy, cy), _ = tracked_cameras(viewmats, size, K=K).K.tolist()
        covered = np.zeros((len(motion), size, size), np.bool_)
        for t in range(len(motion)):
            points = _posed(rest[0].numpy(), self._weights, np.ascontiguousarray(seen[t]), fx, fy, cx, cy)
            _cover(points, self.faces, NEAREST, covered[t])
        return covered


def _project(points: Tensor, viewmats: Tensor, size: int, K: Tensor | None) -> np.ndarray:
    """Return pixel x, y and depth [T, n, 3] of world points [T, n, 3]."""
    lens = tracked_cameras(viewmats, size, K=K).K
    seen = points @ viewmats[:, :3, :3].transpose(1, 2) + viewmats[:, None, :3, 3]
    xy = seen[..., :2] / seen[..., 2:] * lens.diagonal()[:2] + lens[:2, 2]
    return torch.cat([xy, seen[..., 2:]], -1).numpy()


def _merged(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one vertex of every cell of a grid [P'], and the remaining faces [F', 3] between them, each once."""
    cells = np.floor(vertices / CELL).astype(np.int64)
    _, kept, cell_of = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    merged = cell_of.reshape(-1)[faces]
    a, b, c = merged.T
    merged = np.unique(np.sort(merged[(a != b) & (b != c) & (c != a)], axis=1), axis=0)  # either orientation covers
    return kept, merged


@cached_njit(nogil=True)
def _posed(  # pragma: no cover - compiled
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
def _cover(
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


def spread_frames(num_frames: int, most: int) -> list[int]:
    """Return at most `most` frame numbers, spread evenly from the first to the last."""
    frames: list[int] = np.unique(np.linspace(0, num_frames - 1, min(num_frames, most)).round().astype(int)).tolist()
    return frames
