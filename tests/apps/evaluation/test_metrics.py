"""PSNR, SSIM and colour difference against values that follow from their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from guava_aug.apps.evaluation.metrics import K1, K2, PSNR_CEILING, SIGMA, WINDOW, delta_e, inner, psnr, ssim_map

PICTURE = torch.rand(3, 24, 31, generator=torch.Generator().manual_seed(0)) * 0.8


@pytest.mark.parametrize("offset", [0.1, 0.01])
def test_psnr_of_a_constant_offset(offset: float):
    assert psnr(PICTURE + offset, PICTURE) == pytest.approx(-20 * math.log10(offset), abs=1e-3)


def test_psnr_looks_at_the_chosen_pixels_alone():
    where = torch.zeros(24, 31, dtype=torch.bool)
    where[3:9, 4:20] = True
    off = torch.where(where, PICTURE + 0.1, PICTURE + 0.5)
    assert psnr(off, PICTURE, where) == pytest.approx(20, abs=1e-3)
    one_channel = PICTURE.clone()
    one_channel[1] += 0.1
    assert psnr(one_channel, PICTURE) == pytest.approx(20 + 10 * math.log10(3), abs=1e-3)
    with pytest.raises(ValueError, match="no pixel"):
        psnr(off, PICTURE, torch.zeros_like(where))


def test_equal_pictures_reach_the_ceiling():
    assert psnr(PICTURE, PICTURE) == PSNR_CEILING
    assert torch.allclose(ssim_map(PICTURE, PICTURE), torch.ones(14, 21, dtype=torch.float64), atol=1e-12)


def test_ssim_of_an_inverted_picture_is_negative():
    """1 - x has the variance of x and the opposite covariance."""
    noise = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(1))
    found = ssim_map(1 - noise, noise)
    assert found.max() < -0.5


def test_ssim_of_flat_pictures_is_the_luminance_term():
    a, b = 0.3, 0.6
    flat = lambda value: torch.full((3, 15, 15), value)
    c1 = K1**2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert torch.allclose(ssim_map(flat(a), flat(b)), torch.tensor(expected, dtype=torch.float64), atol=1e-6)


def test_ssim_of_one_window_by_hand():
    """An 11 x 11 picture has a single window; its moments summed here one by one."""
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.rand(1, WINDOW, WINDOW, generator=generator).double() for _ in range(2))
    k = torch.tensor([math.exp(-((i - 5) ** 2) / (2 * SIGMA**2)) for i in range(WINDOW)], dtype=torch.float64)
    weight = torch.outer(k, k) / k.sum() ** 2
    mx, my = (weight * x[0]).sum(), (weight * y[0]).sum()
    vx, vy = (weight * (x[0] - mx) ** 2).sum(), (weight * (y[0] - my) ** 2).sum()
    cov = (weight * (x[0] - mx) * (y[0] - my)).sum()
    c1, c2 = K1**2, K2**2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    found = ssim_map(x, y)
    assert found.shape == (1, 1)
    assert float(found) == pytest.approx(float(expected), abs=1e-9)


def test_the_map_lies_on_the_middle_of_its_windows():
    """A single wrong pixel lowers the map around its own place, cut by the border."""
    wrong = PICTURE.clone()
    wrong[:, 12, 20] = 1.0
    where = torch.zeros(24, 31, dtype=torch.bool)
    where[12, 20] = True
    found = ssim_map(wrong, PICTURE)
    assert inner(where).shape == found.shape
    assert float(found[inner(where)]) == float(found.min()) < 0.9


def test_colour_differences_of_known_colours():
    """Black to white is the whole axis of lightness, sRGB grey 0.5 lies at L* = 53.39; nothing else is looked at."""
    flat = lambda *rgb: torch.tensor(rgb)[:, None, None].expand(3, 12, 12)
    where = torch.zeros(12, 12, dtype=torch.bool)
    where[2:5, 3:9] = True
    black = torch.where(where, flat(0.0, 0.0, 0.0), flat(1.0, 0.0, 0.0))
    assert delta_e(flat(1.0, 1.0, 1.0), black, where) == pytest.approx(100, abs=0.05)
    assert delta_e(flat(0.5, 0.5, 0.5), black, where) == pytest.approx(53.39, abs=0.05)
    assert delta_e(black, black, where) == 0
    red, green = flat(1.0, 0.0, 0.0), flat(0.0, 1.0, 0.0)  # Lab 53.24 80.09 67.20 and 87.73 -86.18 83.18
    assert delta_e(red, green, where) == pytest.approx(math.hypot(34.49, 166.27, 15.98), abs=0.2)
    with pytest.raises(ValueError, match="no pixel"):
        delta_e(red, green, torch.zeros_like(where))
