"""Normals of a mesh at its vertices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def area_normals(
    vertices: Tensor,  # [..., P, 3]
    faces: Tensor,  # [F, 3]
) -> Tensor:
    """Return [..., P, 3] normals, outwards, each as long as twice the area of the faces around the vertex."""
    a, b, c = (vertices[..., faces[:, k], :] for k in range(3))
    normal = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for k in range(3):
        total.index_add_(-2, faces[:, k], normal)
    return total


def vertex_normals(
    vertices: Tensor,  # [..., P, 3]
    faces: Tensor,  # [F, 3]
) -> Tensor:
    """Return [..., P, 3] unit normals, outwards, area weighted; zero where a vertex has no face."""
    return F.normalize(area_normals(vertices, faces), dim=-1)
