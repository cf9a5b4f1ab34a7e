"""What the doors of a model give back can be used like any other tensor."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from guava_aug.apps.synthetic import demo_root
from guava_aug.avatar import Avatar, PosedGaussians
from guava_aug.avatar.model import GuavaModel, load_model
from guava_aug.tracked import TrackedVideo, list_videos
from guava_aug.views import View
from tiny_model import SIZE, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GuavaModel:
    return load_model(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture(scope="module")
def video() -> TrackedVideo:
    return TrackedVideo.open(demo_root(), list_videos(demo_root())[0])


@pytest.fixture(scope="module")
def avatar(model: GuavaModel, video: TrackedVideo) -> Avatar:
    return model.reconstruct(video.source_at(model.config.feature_img_size))


@pytest.fixture(scope="module")
def posed(avatar: Avatar, video: TrackedVideo) -> PosedGaussians:
    return avatar.pose(video.motion[:2])


def test_a_network_can_be_trained_on_rendered_pictures(
    model: GuavaModel, video: TrackedVideo, posed: PosedGaussians
) -> None:
    cameras = View("easy", 0, 0, 0.1, 0.05, 1.0).cameras(video.viewmats[0], 2, SIZE)
    layers = model.render_layers(posed, cameras)
    pictures = {
        "render": model.render(posed, cameras, torch.zeros(1, 3, SIZE, SIZE)),
        "render_layers": layers.rgb,
        "rasterize": model.rasterize(posed, cameras).image[:, :3].contiguous(),
        "refine": model.refine(layers.raster.image),
    }
    for door, picture in pictures.items():
        torch.manual_seed(0)
        convolution = nn.Conv2d(3, 4, 3)
        convolution(picture).square().mean().backward()
        assert convolution.weight.grad is not None, door
        assert torch.isfinite(convolution.weight.grad).all() and convolution.weight.grad.any(), door
        assert not picture.requires_grad, door  # the model itself is not trained through its doors


def test_an_avatar_can_be_a_parameter(model: GuavaModel, avatar: Avatar, posed: PosedGaussians) -> None:
    for tensor in (avatar.features, avatar.uv_local, posed.means):
        leaf = tensor.clone().requires_grad_()
        (leaf.square().sum() + (leaf * tensor).sum()).backward()
        assert torch.allclose(leaf.grad, 3 * tensor)


def test_posed_gaussians_carry_the_joints_of_the_body(
    model: GuavaModel, video: TrackedVideo, avatar: Avatar, posed: PosedGaussians
) -> None:
    body = model.body.pose(avatar.rest, video.motion[:2])
    assert posed.joints is not None and torch.equal(posed.joints, body.joints)  # [T, J, 3] metres
    one = posed[1:]
    assert one.joints is not None and torch.equal(one.joints, body.joints[1:])
    made_by_hand = PosedGaussians(posed.means, posed.quats, posed.scales, posed.opacities, posed.features)
    assert made_by_hand[:1].joints is None
