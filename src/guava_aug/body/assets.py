"""The body model's numbers: one frozen object, wherever they were loaded from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearModel:
    """One linear-blend-skinned mesh (the SMPL-X-like body or the FLAME-like head). float32."""

    v_template: Tensor  # [P, 3] metres
    shapedirs: Tensor  # [P, 3, S] metres per unit coefficient
    exprdirs: Tensor  # [P, 3, E]
    posedirs: Tensor  # [9 * (J - 1), P * 3]; zero rows allowed: shape [0, P * 3] means no pose blend shapes
    J_regressor: Tensor  # [J, P]
    lbs_weights: Tensor  # [P, J]
    parents: Tensor  # [J] int64, parents[0] == -1

    def to(self, device: torch.device | str) -> LinearModel:
        return LinearModel(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class EhmAssets:
    """Everything the EHM forward pass and the UV chart need. Topology is free: counts come from here."""

    body: LinearModel  # P vertices, teeth included
    head: LinearModel  # Ph vertices
    faces: Tensor  # [F, 3] int64 into body vertices
    head_to_body: Tensor  # [Ph] int64: head vertex -> body vertex it overwrites
    left_hand: Tensor  # [.] int64 body vertices
    right_hand: Tensor  # [.] int64
    left_hand_center: Tensor  # [3] mean of the TEMPLATE left-hand vertices
    right_hand_center: Tensor  # [3]
    left_eyelid: Tensor  # [Ph, 3] offset at eyelid coefficient 1
    right_eyelid: Tensor  # [Ph, 3]
    v_canonical: Tensor  # [P, 3] body template with the head template inserted
    texcoords: Tensor  # [Vt, 2] u, v in 0..1, v already flipped (row = v)
    faces_uv: Tensor  # [F, 3] int64 into texcoords
    uv_face: Tensor  # [U, U] int32 face of each texel, -1 none
    uv_bary: Tensor  # [U, U, 3] barycentrics of each texel in its face

    @property
    def uv_size(self) -> int:
        return self.uv_face.shape[0]

    def to(self, device: torch.device | str) -> EhmAssets:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})
