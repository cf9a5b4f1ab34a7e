"""Likeness: the avatar of one video, fitted to the video's own frames."""

from .avatar_file import AvatarFile, read_avatar_file, write_avatar_file
from .config import PersonalizeConfig, Rates, Weights
from .fit import Fit, Personalized, personalize
from .guess import guess_avatar
from .observations import Observations

__all__ = [
    "AvatarFile",
    "Fit",
    "Observations",
    "PersonalizeConfig",
    "Personalized",
    "Rates",
    "Weights",
    "guess_avatar",
    "personalize",
    "read_avatar_file",
    "write_avatar_file",
]
