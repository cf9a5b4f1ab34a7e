"""A GUAVA model with every part and next to no size: random weights on the free body."""

from __future__ import annotations

from pathlib import Path

import torch

from guava_aug.apps.synthetic import default_body_path
from guava_aug.avatar import ModelConfig, ReconstructionNetwork, StyleUNet
from guava_aug.avatar.checkpoint import write_safetensors
from guava_aug.avatar.config import StyleUNetConfig, VitConfig
from guava_aug.body import load_body_file

SIZE = 128  # pixels of its pictures
UV_SIZE = 64


def write_tiny_model(path: Path, size: int = SIZE) -> Path:
    """Writes the model as one .safetensors file (30 MB, nearly all of it the body); always the same of one size."""
    torch.manual_seed(0)
    unet = {"num_style_feat": 16, "num_mlp": 2, "channel_scale": 8}
    config = ModelConfig(
        color_dim=8, uvmap_size=UV_SIZE, feature_img_size=70, image_size=size, dino_out_dim=8, uv_out_dim=16,
        uv_base_dim=4, smplx_fea_dim=8, prj_out_dim=8, global_vertex_dim=8, projects=(8, 8, 16, 16),
        vit=VitConfig(embed_dim=32, num_heads=2),
        uv_decoder=StyleUNetConfig(in_size=UV_SIZE, out_size=UV_SIZE, in_dim=11, out_dim=16, small=False, **unet),
        refiner=StyleUNetConfig(in_size=size, out_size=size, in_dim=8, **unet),
    )  # fmt: skip
    assets = load_body_file(default_body_path(), UV_SIZE)
    network = ReconstructionNetwork(config, len(assets.body.v_template))
    write_safetensors(path, config, network.state_dict(), StyleUNet(config.refiner).state_dict(), assets)
    return path
