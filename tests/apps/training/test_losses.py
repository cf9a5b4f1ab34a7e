"""Losses by their axioms."""

import pytest
import torch

from guava_aug.apps.training.data import color_mix, mix_colors
from guava_aug.apps.training.losses import crop, edge_loss, psnr, ssim
from guava_aug.avatar.image_losses import coarse_loss, texture_loss


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_equal_pictures_are_perfect(picture):
    assert float(ssim(picture, picture)) == pytest.approx(1, abs=1e-5)
    assert float(edge_loss(picture, picture)) == 0
    assert psnr(picture, picture).min() > 90


def test_worse_pictures_score_worse(picture):
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    little, much = picture + 0.02 * noise, picture + 0.2 * noise
    assert ssim(picture, little) > ssim(picture, much)
    assert edge_loss(picture, little) < edge_loss(picture, much)
    assert (psnr(picture, little) > psnr(picture, much)).all()


def test_psnr_of_a_known_error(picture):
    torch.testing.assert_close(psnr(picture, picture + 0.1), torch.full((2,), 20.0), atol=1e-3, rtol=0)
    wrong = picture.clone()
    wrong[..., :16] += 0.5
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 16:] = 1
    assert psnr(picture, wrong, mask).min() > 90


def test_edges_do_not_see_an_offset(picture):
    assert float(edge_loss(picture, picture + 0.3)) < 1e-5


def test_texture_asks_for_detail_and_not_for_its_place(picture):
    shifted, blurred = picture.roll(2, -1), torch.nn.functional.avg_pool2d(picture, 3, 1, 1)
    assert texture_loss(picture, picture) == 0
    assert texture_loss(picture, shifted) < 0.3 * texture_loss(picture, blurred)
    assert edge_loss(picture, shifted) > edge_loss(picture, blurred)  # which would choose the blurred one
    assert coarse_loss(picture, blurred) < 0.3 * (picture - blurred).abs().mean()


def test_crop_of_a_quarter_is_that_quarter(picture):
    box = torch.tensor([[-1.0, -1.0, 0.0, 0.0]]).expand(2, 4)
    torch.testing.assert_close(crop(picture, box, 16), picture[..., :16, :16], atol=1e-5, rtol=0)


def test_recoloring_keeps_grey_grey_and_colors_within_alpha():
    import numpy as np

    alpha = torch.full((1, 8, 8), 0.5)
    grey = torch.cat([torch.full((3, 8, 8), 0.25), alpha])
    for seed in range(5):
        mix = torch.as_tensor(color_mix(np.random.default_rng(seed)), dtype=torch.float32)
        mixed = mix_colors(grey, mix)
        gain = mixed[:3, 0, 0] / 0.25
        assert ((gain > 0.7) & (gain < 1.25)).all()  # the gains alone: hue and saturation leave grey as it is
        wild = torch.cat([torch.rand(3, 8, 8) * 0.5, alpha])
        out = mix_colors(wild, mix)
        assert (out[:3] >= 0).all() and (out[:3] <= alpha).all() and torch.equal(out[3:], alpha)
