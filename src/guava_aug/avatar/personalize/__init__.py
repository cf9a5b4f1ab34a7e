"""Likeness: the avatar of one video, fitted to the video's own frames."""

from guava_aug.avatar.personalize.avatar_file import AvatarFile, read_avatar_file, write_avatar_file
from guava_aug.avatar.personalize.config import PRESETS, PersonalizeConfig, Rates, Weights
from guava_aug.avatar.personalize.fit import Fit, Personalized, personalize
from guava_aug.avatar.personalize.guess import guess_avatar
from guava_aug.avatar.personalize.observations import Observations
from guava_aug.avatar.personalize.video import PersonalizedVideo, personalize_video

__all__ = [
    "PRESETS",
    "AvatarFile",
    "Fit",
    "Observations",
    "PersonalizeConfig",
    "Personalized",
    "PersonalizedVideo",
    "Rates",
    "Weights",
    "guess_avatar",
    "personalize",
    "personalize_video",
    "read_avatar_file",
    "write_avatar_file",
]
