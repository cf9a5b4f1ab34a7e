"""The arrays of the body model in one frozen object, independent of the file they were loaded from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from guava_aug.errors import AssetError

BODY_JOINTS = 55  # whose poses `Motion` has: one, 21 of the body, jaw and eyes, 15 of each hand
HEAD_JOINTS = 5  # root, neck, jaw, left and right eye


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
        """Return a copy on `device`."""
        return LinearModel(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class EhmAssets:
    """The arrays of the EHM forward pass and the UV chart. Any topology: all counts are read from the shapes."""

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
        """Return the side of the UV chart in texels."""
        return self.uv_face.shape[0]

    def to(self, device: torch.device | str) -> EhmAssets:
        """Return a copy on `device`."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def check_assets(assets: EhmAssets, what: str) -> None:
    """Check that a body model can be posed: consistent shapes, indices in range, finite numbers.

    Args:
        assets: The body model.
        what: Beginning of the message, such as "the body model of FILE".

    Raises:
        AssetError: Names the entry, its value and the expected one.
    """
    a = assets
    for name, model in (("body.v_template", a.body), ("head.v_template", a.head)):
        _expect(model.v_template.ndim == 2 and len(model.v_template) > 0, what, name, model.v_template, "[vertices, 3]")
    points, head_points, faces = len(a.body.v_template), len(a.head.v_template), len(a.faces)
    for prefix, model, joints in (("body", a.body, BODY_JOINTS), ("head", a.head, HEAD_JOINTS)):
        n = len(model.v_template)
        shapes: dict[str, tuple[int, ...]] = {
            "v_template": (n, 3), "shapedirs": (n, 3, -1), "exprdirs": (n, 3, -1), "J_regressor": (joints, n),
            "lbs_weights": (n, joints), "posedirs": (9 * (joints - 1) if len(model.posedirs) else 0, n * 3),
        }  # fmt: skip
        for name, shape in shapes.items():
            _check_floats(what, f"{prefix}.{name}", getattr(model, name), shape)
        _check_indices(what, f"{prefix}.parents", model.parents, (joints,), -1, joints)
        before = torch.arange(joints, device=model.parents.device)
        tree = bool((model.parents < before).all()) and bool((model.parents[1:] >= 0).all())
        _expect(tree, what, f"{prefix}.parents", model.parents, "-1, and then a joint before each")
    for name, shape in {
        "left_hand_center": (3,), "right_hand_center": (3,), "left_eyelid": (head_points, 3),
        "right_eyelid": (head_points, 3), "v_canonical": (points, 3), "texcoords": (-1, 2),
        "uv_bary": (a.uv_face.shape[0] if a.uv_face.ndim else -1, -1, 3),
    }.items():  # fmt: skip
        _check_floats(what, name, getattr(a, name), shape)
    _expect(faces > 0, what, "faces", a.faces, "[faces, 3]")
    _check_indices(what, "faces", a.faces, (faces, 3), 0, points)
    _check_indices(what, "faces_uv", a.faces_uv, (faces, 3), 0, len(a.texcoords))
    _check_indices(what, "head_to_body", a.head_to_body, (head_points,), 0, points)
    for name in ("left_hand", "right_hand"):
        _check_indices(what, name, getattr(a, name), (-1,), 0, points)
    side = a.uv_bary.shape[0]
    _check_indices(what, "uv_face", a.uv_face, (side, side), -1, faces)
    _expect(a.uv_bary.shape[1] == side, what, "uv_bary", a.uv_bary, f"[{side}, {side}, 3]")


def _check_floats(what: str, name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    fits = value.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, value.shape, strict=True))
    _expect(fits and value.is_floating_point(), what, name, value, f"numbers {_shape_text(shape)}")
    if not bool(torch.isfinite(value.sum())) and not bool(torch.isfinite(value).all()):
        raise AssetError(f"{what}: {name} has values that are not finite; the file is damaged")


def _check_indices(what: str, name: str, value: Tensor, shape: tuple[int, ...], low: int, end: int) -> None:
    fits = value.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, value.shape, strict=True))
    whole = value.dtype in (torch.int64, torch.int32)
    _expect(fits and whole, what, name, value, f"int32 or int64 {_shape_text(shape)}")
    if value.numel() and not low <= int(value.min()) <= int(value.max()) < end:
        raise AssetError(
            f"{what}: {name} goes from {int(value.min())} to {int(value.max())}, expected {low} to {end - 1}"
        )


def _shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join("any" if n < 0 else str(n) for n in shape) + "]"


def _expect(fits: bool, what: str, name: str, value: Tensor, expected: str) -> None:
    if not fits:
        raise AssetError(f"{what}: {name} is {value.dtype} {_shape_text(tuple(value.shape))}, expected {expected}")
