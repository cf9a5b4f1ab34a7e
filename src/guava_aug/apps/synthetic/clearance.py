"""Keeps moving hands out of each other and out of the body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guava_aug.apps.synthetic.arrays import smooth
from guava_aug.body.ehm import EhmModel
from guava_aug.body.joints import INDEX, JOINTS

Array = NDArray[np.float64]
_APART = 0.115  # metres two hands keep apart, palm to palm
_ALONG_HAND = (0.0, 0.07, 0.15)  # metres from the wrist: points of a hand that are looked at
_OFF_BODY = (0.045, 0.035, 0.03)  # metres those points keep in front of the skin
_CELL = 0.02  # metres
_REACH = 2  # cells round a point that count
_LIMBS = ("shoulder", "elbow", "wrist", "knee", "ankle", "foot", "index", "middle", "ring", "pinky", "thumb")


@dataclass(frozen=True)
class Front:
    """How far the trunk and the head reach forward, over a grid of x and y (model frame, T pose)."""

    low: Array  # [2] corner of the grid
    z: Array  # [X, Y] metres; -inf where there is no body

    def at(self, points: Array) -> Array:
        """Return [...] forward reach at points [..., 3]."""
        cell = np.floor((points[..., :2] - self.low) / _CELL).astype(int)
        inside = ((cell >= 0) & (cell < self.z.shape)).all(-1)
        cell = np.clip(cell, 0, np.array(self.z.shape) - 1)
        return np.where(inside, self.z[cell[..., 0], cell[..., 1]], -np.inf)


def body_front(model: EhmModel, vertices: Array) -> Front:
    """Return the front of the body whose vertices [P, 3] stand in the T pose."""
    limbs = [j for n, j in INDEX.items() if any(k in n for k in _LIMBS) and n in JOINTS]
    weights = model.assets.body.lbs_weights.numpy()
    trunk = vertices[weights[:, limbs].sum(1) < 0.5]
    low = trunk[:, :2].min(0)
    cell = np.floor((trunk[:, :2] - low) / _CELL).astype(int)
    z = np.full(cell.max(0) + 1, -np.inf)
    np.maximum.at(z, (cell[:, 0], cell[:, 1]), trunk[:, 2])
    wide = np.pad(z, _REACH, constant_values=-np.inf)
    shifts = range(2 * _REACH + 1)
    return Front(low, np.max([wide[i : i + z.shape[0], j : j + z.shape[1]] for i in shifts for j in shifts], axis=0))


def keep_clear(wrists: dict[str, Array], directions: dict[str, Array], front: Front) -> dict[str, Array]:
    """Return wrist targets [T, 3] per side (model frame), moved where hands would meet each other or enter the body."""
    at = dict(wrists)
    ahead = {s: d / np.linalg.norm(d, axis=1, keepdims=True) for s, d in directions.items()}
    for _ in range(6):
        push = np.zeros_like(at["left"])
        for a in _ALONG_HAND:
            for b in _ALONG_HAND:
                gap = (at["left"] + a * ahead["left"]) - (at["right"] + b * ahead["right"])
                need = np.clip(_APART - np.linalg.norm(gap, axis=1, keepdims=True), 0, None)
                away = gap * np.array([1.0, 1.0, 0.5]) + np.array([1e-3, 0, 0])
                away *= need / np.linalg.norm(away, axis=1, keepdims=True)
                push = np.where(need > np.linalg.norm(push, axis=1, keepdims=True), away, push)
        push = smooth(push, 1.5)
        at["left"], at["right"] = at["left"] + 0.5 * push, at["right"] - 0.5 * push
        for side in at:
            short = np.zeros(len(push))
            for a, margin in zip(_ALONG_HAND, _OFF_BODY, strict=True):
                p = at[side] + a * ahead[side]
                short = np.maximum(short, front.at(p) + margin - p[:, 2])
            wide = smooth(np.maximum(short, 0), 1.5)
            at[side] = at[side] + np.maximum(wide, 0)[:, None] * np.array([0, 0, 1.0])
    return at
