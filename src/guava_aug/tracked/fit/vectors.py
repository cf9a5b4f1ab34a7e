"""Rotation vectors of a motion as the rig counts them."""

from __future__ import annotations

import torch
from torch import Tensor

from guava_aug.body.ehm import axis_angle_to_matrix
from guava_aug.body.params import Motion
from guava_aug.tracked.fit.rig import rotation_vector


def pose_vectors(motion: Motion) -> Tensor:
    """Return rotation vectors [T, 55, 3] of the joints, float64, the root's relative to facing the camera."""
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    root = rotation_vector(axis_angle_to_matrix(motion.global_orient.double()) @ flip)
    zeros = torch.zeros(len(motion), 3, 3, dtype=torch.float64)
    hands = (motion.left_hand_pose.double(), motion.right_hand_pose.double())
    return torch.cat([root[:, None], motion.body_pose.double(), zeros, *hands], 1)
