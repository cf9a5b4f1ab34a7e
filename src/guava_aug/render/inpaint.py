"""Filling of the hole a person leaves in a picture: the original's onion peel, and a smooth membrane.

Both run on the CPU in numba, visit only pixels of the hole, and are deterministic.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from guava_aug.runtime.numba_cache import cached_njit

ORIGINAL_MASK_SIZE = 9  # pixels: the original's max filter over the mask
ORIGINAL_MASK_LEVEL = 0.05  # above it a pixel belongs to the hole
ORIGINAL_PASSES = 48  # max(32, 3 * 16) in the original

COARSEST = 4  # pixels: the membrane's pyramid ends at a level this small
RELAXATION = 1.8  # over-relaxation; measured best for SWEEPS with the pyramid's start
SWEEPS = 20  # per level; across a person-sized hole the solution is then exact to 0.3/255
# A sitting or standing person hides what goes on level on both sides (a table, a shelf, a skirting board) more often
# than what goes on upright: colours travel this much more easily sideways than up and down.
LEVEL_PULL = 8.0
RIM = 3  # pixels around a hole whose values bound the fill
PLANE_TOLERANCE = 0.03  # colours this far from the plane are down-weighted in its fit


def original_hole(mask: np.ndarray) -> np.ndarray:
    """Return [H, W] bool: the pixels the original treats as the person. mask: [H, W] float 0..1, soft."""
    window = np.ones((ORIGINAL_MASK_SIZE, ORIGINAL_MASK_SIZE), np.uint8)
    return cv2.dilate(np.ascontiguousarray(mask, dtype=np.float32), window) > ORIGINAL_MASK_LEVEL


def onion_peel_fill(image: Tensor, mask: Tensor) -> Tensor:
    """Return the image with the person filled from the rim inwards, exactly as the original does.

    In each of 48 passes every unknown pixel with a known neighbour takes the mean of its known 3x3 neighbours. Pixels
    deeper than that keep the ORIGINAL image including the person: for a clean result use `smooth_fill`. Source: the
    augmentation fork's inpainting.

    Args:
        image: [3, H, W] or [T, 3, H, W] float 0..1. The result is a new tensor of this shape and device.
        mask: [1 or 3, H, W] or with T, 0..1, soft; only channel 0 is used.

    Raises:
        ValueError: Shapes do not match.
    """
    if (
        image.dim() not in (3, 4)
        or image.shape[-3] != 3
        or mask.shape[:-3] != image.shape[:-3]
        or mask.shape[-2:] != image.shape[-2:]
    ):
        raise ValueError(
            "onion_peel_fill: expected image [3, H, W] and mask [1 or 3, H, W] of one size, or both with T in front, "
            f"found {tuple(image.shape)} and {tuple(mask.shape)}"
        )
    height, width = image.shape[-2:]
    filled = (
        image.detach()
        .float()
        .cpu()
        .reshape(-1, 3, height, width)
        .permute(0, 2, 3, 1)
        .clone(memory_format=torch.contiguous_format)
    )  # [T, H, W, 3]
    masks = mask.detach().float().cpu()[..., 0, :, :].reshape(-1, height, width).numpy()
    for picture, soft in zip(filled.numpy(), masks, strict=True):
        _peel(picture, original_hole(soft).astype(np.uint8), ORIGINAL_PASSES)
    return filled.permute(0, 3, 1, 2).reshape(image.shape).contiguous().to(image.device)


def smooth_fill(picture: np.ndarray, hole: np.ndarray, sweeps: int = SWEEPS) -> np.ndarray:
    """Return the picture [H, W, 3] float32 with the hole replaced by a smooth surface through its rim.

    The surface is the plane that fits the known pixels best plus a membrane (the solution of Laplace's equation, free
    at the picture's border) that takes up the rest: it meets the rim without a step, continues a linear gradient
    exactly even where the hole is open to the border, stays between the darkest and the brightest value of the rim in
    each channel, and uses no value from inside the hole. The membrane is solved coarse to fine: each level starts from
    the next smaller picture of the known pixels and is relaxed. A picture without known pixels becomes mid-grey (0.5).

    Args:
        picture: [H, W, 3] float.
        hole: [H, W] bool.
        sweeps: Relaxation sweeps per level.
    """
    picture = np.ascontiguousarray(picture, dtype=np.float32)
    hole = np.ascontiguousarray(hole, dtype=bool)
    if not hole.any():
        return np.array(picture)
    if hole.all():
        return np.full_like(picture, 0.5)
    plane = _plane(picture, ~hole)
    surface = plane + _membrane(np.where(hole[..., None], np.float32(0), picture - plane), hole, sweeps)
    rim = picture[grow(hole, RIM) & ~hole]
    surface = np.clip(surface, rim.min(axis=0), rim.max(axis=0))
    filled: np.ndarray = np.where(hole[..., None], surface, picture)
    return filled


def grow(region: np.ndarray, radius: int) -> np.ndarray:
    """Return [H, W] bool: the region dilated by a disk of `radius` pixels."""
    if radius <= 0:
        return region.astype(bool)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    reach = (disk.sum(1) // 2).astype(np.int16)  # every row of it is one run of pixels around the middle
    return _grow(np.ascontiguousarray(region, dtype=bool), reach)


@cached_njit(nogil=True)
def _grow(region: np.ndarray, reach: np.ndarray) -> np.ndarray:  # pragma: no cover - compiled
    """Dilate as cv2.dilate with rows 2 reach + 1 wide, but faster.

    The nearest pixel in a row is found once for all rows.
    """
    height, width = region.shape
    far = 2**15 - 1  # more than any reach
    nearest = np.empty((height, width), np.int16)  # how far the next pixel of the region is in its row
    for y in range(height):
        distance = far
        for x in range(width):
            distance = 0 if region[y, x] else min(distance + 1, far)
            nearest[y, x] = distance
        distance = far
        for x in range(width - 1, -1, -1):
            distance = 0 if region[y, x] else min(distance + 1, far)
            nearest[y, x] = min(nearest[y, x], distance)
    grown = np.zeros((height, width), np.bool_)
    radius = len(reach) // 2
    for y in range(height):
        for k in range(max(-radius, -y), min(radius, height - 1 - y) + 1):
            most = reach[k + radius]
            for x in range(width):
                grown[y, x] |= nearest[y + k, x] <= most
    return grown


def _plane(picture: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the plane a + b x + c y [H, W, 3] float32 nearest to the known pixels, by a robust fit."""
    height, width = known.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    design = np.stack([np.ones_like(x), x / width - 0.5, y / height - 0.5], axis=-1)  # [H, W, 3]
    step = max(1, min(height, width) // 64)
    rows = design[::step, ::step][known[::step, ::step]].astype(np.float64)
    values = picture[::step, ::step][known[::step, ::step]].astype(np.float64)
    if len(rows) < 16:
        return np.zeros_like(picture)
    weight = np.ones(len(rows))
    ridge = 1e-3 * len(rows) * np.diag([0.0, 1.0, 1.0])  # few known pixels in a corner must not tilt the whole plane
    for _ in range(8):  # iteratively reweighted least squares, Cauchy weights
        normal = rows.T @ (weight[:, None] * rows) + ridge
        plane = np.linalg.lstsq(normal, rows.T @ (weight[:, None] * values), rcond=None)[0]
        error = np.abs(values - rows @ plane).max(axis=1)
        weight = 1.0 / (1.0 + (error / PLANE_TOLERANCE) ** 2)
    fitted: np.ndarray = (design @ plane.astype(np.float32)).astype(np.float32)
    return fitted


def _membrane(picture: np.ndarray, hole: np.ndarray, sweeps: int) -> np.ndarray:
    height, width = hole.shape
    if not hole.any():
        return picture
    if min(height, width) <= COARSEST:
        known = ~hole
        filled: np.ndarray = picture.copy()
        filled[hole] = picture[known].mean(axis=0)
    else:
        smaller, smaller_hole = _halve(picture, ~hole)
        coarse = _membrane(smaller, smaller_hole, sweeps)
        start = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        filled = np.where(hole[..., None], start, picture)
    _relax(filled, hole, sweeps, RELAXATION)
    return filled


def _halve(picture: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the half-size picture of the means of known pixels, and the cells without known pixels."""
    height, width = known.shape
    even = ((0, height % 2), (0, width % 2))
    weight = np.pad(known.astype(np.float32), even)
    total = np.pad(picture * known[..., None], (*even, (0, 0)))
    size = (weight.shape[1] // 2, weight.shape[0] // 2)
    share = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    mean = cv2.resize(total, size, interpolation=cv2.INTER_AREA) / np.maximum(share, 1e-6)[..., None]
    return mean.astype(np.float32), share == 0


@cached_njit(nogil=True)
def _peel(  # noqa: C901 - one compiled loop  # pragma: no cover
    picture: np.ndarray, unknown: np.ndarray, passes: int
) -> None:
    """Fill `picture` [H, W, 3] in place, ring by ring; `unknown` [H, W] uint8 is modified."""
    height, width = unknown.shape
    count = 0
    for y in range(height):
        for x in range(width):
            if unknown[y, x]:
                count += 1
    rows, cols = np.empty(count, np.int32), np.empty(count, np.int32)  # unknown pixels with a known neighbour
    values = np.empty((count, 3), np.float32)
    ring = 0
    for y in range(height):
        for x in range(width):
            if unknown[y, x] and _known_neighbour(unknown, y, x):
                rows[ring], cols[ring] = y, x
                unknown[y, x] = 2  # queued
                ring += 1
    first = 0
    for _ in range(passes):
        if ring == first:
            break
        for i in range(first, ring):
            y, x = rows[i], cols[i]
            r = g = b = np.float32(0.0)
            n = np.float32(1e-6)
            for v in range(max(0, y - 1), min(height, y + 2)):
                for u in range(max(0, x - 1), min(width, x + 2)):
                    if unknown[v, u] == 0:
                        r += picture[v, u, 0]
                        g += picture[v, u, 1]
                        b += picture[v, u, 2]
                        n += np.float32(1.0)
            values[i, 0], values[i, 1], values[i, 2] = r / n, g / n, b / n
        last = ring
        for i in range(first, last):
            picture[rows[i], cols[i]] = values[i]
            unknown[rows[i], cols[i]] = 0
        for i in range(first, last):
            for v in range(max(0, rows[i] - 1), min(height, rows[i] + 2)):
                for u in range(max(0, cols[i] - 1), min(width, cols[i] + 2)):
                    if unknown[v, u] == 1:
                        rows[ring], cols[ring] = v, u
                        unknown[v, u] = 2
                        ring += 1
        first = last


@cached_njit(nogil=True)
def _known_neighbour(unknown: np.ndarray, y: int, x: int) -> bool:  # pragma: no cover - compiled
    for v in range(max(0, y - 1), min(unknown.shape[0], y + 2)):
        for u in range(max(0, x - 1), min(unknown.shape[1], x + 2)):
            if unknown[v, u] == 0:
                return True
    return False


@cached_njit(nogil=True)
def _relax(  # noqa: C901 - one compiled loop  # pragma: no cover
    filled: np.ndarray, hole: np.ndarray, sweeps: int, omega: float
) -> None:
    """Solve Laplace's equation in the hole by successive over-relaxation, in place; free at the border.

    In red-black order: pixels of one colour of a chessboard read only those of the other. Each colour is stored
    separately meanwhile, in rows and columns from 1, so that the compiler vectorises the loop.
    """
    height, width, channels = filled.shape
    half = (width + 1) // 2
    pixels = np.zeros((2, channels, height + 2, half + 2), np.float32)  # x is 2 k - 2 or 2 k - 1
    inside = np.zeros((2, height + 2, half + 2), np.bool_)
    low, high = np.full(height + 2, half + 2, np.uint64), np.zeros(height + 2, np.uint64)  # the hole's k, row by row
    for y in range(height):
        for x in range(width):
            colour, k = (y + x) % 2, x // 2 + 1
            for c in range(channels):
                pixels[colour, c, y + 1, k] = filled[y, x, c]
            if hole[y, x]:
                inside[colour, y + 1, k] = True
                low[y + 1], high[y + 1] = min(low[y + 1], k), k + 1
    for _ in range(sweeps):
        for colour in range(2):
            for c in range(channels):
                own, other = pixels[colour, c], pixels[1 - colour, c]
                other[0, :], other[height + 1, :] = own[1, :], own[height, :]  # border pixels are their own neighbours
                for y in range(1, height + 1):
                    if high[y] == 0:
                        continue
                    shift = (y + 1 + colour) % 2  # whether the pixels of this row have odd x
                    if shift == 0:
                        other[y, 0] = own[y, 1]
                    if shift == (width - 1) % 2:
                        other[y, half + shift] = own[y, half]
                    _relax_row(own, other, inside[colour], np.uint64(y), np.uint64(shift), low[y], high[y], omega)
    for y in range(height):
        for x in range(width):
            if hole[y, x]:
                for c in range(channels):
                    filled[y, x, c] = pixels[(y + x) % 2, c, y + 1, x // 2 + 1]


@cached_njit(nogil=True)
def _relax_row(  # pragma: no cover - compiled
    own: np.ndarray,
    other: np.ndarray,
    inside: np.ndarray,
    y: np.uint64,
    shift: np.uint64,
    low: np.uint64,
    high: np.uint64,
    omega: float,
) -> None:
    vertical = 0.5 / (1.0 + LEVEL_PULL)
    level = 0.5 - vertical
    one = np.uint64(1)
    for k in range(low, high):
        mean = vertical * (other[y - one, k] + other[y + one, k]) + level * (
            other[y, k + shift - one] + other[y, k + shift]
        )
        new = np.float32(own[y, k] + omega * (mean - own[y, k]))
        own[y, k] = new if inside[y, k] else own[y, k]
