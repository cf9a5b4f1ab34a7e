"""EHM: identity and motion in, posed vertices and their frames out."""

from .assets import EhmAssets, LinearModel, check_assets
from .ehm import EhmModel, PosedBody, RestShape
from .files import load_body_file
from .official import assets_from_checkpoint, load_official_assets
from .params import Identity, Motion

__all__ = [
    "EhmAssets",
    "EhmModel",
    "Identity",
    "LinearModel",
    "Motion",
    "PosedBody",
    "RestShape",
    "assets_from_checkpoint",
    "check_assets",
    "load_body_file",
    "load_official_assets",
]
