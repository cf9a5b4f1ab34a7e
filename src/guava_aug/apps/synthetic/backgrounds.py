"""Indoor backgrounds and light set-ups, made from a seed: studio paper, lit walls, panels, curtains, shelves."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from guava_aug.apps.synthetic.paint import noise
from guava_aug.apps.synthetic.render import Light
from guava_aug.apps.synthetic.varieties import LIFELIKE, STANDARD

Floats = NDArray[np.float32]
_LEAST_CASTING = 0.2  # strength: shadows of weaker lights would not be seen, and cost as much
KINDS = ("studio", "wall", "panels", "curtain", "shelf", "window")
_WALLS: tuple[tuple[float, float, float], ...] = (
    (0.72, 0.70, 0.66),
    (0.62, 0.67, 0.70),
    (0.66, 0.71, 0.64),
    (0.74, 0.68, 0.60),
    (0.55, 0.58, 0.62),
    (0.70, 0.64, 0.66),
    (0.48, 0.53, 0.55),
    (0.78, 0.77, 0.75),
    (0.52, 0.60, 0.58),
)


def make_background(seed: int, size: int) -> Floats:
    """Return [size, size, 3] sRGB 0..1."""
    rng = np.random.default_rng([seed, 0xBAC6])
    kind = KINDS[rng.integers(len(KINDS))]
    wall = np.asarray(_WALLS[rng.integers(len(_WALLS))], np.float32)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    cx, cy = rng.uniform(-0.1, 1.1), rng.uniform(-0.1, 0.5)
    pool = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / rng.uniform(0.35, 0.9))  # the lamp's pool of light
    light = 0.80 + 0.30 * pool - 0.10 * y
    image = wall * light[..., None]
    if kind == "panels":
        period, start = rng.uniform(0.14, 0.3), rng.uniform(0, 0.3)
        edge = np.abs(np.mod(x + start, period) - period / 2)
        image *= (1 - 0.16 * np.exp(-((edge / 0.004) ** 2)) + 0.05 * np.exp(-(((edge - 0.008) / 0.004) ** 2)))[
            ..., None
        ]
        image *= np.where(y > 0.78, 0.93, 1.0)[..., None]
    elif kind == "curtain":
        wave = sum(
            rng.uniform(0.5, 1) * np.sin(2 * np.pi * (f * x + rng.random()) + 0.5 * np.sin(3 * y))
            for f in (9.0, 17.0, 23.0)
        )
        image *= (1 + 0.045 * np.asarray(wave))[..., None]
    elif kind == "shelf":
        image = _shelf(rng, image, size)
    elif kind == "window":
        image = _window(rng, image, x, y)
    if kind in ("wall", "panels", "window") and rng.random() < 0.6:
        image = _frames(rng, image, size)
    if kind != "studio" and rng.random() < 0.5:
        corner = rng.choice([rng.uniform(0.02, 0.15), rng.uniform(0.85, 0.98)])
        image *= (1 - 0.10 * (x < corner) * np.exp(-np.abs(x - corner) / 0.2))[..., None]
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), size / 512 * rng.uniform(0.9, 1.8))  # out of focus
    image *= (1 + noise(rng, size, (size / 12, 0.008), (size / 3, 0.015)))[..., None]
    vignette = 1 - 0.10 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    return np.clip(image * vignette[..., None], 0.03, 0.97).astype(np.float32)


def make_light(seed: int, variety: str = STANDARD) -> Light:
    """Return a key light from the upper front, a weak fill from the other side, a room around.

    variety: with `LIFELIKE`, lights of any strength, colour and direction, most of which cast shadows.
    """
    if variety == LIFELIKE:
        return _lifelike_light(np.random.default_rng([seed, 0x117]))
    rng = np.random.default_rng([seed, 0x116])
    side = rng.choice([-1.0, 1.0])
    key = np.array([side * rng.uniform(0.15, 0.75), rng.uniform(0.45, 0.9), rng.uniform(0.7, 1.0)])
    fill = np.array([-side * rng.uniform(0.5, 0.9), rng.uniform(0.0, 0.4), rng.uniform(0.4, 0.8)])
    warm = rng.uniform(-0.05, 0.05)
    white = np.array([1 + warm, 1.0, 1 - warm])
    strength = rng.uniform(0.50, 0.75)
    room = rng.uniform(0.30, 0.42)
    f32 = lambda a: torch.tensor(np.asarray(a), dtype=torch.float32)
    directions = np.stack([key / np.linalg.norm(key), fill / np.linalg.norm(fill)])
    colors = np.stack([strength * white, rng.uniform(0.10, 0.22) * (2 - white)])
    return Light(f32(directions), f32(colors), f32(room * (2 - white)), f32(room * rng.uniform(0.5, 0.7) * white))


def _lifelike_light(rng: np.random.Generator) -> Light:
    """Return what lights people in videos: a window or lamp, softboxes, the sky, a screen, coloured lamps."""
    count = int(rng.integers(1, 4))
    strengths = np.array([rng.uniform(0.35, 1.5), rng.uniform(0.05, 0.6), rng.uniform(0.05, 0.7)])[:count]
    directions, colors = [], []
    for k in range(count):
        azimuth = rng.normal(0, 0.8) if k == 0 else rng.uniform(-2.7, 2.7)  # the others may come from behind
        height = rng.uniform(0.0, 1.2) if k == 0 else rng.uniform(-0.3, 1.0)
        directions.append(
            [np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)]
        )  # fmt: skip
        colors.append(strengths[k] * _lamp_color(rng))
    room = rng.uniform(0.08, 0.45) * _lamp_color(rng)
    # the camera's exposure: what faces it and a little up is neither black nor burnt out
    towards = np.array([0.0, 0.2, 0.98])
    bright = float(
        room.mean() + sum(c.mean() * max(float(towards @ d), 0) for d, c in zip(directions, colors, strict=True))
    )
    exposure = float(np.clip(bright, *np.sort(rng.uniform(0.45, 1.15, 2)))) / bright
    room, colors = room * exposure, [c * exposure for c in colors]
    f32 = lambda a: torch.tensor(np.asarray(a), dtype=torch.float32)
    floor = room * rng.uniform(0.3, 0.9) * np.clip(1 + rng.normal(0, 0.12, 3), 0.6, 1.4)
    casting = (rng.random(count) < 0.85) & (strengths > _LEAST_CASTING)
    shadows = np.where(casting, rng.uniform(0.6, 1.0, count), 0.0)
    return Light(
        f32(np.stack(directions)), f32(np.stack(colors)), f32(room), f32(floor), f32(shadows),
        f32(np.exp(rng.uniform(np.log(0.004), np.log(0.05), count))),
    )  # fmt: skip


def _lamp_color(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return [3] linear: white, warmer or cooler, seldom coloured."""
    warm = rng.normal(0, 0.12)
    color = np.array([1 + warm, 1.0, 1 - warm])
    if rng.random() < 0.15:
        color = color * (1 + rng.uniform(0.2, 0.8) * rng.uniform(-0.7, 0.5, 3))
    return np.clip(color, 0.15, 1.8)


def _shelf(rng: np.random.Generator, image: Floats, size: int) -> Floats:
    """Return a shelf with books across part of the picture."""
    out = image.copy()
    left = int(size * rng.choice([rng.uniform(-0.1, 0.0), rng.uniform(0.55, 0.68)]))
    right = left + int(size * rng.uniform(0.38, 0.5))
    wood = np.array([0.45, 0.33, 0.23], np.float32) * rng.uniform(0.7, 1.3)
    step = int(size * rng.uniform(0.2, 0.27))
    out[:, max(left, 0) : max(right, 0)] = wood * 0.42
    for top in range(-step // 2, size, step):
        x = left + 4
        while x < right - 8:
            w, h = int(size * rng.uniform(0.012, 0.03)), int(step * rng.uniform(0.55, 0.85))
            color = np.clip(rng.uniform(0.15, 0.6) * np.array([1.1, 0.95, 0.8]) + rng.normal(0, 0.06, 3), 0.06, 0.75)
            if rng.random() < 0.85:
                out[max(top + step - h - 6, 0) : max(top + step - 6, 0), max(x, 0) : max(min(x + w, right), 0)] = color
            x += w + 1
        out[max(top + step - 6, 0) : max(top + step, 0), max(left, 0) : max(right, 0)] = wood
    return out


def _window(rng: np.random.Generator, image: Floats, x: Floats, y: Floats) -> Floats:
    """Return a slanting patch of window light with a crossbar."""
    slant, left, top = rng.uniform(-0.4, 0.4), rng.uniform(-0.05, 0.6), rng.uniform(0.0, 0.4)
    u, v = (x - left - slant * (y - top)) / rng.uniform(0.3, 0.5), (y - top) / rng.uniform(0.4, 0.6)
    soft = lambda d: 1 / (1 + np.exp(np.clip(-d / 0.03, -30, 30)))
    patch = soft(u) * soft(1 - u) * soft(v) * soft(1 - v)
    bars = 1 - 0.8 * np.exp(-(((u - 0.5) / 0.03) ** 2)) - 0.8 * np.exp(-(((v - 0.5) / 0.03) ** 2))
    return image * (1 + 0.22 * (patch * np.clip(bars, 0, 1))[..., None] * np.array([1.05, 1.0, 0.88], np.float32))


def _frames(rng: np.random.Generator, image: Floats, size: int) -> Floats:
    """Return one or two pictures on the wall."""
    out = image.copy()
    for _ in range(rng.integers(1, 3)):
        w, h = size * rng.uniform(0.14, 0.24), size * rng.uniform(0.14, 0.26)
        x0 = size * rng.choice([rng.uniform(0.02, 0.14), rng.uniform(0.68, 0.8)])
        y0 = size * rng.uniform(0.06, 0.45)
        a, b = (int(x0), int(y0)), (int(x0 + w), int(y0 + h))
        shadow = np.ones(out.shape[:2], np.float32)
        cv2.rectangle(shadow, (a[0] + 4, a[1] + 6), (b[0] + 6, b[1] + 9), 0.75, -1)
        out *= cv2.GaussianBlur(shadow, (0, 0), size / 80)[..., None]
        frame = float(rng.choice([0.12, 0.25, 0.85]))
        cv2.rectangle(out, a, b, (frame, frame * 0.93, frame * 0.85), -1)
        m = int(size * 0.014)
        inner = out[a[1] + m : b[1] - m, a[0] + m : b[0] - m]
        tone = np.clip(rng.uniform(0.35, 0.7) + rng.normal(0, 0.1, 3), 0.1, 0.85)
        inner[:] = tone
        inner[inner.shape[0] // 2 :] *= rng.uniform(0.5, 0.9)
    return out
