"""GUAVA's networks: a source frame becomes an avatar, an avatar becomes posed Gaussians."""

from .avatar import Avatar, PosedGaussians
from .config import ModelConfig, StyleUNetConfig, VitConfig
from .network import Reconstruction, ReconstructionNetwork
from .styleunet import StyleUNet

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
