"""Textures: recolouring MakeHuman's, and smooth noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # [S, S, 4] RGBA
Color = Sequence[float]  # sRGB 0..1

PALETTE_SKIN: tuple[tuple[float, float, float], ...] = (
    (0.90, 0.75, 0.66), (0.87, 0.70, 0.60), (0.84, 0.67, 0.54), (0.80, 0.62, 0.50), (0.74, 0.56, 0.43),
    (0.66, 0.48, 0.36), (0.50, 0.34, 0.25), (0.40, 0.27, 0.20), (0.32, 0.22, 0.17),
)  # fmt: skip
PALETTE_HAIR: tuple[tuple[float, float, float], ...] = (
    (0.07, 0.06, 0.06), (0.11, 0.08, 0.07), (0.17, 0.12, 0.09), (0.24, 0.16, 0.11), (0.33, 0.22, 0.14),
    (0.42, 0.30, 0.19), (0.62, 0.50, 0.34), (0.48, 0.24, 0.13), (0.60, 0.58, 0.56),
)  # fmt: skip


_ABOVE = 0.20  # how far above its typical colour skin may be


def tint(image: Image, mean: Color) -> Image:
    """Return the skin texture with its typical colour moved to `mean`; local contrast is kept."""
    rgb = image[..., :3].astype(np.float32) / 255
    typical = np.median(rgb[100:500:4, 200:560:4].reshape(-1, 3), 0)  # the torso
    goal = np.asarray(mean, np.float32)
    moved = rgb * goal / np.maximum(typical, 0.05)
    above = np.maximum(moved - goal, 0) / _ABOVE  # palms and foreheads of dark skins would go white
    return _pack(np.clip(np.minimum(moved, goal) + _ABOVE * np.tanh(above), 0, 1), image[..., 3])


def recolor(image: Image, color: Color, flat: bool = False) -> Image:
    """Return hair of another colour, shaded as the texture; `flat` drops the shading (brows, lashes)."""
    rgb, alpha = image[..., :3].astype(np.float32) / 255, image[..., 3]
    light = rgb @ np.array([0.3, 0.59, 0.11], np.float32)
    solid = alpha > 128
    level = np.median(light[solid]) if solid.any() else 1.0
    relief = np.ones_like(light) if flat else np.clip((light / max(level, 0.02)) ** 0.6, 0.45, 1.7)
    return _pack(np.clip(relief[..., None] * np.asarray(color, np.float32), 0, 1), alpha)


def eye_texture(image: Image) -> Image:
    """Return MakeHuman's eye with a duller iris (its browns are red) and a less bright white."""
    rgb = image[..., :3].astype(np.float32) / 255
    grey = rgb.mean(-1, keepdims=True)
    rgb = grey + (rgb - grey) * 0.62
    return _pack(np.clip(rgb * 0.86, 0, 1), image[..., 3])


def _pack(rgb: NDArray[np.floating], alpha: NDArray[np.uint8]) -> Image:
    return np.dstack([(rgb * 255 + 0.5).astype(np.uint8), alpha])


def noise(rng: np.random.Generator, size: int, *scales: tuple[float, float]) -> NDArray[np.float32]:
    """Return [size, size] smooth noise: a sum of Gaussian fields of (sigma in pixels, strength)."""
    out = np.zeros((size, size), np.float32)
    for sigma, strength in scales:
        small = max(8, int(size / max(sigma, 1)))
        field: NDArray[Any] = rng.standard_normal((small, small)).astype(np.float32)
        field = cv2.GaussianBlur(
            cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC), (0, 0), max(sigma / 2, 0.6)
        )
        out += strength * field / max(float(field.std()), 1e-6)
    return out


def bleed(color: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the colours carried a few texels over the islands' rims, so that bilinear sampling finds no black."""
    out, seen = color * known[..., None], known.astype(np.float32)
    for _ in range(6):
        weight = cv2.blur(seen, (3, 3))
        spread = cv2.blur(out * seen[..., None], (3, 3)) / np.maximum(weight, 1e-6)[..., None]
        grown = (weight > 0) & (seen == 0)
        out[grown], seen[grown] = spread[grown], 1
    return out
