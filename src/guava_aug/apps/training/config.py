"""What a training run is: the network's sizes (as in the official config.yaml) and the recipe."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from guava_aug.avatar.config import ModelConfig, read_yaml
from guava_aug.errors import AssetError, UsageError

_FOLDER = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class LossWeights:
    """Factors of the terms of the training loss."""

    refined: float = 1.0  # L1 of the composited picture
    unblended: float = 0.5  # L1 of the refined colours without the source's own pixels; only with `source_pixels`
    coarse: float = 0.0  # L1 of the composited picture's means over 9 x 9 pixels
    texture: float = 0.0  # detail near each pixel, wherever exactly it lies (`image_losses.texture_loss`)
    raw: float = 0.5  # L1 of the first three splatted channels
    ssim: float = 0.2  # 1 - SSIM of the composited picture
    edges: float = 0.5  # L1 of image gradients at three scales, the stand-in for a perceptual loss
    alpha: float = 0.5
    head: float = 0.25  # the original's head_crop
    hand: float = 0.1  # the original's hand_crop, each hand
    local_pos: float = 0.01  # the original's lambda_local_xyz
    local_pos_free: float = 3.0  # face scales a UV Gaussian may leave its face at no cost
    local_scale: float = 1.0
    local_scale_free: float = 0.6  # face scales


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run."""

    steps: int = 15_000
    subjects_per_step: int = 4
    targets_per_person: int = 3
    lr: float = 5e-4
    lr_final: float = 0.02  # share of `lr` at the end
    warmup: int = 200  # steps, after a start or a resume
    betas: tuple[float, float] = (0.9, 0.99)  # the original has (0.0, 0.99), which wants a smaller lr
    ema: float = 0.999
    grad_clip: float = 1.0
    amp: bool = True  # bfloat16 for the networks on CUDA; splatting stays float32
    graphs: bool = True  # the networks as CUDA graphs
    recolor: bool = True  # half of the subjects of a batch in other colours
    # what makes training data like tracked videos; 0 is as in 0.1.0
    lenses: float = 0.0  # share of the generated subjects that are seen through a true lens, not the format's
    tracker_errors: float = 0.0  # share of the generated subjects whose body and cameras are those of a tracker's fit
    degraded: float = 0.0  # share of the source pictures with a video's and a mask's errors
    only: tuple[str, ...] = ()  # beginnings of the names of weights to train (then without CUDA graphs); none: all
    seed: int = 0
    validate_every: int = 1000
    save_every: int = 500
    losses: LossWeights = field(default_factory=LossWeights)

    @staticmethod
    def from_yaml(path: Path | str) -> tuple[ModelConfig, TrainConfig]:
        """Return both halves of a training configuration: MODEL (as in the official config.yaml) and TRAIN (optional).

        Raises AssetError naming an entry this version does not know.
        """
        path = Path(path)
        model = ModelConfig.from_yaml(path)
        section: dict[str, Any] = read_yaml(path).get("TRAIN") or {}
        if not isinstance(section, dict):
            raise AssetError(f"{path}: the TRAIN section is {section!r}; expected entries such as `steps: 15000`")
        if "people_per_step" in section:  # its name up to 0.1.0
            section.setdefault("subjects_per_step", section.pop("people_per_step"))
        losses = section.pop("losses", None) or {}
        for given, kind in ((section, TrainConfig), (losses, LossWeights)):
            unknown = sorted(set(given) - {f.name for f in fields(kind)})
            if unknown:
                known = ", ".join(f.name for f in fields(kind))
                raise AssetError(
                    f"{path}: the TRAIN section has an entry this version does not know: {', '.join(unknown)}; "
                    f"expected some of {known} (in place of GUAVA's own config.yaml: --config official)"
                )
        for name in ("lenses", "tracker_errors", "degraded"):
            share = section.get(name, 0.0)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise AssetError(f"{path}: TRAIN.{name} is {share!r}; expected a share of the subjects, 0 to 1")
        only = section.get("only", [])
        if not isinstance(only, list) or not all(isinstance(name, str) for name in only):
            raise AssetError(f"{path}: TRAIN.only is {only!r}; expected a list of names such as [network.source_blend]")
        for name in ("betas", "only"):
            if name in section:
                section[name] = tuple(section[name])
        return model, TrainConfig(**section, losses=LossWeights(**losses))


def config_names() -> list[str]:
    """Return the configurations that ship with the package."""
    return sorted(p.stem for p in _FOLDER.glob("*.yaml"))


def find_config(name: str) -> Path:
    """Return the file of a configuration: one of `config_names()`, or the path of a YAML file.

    Raises UsageError with the names there are.
    """
    if name in config_names():
        return _FOLDER / f"{name}.yaml"
    if Path(name).is_file():
        return Path(name)
    near = difflib.get_close_matches(name, config_names(), 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(
        f"--config {name}: there is no such configuration; {hint}expected {', '.join(config_names())}, or the path of "
        "a YAML file with the sections MODEL and TRAIN"
    )
