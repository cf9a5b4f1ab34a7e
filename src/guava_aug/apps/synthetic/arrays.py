"""Array operations that several of the demo's makers share: smoothing, connected components, rotations."""

from __future__ import annotations

import numpy as np
import roma
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


def smooth(x: Array, sigma: float) -> Array:
    """Return x smoothed along its first axis by a Gaussian of `sigma` samples; the ends are held."""
    radius = int(4 * sigma + 0.5)
    k = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    padded = np.concatenate([np.repeat(x[:1], radius, 0), x, np.repeat(x[-1:], radius, 0)])
    return np.asarray(sum(w * padded[i : i + len(x)] for i, w in enumerate(k / k.sum())))


def components(faces: Ints, count: int) -> Ints:
    """Return [count] which connected part of a mesh each vertex is in, in the order of their first vertex."""
    a, b = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    label = np.arange(count)
    while True:
        low = np.minimum(label[a], label[b])
        new = label.copy()
        np.minimum.at(new, a, low)
        np.minimum.at(new, b, low)
        new = new[new]
        if np.array_equal(new, label):
            return np.unique(label, return_inverse=True)[1].astype(np.int64)
        label = new


def matrices(rotvec: Array) -> Array:
    """Return [..., 3, 3] rotations of axis-angle vectors [..., 3] in radians."""
    return roma.rotvec_to_rotmat(torch.from_numpy(np.asarray(rotvec, np.float64))).numpy()


def rotvecs(matrix: Array) -> Array:
    """Return [..., 3] axis-angle vectors in radians of rotations [..., 3, 3]."""
    return roma.rotmat_to_rotvec(torch.from_numpy(np.ascontiguousarray(matrix, np.float64))).numpy()
