"""Hole filling: the original's onion peel against its record, the smooth fill against what a wall looks like."""

import cv2
import numpy as np
import pytest
import torch

from guava_aug.render.inpaint import (
    LEVEL_PULL,
    ORIGINAL_PASSES,
    _relax,
    grow,
    onion_peel_fill,
    original_hole,
    smooth_fill,
)


def waves(height, width, seed, max_freq):
    """[3, H, W] in 0..1: the picture of the recording (sums of plane waves)."""
    rng = np.random.RandomState(seed)
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    out = np.zeros((3, height, width))
    for channel in out:
        for _ in range(4):
            fx, fy = rng.randint(-max_freq, max_freq + 1, 2)
            amplitude = rng.uniform(0.3, 1.0)
            channel += amplitude * np.sin(2 * np.pi * (fx * x + fy * y) + rng.uniform(0, 2 * np.pi))
    return (0.5 + 0.5 * np.tanh(0.8 * out)).astype(np.float32)


def ellipses(height, width, parts):
    """[H, W] soft mask in 0..1 of ellipses (centre x, centre y, radius x, radius y), as in the recording."""
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    inside = [1 - np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2) for cx, cy, rx, ry in parts]
    return (1 / (1 + np.exp(-np.clip(np.max(inside, axis=0) / 0.01, -40, 40)))).astype(np.float32)


def person(height, width, seed):
    j = np.random.RandomState(seed + 7919).uniform(-0.02, 0.02, 4)
    parts = [(0.5 + j[0], 0.27 + j[1], 0.11, 0.15), (0.5 + j[2], 0.78 + j[3], 0.27, 0.40)]
    return ellipses(height, width, parts)


RECORDED_INPUTS = [
    lambda: (waves(512, 512, 404, 8), person(512, 512, 404)),
    lambda: (waves(512, 512, 405, 8), ellipses(512, 512, [(0.4, 0.6, 0.06, 0.06)])),
    lambda: (waves(96, 96, 406, 4), person(96, 96, 405)),
    lambda: (waves(96, 96, 407, 4), np.zeros((96, 96), np.float32)),
]


@pytest.mark.parity
@pytest.mark.parametrize("case", range(4))
def test_onion_peel_matches_the_original(golden, case):
    recorded = np.load(golden / "inpaint.npz")
    image, mask = RECORDED_INPUTS[case]()
    out = onion_peel_fill(torch.from_numpy(image), torch.from_numpy(mask).expand(3, -1, -1)).numpy()
    hole = original_hole(mask)
    changed = (out != image).any(axis=0)
    assert hole.sum() == recorded[f"hole_count_{case}"]
    assert np.array_equal(np.packbits(changed), recorded[f"changed_packed_{case}"])
    np.testing.assert_allclose(out.mean(axis=(1, 2)), recorded[f"mean_{case}"], rtol=0, atol=1e-5)
    if f"out_full_{case}" in recorded:
        np.testing.assert_allclose(out, recorded[f"out_full_{case}"], rtol=0, atol=1e-5)
    else:
        np.testing.assert_allclose(out[:, ::8], recorded[f"out_rows_{case}"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(out[:, :, ::8], recorded[f"out_cols_{case}"], rtol=0, atol=1e-5)


def onion_peel_by_definition(image, hole):
    """The original's rule written as whole-picture passes: the specification of the ring-by-ring kernel."""
    known, out = (~hole).float()[None, None], image[None].clone()
    window = torch.ones(1, 1, 3, 3)
    for _ in range(ORIGINAL_PASSES):
        count = torch.nn.functional.conv2d(known, window, padding=1)
        total = torch.nn.functional.conv2d(out * known, window.expand(3, 1, 3, 3), padding=1, groups=3)
        fill = (known == 0) & (count > 0)
        out = torch.where(fill, total / (count + 1e-6), out)
        known = torch.maximum(known, fill.float())
    return out[0]


@pytest.mark.parametrize("shape", [(1, 1), (7, 150), (131, 64), (200, 220)])
@pytest.mark.parametrize("density", [0.0, 0.0005, 0.2, 1.0])
def test_onion_peel_is_the_rule(shape, density):
    rng = np.random.default_rng(shape[0])
    image = torch.from_numpy(rng.random((3, *shape), dtype=np.float32))
    mask = torch.from_numpy((rng.random(shape) >= density).astype(np.float32))[None]  # known seeds in a large hole
    expected = onion_peel_by_definition(image, torch.from_numpy(original_hole(mask[0].numpy())))
    torch.testing.assert_close(onion_peel_fill(image, mask), expected, atol=1e-5, rtol=0)


def test_onion_peel_takes_batches_and_leaves_its_input():
    images = torch.from_numpy(np.stack([waves(64, 48, s, 4) for s in (1, 2)]))
    masks = torch.from_numpy(np.stack([ellipses(64, 48, [(0.5, y, 0.2, 0.2)]) for y in (0.3, 0.7)]))[:, None]
    before = images.clone()
    both = onion_peel_fill(images, masks)
    assert torch.equal(images, before)
    for t in range(2):
        assert torch.equal(both[t], onion_peel_fill(images[t], masks[t]))


def test_onion_peel_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="one size"):
        onion_peel_fill(torch.zeros(3, 8, 8), torch.zeros(1, 8, 9))


def ramp(size):
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    return np.stack([0.2 + 0.5 * x, 0.3 + 0.4 * y, 0.8 - 0.3 * x - 0.2 * y], axis=-1)


@pytest.mark.parametrize("size", [33, 200, 512])
def test_smooth_fill_continues_a_gradient(size):
    """Also where the hole is open to the border. 1/255: the plane's fit is slightly damped on purpose."""
    wall, hole = ramp(size), person(size, size, 3) > 0.05
    assert hole.mean() > 0.2
    picture = np.where(hole[..., None], np.float32(1), wall)
    assert np.abs(smooth_fill(picture, hole) - wall).max() < 1 / 255


def test_smooth_fill_uses_nothing_from_inside_the_hole():
    wall, hole = waves(96, 128, 5, 3).transpose(1, 2, 0), ellipses(96, 128, [(0.4, 0.6, 0.3, 0.3)]) > 0.5
    fills = []
    for inside in (0.0, 1e6, np.nan):
        picture = wall.copy()
        picture[hole] = inside
        fills.append(smooth_fill(picture, hole))
    assert np.array_equal(fills[0], fills[1])
    assert np.array_equal(fills[0], fills[2])
    assert np.array_equal(fills[0][~hole], wall[~hole])


def test_smooth_fill_stays_between_the_colours_of_the_rim():
    wall = waves(128, 128, 9, 6).transpose(1, 2, 0)
    hole = ellipses(128, 128, [(0.5, 0.8, 0.3, 0.5)]) > 0.5
    out = smooth_fill(wall, hole)
    rim = wall[grow(hole, 3) & ~hole]
    assert (out[hole] >= rim.min(axis=0)).all()
    assert (out[hole] <= rim.max(axis=0)).all()


def test_smooth_fill_has_no_steps():
    wall = np.full((128, 128, 3), 0.7, np.float32)
    wall[90:] = 0.2  # a table's edge that ends in the hole from both sides
    hole = ellipses(128, 128, [(0.5, 0.7, 0.3, 0.5)]) > 0.5
    out = smooth_fill(wall, hole)
    inner = hole & ~grow(~hole, 8)
    steps = np.maximum(np.abs(np.diff(out, axis=0))[:, :-1], np.abs(np.diff(out, axis=1))[:-1]).max(axis=-1)
    assert steps[inner[:-1, :-1]].max() < 0.06
    assert out[120, 64, 0] < 0.35 < 0.6 < out[60, 64, 0]  # the table goes on behind the person


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 1), (2, 2), (6, 9), (7, 8), (12, 11)])
def test_relaxation_is_the_rule(size):
    rng = np.random.default_rng(sum(size))
    height, width = size
    picture, hole = rng.random((*size, 3), dtype=np.float32), rng.random(size) < 0.6
    hole[0, 0] = hole[-1, -1] = True  # also at the border
    expected = picture.astype(np.float64)
    upright = 0.5 / (1 + LEVEL_PULL)
    for _ in range(3):
        for colour in (0, 1):
            for y, x in np.argwhere(hole):
                if (y + x) % 2 == colour:
                    above, below = expected[max(y - 1, 0), x], expected[min(y + 1, height - 1), x]
                    left, right = expected[y, max(x - 1, 0)], expected[y, min(x + 1, width - 1)]
                    mean = upright * (above + below) + (0.5 - upright) * (left + right)
                    expected[y, x] += 1.7 * (mean - expected[y, x])
    _relax(picture, hole, 3, 1.7)
    np.testing.assert_allclose(picture, expected, atol=1e-5)


@pytest.mark.parametrize("known", [0, 1, 5])
def test_smooth_fill_of_almost_nothing(known):
    picture = np.full((40, 56, 3), np.nan, np.float32)
    hole = np.ones((40, 56), bool)
    picture[0, :known], hole[0, :known] = 0.25, False
    out = smooth_fill(picture, hole)
    np.testing.assert_allclose(out, 0.25 if known else 0.5, atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 61), (7, 5), (1, 9)])
@pytest.mark.parametrize("radius", [1, 2, 5, 24])
def test_growing_is_a_dilation_by_a_disk(shape, radius):
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    for density in (0.0, 0.002, 0.1, 1.0):
        region = np.random.default_rng(radius).random(shape) < density
        assert np.array_equal(grow(region, radius), cv2.dilate(region.astype(np.uint8), disk).astype(bool))
