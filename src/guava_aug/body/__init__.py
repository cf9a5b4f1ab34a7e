"""EHM: posed vertices and joint transforms of an identity and a motion."""

from guava_aug.body.assets import EhmAssets, LinearModel, check_assets
from guava_aug.body.ehm import EhmModel, PosedBody, RestShape
from guava_aug.body.files import load_body_file
from guava_aug.body.official import assets_from_checkpoint, load_official_assets
from guava_aug.body.params import Identity, Motion

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
