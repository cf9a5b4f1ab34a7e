"""Clothes' textures: our own colours and patterns on MakeHuman's cut, so that no logo is left."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from guava_aug.apps.synthetic.arrays import components
from guava_aug.apps.synthetic.bank import Bank, Proxy
from guava_aug.apps.synthetic.paint import Image, bleed, noise
from guava_aug.apps.synthetic.raster import Surface, rasterize

PATTERNS = ("plain", "plain", "plain", "stripes", "pinstripes", "checks", "two-tone", "heather")
_WAIST = -0.20  # metres, model frame: what reaches above is a top
_BELT = -0.33
_ANKLE = -1.0
TEXTURE_SIZE = 1024
_CLOTH_COLORS: tuple[tuple[float, float, float], ...] = (
    (0.13, 0.16, 0.22),
    (0.20, 0.30, 0.45),
    (0.16, 0.35, 0.33),
    (0.45, 0.16, 0.18),
    (0.55, 0.54, 0.52),
    (0.80, 0.79, 0.76),
    (0.12, 0.12, 0.13),
    (0.36, 0.29, 0.42),
    (0.62, 0.50, 0.32),
    (0.30, 0.40, 0.24),
    (0.70, 0.42, 0.34),
    (0.42, 0.56, 0.68),
    (0.58, 0.30, 0.40),
    (0.24, 0.44, 0.58),
    (0.72, 0.66, 0.56),
)


@dataclass(frozen=True)
class Fabric:
    """A pattern and its colours (sRGB 0..1)."""

    pattern: str
    main: tuple[float, float, float]
    second: tuple[float, float, float]
    trousers: tuple[float, float, float]
    period: float  # metres


def _vary(rng: np.random.Generator, color: tuple[float, float, float]) -> tuple[float, float, float]:
    r, g, b = np.clip(np.asarray(color) * rng.uniform(0.88, 1.12) + rng.normal(0, 0.02, 3), 0.03, 0.92)
    return float(r), float(g), float(b)


def pick_fabric(rng: np.random.Generator) -> Fabric:
    """Return a random fabric."""
    a, b = rng.choice(len(_CLOTH_COLORS), 2, replace=False)
    trousers = [(0.16, 0.20, 0.30), (0.13, 0.13, 0.14), (0.32, 0.29, 0.25), (0.22, 0.28, 0.40)][rng.integers(4)]
    return Fabric(
        PATTERNS[rng.integers(len(PATTERNS))],
        _vary(rng, _CLOTH_COLORS[a]),
        _vary(rng, _CLOTH_COLORS[b]),
        _vary(rng, trousers),
        float(rng.uniform(0.035, 0.08)),
    )


def clothe(bank: Bank, proxy: Proxy, fabric: Fabric, rng: np.random.Generator) -> Image:
    """Return [1024, 1024, 4] texture of one outfit."""
    rest = proxy.rest(bank.assets.body.v_template.numpy())
    component = components(proxy.faces, len(rest))
    position, owner = paint_positions(proxy, rest, component)
    count = component.max() + 1
    color = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE, 3), np.float32)
    sizes = np.bincount(component, minlength=count)
    top_of = np.array([rest[component == c, 1].max() for c in range(count)])
    tops = [c for c in np.argsort(-sizes) if top_of[c] > _WAIST]
    weave = 1 + noise(rng, TEXTURE_SIZE, (1.2, 0.02), (14, 0.02), (60, 0.03))
    for c in range(count):
        mine = owner == c
        p = position[mine]
        if c in tops:
            rank = tops.index(c)
            color[mine] = (
                pattern_colors(fabric, p) if rank == 0 else 0.8 * np.asarray(fabric.second if rank % 2 else fabric.main)
            )
            legs = mine.copy()
            legs[mine] = p[:, 1] < _BELT  # overalls are drawn as shirt and trousers
            color[legs] = fabric.trousers
        elif top_of[c] > _ANKLE:
            color[mine] = fabric.trousers
        else:
            color[mine] = (0.10, 0.09, 0.09)
    color *= weave[..., None]
    if fabric.pattern == "heather":
        color *= (1 + noise(rng, TEXTURE_SIZE, (1.0, 0.10)))[..., None]
    for name in bank.textures(f"clothes/{proxy.name}/"):
        if name.endswith("_ao"):
            shadow = cv2.GaussianBlur(bank.texture(name, TEXTURE_SIZE)[..., :3].mean(-1) / 255, (0, 0), 1.5)
            color *= (0.55 + 0.45 * shadow)[..., None]
    color = bleed(color, owner >= 0)
    return np.dstack(
        [(np.clip(color, 0, 1) * 255 + 0.5).astype(np.uint8), np.full((TEXTURE_SIZE, TEXTURE_SIZE), 255, np.uint8)]
    )


def pattern_colors(f: Fabric, p: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return [n, 3] colours of the main garment at T-pose points p [n, 3]; sleeves run along x."""
    a, b = np.asarray(f.main, np.float32), np.asarray(f.second, np.float32)
    sleeve = np.abs(p[:, 0]) > 0.19
    along = np.where(sleeve, np.abs(p[:, 0]), p[:, 1])
    around = np.where(sleeve, p[:, 2], p[:, 0])
    wave = lambda x, period, share: (np.mod(x / period, 1.0) < share).astype(np.float32)
    if f.pattern == "stripes":
        share = wave(along, f.period, 0.42)
    elif f.pattern == "pinstripes":
        share = 0.7 * wave(around, f.period * 0.45, 0.16)
    elif f.pattern == "checks":
        share = 0.4 * wave(along, f.period * 1.2, 0.5) + 0.4 * wave(around, f.period * 1.2, 0.5)
    elif f.pattern == "two-tone":
        share = (sleeve | (p[:, 1] > 0.06)).astype(np.float32)
    else:
        share = np.zeros(len(p), np.float32)
    return a + (b - a) * share[:, None]


def paint_positions(
    proxy: Proxy, rest: NDArray[np.float32], component: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return T-pose position [S, S, 3] and component [S, S] (-1 none) of every texel of the outfit's chart."""
    faces = proxy.faces_uv
    screen = np.concatenate([proxy.texcoords * TEXTURE_SIZE - 0.5, np.zeros((len(proxy.texcoords), 1))], 1).astype(
        np.float32
    )
    none = torch.zeros(len(faces), dtype=torch.bool)
    surface = Surface(
        torch.from_numpy(faces),
        torch.zeros(len(faces), 3, 2),
        none,
        torch.zeros(len(faces)),
        torch.zeros(1, 1, dtype=torch.uint8),
    )
    seen, weights = rasterize(surface, torch.from_numpy(screen)[None], TEXTURE_SIZE, TEXTURE_SIZE)
    ids, bary = seen[0].numpy(), weights[0].numpy()
    hit = ids >= 0
    position = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE, 3), np.float32)
    position[hit] = (rest[proxy.faces[ids[hit]]] * bary[hit][..., None]).sum(1)
    owner = np.full((TEXTURE_SIZE, TEXTURE_SIZE), -1)
    owner[hit] = component[proxy.faces[ids[hit], 0]]
    return position, owner
