"""The 120 teeth vertices GUAVA adds to SMPL-X and FLAME, built from the outer lips.

Layout (index order), 15 vertices a row: 0 upper root, 1 lower root, 2 upper edge, 3 lower edge, 4 upper root
back, 5 upper edge back, 6 lower root back, 7 lower edge back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROW = 15
NUM_TEETH = 8 * ROW

# Outer-lip vertices of FLAME from the left corner to the right, upper and lower partners.
UPPER_LIP = [1713, 1715, 1716, 1735, 1696, 1694, 1657, 3543, 2774, 2811, 2813, 2850, 2833, 2832, 2830]
LOWER_LIP = [1576, 1577, 1773, 1774, 1795, 1802, 1865, 3503, 2948, 2905, 2898, 2881, 2880, 2713, 2712]

UPPER_ROWS = (0, 2, 4, 5)
LOWER_ROWS = (1, 3, 6, 7)

# The chart gives the teeth a free corner; one v per row.
_UV_U = (0.1328, 0.2695)
_UV_V = (0.94726, 0.9999)
_UV_V_OF_ROW = (3, 2, 0, 1, 3, 4, 6, 5)  # of 7 steps from _UV_V[0] to _UV_V[1]


@dataclass(frozen=True)
class TeethRule:
    """Offsets (y, z) of edges and backs, in units of the mean lip opening d."""

    upper_edge: tuple[float, float]
    lower_edge: tuple[float, float]
    back: float
    upper_joint: int
    lower_joint: int


SMPLX_TEETH = TeethRule((0.25, 0.4), (-0.2, 0.2), 0.75, upper_joint=12, lower_joint=22)  # neck, jaw
FLAME_TEETH = TeethRule((0.1, 0.0), (-0.1, -0.4), 1.0, upper_joint=1, lower_joint=2)  # neck, jaw


def teeth_vertices(upper: np.ndarray, lower: np.ndarray, rule: TeethRule) -> np.ndarray:
    """Return teeth (120, 3) of the 15 upper and 15 lower outer-lip vertices (15, 3), metres."""
    d = np.linalg.norm(upper - lower, axis=1).mean()
    middle = (upper + lower) / 2
    middle[:, 1] = middle[:, 1].mean()
    middle[:, 2] -= 1.5 * d
    upper_edge = middle + [0, rule.upper_edge[0] * d, rule.upper_edge[1] * d]
    lower_edge = middle + [0, rule.lower_edge[0] * d, rule.lower_edge[1] * d]
    root = np.array([0, 2 * d, 0])
    front = [upper_edge + root, lower_edge - root, upper_edge, lower_edge]
    back = np.array([0, 0, -rule.back * d])
    rows = front + [front[0] + back, front[2] + back, front[1] + back, front[3] + back]
    return np.concatenate(rows)


def teeth_shapedirs(shapedirs: np.ndarray, upper_ids: np.ndarray, lower_ids: np.ndarray) -> np.ndarray:
    """Return blend shapes (120, 3, S): the mean of the two lip partners, the same in every row."""
    mean = (shapedirs[upper_ids] + shapedirs[lower_ids]) / 2
    return np.tile(mean, (8, 1, 1))


def teeth_weights(num_joints: int, rule: TeethRule) -> np.ndarray:
    """Return skinning weights (120, J): each row is attached to one joint."""
    weights = np.zeros((8, ROW, num_joints), np.float32)
    weights[list(UPPER_ROWS), :, rule.upper_joint] = 1
    weights[list(LOWER_ROWS), :, rule.lower_joint] = 1
    return weights.reshape(NUM_TEETH, num_joints)


def teeth_faces() -> np.ndarray:
    """Return triangles (168, 3) of the 120 teeth vertices: six strips of 14 quads, mirrored at the middle."""
    # a0, a1 are neighbours in row A, b0, b1 below them in row B; the names are the diagonals' shapes
    kinds = {
        1: ("a0 b1 b0", "a0 a1 b1"),
        2: ("a0 a1 b0", "a1 b1 b0"),
        3: ("a0 b0 b1", "a0 b1 a1"),
        4: ("a0 b0 a1", "a1 b0 b1"),
    }
    strips = [(0, 2, 1, 2), (4, 5, 3, 4), (5, 2, 4, 3), (3, 1, 2, 1), (6, 7, 1, 2), (7, 3, 2, 1)]
    faces = []
    for row_a, row_b, left, right in strips:
        for i in range(ROW - 1):
            corner = {f"{r}{k}": row * ROW + i + k for r, row in (("a", row_a), ("b", row_b)) for k in (0, 1)}
            for triangle in kinds[left if i < 7 else right]:
                faces.append([corner[c] for c in triangle.split()])
    return np.array(faces, np.int64)


def teeth_texcoords() -> np.ndarray:
    """Return chart coordinates (120, 2), final (not to be flipped)."""
    u = np.linspace(*_UV_U, ROW)
    v = np.linspace(*_UV_V, 7)[list(_UV_V_OF_ROW)]
    return np.stack([np.tile(u, 8), np.repeat(v, ROW)], 1)


def teeth_order_in_head_map() -> np.ndarray:
    """Return the order (120,) in which the teeth are appended to the head-to-body map.

    Upper rows first, then lower rows. FLAME keeps its natural order, so the inserted teeth are permuted against the
    faces. Trained weights depend on it, so the original's order is kept.
    """
    rows = [np.arange(ROW) + r * ROW for r in (*UPPER_ROWS, *LOWER_ROWS)]
    return np.concatenate(rows)
