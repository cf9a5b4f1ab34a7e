"""GUAVA's networks: from a source frame to an avatar, and from an avatar to posed Gaussians.

Modules are imported on first use, so that finding a checkpoint does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guava_aug.runtime.imports import lazy_attributes

if TYPE_CHECKING:
    from guava_aug.avatar.avatar import Avatar, PosedGaussians
    from guava_aug.avatar.config import ModelConfig, StyleUNetConfig, VitConfig
    from guava_aug.avatar.network import Reconstruction, ReconstructionNetwork
    from guava_aug.avatar.styleunet import StyleUNet

__all__ = [
    "Avatar",
    "ModelConfig",
    "PosedGaussians",
    "Reconstruction",
    "ReconstructionNetwork",
    "StyleUNet",
    "StyleUNetConfig",
    "VitConfig",
]

_WHERE = {
    "Avatar": "avatar",
    "ModelConfig": "config",
    "PosedGaussians": "avatar",
    "Reconstruction": "network",
    "ReconstructionNetwork": "network",
    "StyleUNet": "styleunet",
    "StyleUNetConfig": "config",
    "VitConfig": "config",
}

__getattr__ = lazy_attributes(__name__, _WHERE)
