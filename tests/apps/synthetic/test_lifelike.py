"""Lifelike people: what they wear stays where it belongs, light casts shadows, and the standard people never change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from guava_aug.apps.synthetic import accessories
from guava_aug.apps.synthetic.assemble import still
from guava_aug.apps.synthetic.backgrounds import make_light
from guava_aug.apps.synthetic.bank import Bank, Proxy
from guava_aug.apps.synthetic.complexion import BEARDS, beard_region
from guava_aug.apps.synthetic.garments import Cut, beneath, divide, loosen, pick_cut, pick_folds
from guava_aug.apps.synthetic.pairs import HELD_OUT, TRAINING_SEEDS
from guava_aug.apps.synthetic.prints import PATTERNS, chest_print, pattern, weave
from guava_aug.apps.synthetic.raster import Surface
from guava_aug.apps.synthetic.render import Light, render_vertices
from guava_aug.apps.synthetic.shadows import lit_share
from guava_aug.apps.synthetic.subjects import make_person
from guava_aug.apps.synthetic.varieties import LIFELIKE, MIXED, STANDARD, variety_of
from guava_aug.apps.training import generate
from guava_aug.body.joints import INDEX
from guava_aug.body.surface_normals import vertex_normals
from guava_aug.views.cameras import Cameras, intrinsics


@pytest.fixture(scope="module")
def person(bare: Bank):
    return make_person(bare, 2, variety=LIFELIKE)


@pytest.fixture(scope="module")
def shirt(bare: Bank) -> Proxy:
    """A skin-tight garment: the trunk's and arms' own faces, a little outside."""
    template, faces = bare.assets.body.v_template, bare.assets.faces
    normals = vertex_normals(template[None], faces)[0].numpy()
    y, x = template[:, 1], template[:, 0].abs()
    on = ((y > -0.4) & (y < 0.2) & (x < 0.65)).numpy()
    kept = faces.numpy()[on[faces.numpy()].all(1)]
    ids = np.unique(kept)
    where = np.full(len(template), -1)
    where[ids] = np.arange(len(ids))
    weights = np.tile(np.array([1, 0, 0], np.float32), (len(ids), 1))
    local = where[kept]
    uv = np.random.default_rng(0).random((len(ids), 2)).astype(np.float32)
    return Proxy("shirt", np.stack([ids] * 3, 1), weights, 0.003 * normals[ids], ids, uv, local, local)


def test_lights_of_standard_people_cast_no_shadows():
    assert make_light(3).shadows is None and len(make_light(3).directions) == 2
    some = [make_light(s, LIFELIKE) for s in range(30)]
    assert {len(light.directions) for light in some} == {1, 2, 3}
    assert any(light.shadows.max() > 0.5 for light in some) and any(light.shadows.min() == 0 for light in some)


def test_lifelike_people_follow_from_their_seed(bare: Bank, person):
    again = make_person(bare, 2, variety=LIFELIKE)
    for name in ("ids", "weights", "offsets", "atlas", "occlusion"):
        assert torch.equal(getattr(again.skin, name), getattr(person.skin, name)), name
    a, b = make_light(4, LIFELIKE), make_light(4, LIFELIKE)
    assert torch.equal(a.colors, b.colors) and torch.equal(a.directions, b.directions)
    assert torch.allclose(a.directions.norm(dim=1), torch.ones(len(a.directions)))


def test_half_of_mixed_people_are_lifelike_and_held_out_ones_are_never_trained_on(monkeypatch: pytest.MonkeyPatch):
    assert [variety_of(i, MIXED) for i in range(4)] == [STANDARD, LIFELIKE] * 2
    assert variety_of(7, STANDARD) == STANDARD and variety_of(8, LIFELIKE) == LIFELIKE
    with pytest.raises(ValueError, match="'reel'"):
        variety_of(1, "reel")
    assert not set(HELD_OUT[LIFELIKE]) & (set(TRAINING_SEEDS) | set(HELD_OUT[STANDARD]))
    cast = lambda bank, index, seed, motion, variety: (seed, motion, variety)
    monkeypatch.setattr(generate, "cast_person", cast)
    assert generate._cast_training(None, 9101, STANDARD) == (9101, [9101], LIFELIKE)
    assert generate._cast_training(None, 9001, LIFELIKE) == (9001, [9001], STANDARD)
    assert generate._cast_training(None, 5, MIXED)[2] == LIFELIKE
    with pytest.raises(ValueError, match="held out"):
        generate._cast_training(None, 9201, LIFELIKE)


def test_glasses_move_with_the_head_as_a_rigid_body(bare: Bank, person):
    rng = np.random.default_rng(1)
    identity = person.identity
    posed = bare.model(identity, still())
    worn = accessories.glasses(bare, posed.vertices[0].numpy(), posed.joints[0].numpy(), accessories.pick_frames(rng))
    motion = still()
    turned = motion.body_pose.clone()
    turned[0, INDEX["neck"] - 1] = torch.tensor([0.3, 0.5, -0.2])
    laughing = torch.rand(1, 50, generator=torch.Generator().manual_seed(0))
    moved = bare.model(identity, replace(motion, body_pose=turned, flame_expression=laughing))
    ids, offsets = torch.from_numpy(worn.ids[:, 0]), torch.from_numpy(worn.offsets)
    place = lambda p: p.vertices[0, ids] + (p.vertex_transforms[0, ids, :3, :3] @ offsets[..., None])[..., 0]
    before, after = place(posed), place(moved)
    between = lambda a, b: (a[:, None] - b).norm(dim=-1)
    assert (between(before, before) - between(after, after)).abs().max() < 1e-5
    eyes = [INDEX["left_eye"], INDEX["right_eye"]]
    assert (between(before, posed.joints[0, eyes]) - between(after, moved.joints[0, eyes])).abs().max() < 1e-3
    assert (after - before).norm(dim=1).min() > 0.005
    middle = posed.joints[0, eyes].mean(0)
    assert before[:, 2].max() > middle[2] + 0.012 and before[:, 2].min() < middle[2] - 0.05  # temples reach the ears


def test_jewellery_lies_on_the_body(bare: Bank, person):
    rng = np.random.default_rng(2)
    posed = bare.model(person.identity, still())
    rest, joints = posed.vertices[0].numpy(), posed.joints[0].numpy()
    made = [
        accessories.earrings(bare, rest, joints, rng), accessories.necklace(bare, rest, joints, rng),
        accessories.wristband(bare, rest, joints, "left", rng),
        accessories.scarf(bare, rest, joints, rng),
    ]  # fmt: skip
    for mesh in made:
        assert mesh.faces.max() == len(mesh.points) - 1 and np.isfinite(mesh.points).all()
        away = torch.cdist(torch.from_numpy(mesh.points), posed.vertices[0]).amin(1)
        assert away.max() < 0.06
        hung = accessories.hang(bare, mesh, rest, "x")
        at = (rest[hung.ids] * hung.weights[..., None]).sum(1) + hung.offsets
        np.testing.assert_allclose(at, mesh.points, atol=1e-5)


def test_rings_do_not_bend_with_the_finger(bare: Bank, person):
    motion = still()
    fist = motion.right_hand_pose.clone()
    fist[0, :, 2] = 1.2
    fist_of = bare.model(person.identity, replace(motion, right_hand_pose=fist))
    posed = bare.model(person.identity, still())
    rest, joints = posed.vertices[0].numpy(), posed.joints[0].numpy()
    ring = accessories.finger_ring(bare, rest, joints, "right", "ring")
    both = accessories.joined("two", [ring, accessories.finger_ring(bare, rest, joints, "right", "index")])
    assert len(both.ids) == 2 * len(ring.ids) and both.faces.max() == len(both.ids) - 1
    ids, offsets = torch.from_numpy(ring.ids[:, 0]), torch.from_numpy(ring.offsets)
    for body in (posed, fist_of):
        at = body.vertices[0, ids] + (body.vertex_transforms[0, ids, :3, :3] @ offsets[..., None])[..., 0]
        ends = body.joints[0, [INDEX["right_ring1"], INDEX["right_ring2"]]]
        along = (ends[1] - ends[0]) / (ends[1] - ends[0]).norm()
        away = at - ends[0] - ((at - ends[0]) @ along)[:, None] * along
        assert away.norm(dim=1).max() < 0.02 and 0.3 < float(((at - ends[0]) @ along).mean() / 0.04) < 1.2


@pytest.mark.parametrize("seed", range(3))
def test_clothes_are_pushed_outwards_and_never_into_the_body(bare: Bank, shirt: Proxy, seed: int):
    rng = np.random.default_rng(seed)
    cut = pick_cut(rng, True, False)
    folds = pick_folds(rng, cut)
    template = bare.assets.body.v_template.numpy()
    loose = loosen(bare, shirt, folds)
    push = loose.offsets - shirt.offsets
    normals = vertex_normals(torch.from_numpy(template)[None], bare.assets.faces)[0].numpy()[shirt.ids[:, 0]]
    length = np.linalg.norm(push, axis=1)
    assert length.min() > 0.0005 and length.max() < 0.08
    assert length.max() > 3 * length.min()  # folds, not a thicker skin
    assert np.quantile((push * normals).sum(1) / length, 0.02) > 0  # creases of the armpit apart
    assert (folds.at(template) > 0).all() and (folds.legs_at(template) > 0).all()
    shown, drawn_in = beneath(bare, shirt, cut)
    assert shown.any() and not shown[~np.isin(np.arange(bare.shipped), shirt.hidden)].any()
    own = vertex_normals(torch.from_numpy(template)[None], bare.assets.faces)[0].numpy()
    assert ((drawn_in * own).sum(1) <= 1e-9).all() and np.linalg.norm(drawn_in, axis=1).max() > 0.003


def test_divided_meshes_lie_where_they_were(bare: Bank, shirt: Proxy):
    template = bare.assets.body.v_template.numpy()
    fine = divide(shirt)
    assert len(fine.faces) == 4 * len(shirt.faces) == len(fine.faces_uv)
    old, new = shirt.rest(template), fine.rest(template)
    np.testing.assert_allclose(new[: len(old)], old, atol=1e-6)
    area = lambda p, f: np.linalg.norm(np.cross(p[f[:, 1]] - p[f[:, 0]], p[f[:, 2]] - p[f[:, 0]]), axis=1).sum()
    assert area(new, fine.faces) == pytest.approx(area(old, shirt.faces), rel=1e-4)


def test_cuts_take_sleeves_and_necks_and_no_hips():
    cut = Cut(sleeve=0.4, neck_depth=0.1, neck_width=0.07)
    p = np.array([[0.5, 0.12, 0], [0.3, 0.12, 0], [0.45, -0.3, 0], [0, 0.15, 0.1], [0, 0.15, -0.1], [0, 0, 0.1]])
    assert cut.keeps(p.astype(np.float32)).tolist() == [False, True, True, False, True, True]


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_colours_of_more_than_one_tone(name: str):
    u, v = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 4000)).astype(np.float32)
    color = pattern(name, np.random.default_rng(5), u, v)
    assert color.shape == (4000, 3) and color.min() >= 0 and color.max() <= 1.3
    assert name == "plain" or color.std(0).max() > 0.01
    np.testing.assert_array_equal(color, pattern(name, np.random.default_rng(5), u, v))
    grain = weave(np.random.default_rng(1), u, v)
    assert grain.min() > 0.3 and abs(grain.mean() - 1) < 0.1


def test_prints_have_something_on_them():
    alphas = [chest_print(np.random.default_rng(s))[..., 3] for s in range(12)]
    assert all(0.01 < (a > 0.5).mean() < 0.95 for a in alphas)


def test_beards_grow_below_the_nose_and_in_front_of_the_ears():
    eyes, mouth = np.array([[0.031, 0.362, 0.13], [-0.031, 0.362, 0.13]]), np.array([0, 0.293, 0.15])
    chin, forehead, nape = mouth + [0, -0.03, -0.01], mouth + [0, 0.12, 0], mouth + [0, -0.02, -0.2]
    for kind in BEARDS:
        found = beard_region(kind, np.stack([chin, forehead, nape]), eyes, mouth)
        assert found[1] == found[2] == 0
        assert (found[0] > 0.9) == (kind in ("goatee", "full", "stubble"))


def test_shadows_lie_behind_what_casts_them():
    """A square of 20 cm floats 30 cm in front of a wall and is lit from the front."""
    corner = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    vertices = torch.cat([corner, corner * 0.1 + torch.tensor([0, 0, -0.3])])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    surface = Surface(
        faces, torch.zeros(4, 3, 2), torch.zeros(4).bool(), torch.zeros(4), torch.zeros(1, 1, dtype=torch.uint8)
    )
    points = torch.tensor([[0.0, 0, 0], [0.05, 0.05, 0], [0.2, 0, 0], [0, -0.3, 0], [0.1, 0, 0], [0, 0, -0.3]])
    normals = torch.tensor([[0.0, 0, -1]]).expand(6, 3)
    towards = torch.tensor([0.0, 0, -1])
    lit = lit_share(points, normals, vertices, surface, towards, torch.tensor(0.02))
    assert lit[:2].tolist() == [0, 0] and lit[2:4].tolist() == [1, 1]
    assert 0.2 < lit[4] < 0.8  # half of the soft edge
    assert lit[5] == 1  # what casts it is lit
    aside = torch.nn.functional.normalize(torch.tensor([0.3, 0, -0.3]), dim=0)
    moved = lit_share(points, normals, vertices, surface, aside, torch.tensor(0.01))
    assert moved[0] == 1 and moved[1] == 1  # the shadow lies 30 cm to the other side
    assert lit_share(torch.tensor([[-0.3, 0, 0]]), normals[:1], vertices, surface, aside, torch.tensor(0.01)) == 0


def test_a_hand_casts_a_shadow_on_the_chest(bare: Bank, person):
    motion = still()
    pose = motion.body_pose.clone()
    pose[0, INDEX["left_shoulder"] - 1] = torch.tensor([0.0, -1.3, -0.3])
    motion = replace(motion, body_pose=pose, global_orient=torch.tensor([[np.pi, 0.0, 0.0]]).float())
    vertices = person.skin.vertices(bare.model(person.identity, motion))
    viewmat = torch.eye(4)
    viewmat[:3, 3] = torch.tensor([0.0, 0.75, 14.5])
    camera = Cameras(viewmat[None], intrinsics(96, 96), 96, 96)
    above = torch.nn.functional.normalize(torch.tensor([[0.2, 0.9, 0.6]]), dim=1)
    plain = Light(above, torch.ones(1, 3) * 0.7, torch.full((3,), 0.3), torch.full((3,), 0.2))
    cast = replace(plain, shadows=torch.ones(1), penumbra=torch.tensor([0.01]))
    rgb, alpha = render_vertices(vertices, person.skin, plain, camera, 1)
    dark, same = render_vertices(vertices, person.skin, cast, camera, 1)
    assert torch.equal(alpha, same) and (dark <= rgb + 1e-6).all()
    shaded = ((rgb - dark).amax(1) > 0.05) & (alpha[:, 0] > 0)
    assert 0.02 < shaded.sum() / (alpha > 0).sum() < 0.8
    none, _ = render_vertices(vertices, person.skin, replace(cast, shadows=torch.zeros(1)), camera, 1)
    torch.testing.assert_close(none, rgb)
