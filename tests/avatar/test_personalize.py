"""Likeness: an avatar fitted to pictures, on a CPU with the reference rasteriser, and its parts."""

import gc
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from guava_aug.apps.synthetic import default_body_path
from guava_aug.avatar.avatar import Avatar
from guava_aug.avatar.config import ModelConfig
from guava_aug.avatar.decoders import RawGaussians
from guava_aug.avatar.personalize import (
    Fit,
    Observations,
    PersonalizeConfig,
    Rates,
    personalize,
    read_avatar_file,
    write_avatar_file,
)
from guava_aug.avatar.personalize.fit import held_out, rasterize
from guava_aug.avatar.personalize.guess import fuse, straighten
from guava_aug.avatar.personalize.observations import importance
from guava_aug.avatar.personalize.surface import facing, offset_freedom, smooth_basis
from guava_aug.body import EhmModel, Identity, Motion, load_body_file
from guava_aug.body.surface_normals import vertex_normals
from guava_aug.errors import AssetError, OutputError, UsageError
from guava_aug.views.cameras import intrinsics

SIZE = 16  # one tile: the reference keeps every (splat, pixel)
FRAMES = 4
CHANNELS = 16
K = intrinsics(SIZE, SIZE, 0.09)  # head and neck


@pytest.fixture(scope="module")
def body() -> EhmModel:
    return EhmModel(load_body_file(default_body_path(), uv_size=32))


@pytest.fixture(scope="module")
def motion() -> Motion:
    zeros = lambda *s: torch.zeros(FRAMES, *s)
    pose = torch.randn(FRAMES, 21, 3, generator=torch.Generator().manual_seed(0)) * 0.05
    turned = torch.tensor([torch.pi, 0, 0]).expand(FRAMES, 3).clone()
    return Motion(turned, pose, zeros(15, 3), zeros(15, 3), zeros(50), zeros(50), zeros(3), zeros(2, 3), zeros(2))


@pytest.fixture(scope="module")
def viewmats() -> torch.Tensor:
    view = torch.eye(4).repeat(FRAMES, 1, 1)
    view[:, 2, 3], view[:, 1, 3] = 2.8, 0.8  # the neck is in the middle
    return view


@pytest.fixture(scope="module")
def avatar(body) -> Avatar:
    identity = Identity(torch.zeros(20), torch.zeros(20), torch.ones(3), torch.ones(3), torch.zeros(55, 3))

    def raw(n: int, scale: float, local: bool) -> RawGaussians:
        return RawGaussians(
            torch.zeros(n, CHANNELS), torch.full((n, 1), 0.9), torch.full((n, 3), scale),
            torch.tensor([1.0, 0, 0, 0]).expand(n, 4).clone(), torch.zeros(n, 3) if local else None,
        )  # fmt: skip

    vertices, texels = len(body.assets.body.v_template), int((body.assets.uv_face >= 0).sum())
    return Avatar.build(body, identity, raw(vertices, 0.012, False), raw(texels, 0.5, True), 0.001)


@pytest.fixture(scope="module")
def seen(avatar, motion, viewmats) -> Observations:
    """The avatar's own outline, painted orange (its guess is grey); the lower half of the picture is not known."""
    with torch.no_grad():
        _, alpha = rasterize(avatar.pose(motion), viewmats, K.expand(FRAMES, 3, 3), SIZE, SIZE)
    person = alpha > 0.5
    color = torch.tensor([240, 140, 20], dtype=torch.uint8)[None, :, None, None]
    known = torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool)
    known[:, :, SIZE // 2 :] = False
    return Observations(
        images=color * person, masks=255 * person.to(torch.uint8), frames=torch.arange(FRAMES),
        cameras=torch.zeros(FRAMES, dtype=torch.long), known=known, relative=torch.eye(4)[None], K=K[None],
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(avatar, motion, viewmats, seen):
    config = PersonalizeConfig(steps=4, frames_per_step=1, release=0.02, clothes=0.0, rates=Rates(color=8.0))
    fit = Fit(avatar, motion, viewmats, seen, lambda features: features[:, :3], config)
    return fit, fit.run()


def test_a_fit_takes_on_the_colour_of_the_frames(avatar, motion, viewmats, fitted):
    fit, found = fitted
    before = fit.held_out_psnr(avatar, motion, viewmats)
    after = fit.held_out_psnr(found.avatar, found.motion, found.viewmats)
    assert after > before + 0.2
    assert replace(found, before=before, after=after).better
    assert not replace(found, before=after, after=before).better


def test_what_no_frame_shows_stays_as_it_was_guessed(avatar, fitted):
    _, found = fitted
    hidden = found.gate == 0
    assert hidden.any() and not hidden.all()
    assert torch.allclose(found.avatar.features[hidden], avatar.features[hidden], atol=1e-6)
    assert torch.allclose(found.avatar.opacities[hidden], avatar.opacities[hidden], atol=1e-6)
    assert (found.avatar.features - avatar.features).abs().max() > 0.01


def test_the_chest_is_outside_the_known_half_and_hidden(avatar, fitted, body):
    _, found = fitted
    low = body.assets.v_canonical[:, 1] < 0.0
    assert low.any() and (found.gate[: len(low)][low] == 0).all()


def test_a_frame_kept_back_moves_its_pose_but_no_appearance(avatar, motion, viewmats, seen):
    fit = Fit(avatar, motion, viewmats, seen, lambda f: f[:, :3], PersonalizeConfig(steps=1, frames_per_step=1))
    fit._groups()
    assert fit.held_out.tolist() == [2] and fit.training.tolist() == [0, 1, 3]
    v = fit.variables
    (fit._loss(fit.held_out, frozen=True) - fit._priors()).backward()
    assert v.motion["body_pose"].grad[2].abs().sum() > 0
    assert v.motion["body_pose"].grad[[0, 1, 3]].abs().sum() == 0
    for appearance in (v.color, v.features, v.opacity, v.place, v.height, v.betas):
        assert appearance.grad is None or appearance.grad.abs().sum() == 0


def test_pictures_that_cannot_be_used_are_named(avatar, motion, viewmats, seen):
    refine, settings = (lambda f: f[:, :3]), ModelConfig(image_size=512)
    with pytest.raises(UsageError, match=f"512 x 512 pixels, found {SIZE} x {SIZE}"):
        personalize(avatar, motion, viewmats, seen, None, settings, refine)
    alone = replace(seen, frames=seen.frames[2:3], cameras=seen.cameras[2:3], images=seen.images[2:3])
    with pytest.raises(UsageError, match="no frame of the first camera"):
        personalize(avatar, motion, viewmats, alone, None, replace(settings, image_size=SIZE), refine)


def test_frames_are_kept_back_evenly():
    assert torch.nonzero(held_out(torch.arange(12), 4))[:, 0].tolist() == [2, 6, 10]
    assert not held_out(torch.arange(12), 0).any()


def test_the_bent_body_falls_on_the_true_lens_pixels(body, avatar, motion, viewmats):
    posed = body.pose(avatar.rest, motion[:1])
    turned = viewmats[0].clone()
    turned[:3, :3] = torch.tensor([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]])
    bent = straighten(posed, turned, K, SIZE, SIZE, 24.0)
    camera = posed.vertices[0] @ turned[:3, :3].T + turned[:3, 3]
    pixels = camera @ K.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    far = bent.vertices[0] @ turned[:3, :3].T + turned[:3, 3]
    seen_by_network = ((far[:, :2] * 24 / far[:, 2:] + 1) * SIZE - 1) / 2
    assert torch.allclose(seen_by_network, pixels, atol=1e-2)
    differ = (far[:, 2] - far[:, 2].mean()) - (camera[:, 2] - camera[:, 2].mean())
    assert differ.abs().max() < 1e-3  # nearer stays nearer


def test_fused_predictions_are_those_of_the_frames_that_show_them():
    def raw(value: float) -> RawGaussians:
        quat = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]).roll(int(value), 0)
        full = lambda *s: torch.full(s, value)
        return RawGaussians(full(2, 4), torch.full((2, 1), 0.5), full(2, 3).exp(), quat, full(2, 3))

    found = fuse([raw(0.0), raw(1.0)], torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    assert torch.allclose(found.colors[:, 0], torch.tensor([0.0, 1.0]))
    assert torch.allclose(found.scales[:, 0].log(), torch.tensor([0.0, 1.0]), atol=1e-6)
    assert torch.equal(found.rotations, torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0]]))
    even = fuse([raw(0.0), raw(1.0)], torch.ones(2, 2))
    assert torch.allclose(even.local_pos, torch.full((2, 3), 0.5))


def test_smooth_functions_sum_to_one_and_may_be_symmetric(body):
    points = body.assets.v_canonical
    basis = smooth_basis(points, 0.16, symmetric=True)
    assert torch.allclose(basis.sum(1), torch.ones(len(points)), atol=1e-5)
    mirrored = smooth_basis(points * torch.tensor([-1.0, 1, 1]), 0.16, symmetric=True)
    assert torch.allclose(basis, mirrored, atol=1e-5)
    assert smooth_basis(points, 0.035, symmetric=False).shape[1] > 3 * basis.shape[1]


def test_offsets_leave_eyes_and_joints_alone(body, avatar, motion):
    free = offset_freedom(body.assets)
    assert 0 < (free == 0).sum() < len(free) and free.max() == 1
    offsets = 0.02 * free[:, None] * vertex_normals(body.assets.v_canonical, body.assets.faces)
    plain, dressed = (body.pose(replace(avatar.rest, offsets=o), motion[:1]) for o in (None, offsets))
    assert torch.equal(plain.joints, dressed.joints)
    moved = (dressed.vertices - plain.vertices).norm(dim=-1)[0]
    assert moved.max() < 0.021 and (moved[free == 0] == 0).all() and moved[free == 1].median() > 0.015


def test_normals_point_outwards_and_towards_the_camera_in_front(body, avatar, motion, viewmats):
    vertices = body.pose(avatar.rest, motion[:1]).vertices[0]
    front = facing(vertices, body.assets.faces, viewmats[0])
    assert 0.3 < (front > 0).float().mean() < 0.6  # about half of a closed surface
    near = (vertices @ viewmats[0, 2, :3]) < vertices[:, 2].median()
    assert front[near].mean() > front[~near].mean()


def test_a_fast_hand_weighs_less(body, avatar, motion, viewmats, seen):
    still = Motion(**{k: v[:1].expand(FRAMES, *v.shape[1:]) for k, v in vars(motion).items()})
    fast = replace(still, body_pose=still.body_pose.clone())
    fast.body_pose[1, 15, 2] += 1.0  # the left arm goes up and comes back
    wide = replace(seen, K=intrinsics(64, 64, 0.35)[None], images=torch.zeros(FRAMES, 3, 64, 64, dtype=torch.uint8))
    weigh = lambda m, blur: importance(body.pose(avatar.rest, m), viewmats, wide, 2.0, 3.0, blur)
    calm, blurred = weigh(still, 5.0), weigh(fast, 5.0)
    assert set(calm.unique().tolist()) == {1.0, 2.0, 3.0}
    assert torch.equal(calm[0], calm[3]) and torch.equal(blurred[3], calm[3])
    assert blurred[1].max() == 3 and (blurred[1] == 2).any()  # the other hand, the face
    assert ((blurred[1] > 0) & (blurred[1] < 1)).any()  # it moved far
    assert set(weigh(fast, 0.0).unique().tolist()) == {1.0, 2.0, 3.0}


def test_an_avatar_file_gives_the_avatar_back(tmp_path, fitted, body):
    _, found = fitted
    path = write_avatar_file(tmp_path / "a" / "x.safetensors", found.avatar, found.motion, found.viewmats, {"by": "t"})
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]
    back = read_avatar_file(path, body)
    assert back.made_with == {"by": "t"}
    a, b = found.avatar.pose(found.motion), back.avatar.pose(back.motion)
    torch.testing.assert_close(b.means, a.means, atol=1e-4, rtol=0)
    torch.testing.assert_close(b.features, a.features, atol=1e-3, rtol=1e-3)
    assert torch.equal(back.viewmats, found.viewmats)


def test_an_avatar_file_of_another_body_or_kind_is_named(tmp_path, fitted, body):
    _, found = fitted
    path = write_avatar_file(tmp_path / "x.safetensors", found.avatar, found.motion, found.viewmats, {})
    other = EhmModel(replace(body.assets, faces=body.assets.faces[:-1]))
    with pytest.raises(AssetError, match=r"another body model.*27612.*fit the avatar again"):
        read_avatar_file(path, other)
    (tmp_path / "y.safetensors").write_bytes(path.read_bytes()[:-100])
    tensors, metadata = load_file(path), {"format": "guava-aug avatar 1", "made_with": "{}", "body": "3"}
    save_file(tensors, tmp_path / "number.safetensors", metadata)  # where a body model should be
    with safe_open(path, framework="pt") as file:
        tensors["identity.betas"] = torch.zeros(())
        save_file(tensors, tmp_path / "shape.safetensors", file.metadata())
    for name, word in ((f"{name}.safetensors", "cannot read") for name in ("y", "z", "number", "shape")):
        with pytest.raises(AssetError, match=word):
            read_avatar_file(tmp_path / name, body)


def test_an_avatar_file_that_cannot_be_written_is_named(tmp_path, fitted):
    _, found = fitted
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*check the folder"):
        write_avatar_file(tmp_path / "file" / "x.safetensors", found.avatar, found.motion, found.viewmats, {})


def _on_gpu(avatar: Avatar) -> Avatar:
    body = avatar.body.to("cuda")
    tensors = {k: v.cuda() for k, v in vars(avatar).items() if isinstance(v, torch.Tensor)}
    return replace(avatar, body=body, rest=body.shape(avatar.rest.identity.to("cuda")), **tensors)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fits_follow_on_each_other_in_one_process(avatar, motion, viewmats, seen):
    """What an earlier fit leaves must not be freed while the graphs of a later one are captured."""
    config = PersonalizeConfig(steps=2, frames_per_step=2, release=0.02)
    layer = torch.nn.Conv2d(CHANNELS, 3, 3, padding=1).cuda().requires_grad_(False)
    usual = gc.get_threshold()
    gc.set_threshold(50, 1, 1)  # garbage is collected all the time
    try:
        for _ in range(6):
            found = Fit(_on_gpu(avatar), motion, viewmats, seen, layer, config).run()
            torch.cuda.empty_cache()
            assert bool(torch.isfinite(found.avatar.features).all())
    finally:
        gc.set_threshold(*usual)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_the_gpu_is_that_on_the_cpu(avatar, motion, viewmats, seen):
    config = PersonalizeConfig(steps=3, frames_per_step=2, release=0.02)
    refine = lambda features: features[:, :3]
    on_cpu = Fit(avatar, motion, viewmats, seen, refine, config)
    on_gpu_avatar = _on_gpu(avatar)
    on_gpu = Fit(on_gpu_avatar, motion, viewmats, seen, refine, config)
    # a splat at the threshold of 1/255 may fall the other way: the difference as a whole must be small
    assert (on_gpu.variables.gate.cpu() - on_cpu.variables.gate).abs().mean() < 1e-3
    ids = torch.tensor([0, 1])
    losses = [float(fit._loss(ids.to(fit.viewmats.device), frozen=False).detach()) for fit in (on_cpu, on_gpu)]
    assert losses[1] == pytest.approx(losses[0], rel=0.2)  # random backgrounds are drawn by the same generator
    on_gpu._groups()
    again = []
    for captured in (False, True):
        if captured:
            on_gpu._capture()
        on_gpu.generator.manual_seed(5)
        again.append(on_gpu._loss(ids.cuda(), frozen=captured).detach())
    torch.testing.assert_close(again[1], again[0], atol=1e-5, rtol=1e-3)  # CUDA graphs give the same
    assert on_gpu.run().avatar.features.is_cuda
