"""The fits of the bake: shape components, joint regressors, jaw weights. Plain numpy; nothing here knows Anny."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from guava_aug.apps.synthetic.skeleton import PARENTS, mirror_name
from guava_aug.body.joints import INDEX, JOINTS

Array = NDArray[np.float64]
_SUM_WEIGHT = 30.0  # pull of a regressor row's sum towards 1
_RIDGE = 2e-3


def principal_shapes(samples: Array, count: int) -> tuple[Array, Array, Array]:
    """Return mean [P, 3], directions [P, 3, count] of one standard deviation, and coefficients [B, count]."""
    mean = samples.mean(0)
    X = (samples - mean).reshape(len(samples), -1)
    w, U = np.linalg.eigh(X @ X.T)
    order = np.argsort(w)[::-1][:count]
    sigma = np.sqrt(w[order])  # singular values
    U = U[:, order]
    rows = (U.T @ X) / sigma[:, None]  # orthonormal
    scale = sigma / np.sqrt(len(samples))
    # the sign of a component is free: fix it, so that a bake is repeatable
    sign = np.sign(rows[np.arange(count), np.abs(rows).argmax(1)])
    directions = (rows * (scale * sign)[:, None]).reshape(count, -1, 3).transpose(1, 2, 0)
    return mean, directions, U * sign * np.sqrt(len(samples))


def mirror_map(vertices: Array, tolerance: float = 1e-4) -> NDArray[np.int64]:
    """Return [P] the mirrored vertex (plane x = 0); itself where there is no partner within `tolerance`."""
    distance, partner = cKDTree(vertices).query(vertices * [-1.0, 1.0, 1.0])
    return np.where(distance < tolerance, partner, np.arange(len(vertices)))


def joint_regressor(vertices: Array, joints: Array, weights: Array, allowed: NDArray[np.bool_],
                    eyes: dict[str, NDArray[np.int64]], mirror: NDArray[np.int64]) -> Array:  # fmt: skip
    """Return [55, P] non-negative rows that sum to 1 and give the joints of the sampled bodies.

    vertices [B, P, 3], joints [B, 55, 3], weights [P, 55]. Candidates are nearby vertices of the joint and its
    parent; neck and head never look at the jaw or the eyes, so that the face can move without moving them.
    """
    mean, joints_mean = vertices.mean(0), joints.mean(0)
    moving = (weights[:, INDEX["jaw"]] > 0.02) | (weights[:, [INDEX["left_eye"], INDEX["right_eye"]]].sum(1) > 0.1)
    out = np.zeros((len(JOINTS), len(mean)))
    for j, name in enumerate(JOINTS):
        if name.startswith("right_"):
            continue
        if name == "left_eye":
            out[j, eyes["left"]] = 1 / len(eyes["left"])
            continue
        near = weights[:, j] > 0.3 if j == 0 else (weights[:, j] > 0.02) | (weights[:, PARENTS[j]] > 0.1)
        if name != "jaw":
            near = near & ~moving
        ids = np.where(near & allowed)[0]
        ids = ids[np.argsort(np.linalg.norm(mean[ids] - joints_mean[j], axis=1))[:600]][::2]
        out[j, ids] = convex_weights(vertices[:, ids], joints[:, j])
    for j, name in enumerate(JOINTS):  # both sides alike; central joints symmetric
        if name.startswith("right_"):
            np.add.at(out[j], mirror, out[INDEX[mirror_name(name)]])
        elif mirror_name(name) == name:
            flipped = np.zeros_like(out[j])
            np.add.at(flipped, mirror, out[j])
            out[j] = (out[j] + flipped) / 2
    out[INDEX["right_eye"]] = 0
    out[INDEX["right_eye"], eyes["right"]] = 1 / len(eyes["right"])
    return out


def convex_weights(points: Array, target: Array) -> Array:
    """Return [n] weights >= 0 of sum 1: sum_k w_k points[:, k] is near target. points [B, n, 3], target [B, 3]."""
    n = points.shape[1]
    A = np.concatenate([points.transpose(0, 2, 1).reshape(-1, n), np.full((1, n), _SUM_WEIGHT), _RIDGE * np.eye(n)])
    b = np.concatenate([target.reshape(-1), [_SUM_WEIGHT], np.zeros(n)])
    w, _ = nnls(A, b)
    weights: Array = w / w.sum()
    return weights


def fit_jaw(vertices: Array, jaw: Array, opened: Array, head: NDArray[np.bool_]) -> tuple[float, Array, Array]:
    """Return the opening of the mouth as a rotation about x through `jaw`: angle, weights [P], residual [P, 3]."""
    best: tuple[float, float, Array, Array] | None = None
    for degrees in range(6, 30):
        R = Rotation.from_rotvec([np.radians(degrees), 0, 0]).as_matrix()
        turn = (vertices - jaw) @ R.T + jaw - vertices
        w = np.clip((opened * turn).sum(1) / ((turn**2).sum(1) + 1e-9), 0, 1) * head
        error = float((((opened - w[:, None] * turn)[head]) ** 2).sum())
        if best is None or error < best[0]:
            best = (error, np.radians(degrees), w, turn)
    assert best is not None
    _, angle, w, turn = best
    w = np.where(np.linalg.norm(opened, axis=1) > 2e-4, w, 0)
    return angle, w, opened - w[:, None] * turn
