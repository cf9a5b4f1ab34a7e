"""A very small network on the shipped body, and one made-up person with pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guava_aug.apps.synthetic import default_body_path
from guava_aug.apps.training.data import PersonViews, format_lenses
from guava_aug.avatar.avatar import vertex_turns
from guava_aug.avatar.config import ModelConfig, StyleUNetConfig, VitConfig
from guava_aug.body import EhmModel, Identity, Motion, load_body_file

SIZE = 32


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    unet = {"in_size": SIZE, "out_size": SIZE, "channel_scale": 16, "num_style_feat": 8, "num_mlp": 1}
    return ModelConfig(
        color_dim=16,
        uvmap_size=SIZE,
        feature_img_size=28,
        image_size=SIZE,
        dino_out_dim=8,
        uv_out_dim=8,
        uv_base_dim=4,
        smplx_fea_dim=8,
        prj_out_dim=8,
        global_vertex_dim=8,
        vit=VitConfig(16, 5, 2, 14),
        projects=(8, 8, 8, 8),
        uv_decoder=StyleUNetConfig(in_dim=11, out_dim=8, small=False, **unet),
        refiner=StyleUNetConfig(in_dim=16, **unet),
    )


@pytest.fixture(scope="session")
def body() -> EhmModel:
    return EhmModel(load_body_file(default_body_path(), uv_size=SIZE))


@pytest.fixture(scope="session")
def identity() -> Identity:
    return Identity(torch.zeros(20), torch.zeros(20), torch.ones(3), torch.ones(3), torch.zeros(55, 3))


@pytest.fixture(scope="session")
def motion() -> Motion:
    g = torch.Generator().manual_seed(1)
    z = lambda *s: torch.zeros(4, *s)
    pose = torch.randn(4, 21, 3, generator=g) * 0.1
    turned = torch.tensor([torch.pi, 0, 0]).expand(4, 3).clone()
    return Motion(turned, pose, z(15, 3), z(15, 3), z(50), z(50), z(3), z(2, 3), z(2))


@pytest.fixture(scope="session")
def viewmats() -> torch.Tensor:
    v = torch.eye(4).repeat(4, 1, 1)
    v[:, :3, 3] = torch.tensor([0.0, 0.75, 14.8])
    v[1:, 0, 3] = torch.tensor([0.05, -0.05, 0.1])
    return v


@pytest.fixture(scope="session")
def person(body, identity, motion, viewmats) -> PersonViews:
    g = torch.Generator().manual_seed(2)
    posed = body(identity, motion)
    rng = np.random.default_rng(0)
    alpha = torch.zeros(4, 1, SIZE, SIZE, dtype=torch.uint8)
    alpha[:, :, 8:, 8:24] = 255
    color = torch.randint(0, 255, (4, 3, SIZE, SIZE), generator=g, dtype=torch.uint8) * (alpha > 0)
    return PersonViews(
        images=torch.cat([color, alpha], 1),
        vertices=posed.vertices,
        turns=vertex_turns(posed.vertex_transforms).half(),
        viewmats=viewmats,
        seen=torch.from_numpy(rng.random((4, len(body.assets.faces))) < 0.5),
        boxes=torch.tensor([[-0.5, -0.5, 0.5, 0.5]] * 3).expand(4, 3, 4).clone(),
        tracked=torch.tensor([True, True, False, False]),
        depth=torch.full((2, SIZE // 2, SIZE // 2), torch.inf, dtype=torch.float16),
        lenses=format_lenses(4),
    )
