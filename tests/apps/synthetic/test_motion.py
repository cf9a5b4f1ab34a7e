"""Signing-like motion: smooth, two-handed, in the tracker's world, and clear of the body."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guava_aug.apps.synthetic.assemble import still
from guava_aug.apps.synthetic.bank import Bank
from guava_aug.apps.synthetic.clearance import body_front, keep_clear
from guava_aug.apps.synthetic.handshapes import SHAPES, hand_rotations
from guava_aug.apps.synthetic.motion import signing_motion
from guava_aug.apps.synthetic.scene import expression_names
from guava_aug.apps.synthetic.subjects import make_identity
from guava_aug.body.joints import INDEX, JOINTS
from guava_aug.body.surface_normals import vertex_normals

SEEDS = (1, 17)
FRAMES = 60


@pytest.fixture(scope="module")
def clips(bare: Bank):
    made = {}
    for seed in SEEDS:
        identity = make_identity(bare, np.random.default_rng(seed), female=False)
        made[seed] = identity, signing_motion(bare.model, identity, expression_names(), seed, FRAMES)
    return made


def test_same_seed_same_motion_and_another_seed_another(bare: Bank, clips):
    identity, motion = clips[1]
    again = signing_motion(bare.model, identity, expression_names(), 1, FRAMES)
    assert torch.equal(motion.body_pose, again.body_pose) and torch.equal(
        motion.flame_expression, again.flame_expression
    )
    other = signing_motion(bare.model, identity, expression_names(), 2, FRAMES)
    assert (other.body_pose - motion.body_pose).abs().max() > 0.3


@pytest.mark.parametrize("seed", SEEDS)
def test_the_person_stands_in_the_trackers_world(bare: Bank, clips, seed):
    identity, motion = clips[seed]
    p = bare.model(identity, motion)
    assert (motion.global_orient - torch.tensor([torch.pi, 0, 0])).abs().max() < 0.5 or (
        motion.global_orient.norm(dim=1) - torch.pi
    ).abs().max() < 0.2
    head, pelvis = p.joints[:, INDEX["head"]], p.joints[:, 0]
    assert (head[:, 1] < pelvis[:, 1] - 0.5).all()  # y points down
    nose = p.vertices[:, bare.assets.head_to_body, 2].amin(1)
    assert (nose < head[:, 2] - 0.05).all()  # the face looks to -z
    assert -1.25 < head[:, 1].mean() < -0.85


@pytest.mark.parametrize("seed", SEEDS)
def test_joints_move_smoothly_and_hands_really_move(bare: Bank, clips, seed):
    identity, motion = clips[seed]
    joints = bare.model(identity, motion).joints
    speed = joints.diff(dim=0).norm(dim=-1)  # metres a frame at 25 fps
    assert speed.max() < 0.16
    acceleration = joints.diff(n=2, dim=0).norm(dim=-1)
    assert acceleration.max() < 0.09
    wrists = joints[:, [INDEX["left_wrist"], INDEX["right_wrist"]]]
    assert (wrists.amax(0) - wrists.amin(0)).norm(dim=-1).max() > 0.15


@pytest.mark.parametrize("seed", SEEDS)
def test_eyes_blink_mouth_speaks_and_everything_stays_in_range(clips, seed):
    motion = clips[seed][1]
    assert motion.eyelids.max() > 0.8 and motion.eyelids.min() >= 0 and motion.eyelids.max() <= 1
    assert (
        motion.jaw_pose[:, 0].max() > 0.03 and motion.jaw_pose[:, 0].max() <= 0.28 and motion.jaw_pose[:, 0].min() >= 0
    )
    assert motion.flame_expression.abs().max() <= 2.5 and (motion.flame_expression.std(0) > 1e-3).sum() > 5
    assert motion.eye_pose.abs().max() < 0.6
    body = motion.body_pose.norm(dim=-1)
    assert body[:, [INDEX[n] - 1 for n in ("neck", "head", "spine1", "spine3")]].max() < 0.8
    assert body[:, [INDEX["left_wrist"] - 1, INDEX["right_wrist"] - 1]].max() < 1.3


@pytest.mark.parametrize("seed", SEEDS)
def test_hands_stay_out_of_the_body_and_of_each_other(bare: Bank, clips, seed):
    identity, motion = clips[seed]
    a = bare.assets
    vertices = bare.model(identity, motion[list(range(0, FRAMES, 5))]).vertices
    normals = vertex_normals(vertices, a.faces)
    limbs = [
        INDEX[n]
        for n in JOINTS
        if any(k in n for k in ("shoulder", "elbow", "wrist", "index", "middle", "ring", "pinky", "thumb"))
    ]
    legs = [INDEX[n] for n in JOINTS if any(k in n for k in ("knee", "ankle", "foot"))]
    trunk = torch.nonzero(a.body.lbs_weights[:, limbs + legs].sum(1) < 0.2)[:, 0]
    for hand, other in ((a.left_hand, a.right_hand), (a.right_hand, a.left_hand)):
        assert depth_inside(vertices, normals, hand[::9], trunk) < 0.005
        assert depth_inside(vertices, normals, hand[::9], other) < 0.009


def depth_inside(vertices: torch.Tensor, normals: torch.Tensor, points: torch.Tensor, body: torch.Tensor) -> float:
    """Metres by which any of `points` lies behind the nearest vertex of `body`; beyond 8 cm nothing counts."""
    worst = -1.0
    for v, n in zip(vertices, normals, strict=True):
        distance = torch.cdist(v[points], v[body])
        near = distance.argmin(1)
        behind = -((v[points] - v[body][near]) * n[body][near]).sum(1)
        worst = max(worst, float(torch.where(distance.amin(1) < 0.08, behind, -1.0).max()))
    return worst


def test_keep_clear_parts_hands_that_meet_and_lifts_them_off_the_body(bare: Bank):
    v = bare.model(make_identity(bare, np.random.default_rng(0), female=True), still()).vertices[0].double().numpy()
    front = body_front(bare.model, v)
    belly = np.array([0.0, -0.2, 0.0])
    assert 0.05 < front.at(belly) < 0.25
    assert front.at(np.array([2.0, 0, 0])) == -np.inf
    wrists = {"left": np.tile([0.05, -0.2, 0.0], (20, 1)), "right": np.tile([0.04, -0.2, 0.0], (20, 1))}
    directions = {s: np.tile([0.0, 1.0, 0.2], (20, 1)) for s in wrists}
    moved = keep_clear(wrists, directions, front)
    assert np.linalg.norm(moved["left"] - moved["right"], axis=1).min() > 0.09
    assert all((m[:, 2] > front.at(m) + 0.03).all() for m in moved.values())


def test_hand_shapes_mirror_and_curl_towards_the_palm(bare: Bank):
    vectors = np.stack([s.vector() for s in SHAPES.values()])
    left, right = hand_rotations(vectors, 1.0), hand_rotations(vectors, -1.0)
    np.testing.assert_allclose(left * [1, -1, -1], right)
    fist = hand_rotations(SHAPES["fist"].vector()[None], 1.0)
    rest = still()
    motion = type(rest)(**{**rest.__dict__, "left_hand_pose": torch.tensor(fist, dtype=torch.float32)})
    identity = make_identity(bare, np.random.default_rng(0), female=True)
    flat, curled = (bare.model(identity, m).joints[0] for m in (rest, motion))
    tip, knuckle = INDEX["left_middle3"], INDEX["left_middle1"]
    assert (curled[tip] - curled[knuckle]).norm() < 0.8 * (flat[tip] - flat[knuckle]).norm()
    assert curled[tip][1] < flat[tip][1] - 0.02  # the palm looks down in the T pose
