"""Masks at full resolution from small ones: near the truth, steady, and nothing where nothing is known."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from guava_aug.apps.synthetic import demo_root
from guava_aug.tracked import TrackedVideo
from guava_aug.tracked.matting import WORK, coarse_in_crop, guided, refine_masks


def as_the_net_sees(truth: np.ndarray, seed: int) -> np.ndarray:
    """[256, 256] uint8: what the person net gives of a mask [S, S] in a region a third larger than the picture.

    Blurred, its edge shifted here and there by up to two of its pixels, gaps closed, a little noise.
    """
    rng = np.random.default_rng(seed)
    to_region = np.array([[192 / truth.shape[0], 0, 31.5], [0, 192 / truth.shape[0], 31.5]])
    small = cv2.warpAffine(truth, to_region, (256, 256), flags=cv2.INTER_AREA).astype(np.float32) / 255
    small = cv2.morphologyEx(small, cv2.MORPH_CLOSE, np.ones((4, 4)))
    shift = cv2.resize(rng.normal(0, 1.2, (24, 24, 2)).astype(np.float32), (256, 256), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:256, :256].astype(np.float32)
    small = cv2.remap(small, x + shift[..., 0], y + shift[..., 1], cv2.INTER_LINEAR)
    small = cv2.GaussianBlur(small, (0, 0), 1.2) + rng.normal(0, 0.02, small.shape)
    return (np.clip(small, 0, 1) * 255).astype(np.uint8)


REGION = np.array([0.5, 0.5, 256 / 192, 256 / 192, 0.0])  # of a picture of side 1


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_near_the_truth_of_a_generated_person() -> None:
    """One clip and few frames; benchmarks/masks.py measures with the net itself."""
    video = TrackedVideo.open(demo_root(), "signer_b")
    chosen = list(range(0, 100, 10))
    pairs = [video.read_frame(i) for i in chosen]
    size = video.image_size
    region = REGION * np.array([size, size, size, size, 1])
    to_work = np.diag([WORK / size, WORK / size, 1.0])
    small = [as_the_net_sees(mask, i) for i, (_, mask) in enumerate(pairs)]
    coarse = lambda i: coarse_in_crop(small[i], region, to_work)
    found = list(refine_masks(lambda: (rgb for rgb, _ in pairs), coarse, len(pairs)))
    truth = [mask > 127 for _, mask in pairs]
    before = [iou(cv2.resize(coarse(i), (size, size)) > 0.5, t) for i, t in enumerate(truth)]
    after = [iou(f > 127, t) for f, t in zip(found, truth, strict=True)]
    assert np.mean(after) >= 0.97 and min(after) >= 0.95
    assert 1 - np.mean(after) < 0.5 * (1 - np.mean(before))


def _scene(count: int = 6, size: int = 300) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A disk with five thin fingers that moves in front of a still, textured wall."""
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(60, 200, (30, 30, 3)).astype(np.uint8), (size, size), interpolation=cv2.INTER_CUBIC)
    pictures, masks = [], []
    for i in range(count):
        mask = np.zeros((size, size), np.uint8)
        middle = (110 + 14 * i, 170)
        cv2.circle(mask, middle, 60, 255, -1)
        for k in range(5):
            cv2.line(mask, middle, (middle[0] - 60 + 30 * k, 60), 255, 9)
        picture = np.where(mask[..., None] > 0, np.uint8([225, 170, 140]), wall)
        pictures.append(np.clip(picture + rng.integers(-4, 5, picture.shape), 0, 255).astype(np.uint8))
        masks.append(mask)
    return pictures, masks


def test_fingers_are_kept_and_unknown_parts_are_empty() -> None:
    pictures, truth = _scene()
    size = pictures[0].shape[0]
    region = REGION * np.array([size, size, size, size, 1])
    small = [as_the_net_sees(mask, i) for i, mask in enumerate(truth)]
    coarse = lambda i: coarse_in_crop(small[i], region, np.diag([WORK / size, WORK / size, 1.0]))
    known = np.full((size, size), 255, np.uint8)
    known[240:] = 0
    found = list(refine_masks(lambda: pictures, coarse, len(pictures), known))
    assert all(f.shape == (size, size) and f.dtype == np.uint8 and not f[240:].any() for f in found)
    fingers = np.s_[70:105]
    for f, t in zip(found, truth, strict=True):
        assert iou(f[:240] > 127, t[:240] > 127) > 0.93
        assert iou(f[fingers] > 127, t[fingers] > 127) > 0.85


def test_a_still_picture_has_a_still_mask() -> None:
    pictures, truth = _scene(1)
    size = pictures[0].shape[0]
    region = REGION * np.array([size, size, size, size, 1])
    small = [as_the_net_sees(truth[0], i) for i in range(5)]  # the net trembles
    coarse = lambda i: coarse_in_crop(small[i], region, np.diag([WORK / size, WORK / size, 1.0]))
    found = list(refine_masks(lambda: pictures * 5, coarse, 5))
    trembling = [np.abs(coarse(i + 1) - coarse(i)).mean() for i in range(4)]
    left = [np.abs(a.astype(float) - b).mean() / 255 for a, b in pairwise(found)]
    assert max(left[1:]) < 0.35 * min(trembling)


def test_a_turned_region_lands_where_it_belongs() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[10:20, 40:50] = 255  # right of and above the middle of the region
    region = np.array([200.0, 150.0, 128.0, 128.0, np.pi / 2])  # a quarter turn clockwise: below and right
    to_crop = np.array([[2.0, 0, -100], [0, 2.0, 0], [0, 0, 1]])  # a crop that is twice as large, from x = 50 on
    found = coarse_in_crop(mask, region, to_crop, 400)
    y, x = np.mgrid[:400, :400]
    at = np.array([(found * x).sum(), (found * y).sum()]) / found.sum()
    across, down = (44.5 - 31.5) * 2, (14.5 - 31.5) * 2  # of the region, px of the picture, from its middle
    place = np.array([200 - 0.5 - down, 150 - 0.5 + across])
    np.testing.assert_allclose(at, 2 * place - (100, 0), atol=0.5)
    assert not coarse_in_crop(mask, np.zeros(5), to_crop, 50).any()


def test_the_guided_filter_is_its_definition() -> None:
    """Against the least squares of one window."""
    rng = np.random.default_rng(1)
    guide, values = rng.random((9, 9, 3)).astype(np.float32), rng.random((9, 9)).astype(np.float32)
    radius, eps = 1, 1e-3

    def window(y: int, x: int) -> tuple[np.ndarray, float]:
        g = guide[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).astype(np.float64)
        v = values[y - 1 : y + 2, x - 1 : x + 2].ravel().astype(np.float64)
        covariance = np.cov(g.T, bias=True) + eps * np.eye(3)
        a = np.linalg.solve(covariance, (g * v[:, None]).mean(0) - g.mean(0) * v.mean())
        return a, v.mean() - a @ g.mean(0)

    parts = [window(y, x) for y in (3, 4, 5) for x in (3, 4, 5)]
    expected = np.mean([a @ guide[4, 4] + b for a, b in parts])
    assert guided(guide, values, radius, eps)[4, 4] == pytest.approx(expected, abs=1e-3)


def test_nobody_gives_empty_masks() -> None:
    pictures, _ = _scene(3)
    found = list(refine_masks(lambda: pictures, lambda i: np.zeros((WORK, WORK), np.float32), 3))
    assert len(found) == 3 and not any((f > 127).any() for f in found)
