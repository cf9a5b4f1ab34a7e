"""The body model against the numbers recorded from the original."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from guava_aug.body import EhmModel, Motion, load_official_assets
from guava_aug.body.teeth import NUM_TEETH
from guava_aug.body.uv import vertex_texcoords

pytestmark = pytest.mark.parity

ATOL = 2e-5  # metres; float32 with another order of operations


@pytest.fixture(scope="module")
def assets(official_assets):
    return load_official_assets(official_assets)


@pytest.fixture(scope="module")
def recorded(shared_golden):
    return np.load(shared_golden / "ehm.npz")


def _pose(golden_pose, recorded, k):
    identity, motion, _ = golden_pose(3001 + k)
    scale = lambda name: torch.from_numpy(recorded[f"in_{name}_{k}"][0])
    return replace(identity, head_scale=scale("head_scale"), hand_scale=scale("hand_scale")), motion


@pytest.mark.parametrize("k", range(4))
def test_forward(assets, recorded, golden_pose, k):
    out = EhmModel(assets)(*_pose(golden_pose, recorded, k))
    ids = recorded["vertex_index"]
    close = lambda a, b: np.testing.assert_allclose(a.numpy(), b, atol=ATOL, rtol=0)
    close(out.vertices[0, ids], recorded[f"vertices_{k}"])
    close(out.vertices[0, -NUM_TEETH:], recorded[f"teeth_{k}"])
    close(out.vertex_transforms[0, ids], recorded[f"ver_transform_mat_{k}"])
    close(out.joints_rest[0], recorded[f"joints_{k}"])
    close(out.joints[0], recorded[f"joints_transform_{k}"])
    close(out.joint_transforms[0], recorded[f"joint_transform_mat_{k}"])
    close(out.vertices[0].mean(0), recorded[f"vertices_mean_{k}"])
    close(out.vertices[0].abs().amax(0), recorded[f"vertices_absmax_{k}"])


def test_frames_in_a_batch_are_the_frames_alone(assets, golden_pose):
    identity, first, _ = golden_pose(3001)
    motion = Motion.cat([first, *(golden_pose(3002 + i)[1] for i in range(4))])
    body = EhmModel(assets)
    together = body(identity, motion)
    for t in range(len(motion)):
        alone = body(identity, motion[t : t + 1])
        torch.testing.assert_close(alone.vertices[0], together.vertices[t], atol=1e-5, rtol=0)


def test_static_parts(assets, recorded):
    """Canonical template and teeth: geometry, faces, chart, and the permuted teeth of the head map."""
    np.testing.assert_allclose(
        assets.v_canonical[recorded["vertex_index"]].numpy(), recorded["v_template_vertices"], atol=ATOL
    )
    np.testing.assert_allclose(
        assets.body.v_template[-NUM_TEETH:].numpy(), recorded["smplx_v_template_teeth"], atol=1e-6
    )
    np.testing.assert_allclose(assets.v_canonical[-NUM_TEETH:].numpy(), recorded["ehm_v_template_teeth"], atol=ATOL)
    np.testing.assert_array_equal(assets.faces[-168:].numpy(), recorded["faces_teeth"])
    np.testing.assert_array_equal(assets.faces_uv[-168:].numpy(), recorded["faces_uv_teeth"])
    np.testing.assert_allclose(assets.texcoords[-NUM_TEETH:].numpy(), recorded["texcoords_teeth"], atol=1e-6)
    np.testing.assert_array_equal(assets.head_to_body[-NUM_TEETH:].numpy(), recorded["smplx2flame_tail"])


def test_uv_chart(assets, shared_golden):
    recorded = np.load(shared_golden / "uvmap.npz")
    np.testing.assert_array_equal(assets.uv_face.numpy(), recorded["uvmap_f_idx"])
    mask = np.unpackbits(recorded["uvmap_mask"]).reshape(512, 512).astype(bool)
    np.testing.assert_array_equal(assets.uv_face.numpy() >= 0, mask)
    bary = assets.uv_bary.reshape(-1, 3)[recorded["bary_index"]].numpy()
    np.testing.assert_allclose(bary, recorded["bary"], atol=1e-6)
    uv = vertex_texcoords(assets.texcoords.numpy(), assets.faces.numpy(), assets.faces_uv.numpy())
    np.testing.assert_allclose(uv[recorded["vertex_uv_index"]], recorded["vertex_uv"], atol=1e-6)


def test_chumpy_pickle_gives_the_same_model(official_assets, assets, tmp_path):
    """The FLAME file as Python 2 with chumpy and scipy wrote it."""
    root = tmp_path / "assets"
    (root / "FLAME/FLAME2020").mkdir(parents=True)
    (root / "SMPLX").symlink_to(official_assets / "SMPLX")
    for p in (official_assets / "FLAME").iterdir():
        if p.name != "FLAME2020":
            (root / "FLAME" / p.name).symlink_to(p)
    original = official_assets / "FLAME/FLAME2020/generic_model_chumpy.pkl"
    (root / "FLAME/FLAME2020/generic_model.pkl").symlink_to(original)
    head = load_official_assets(root).head
    torch.testing.assert_close(head.v_template, assets.head.v_template)
    torch.testing.assert_close(head.J_regressor, assets.head.J_regressor)
    torch.testing.assert_close(head.posedirs, assets.head.posedirs)
