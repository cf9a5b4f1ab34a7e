"""Painted subjects and written clips: deterministic, and the pictures agree with the parameters stored beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from guava_aug.apps.synthetic import default_body_path, demo_root
from guava_aug.apps.synthetic.backgrounds import KINDS, make_background, make_light
from guava_aug.apps.synthetic.bank import Bank
from guava_aug.apps.synthetic.clip import write_clip
from guava_aug.apps.synthetic.pairs import CLIP_SEEDS, HELD_OUT_SEEDS, TRAINING_SEEDS, make_subject, training_pictures
from guava_aug.apps.synthetic.render import project
from guava_aug.apps.synthetic.subjects import make_person
from guava_aug.body.ehm import EhmModel
from guava_aug.body.files import load_body_file
from guava_aug.errors import AssetError
from guava_aug.tracked import TrackedVideo, check_videos
from guava_aug.views.cameras import Cameras, intrinsics

SIZE = 128


@pytest.fixture(scope="module")
def subject(bare: Bank):
    return make_subject(bare, 3, frames=30)


def test_subjects_follow_from_their_seed(bare: Bank, subject):
    again = make_person(bare, 3)
    assert torch.equal(again.identity.betas, subject.identity.betas)
    assert torch.equal(again.skin.atlas, subject.person.skin.atlas)
    assert torch.equal(again.skin.occlusion, subject.person.skin.occlusion)


def test_standard_people_are_what_they_were(subject):
    """Figures of the version before there were lifelike people."""
    skin = subject.person.skin
    np.testing.assert_allclose(subject.identity.betas[:4], [0.1077, 0.4438, 0.8623, 0.5699], atol=1e-4)
    np.testing.assert_allclose(skin.atlas.float().mean((0, 1)), [11.7257, 9.7299, 8.7140], atol=2e-3)
    assert float(skin.offsets.abs().sum()) == pytest.approx(20.4717, abs=1e-3)
    assert float(skin.occlusion.mean()) == pytest.approx(0.7996, abs=1e-3)
    assert skin.ids.shape[1] == 3 and len(skin.ids) == 13_854


def test_the_mesh_lies_on_the_body_and_its_textures_are_in_the_atlas(bare: Bank, subject):
    skin, motion = subject.person.skin, subject.motion[:2]
    posed = bare.model(subject.identity, motion)
    drawn = skin.vertices(posed)
    assert (drawn - posed.vertices[:, skin.ids[:, 0]]).norm(dim=-1).max() < 0.02
    assert skin.surface.corners.min() >= 0 and skin.surface.corners.max() <= 1
    assert skin.occlusion.min() > 0.1 and skin.occlusion.max() <= 1.0001 and skin.occlusion.mean() > 0.5


def test_training_pictures_match_their_parameters(subject):
    source, targets = training_pictures(subject, np.random.default_rng(0), targets=4, size=SIZE)
    assert source.images.shape == (1, 3, SIZE, SIZE) and targets.masks.shape == (4, 1, SIZE, SIZE)
    for pictures in (source, targets):
        posed = subject.model(subject.identity, pictures.motion)
        screen = project(posed.vertices, pictures.cameras, 1)
        for s, mask, image in zip(screen, pictures.masks[:, 0], pictures.images, strict=True):
            inside = ((s[:, :2] > 1) & (s[:, :2] < SIZE - 2)).all(1)
            x, y = s[inside, 0].round().long(), s[inside, 1].round().long()
            around = torch.nn.functional.max_pool2d(mask[None, None], 3, 1, 1)[0, 0]
            assert (around[y, x] > 0).float().mean() > 0.999  # every vertex falls on the person
            assert 0.04 < mask.mean() < 0.7
            assert (image.amax(0) <= mask + 1e-5).all()  # colour is premultiplied


def test_held_out_seeds_cannot_be_trained_on(bare: Bank, subject):
    assert not set(HELD_OUT_SEEDS) & set(TRAINING_SEEDS) and not set(CLIP_SEEDS.values()) & set(TRAINING_SEEDS)
    assert not set(HELD_OUT_SEEDS) & set(CLIP_SEEDS.values())
    held_out = type(subject)(**{**subject.__dict__, "seed": HELD_OUT_SEEDS[0]})
    with pytest.raises(ValueError, match="held out"):
        training_pictures(held_out, np.random.default_rng(0))


def test_a_written_clip_reads_back_and_its_masks_fit_the_stored_motion(bare: Bank, tmp_path: Path):
    write_clip(bare, tmp_path, "painted", seed=4, frames=3, size=SIZE)
    assert_clip_fits_itself(tmp_path, "painted")


@pytest.mark.parametrize("name", sorted(CLIP_SEEDS))
def test_bundled_clips_are_sound(name: str):
    if not (demo_root() / name).exists():
        pytest.skip(f"the clip {name} is not bundled")
    assert_clip_fits_itself(demo_root(), name)


def assert_clip_fits_itself(root: Path, name: str) -> None:
    """The stored parameters, run through the shipped body, give the stored silhouette and the tracker's frame."""
    [row] = check_videos(root, [name])
    assert row.ok and not row.warnings, row
    video = TrackedVideo.open(root, name)
    assert video.fps == 25
    size = video.image_size
    model = EhmModel(load_body_file(default_body_path(), uv_size=64))
    posed = model(video.identity, video.motion)
    assert (video.viewmats[:, :3, :3] == torch.eye(3)).all() and 13 < video.viewmats[0, 2, 3] < 17
    assert abs(video.viewmats[0, 1, 3] - 0.75) < 0.06
    screen = project(posed.vertices, Cameras(video.viewmats, intrinsics(size, size), size, size), 1)
    for i in range(0, video.num_frames, max(1, video.num_frames // 4)):
        rgb, mask = video.read_frame(i)
        s = screen[i]
        inside = ((s[:, :2] > 2) & (s[:, :2] < size - 3)).all(1)
        x, y = s[inside, 0].round().long(), s[inside, 1].round().long()
        grown = torch.nn.functional.max_pool2d(torch.from_numpy(mask.copy())[None, None].float(), 3, 1, 1)[0, 0]
        assert (grown[y, x] > 100).float().mean() > 0.995
        head = model.assets.head_to_body
        assert s[head, 1].min() > 0.04 * size and s[:, 1].max() > 0.95 * size  # head in the picture, cut at the legs
        for left, right, top, bottom in video.part_boxes(i).values():
            assert right - left > 20 and bottom - top > 20
        assert rgb[mask < 5].std() > 1  # a real background


def test_backgrounds_and_lights_follow_from_their_seed_and_differ():
    images = [make_background(s, 96) for s in range(12)]
    assert all(i.shape == (96, 96, 3) and i.dtype == np.float32 and i.min() > 0 and i.max() < 1 for i in images)
    np.testing.assert_array_equal(images[3], make_background(3, 96))
    assert len({hashlib.md5(i.tobytes()).hexdigest() for i in images}) == 12
    assert len(KINDS) >= 5
    a, b = make_light(1), make_light(2)
    assert torch.allclose(a.directions.norm(dim=1), torch.ones(2)) and (a.directions[:, 2] > 0).all()
    assert not torch.equal(a.colors, b.colors)


def test_a_missing_or_wrong_bank_is_named(tmp_path: Path):
    with pytest.raises(AssetError, match=r"nowhere\.npz.*pack_bank"):
        Bank.load(tmp_path / "nowhere.npz")
    with pytest.raises(AssetError, match="no picture bank"):
        Bank.load(default_body_path())
    whole, broken = default_body_path().read_bytes(), tmp_path / "broken.npz"
    for damaged in (b"", whole[:5000], whole[:5000] + bytes(5000) + whole[10000:]):
        broken.write_bytes(damaged)
        with pytest.raises(AssetError, match=r"broken\.npz.*expected a whole \.npz.*pack_bank"):
            Bank.load(broken)
