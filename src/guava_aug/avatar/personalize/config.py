"""How an avatar is fitted to the frames of its own video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Rates:
    """Learning rates of Adam at their highest; 0 keeps a quantity as it was.

    Poses, cameras and shapes move little: one camera cannot tell depth, and what they gain in the own view they lose in
    others.
    """

    pose: float = 6e-4  # radians
    hands: float = 9e-4
    face: float = 5e-3  # expression, jaw, eyes, eyelids
    camera: float = 3e-4  # metres
    shape: float = 3e-3  # shape coefficients of body and head
    color: float = 3e-2  # logits of RGB
    features: float = 5e-3
    opacity: float = 1e-2  # logits
    scales: float = 5e-3  # logarithms
    place: float = 5e-3  # units of the face scale
    offsets: float = 1e-3  # metres off the body, of the fine functions
    thickness: float = 5e-4  # metres, of the coarse functions
    matching: float = 2e-3  # colours of other cameras


@dataclass(frozen=True)
class Weights:
    """Of the loss terms."""

    picture: float = 3.0
    ssim: float = 0.3
    edges: float = 2.0
    alpha: float = 1.0
    raw: float = 1.0  # the first three splatted channels
    pose: float = 3.0  # squared change of body pose; hands have a sixth, expressions a thousandth
    camera: float = 9.0  # 1/m^2
    depth: float = 0.5  # 1/dm^2: squared change of joints along the line of sight
    shape: float = 1e-3
    color: float = 1e-4
    place: float = 0.02
    scales: float = 0.02
    offsets: float = 0.01  # 1/cm^2
    thickness: float = 1e-3  # 1/cm^2


@dataclass(frozen=True)
class FitConfig:
    """What every fit to pictures has."""

    steps: int = 250
    frames_per_step: int = 4
    warmup: int = 50  # steps until the rates are at their highest
    seed: int = 0
    rates: Rates = field(default_factory=Rates)
    weights: Weights = field(default_factory=Weights)
    face_weight: float = 2.0  # of pixels
    hand_weight: float = 2.0
    blur_speed: float = 6.0  # pixels a frame at which a hand counts half; 0: all alike


@dataclass(frozen=True)
class PersonalizeConfig(FitConfig):
    """Defaults were chosen by the likeness in cameras that the fit did not see (docs/likeness.md)."""

    most_frames: int = 128  # of a video; of a longer one so many are chosen, and memory does not grow further
    guess_frames: int = 16  # the network looks at so many frames before the fit begins
    held_out_every: int = 4  # every so many frames one is kept from the appearance; 0: none
    release: float = 2.0  # pixels of weight at which a Gaussian is half free
    clothes: float = 0.01  # metres that clothes and hair stand off the body before anything is seen
    match_colors: bool = False  # an affine change of colour for every camera but the first


# What `--personalize` offers. A step costs the same in both; `fast` takes fewer, and looks at fewer frames.
PRESETS: Mapping[str, PersonalizeConfig] = MappingProxyType({
    "fast": PersonalizeConfig(steps=100, frames_per_step=2, most_frames=48, guess_frames=6),
    "full": PersonalizeConfig(),
})  # fmt: skip
