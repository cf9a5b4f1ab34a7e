"""The inference network at full official size against the numbers recorded from the original."""

import json

import numpy as np
import pytest
import torch

from guava_aug.avatar import Avatar, ModelConfig, ReconstructionNetwork, StyleUNet
from guava_aug.body import EhmModel, load_official_assets
from guava_aug.render.rasterize import rasterize
from guava_aug.views.cameras import intrinsics

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def body(official_assets):
    return EhmModel(load_official_assets(official_assets))


@pytest.fixture(scope="module")
def config(official_assets):
    return ModelConfig.from_yaml(official_assets / "GUAVA/config.yaml")


@pytest.fixture(scope="module")
def network(config, body, golden_weights):
    with torch.device("meta"):
        network = ReconstructionNetwork(config, len(body.assets.body.v_template))
    filled = {k: torch.from_numpy(golden_weights.fill_array(k, v.shape)) for k, v in network.state_dict().items()}
    network.load_state_dict(filled, strict=True, assign=True)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def raw(network, body, golden_weights, golden_pose):
    identity, motion, viewmat = golden_pose(1001)
    image = torch.from_numpy(golden_weights.source_image(101))
    with torch.inference_mode():
        return network(image, body(identity, motion), viewmat, body.assets)


@pytest.fixture(scope="module")
def recorded(shared_golden):
    return np.load(shared_golden / "infer.npz")


def close(actual, desired, atol):
    np.testing.assert_allclose(np.asarray(actual), desired, atol=atol, rtol=0)


def rows(maps, index):
    """Rows `index` of the flattened pixels of a [C, H, W] map."""
    return maps.flatten(1).T[index]


def test_encoder(raw, recorded):
    f, pix = raw.features, recorded["pix_index"]
    for i in range(5):
        close(f.tokens[i][0, recorded["token_index"]], recorded[f"dino_tokens_{i}"], 1e-4)
    close(f.global_feature[0], recorded["f_global"], 1e-4)
    close(rows(f.uv_map[0], pix), recorded["f_map1"], 5e-4)
    close(rows(f.vertex_map[0], pix), recorded["f_map2"], 5e-4)


def test_projection_and_sampling(raw, recorded):
    index = recorded["vertex_index"]
    close(raw.prj_xy[index], recorded["prj_xy"], 1e-4)
    close(raw.vertex_features[index], recorded["prj_feature"], 5e-4)


def test_visible_faces(raw, recorded):
    ours, theirs = raw.pixel_faces.numpy(), recorded["pix_to_face"]
    assert (ours != theirs).sum() <= 20  # border pixels that a last bit decides
    seen = np.unique(ours[ours >= 0])
    assert len(np.setxor1d(seen, recorded["visible_faces"])) <= 5
    mask = np.unpackbits(recorded["visible_uv_mask_packed"]).reshape(512, 512).astype(bool)
    assert (raw.uv_visible.numpy() != mask).sum() <= 200  # the texels of at most five faces


@pytest.fixture(scope="module")
def raw_given_faces(network, body, golden_weights, golden_pose, recorded):
    """The stages after the z-buffer, fed with the recorded result of it."""
    identity, motion, viewmat = golden_pose(1001)
    image = torch.from_numpy(golden_weights.source_image(101))
    faces = torch.from_numpy(recorded["pix_to_face"])
    with torch.inference_mode():
        return network(image, body(identity, motion), viewmat, body.assets, pixel_faces=faces)


def test_uv_branch(raw_given_faces, recorded):
    raw = raw_given_faces
    mask = np.unpackbits(recorded["visible_uv_mask_packed"]).reshape(512, 512).astype(bool)
    np.testing.assert_array_equal(raw.uv_visible.numpy(), mask)
    assert int(raw.uv_visible.sum()) == recorded["visible_uv_count"]
    close(rows(raw.uv_input, recorded["uv_visible_index"]), recorded["uv_input"], 5e-4)
    close(rows(raw.uv_features, recorded["uv_index"]), recorded["uv_feature"], 5e-4)
    close(torch.sigmoid(rows(raw.uv_features[:3], recorded["uv_index"])), recorded["uvmap_texture"], 5e-4)


def test_gaussians(raw_given_faces, body, recorded):
    raw = raw_given_faces
    index = recorded["vertex_index"]
    close(raw.vertex.colors[index], recorded["vertex_colors"], 3e-4)
    close(raw.vertex.opacities[index], recorded["vertex_opacities"], 3e-4)
    close(raw.vertex.scales[index], recorded["vertex_scales"], 1e-4)
    close(raw.vertex.rotations[index], recorded["vertex_rotations"], 1e-4)
    close(raw.vertex.rotations.norm(dim=0), recorded["vertex_rotation_column_norm"], 1e-5)
    index = recorded["uv_point_index"]
    assert len(raw.uv.colors) == recorded["num_uv_points"]
    close(raw.uv.colors[index], recorded["uvp_colors"], 3e-4)
    close(raw.uv.opacities[index], recorded["uvp_opacities"], 3e-4)
    close(raw.uv.scales[index], recorded["uvp_scales"], 1e-4)
    close(raw.uv.rotations[index], recorded["uvp_rotations"], 1e-4)
    close(raw.uv.local_pos[index], recorded["uvp_local_pos"], 3e-4)
    occupied = body.assets.uv_face >= 0
    np.testing.assert_array_equal(body.assets.uv_face[occupied][index], recorded["uvp_binding_face"][:, 0])
    close(body.assets.uv_bary[occupied][index], recorded["uvp_face_bary"], 1e-6)


@pytest.fixture(scope="module")
def avatar(raw_given_faces, body, config, golden_pose):
    identity, _, _ = golden_pose(1001)
    return Avatar.build(body, identity, raw_given_faces.vertex, raw_given_faces.uv, config.opacity_threshold)


@pytest.mark.parametrize("k", range(3))
def test_deform(avatar, body, golden_pose, shared_golden, k):
    recorded = np.load(shared_golden / "deform.npz")
    kept = np.unpackbits(recorded["keep_packed"])[: recorded["num_uv_before"]].astype(bool)
    assert len(avatar.kept) == recorded["num_uv_before"]
    assert (avatar.kept.numpy() != kept).sum() <= recorded["opacity_within_1e-5_of_threshold"]

    posed = avatar.pose(golden_pose(2001 + k)[1])
    # rows by their number before pruning, because a few points sit on the threshold
    number = np.cumsum(avatar.kept.numpy()) - 1 + len(body.assets.body.v_template)
    point = recorded["gaussian_uv_point"]
    index = np.where(point < 0, recorded["gaussian_index"], number[np.maximum(point, 0)])
    ok = (point < 0) | avatar.kept.numpy()[np.maximum(point, 0)]
    assert (~ok).sum() <= 3
    index = index[ok]
    close(posed.means[0, index], recorded[f"xyz_{k}"][ok], 1e-5)
    # signs included; a few points sit on triangles less than a millimetre high, whose frame turns by up to 1e-4 when a
    # vertex moves by the last bit of its float32 position
    wrong = np.abs(posed.quats[0, index].numpy() - recorded[f"rotation_{k}"][ok])
    assert (wrong > 5e-5).mean() < 2e-3
    assert wrong.max() < 2e-4
    close(posed.scales[0, index], recorded[f"scaling_{k}"][ok], 1e-6)
    close(posed.means[0].mean(0), recorded[f"xyz_mean_{k}"], 1e-5)
    close(posed.scales[0].mean(0), recorded[f"scaling_mean_{k}"], 1e-6)
    if k == 0:
        close(posed.opacities[index, None], recorded["opacity_0"][ok], 1e-4)
        close(posed.features[index], recorded["features_color_0"][ok], 1e-4)


def test_config_survives_a_round_trip(config):
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_official_config_is_the_default(config):
    assert config == ModelConfig()
    assert StyleUNet(config.refiner).noise_sizes == [4, 8, 16, 32, 64, 128, 256, 512]


@pytest.mark.parametrize("camera", ["tracked", "novel"])
def test_rasterised_avatar(avatar, golden_pose, shared_golden, camera):
    """The whole chain up to the refiner's input, 209k Gaussians at 512 x 512."""
    recorded = np.load(shared_golden / "raster.npz")
    posed = avatar.pose(golden_pose(2001)[1])
    viewmat = torch.from_numpy(recorded[f"avatar_{camera}_w2c"])
    raster = rasterize(
        posed.means,
        posed.quats,
        posed.scales,
        posed.opacities,
        posed.features,
        viewmat[None],
        intrinsics(512, 512),
        512,
        512,
    )
    image = raster.image[0, :, ::8, ::8]
    # a stage behind another: single splats on a decision move a few pixels, the rest agrees
    wrong = np.abs(image.numpy() - recorded[f"avatar_{camera}_image_stride8"]) > 2e-3
    assert wrong.mean() < 1e-3
    wrong = np.abs(raster.alpha[0, 0, ::2, ::2].numpy() - recorded[f"avatar_{camera}_alpha_stride2"]) > 2e-3
    assert wrong.mean() < 1e-3
    wrong = np.abs(raster.inverse_depth[0, 0, ::8, ::8].numpy() - recorded[f"avatar_{camera}_invdepth_stride8"]) > 2e-4
    assert wrong.mean() < 1e-3
    close(raster.image[0].mean((1, 2)), recorded[f"avatar_{camera}_image_mean"], 1e-4)
    close(raster.image[0].std((1, 2)), recorded[f"avatar_{camera}_image_std"], 2e-4)
    close(raster.alpha.mean(), recorded[f"avatar_{camera}_alpha_mean"], 1e-4)
    visible = int((raster.radii > 0).sum())
    assert abs(visible - int(recorded[f"avatar_{camera}_visible"])) <= 30  # points on the pruning threshold
