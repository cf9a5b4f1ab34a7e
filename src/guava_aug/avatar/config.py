"""The network's sizes, as the official `config.yaml` (section MODEL) gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ..errors import AssetError


@dataclass(frozen=True)
class VitConfig:
    """DINOv2's transformer. The official one is ViT-B/14 pre-trained at 37 x 37 patches."""

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    patch_size: int = 14


@dataclass(frozen=True)
class StyleUNetConfig:
    in_size: int = 512
    out_size: int = 512
    in_dim: int = 32
    out_dim: int = 3
    num_style_feat: int = 512
    num_mlp: int = 8
    channel_scale: float = 1  # divides every channel count
    max_channels: int = 256  # and none is larger; ours: the original's widest is 256
    small: bool = True


@dataclass(frozen=True)
class ModelConfig:
    """Defaults are the official configuration. `vit`, `projects` and `uv_decoder` are ours: the original fixes them."""

    color_dim: int = 32
    uvmap_size: int = 512
    feature_img_size: int = 518
    image_size: int = 512
    invtanfov: float = 24
    dino_out_dim: int = 32
    uv_out_dim: int = 96
    uv_base_dim: int = 32
    smplx_fea_dim: int = 128
    prj_out_dim: int = 128
    global_vertex_dim: int = 256
    opacity_threshold: float = 0.001
    visibility: str = "face"  # ours: "point" hides texels and vertices one by one (`avatar.occlusion`)
    vit: VitConfig = VitConfig()
    projects: tuple[int, int, int, int] = (256, 512, 1024, 1024)  # widths of the feature pyramid
    uv_decoder: StyleUNetConfig = field(default_factory=lambda: StyleUNetConfig(in_dim=35, out_dim=96, small=False))
    refiner: StyleUNetConfig = StyleUNetConfig()

    @property
    def tanfov(self) -> float:
        """Tangent of half the field of view."""
        return 1.0 / self.invtanfov

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(d: Mapping[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`."""
        d = dict(d)
        return ModelConfig(
            **{
                **d,
                "vit": VitConfig(**d["vit"]),
                "projects": tuple(d["projects"]),
                "uv_decoder": StyleUNetConfig(**d["uv_decoder"]),
                "refiner": StyleUNetConfig(**d["refiner"]),
            }
        )

    @staticmethod
    def from_yaml(path: Path | str) -> ModelConfig:
        """The configuration of an official `config.yaml`. Raises AssetError if it is not one."""
        path = Path(path)
        try:
            section = yaml.safe_load(path.read_text(encoding="utf-8"))["MODEL"]
        except (OSError, yaml.YAMLError, KeyError, TypeError) as e:
            raise AssetError(f"cannot read the configuration {path}: {e!r}; expected YAML with a MODEL section") from e
        if section.get("refiner_type", "styleunet") != "styleunet":
            raise AssetError(f"{path}: refiner_type is {section['refiner_type']!r}; only 'styleunet' is supported")
        known = {f.name for f in fields(ModelConfig)} - {"vit", "projects", "uv_decoder", "refiner"}
        plain = {k: v for k, v in section.items() if k in known}
        if plain.get("visibility", "face") not in ("face", "point"):
            raise AssetError(f"{path}: visibility is {plain['visibility']!r}; expected 'face' or 'point'")
        dino_out, uv_size, uv_out = (
            section.get(k, getattr(ModelConfig, k)) for k in ("dino_out_dim", "uvmap_size", "uv_out_dim")
        )
        uv_decoder = {"in_size": uv_size, "out_size": uv_size, "in_dim": dino_out + 3, "out_dim": uv_out}
        uv_decoder["small"] = False
        try:
            return ModelConfig(
                **plain,
                vit=VitConfig(**section.get("vit", {})),
                projects=tuple(section.get("projects", ModelConfig.projects)),
                uv_decoder=StyleUNetConfig(**{**uv_decoder, **section.get("uv_decoder", {})}),
                refiner=StyleUNetConfig(**section.get("styleunet", {})),
            )
        except TypeError as e:
            raise AssetError(f"{path}: the MODEL section has an entry this version does not know: {e}") from e
