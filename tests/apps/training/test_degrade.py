"""Degraded source pictures: same generator, same picture; ranges and shapes; what each error does."""

import math

import numpy as np
import pytest
import torch

from guava_aug.apps.training.data import make_batch
from guava_aug.apps.training.degrade import CameraColors, camera_colors, compress, degrade

_SIZE = 96
_BOXES = torch.tensor([[[-0.3, -0.9, 0.3, -0.3], [-0.6, 0.1, -0.2, 0.5], [0.2, 0.1, 0.6, 0.5]]])


@pytest.fixture(scope="module")
def layers() -> torch.Tensor:
    """Two people: a disc for the head on a trunk, with stripes."""
    at = torch.linspace(-1, 1, _SIZE)
    y, x = at[:, None], at[None]
    alpha = ((x.square() + (y + 0.55).square() < 0.08) | ((x.abs() < 0.5) & (y > -0.2))).float()
    stripes = 0.5 + 0.3 * torch.sin(25 * x + 0 * y)
    one = torch.stack([stripes * alpha, 0.6 * alpha, 0.3 * alpha, alpha])
    return torch.stack([one, one.flip(2)])


def test_the_same_generator_gives_the_same_picture_and_another_one_another(layers):
    boxes = _BOXES.expand(2, 3, 4)
    once, colors = degrade(layers, boxes, np.random.default_rng(5))
    again, same = degrade(layers, boxes, np.random.default_rng(5))
    assert torch.equal(once, again)
    assert all(torch.equal(getattr(colors, k), v) for k, v in vars(same).items())
    other, _ = degrade(layers, boxes, np.random.default_rng(6))
    assert not torch.equal(once, other)


def test_pictures_keep_shape_and_range_and_hold_the_person(layers):
    boxes, differences = _BOXES.expand(2, 3, 4), []
    for seed in range(12):
        out, colors = degrade(layers, boxes, np.random.default_rng(seed))
        assert out.shape == layers.shape and bool(torch.isfinite(out).all())
        assert float(out.min()) >= 0 and float(out.max()) <= 1
        assert bool((out[:, :3] <= out[:, 3:] + 1e-6).all())  # on black: nothing outside of the mask
        inside, mask = layers[:, 3] > 0.5, out[:, 3] > 0.5
        iou = (inside & mask).flatten(1).sum(1) / (inside | mask).flatten(1).sum(1)
        assert iou.min() > 0.5
        target = colors.apply_to_layer(layers)
        assert torch.equal(target[:, 3:], layers[:, 3:]) and bool((target[:, :3] <= target[:, 3:] + 1e-6).all())
        both = (layers[:, 3] > 0.99) & (out[:, 3] > 0.99)
        differences.append((out - target)[:, :3].abs().mean(1)[both].mean())
    assert 0.005 < float(torch.stack(differences).mean()) < 0.1  # damaged, and of the same camera as the targets


def test_neutral_colors_change_nothing(layers):
    one, zero = torch.ones(2), torch.zeros(2)
    neutral = CameraColors(torch.eye(3).expand(2, 3, 3), one, one, zero, torch.zeros(2, 3))
    torch.testing.assert_close(neutral.apply_to_layer(layers), layers, atol=2e-4, rtol=0)
    views = layers[:, None].expand(-1, 3, -1, -1, -1)
    random = camera_colors(np.random.default_rng(0), 2, "cpu")
    torch.testing.assert_close(random.apply_to_layer(views)[:, 1], random.apply_to_layer(layers))


@pytest.mark.parametrize("size", [64, 75])
def test_compression_is_that_of_jpeg(size):
    cv2 = pytest.importorskip("cv2")
    at = torch.arange(size) / size
    smooth = torch.stack([0.5 + 0.4 * torch.sin(5 * at[:, None] + k * at) for k in range(3)])
    errors = []
    for quality in (95, 60, 20):
        ours = compress(smooth[None].repeat(2, 1, 1, 1), [50, quality])[1]
        picture = (smooth.permute(1, 2, 0).numpy()[..., ::-1] * 255 + 0.5).astype(np.uint8)
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        theirs = torch.from_numpy(cv2.imdecode(data, 1)[..., ::-1].copy()).permute(2, 0, 1) / 255
        errors.append(float((ours - smooth).square().mean()))
        assert abs(10 * math.log10(errors[-1] / float((theirs - smooth).square().mean()))) < 4  # of the same strength
    assert errors == sorted(errors)


def test_a_share_of_none_leaves_batches_as_they_were(person):
    def batch(**given):
        torch.manual_seed(0)
        return make_batch([person, person], np.random.default_rng(3), 2, 28, recolor=True, **given)

    before, none, all_ = batch(), batch(degraded=0.0), batch(degraded=1.0)
    for part in ("sources", "poses", "truth"):
        for name, value in vars(getattr(before, part)).items():
            assert torch.equal(getattr(getattr(none, part), name), value), name
    assert torch.equal(all_.truth.alpha.unique(), before.truth.alpha.unique())
    assert not torch.equal(all_.sources.images, before.sources.images)
    assert all_.sources.pictures.shape == (2, 4, 32, 32)
