"""Where the landmarks of the detector lie on the body: a small file, made from generated people.

The numbers are for the embedded body model (`apps.synthetic.bake.landmarks` makes them). For another model, such as the
official one, `on_body` carries them over by the joints' names and by the surface of the head.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from guava_aug.assets import embedded_path
from guava_aug.body.files import read_arrays
from guava_aug.errors import AssetError

FILE = "landmarks.npz"
NUM_POSE, NUM_HAND, NUM_FACE = 33, 21, 468


@dataclass(frozen=True)
class Calibration:
    """Landmarks of the detector on a body model. Metres on the mean body at rest, float64."""

    pose_joints: Tensor  # [33] int64 joint that each point of the body rides on
    pose_offsets: Tensor  # [33, 3] from that joint
    pose_sigma: Tensor  # [33] what the detector scatters about it, metres across the line of sight
    hand_joints: Tensor  # [2, 21] left hand, right hand
    hand_offsets: Tensor  # [2, 21, 3]
    hand_sigma: Tensor  # [21]
    bone_maps: Tensor  # [20, 3, 4] from a direction seen in `hands_world` (and 1) to the true one, of a left hand
    bone_sigma: Tensor  # [20] scatter of the directions of hand bones in `hands_world` (see `HAND_BONES`)
    limb_maps: Tensor  # [4, 3, 4] likewise of `pose_world`, of the left side
    limb_sigma: Tensor  # [4] of upper arms, forearms, shoulders, trunk in `pose_world` (see `LIMBS`)
    face_vertices: Tensor  # [468, 3] int64 head vertices
    face_weights: Tensor  # [468, 3]
    face_sigma: Tensor  # [468]
    iris_offsets: Tensor  # [2, 3] middle of the iris from the eye's joint
    iris_sigma: Tensor  # []
    pose_mean: Tensor  # [D] of `rig.PoseSpace`, signing people
    pose_covariance: Tensor  # [D, D]
    pose_acceleration: Tensor  # [D] usual second differences per (1/25 s)^2
    expression_mean: Tensor  # [E]
    expression_covariance: Tensor  # [E, E]
    expression_acceleration: Tensor  # [E]

    def save(self, path: Path) -> None:
        """Write the file."""
        arrays = {f.name: getattr(self, f.name).numpy() for f in fields(self)}
        small = {k: a.astype(np.float32) if a.dtype.kind == "f" else a.astype(np.int32) for k, a in arrays.items()}
        np.savez_compressed(path, **small)

    @staticmethod
    def load(path: Path | None = None) -> Calibration:
        """Return the calibration of a file; default: that of the embedded body.

        Raises:
            AssetError: The file is missing or something else.
        """
        path = path or embedded_path(FILE)
        names = [f.name for f in fields(Calibration)]
        raw = read_arrays(path, "the calibration of landmarks", names)
        tensors = {
            k: torch.from_numpy(a.astype(np.int64 if a.dtype.kind in "iu" else np.float64)) for k, a in raw.items()
        }
        found = Calibration(**tensors)
        if tuple(found.face_vertices.shape) != (NUM_FACE, 3) or tuple(found.hand_offsets.shape) != (2, NUM_HAND, 3):
            raise AssetError(
                f"{path} is not a calibration of landmarks: face_vertices {list(found.face_vertices.shape)}, expected "
                f"[{NUM_FACE}, 3]; make it again with `python -m guava_aug.apps.synthetic.bake.landmarks`"
            )
        return found


HAND_BONES = tuple((a, a + 1) if a % 4 else (0, a + 1) for a in range(20))  # landmark to landmark, wrist first
LIMBS = ((11, 13), (13, 15), (12, 14), (14, 16), (12, 11), (24, 12), (23, 11))  # of the body's 33 points
LIMB_SIDES = (1, 1, -1, -1, 1, -1, 1)  # 1 left, -1 right: the mirror of a limb
LIMB_KINDS = (0, 1, 0, 1, 2, 3, 3)  # entry of `limb_sigma`
PAIRS = LIMBS + tuple((NUM_POSE + NUM_HAND * s + a, NUM_POSE + NUM_HAND * s + b) for s in (0, 1) for a, b in HAND_BONES)


def corrected(directions: Tensor, maps: Tensor, side: int) -> Tensor:
    """Return unit directions [..., 3] as they are on average where the detector says `directions`.

    The detector foreshortens, and puts arms nearer to the camera than they are.

    Args:
        directions: [..., 3] unit, camera axes.
        maps: [3, 4] of the left side.
        side: 1 left, -1 right, where right and left change in the picture.
    """
    mirror = directions.new_tensor([float(side), 1.0, 1.0])
    seen = directions * mirror
    true = seen @ maps[:, :3].T + maps[:, 3]
    out: Tensor = true / true.norm(dim=-1, keepdim=True).clamp(min=1e-9) * mirror
    return out
