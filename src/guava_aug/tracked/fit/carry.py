"""The calibration for another body model, such as the official one.

Joints have the same names in every model, so what rides on joints is carried over as it is. Face landmarks are carried
over by the surface of the head: the other head is moved and shaped until it lies on ours, and each landmark goes to the
nearest place on it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from guava_aug.assets import embedded_path
from guava_aug.body.assets import EhmAssets, LinearModel
from guava_aug.body.files import load_body_file
from guava_aug.tracked.fit.calibration import Calibration
from guava_aug.tracked.fit.rig import NUM_EXPRESSION

_ROUNDS = 12
_SHAPES = 50  # coefficients of the other head that bring it to ours
_RIDGE = 3e-6  # square metres that a coefficient of one costs, for each landmark
_EXPRESSION_JUMP = 0.3  # usual second differences of components of standard deviation one
_CANDIDATES = 12  # nearest vertices whose triangles are tried


def calibration_for(assets: EhmAssets, calibration: Calibration | None = None) -> Calibration:
    """Return the calibration for a body model; `calibration` is of the embedded one, default: the package's."""
    calibration = calibration or Calibration.load()
    own = load_body_file(embedded_path("body.npz"), uv_size=64)
    same = own.head.v_template.shape == assets.head.v_template.shape
    if same and bool((own.head.v_template - assets.head.v_template.cpu()).abs().max() < 1e-4):
        return calibration
    return carried(calibration, own, assets)


def carried(calibration: Calibration, own: EhmAssets, other: EhmAssets) -> Calibration:
    """Return a calibration of `own` for the body model `other`."""
    c = calibration
    target = (own.head.v_template.double()[c.face_vertices] * c.face_weights[..., None]).sum(1)  # [468, 3]
    head = other.head.v_template.double()
    dirs = other.head.shapedirs[..., :_SHAPES].double()
    scale, R, t = _similarity(_joints(own.head), _joints(other.head))
    target = scale * target @ R.T + t
    shown, faces = front_of_head(other)
    shape = torch.zeros(dirs.shape[-1], dtype=torch.float64)
    ids, weights = _nearest(head, shown, faces, target)
    for _ in range(_ROUNDS):
        at = ((head + dirs @ shape)[ids] * weights[..., None]).sum(1)
        scale, R, t = _similarity(target, at)
        target = scale * target @ R.T + t
        slopes = (dirs[ids] * weights[..., None, None]).sum(1).flatten(0, 1)  # [468 * 3, S]
        off = (target - (head[ids] * weights[..., None]).sum(1)).flatten()
        ridge = _RIDGE * len(target) * torch.eye(len(shape), dtype=torch.float64)
        shape = torch.linalg.solve(slopes.T @ slopes + ridge, slopes.T @ off)
        ids, weights = _nearest(head + dirs @ shape, shown, faces, target)
    moved = replace(c, face_vertices=ids, face_weights=weights)
    return _with_component_expressions(moved)


def _with_component_expressions(c: Calibration) -> Calibration:
    """Return the calibration with expressions as independent components of standard deviation one."""
    E = NUM_EXPRESSION
    mean, covariance, jumps = (
        c.expression_mean.clone(),
        c.expression_covariance.clone(),
        c.expression_acceleration.clone(),
    )
    mean[:E], jumps[:E] = 0, _EXPRESSION_JUMP
    covariance[:E], covariance[:, :E] = 0, 0
    covariance[:E, :E] = torch.eye(E, dtype=torch.float64)
    return replace(c, expression_mean=mean, expression_covariance=covariance, expression_acceleration=jumps)


def _joints(head: LinearModel) -> Tensor:
    out: Tensor = (head.J_regressor @ head.v_template)[1:].double()
    return out


def _similarity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return scale, rotation and translation that bring points a [N, 3] to b (Umeyama, 1991)."""
    x, y = a - a.mean(0), b - b.mean(0)
    U, D, Vt = torch.linalg.svd(y.T @ x)
    sign = torch.ones(3, dtype=a.dtype)
    sign[2] = torch.sign(torch.linalg.det(U @ Vt))
    R = U @ torch.diag(sign) @ Vt
    scale = (D * sign).sum() / (x**2).sum()
    return scale, R, b.mean(0) - scale * R @ a.mean(0)


def front_of_head(assets: EhmAssets) -> tuple[Tensor, Tensor]:
    """Return the head vertices that can be seen from the front, and the triangles between them, without eyeballs."""
    rest = assets.head.v_template.double()
    inverse = torch.full((len(assets.body.v_template),), -1)
    inverse[assets.head_to_body] = torch.arange(len(assets.head_to_body))
    faces = inverse[assets.faces]
    faces = faces[(faces >= 0).all(1)]
    used = torch.zeros(len(rest), dtype=torch.bool)
    used[faces.flatten()] = True
    outer = used & (assets.head.lbs_weights[:, 3:5].sum(1) <= 0.5)
    # hidden: something lies in front of it
    beside = torch.cdist(rest[:, :2], rest[:, :2]) < 0.004
    in_front = rest[None, :, 2] > rest[:, None, 2] + 0.006
    shown = outer & ~(beside & in_front & outer[None]).any(1)
    return shown.nonzero()[:, 0], faces[shown[faces].all(1)]


def _nearest(vertices: Tensor, shown: Tensor, faces: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return vertices [N, 3] and weights [N, 3] of the nearest places on a surface."""
    near = shown[torch.cdist(points, vertices[shown]).topk(_CANDIDATES, largest=False).indices]  # [N, C]
    ids, weights = [], []
    for p, around in zip(points, near, strict=True):
        tried = faces[torch.isin(faces, around).any(1)]
        a, b, c = vertices[tried].unbind(1)
        basis = torch.stack([b - a, c - a], -1)  # [M, 3, 2]
        flat = torch.linalg.lstsq(basis, (p - a)[..., None]).solution[..., 0]
        w = torch.cat([1 - flat.sum(1, keepdim=True), flat], 1).clamp(0, 1)
        w = w / w.sum(1, keepdim=True)
        best = int(((vertices[tried] * w[..., None]).sum(1) - p).norm(dim=1).argmin())
        ids.append(tried[best])
        weights.append(w[best])
    return torch.stack(ids), torch.stack(weights)
