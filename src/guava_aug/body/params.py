"""The parameters of the body model: identity and motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # typing has it from Python 3.11 on
    from typing_extensions import Self


class _TensorRecord:
    """Base of frozen dataclasses whose fields are all tensors: adds `to`."""

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on `device`."""
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Identity(_TensorRecord):
    """The parameters that are constant within a video. All float32, no batch dimension."""

    betas: Tensor  # [S] SMPL-X shape coefficients; S <= 300, missing ones count as zero
    flame_betas: Tensor  # [S'] FLAME shape coefficients
    head_scale: Tensor  # [3] componentwise factor of the head vertices
    hand_scale: Tensor  # [3] componentwise factor of the hand vertices
    joints_offset: Tensor  # [J, 3] metres, added to the regressed joints


@dataclass(frozen=True)
class Motion(_TensorRecord):
    """T frames of pose. Rotations are axis-angle vectors in radians; all float32."""

    global_orient: Tensor  # [T, 3]
    body_pose: Tensor  # [T, 21, 3]
    left_hand_pose: Tensor  # [T, 15, 3] absolute, not relative to a mean hand
    right_hand_pose: Tensor  # [T, 15, 3]
    expression: Tensor  # [T, 50] SMPL-X expression (the tracker's `exp`)
    flame_expression: Tensor  # [T, 50]
    jaw_pose: Tensor  # [T, 3]
    eye_pose: Tensor  # [T, 2, 3] left, right
    eyelids: Tensor  # [T, 2] left, right; 0 open, 1 closed

    def __len__(self) -> int:
        """Return the number of frames T."""
        return self.global_orient.shape[0]

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> Motion:
        """Return the selected frames as another Motion. An int is refused: the frame dimension has to stay."""
        if isinstance(index, int):
            raise TypeError("Motion[i] would drop the frame dimension; use Motion[i:i+1]")
        return Motion(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @staticmethod
    def cat(parts: Sequence[Motion]) -> Motion:
        """Return the concatenation of motions over frames."""
        return Motion(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Motion)})
