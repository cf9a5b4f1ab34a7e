"""Batched training plumbing against the inference network and avatar."""

import operator
from dataclasses import replace

import numpy as np
import pytest
import torch

from guava_aug.apps.training.config import TrainConfig
from guava_aug.apps.training.data import format_lenses, make_batch
from guava_aug.apps.training.from_tracked import _visibility
from guava_aug.apps.training.generate import source_visibility
from guava_aug.apps.training.losses import losses
from guava_aug.apps.training.model import Poses, Sources, TrainingModel
from guava_aug.avatar.avatar import Avatar, vertex_turns
from guava_aug.avatar.model import GuavaModel
from guava_aug.avatar.network import ReconstructionNetwork, SourceGeometry, embed_directions
from guava_aug.tracked import Source
from guava_aug.views.cameras import Cameras, Lens, intrinsics, lens_matrices

RECORDED_LOSSES = {
    "refined": 0.1075954,
    "raw": 0.07983061,
    "ssim": 0.1889788,
    "edges": 0.0878529,
    "alpha": 0.1019472,
    "head": 0.1150034,
    "left_hand": 0.04843755,
    "right_hand": 0.04843755,
    "local_pos": 0,
    "local_scale": 0,
}
RECORDED_GRADIENTS = {  # norms
    "network.vertex_base_feature": 8.79664e-07,
    "network.uv_base_feature": 3.20981e-06,
    "network.vertex_gs_decoder.color_layers.2.weight": 0.0223369,
    "network.vertex_gs_decoder.rotation_layers.2.weight": 2.03821e-05,
    "network.uv_point_decoder.local_pos_head.4.weight": 7.12168e-05,
    "network.uv_point_decoder.scale_head.2.weight": 0.000145175,
    "network.global_feature_mapping.0.weight": 6.48735e-06,
    "network.uv_style_mapping.0.weight": 1.56828e-06,
    "refiner.conv_body_first.weight": 0.00192523,
}


@pytest.fixture(scope="module")
def model(tiny_config, body) -> TrainingModel:
    torch.manual_seed(0)
    return TrainingModel(tiny_config, body.assets).eval()


@pytest.fixture(scope="module")
def images(tiny_config) -> torch.Tensor:
    size = tiny_config.feature_img_size
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_reconstruction_of_a_batch_is_that_of_each_alone(model, body, identity, motion, viewmats, images):
    posed = body(identity, motion[:2])
    pixel_faces = [torch.arange(0, len(body.assets.faces), step, dtype=torch.int32)[None] for step in (2, 3)]
    seen = torch.zeros(2, len(body.assets.faces), dtype=torch.bool)
    for b in range(2):
        seen[b, pixel_faces[b][0].long()] = True
    depth = torch.zeros(2, 4, 4)
    sources = Sources(images, posed.vertices, seen, depth, viewmats[:2], format_lenses(2), torch.zeros(2, 4, 4, 4))
    vertex, uv, _ = model.reconstruct(sources, embed_directions(viewmats[:2]))
    for b in range(2):
        alone = model.network(
            images[b : b + 1], body(identity, motion[b : b + 1]), viewmats[b], body.assets, pixel_faces=pixel_faces[b]
        )
        for ours, theirs in ((vertex, alone.vertex), (uv, alone.uv)):
            for name, value in vars(theirs).items():
                if value is not None:
                    torch.testing.assert_close(getattr(ours, name)[b], value, atol=2e-4, rtol=2e-3)


@torch.no_grad()
def test_a_texel_behind_the_hand_is_hidden_in_training_as_in_inference(model, body, identity, motion, viewmats, images):
    point = replace(model.config, visibility="point", image_size=512)
    trained = TrainingModel(point, body.assets)
    posed = body(identity, motion[:2])
    format_lens = format_lenses(1)[0]
    visibility = [
        _visibility(v, m, format_lens, body.assets.faces, 512)
        for v, m in zip(posed.vertices, viewmats[:2], strict=True)
    ]
    seen, depth = (torch.stack(x) for x in zip(*visibility, strict=True))
    corners = body.assets.faces[body.assets.uv_face.clamp(min=0).long()]
    surface = (posed.vertices[:, corners] * body.assets.uv_bary[..., None]).sum(-2)
    lens = Lens(point.invtanfov, point.invtanfov)
    geometry = SourceGeometry(posed.vertices, viewmats[:2], lens, seen, depth, from_body=True)
    xy = geometry.project(surface.flatten(1, 2)).unflatten(1, surface.shape[1:3])[..., :2]
    ours = trained.network.visible_texels(geometry, body.assets, surface, xy)
    by_face = TrainingModel(replace(point, visibility="face"), body.assets)
    whole = by_face.network.visible_texels(geometry, body.assets, surface, xy)
    assert not (ours & ~whole).any()
    assert ours.sum() < 0.97 * whole.sum()
    network = ReconstructionNetwork(point, len(body.assets.body.v_template)).eval()
    for b in range(2):
        alone = network(images[b : b + 1], body(identity, motion[b : b + 1]), viewmats[b], body.assets)
        assert (alone.uv_visible == ours[b]).float().mean() > 0.997  # half-precision depth decides a few otherwise


@torch.no_grad()
def test_posing_is_that_of_the_avatar(model, body, identity, motion, viewmats, images):
    posed = body(identity, motion)
    seen = torch.ones(1, len(body.assets.faces), dtype=torch.bool)
    vertex, uv, _ = model.reconstruct(
        Sources(
            images[:1],
            posed.vertices[:1],
            seen,
            torch.zeros(1, 4, 4),
            viewmats[:1],
            format_lenses(1),
            torch.zeros(1, 4, 4, 4),
        ),
        embed_directions(viewmats[:1]),
    )
    poses = Poses(
        posed.vertices[None], vertex_turns(posed.vertex_transforms)[None], viewmats[None], format_lenses(4)[None]
    )
    means, quats, scales = model.pose(vertex, uv, poses)
    avatar = Avatar.build(body, identity, vertex.rows(lambda v: v[0]), uv.rows(lambda v: v[0]), -1.0)
    expected = avatar.pose(motion)
    torch.testing.assert_close(means[0], expected.means, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(quats[0], expected.quats, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(scales[0], expected.scales, atol=1e-6, rtol=1e-4)


def test_every_trained_parameter_gets_a_gradient(model, person):
    model.train()
    batch = make_batch([person, person], np.random.default_rng(0), 2, model.config.feature_img_size)
    out = model(batch.sources, batch.poses)
    (out.rgb.sum() + out.raw.square().sum() + out.alpha.square().sum()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert out.rgb.shape == (2, 2, 3, 32, 32)
    model.zero_grad()
    model.eval()


@pytest.mark.parametrize("visibility", ["face", "point"])
def test_one_step_has_the_loss_and_gradients_of_version_0_1_0(tiny_config, body, person, visibility):
    """Recorded when training still had a copy of reconstruction and posing of its own; equal to the last bit there."""
    torch.manual_seed(0)
    model = TrainingModel(replace(tiny_config, visibility=visibility), body.assets)
    batch = make_batch([person, person], np.random.default_rng(0), 2, tiny_config.feature_img_size)
    terms = losses(
        model(batch.sources, batch.poses), batch.truth, TrainConfig().losses, torch.full((2, 2, 3, 1, 1), 0.5)
    )
    torch.stack(list(terms.values())).sum().backward()
    found = {name: float(value.detach()) for name, value in terms.items()}
    assert found == pytest.approx(RECORDED_LOSSES, rel=1e-4, abs=1e-7)
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norms = {name: float(grads[name].norm()) for name in RECORDED_GRADIENTS}
    assert norms == pytest.approx(RECORDED_GRADIENTS, rel=1e-3)
    assert float(torch.stack([g.double().norm() for g in grads.values()]).norm()) == pytest.approx(0.3659452, rel=1e-4)


@torch.no_grad()
def test_a_true_lens_is_the_same_computation_in_training_and_in_inference(tiny_config, body, identity, motion, images):
    """A person 1.5 m from a camera whose crop is off its axis: avatar and pictures of `GuavaModel` through that K."""
    torch.manual_seed(0)
    config = replace(tiny_config, visibility="point")
    model = TrainingModel(config, body.assets).eval()
    size, S = config.image_size, config.feature_img_size
    lenses = torch.tensor([[2.3, 2.2, 0.15, -0.1], [24.0, 24.0, 0.0, 0.0]])
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[:, :3, 3] = torch.tensor([[-0.1, 0.8, 1.5], [0.0, 0.75, 14.8]])
    posed = body(identity, motion)
    K = lens_matrices(lenses, size, size)
    cameras = [Cameras(viewmats[b, None], K[b], size, size) for b in range(2)]
    found = [source_visibility(posed.vertices[:1], body.assets.faces, c) for c in cameras]
    seen, depth = (torch.cat(x) for x in zip(*found, strict=True))
    sources = Sources(
        images, posed.vertices[:1].expand(2, -1, -1), seen, depth, viewmats, lenses, torch.zeros(2, 4, size, size)
    )
    turns = vertex_turns(posed.vertex_transforms[1:3])
    pair = lambda t: torch.stack([t, t])
    poses = Poses(
        pair(posed.vertices[1:3]), pair(turns), viewmats[:, None].repeat(1, 2, 1, 1), lenses[:, None].repeat(1, 2, 1)
    )
    ours = model(sources, poses)
    inference = GuavaModel(config, model.network, model.refiner, body)
    inference.refiner_noise = [torch.zeros(1, 1, 1, 1)] * len(model.refiner.noise_sizes)
    silent = [torch.zeros(1, 1, 1, 1)] * len(model.network.uv_feature_decoder.noise_sizes)
    for b in range(2):
        source = Source(images[b], identity, motion[:1], viewmats[b], K=lens_matrices(lenses[b], S, S))
        raw = inference.infer(source, uv_noise=silent)
        for name, value in vars(raw.vertex).items():
            if value is not None:
                torch.testing.assert_close(getattr(ours.vertex, name)[b], value, atol=2e-3, rtol=2e-2)
        # the avatar's pictures through the same K; nothing is pruned, since training prunes nothing
        vertex, uv = (g.rows(operator.itemgetter(b)) for g in (ours.vertex, ours.uv))
        avatar = Avatar.build(body, identity, vertex, uv, -1.0)
        layers = inference.render_layers(avatar.pose(motion[1:3]), Cameras(viewmats[b, None], K[b], size, size))
        torch.testing.assert_close(ours.alpha[b], layers.alpha, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(ours.rgb[b], layers.rgb, atol=1e-3, rtol=1e-2)
    assert not torch.allclose(ours.alpha[0], ours.alpha[1], atol=0.05)  # perspective shows


def test_lenses_of_all_views_become_the_matrices_of_the_format():
    for size in (32, 280, 512, 518):
        assert torch.equal(lens_matrices(format_lenses(3), size, size), intrinsics(size, size).expand(3, 3, 3))
    K = torch.tensor([[900.0, 0, 500.0], [0, 880.0, 530.0], [0, 0, 1]])
    lens = torch.tensor(Lens.of(K, 1024, 1024).numbers)
    torch.testing.assert_close(lens_matrices(lens, 1024, 1024), K)
