"""Patterned cloth: stripes, checks, dots, weaves, flowers, prints and noise as functions of a place on the garment.

Places are metres along (v) and around (u) the trunk or a limb, so a pattern runs over seams of the texture.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from guava_aug.apps.synthetic.paint import noise

Floats = NDArray[np.float32]
_NEUTRALS = (
    (0.92, 0.91, 0.89), (0.05, 0.05, 0.055), (0.10, 0.12, 0.20), (0.45, 0.45, 0.46), (0.75, 0.70, 0.60),
    (0.25, 0.25, 0.26), (0.70, 0.70, 0.70), (0.20, 0.16, 0.13),
)  # fmt: skip
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX)
_LETTERS = list("ABCDEFGHIJKLMNOPRSTUVWXYZ0123456789")
_TILE = 512  # texels of a print and of noise


def any_color(rng: np.random.Generator) -> Floats:
    """Return [3] a colour of cloth, sRGB 0..1: a neutral or any hue."""
    if rng.random() < 0.4:
        return np.clip(np.asarray(_NEUTRALS[rng.integers(len(_NEUTRALS))]) + rng.normal(0, 0.02, 3), 0.02, 0.95).astype(
            np.float32
        )
    return np.asarray(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.15, 0.95), rng.uniform(0.15, 0.95)), np.float32)


def any_pattern(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    """Return [n, 3] colours 0..1 at metres u around and v along: a random pattern in random colours."""
    names = list(PATTERNS)
    weights = np.array([PATTERNS[n][1] for n in names])
    return pattern(names[rng.choice(len(names), p=weights / weights.sum())], rng, u, v)


def pattern(name: str, rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    """Return [n, 3] colours 0..1 of one of `PATTERNS`."""
    return np.asarray(PATTERNS[name][0](rng, u.astype(np.float32), v.astype(np.float32)), np.float32)


def chest_print(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return [512, 512, 4] a print: letters, a badge or a picture, colour and alpha 0..1."""
    image = np.zeros((_TILE, _TILE, 4), np.uint8)
    kind = rng.integers(4)
    color = lambda: (*(float(round(255 * c)) for c in any_color(rng)), 255.0)
    if kind in (0, 1):
        font, ink = int(_FONTS[rng.integers(len(_FONTS))]), color()
        lines = int(rng.integers(1, 5))
        for k in range(lines):
            word = "".join(rng.choice(_LETTERS, rng.integers(3, 9)))
            thick = int(rng.integers(3, 14))
            (w, h), _ = cv2.getTextSize(word, font, 1.0, thick)
            scale = min(0.9 * _TILE / w, 0.75 * _TILE / lines / h) * 0.95
            (w, h), _ = cv2.getTextSize(word, font, scale, thick)
            at = (int((_TILE - w) / 2), int((k + 0.5) * _TILE / lines + h / 2))
            cv2.putText(image, word, at, font, scale, ink, thick, cv2.LINE_AA)
    if kind in (1, 2):
        for _ in range(rng.integers(2, 7)):
            center = tuple(int(x) for x in rng.integers(_TILE // 6, 5 * _TILE // 6, 2))
            size = tuple(int(x) for x in rng.integers(_TILE // 20, _TILE // 5, 2))
            shape = rng.integers(3)
            if shape == 0:
                cv2.ellipse(image, center, size, float(rng.uniform(0, 180)), 0, 360, color(), -1, cv2.LINE_AA)
            elif shape == 1:
                cv2.circle(image, center, size[0], color(), int(rng.integers(4, 20)), cv2.LINE_AA)
            else:
                points = (np.asarray(center) + rng.normal(0, size[0], (int(rng.integers(3, 7)), 2))).astype(np.int32)
                cv2.fillPoly(image, [cv2.convexHull(points)], color(), cv2.LINE_AA)
    if kind == 3:
        image[..., :3] = 255 * _picture(rng)
        m = int(rng.integers(20, 90))
        image[m : _TILE - m, m // 2 : _TILE - m // 2, 3] = 255
    return np.asarray(image / np.float32(255), np.float32)


def weave(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    """Return [n] the grain of a cloth as a factor of its colours: denim, knit, ribs, melange or plain."""
    kind = rng.integers(6)
    if kind == 0:  # denim: white threads on a diagonal
        speck = _sample(noise(rng, _TILE, (0.8, 1.0)), u, v, 0.0012)
        return np.asarray(1 + 0.10 * speck + 0.10 * np.sin((u + v) * 2 * np.pi / 0.0035), np.float32)
    if kind == 1:  # knit: rows of V
        size = rng.uniform(0.005, 0.012)
        zig = np.abs(np.mod(u / size, 1) - 0.5)
        return np.asarray(1 + rng.uniform(0.1, 0.22) * np.sin((v / size + zig) * 2 * np.pi), np.float32)
    if kind == 2:  # ribs
        return np.asarray(1 + rng.uniform(0.08, 0.2) * np.sin(u * 2 * np.pi / rng.uniform(0.005, 0.015)), np.float32)
    if kind == 3:  # melange
        return np.asarray(
            1 + rng.uniform(0.06, 0.16) * _sample(noise(rng, _TILE, (1.0, 1.0)), u, v, 0.0015), np.float32
        )
    return np.asarray(1 + 0.02 * _sample(noise(rng, _TILE, (1.2, 1.0)), u, v, 0.0015), np.float32)


def _sample(tile: NDArray[Any], u: Floats, v: Floats, texel: float) -> Any:
    """Return the tile at metres u and v; nearest texel. It repeats mirrored, so it has no seams."""
    n = tile.shape[0]
    at = lambda x: n - 1 - np.abs(np.mod(np.floor(x / texel).astype(np.int64) + n // 3, 2 * n - 1) - (n - 1))
    return tile[at(v), at(u)]


def _mix(share: Any, a: Floats, b: Floats) -> Floats:
    return np.asarray(a + (b - a) * np.asarray(share, np.float32)[..., None], np.float32)


def _turned(rng: np.random.Generator, u: Floats, v: Floats, spread: float = 0.8) -> tuple[Floats, Floats]:
    a = rng.normal(0, spread) if rng.random() < 0.35 else float(rng.integers(2)) * np.pi / 2
    c, s = np.float32(np.cos(a)), np.float32(np.sin(a))
    return c * u + s * v, c * v - s * u


def _sequence(rng: np.random.Generator, x: Floats, colors: list[Floats], least: float, most: float) -> Floats:
    """Return stripes of random widths that repeat."""
    widths = rng.uniform(least, most, rng.integers(2, 8))
    edges = np.cumsum(widths)
    which = np.searchsorted(edges, np.mod(x, edges[-1]))
    order = rng.integers(0, len(colors), len(widths) + 1)
    order[1 : len(widths)] = np.where(order[1 : len(widths)] == order[: len(widths) - 1],
                                      (order[1 : len(widths)] + 1) % len(colors), order[1 : len(widths)])  # fmt: skip
    return np.stack(colors)[order[which]]


def _plain(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    return np.broadcast_to(any_color(rng), (len(u), 3)).copy()


def _stripes(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    x, _ = _turned(rng, v, u)
    period = float(np.exp(rng.uniform(np.log(0.006), np.log(0.10))))
    return _mix(np.mod(x / period, 1) < rng.uniform(0.15, 0.6), any_color(rng), any_color(rng))


def _bands(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    x, _ = _turned(rng, v, u)
    return _sequence(rng, x, [any_color(rng) for _ in range(rng.integers(2, 6))], 0.008, 0.07)


def _checks(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    x, y = _turned(rng, u, v)
    colors = [any_color(rng) for _ in range(rng.integers(2, 5))]
    state = rng.integers(1 << 31)
    most = rng.uniform(0.012, 0.05)
    part = lambda z: _sequence(np.random.default_rng(state), z, colors, 0.003, most)
    return 0.5 * (part(x) + part(y))


def _gingham(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    x, y = _turned(rng, u, v)
    period = float(rng.uniform(0.012, 0.06))
    on = lambda z: (np.mod(z / period, 1) < 0.5).astype(np.float32)
    return _mix(0.5 * (on(x) + on(y)), any_color(rng), any_color(rng))


def _dots(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    x, y = _turned(rng, u, v)
    period = float(np.exp(rng.uniform(np.log(0.012), np.log(0.08))))
    row = np.floor(y / period)
    dx, dy = np.mod(x / period + 0.5 * np.mod(row, 2), 1) - 0.5, np.mod(y / period, 1) - 0.5
    radius = rng.uniform(0.12, 0.38)
    return _mix(np.clip((radius - np.hypot(dx, dy)) * period / 0.001 + 0.5, 0, 1), any_color(rng), any_color(rng))


def _herringbone(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    x, y = _turned(rng, u, v)
    column, size = float(rng.uniform(0.015, 0.06)), float(rng.uniform(0.005, 0.016))
    zig = np.abs(np.mod(x / column, 2) - 1) * column
    return _mix(np.mod((y + zig) / size, 1) < 0.5, any_color(rng), any_color(rng))


def _houndstooth(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    size = float(rng.uniform(0.008, 0.035))
    x, y = u / size, v / size
    on_x, on_y, twill = np.mod(x, 1) < 0.5, np.mod(y, 1) < 0.5, np.mod((x + y) * 2, 1) < 0.5
    return _mix(np.where(on_x == on_y, on_x, twill), any_color(rng), any_color(rng))


def _cells(rng: np.random.Generator, u: Floats, v: Floats, size: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Return for the nearest of jittered seeds distance (cells), angle, a number 0..1; and distance to the second."""
    jitter = rng.random((64, 64, 3)).astype(np.float32)
    x, y = u / size, v / size
    i, j = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    best = np.full(len(u), 9.0, np.float32)
    second, angle, mark = best.copy(), np.zeros_like(best), np.zeros_like(best)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            a, b, m = jitter[np.mod(j + dj, 64), np.mod(i + di, 64)].T
            dx, dy = x - (i + di + a), y - (j + dj + b)
            d = np.hypot(dx, dy)
            closer = d < best
            second = np.where(closer, best, np.minimum(second, d))
            angle = np.where(closer, np.arctan2(dy, dx) + 6.28 * m, angle)
            mark = np.where(closer, m, mark)
            best = np.where(closer, d, best)
    return best, angle, mark, second


def _flowers(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    ground, size = any_color(rng), float(rng.uniform(0.02, 0.09))
    d, angle, mark, _ = _cells(rng, u, v, size)
    petals, colors = int(rng.integers(4, 8)), np.stack([any_color(rng) for _ in range(3)])
    leaf_d, leaf_angle, _, _ = _cells(rng, u + 0.37, v + 0.21, size * 0.8)
    out = _mix(leaf_d < 0.30 * np.abs(np.cos(leaf_angle)), ground, np.asarray((0.18, 0.36, 0.16), np.float32))
    edge = rng.uniform(0.3, 0.45) * (0.6 + 0.4 * np.cos(petals * angle))
    flower = colors[(mark * 2.999).astype(np.int64)] * (0.75 + 0.5 * np.clip(d / 0.4, 0, 1))[:, None]
    out = np.where((d < edge)[:, None], flower, out)
    return np.where((d < 0.08)[:, None], any_color(rng), out)


def _spots(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    """Return the spots of a leopard, or a giraffe's net."""
    ground, dark = any_color(rng), any_color(rng)
    wobble = _sample(noise(rng, _TILE, (14, 0.25)), u, v, 0.001)
    d, _, _, second = _cells(rng, u, v, float(rng.uniform(0.012, 0.05)))
    if rng.random() < 0.5:
        return _mix(second - d < 0.12 + 0.2 * np.abs(wobble), ground, dark)
    ring = np.abs(d + wobble - 0.32) < 0.10
    return _mix(ring, _mix(d + wobble < 0.3, ground, 0.7 * ground), dark)


def _patches(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    """Return camouflage: blots of few colours."""
    colors = np.stack([any_color(rng) for _ in range(rng.integers(3, 6))])
    sigma = float(rng.uniform(8, 30))
    field = noise(rng, _TILE, (sigma, 1.0), (sigma / 3, 0.4))
    level = np.argsort(np.argsort(field.ravel())).reshape(field.shape) * len(colors) // field.size
    return colors[_sample(level, u, v, 0.0012)]


def _triangles(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    colors = np.stack([any_color(rng) for _ in range(rng.integers(3, 6))])
    _, _, mark, _ = _cells(rng, u, v, float(rng.uniform(0.015, 0.09)))
    return colors[(mark * (len(colors) - 1e-3)).astype(np.int64)]


def _fade(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    """Return a dip-dyed cloth."""
    wobble = _sample(noise(rng, _TILE, (40, 0.3), (10, 0.1)), u, v, 0.002)
    share = np.clip((v - rng.uniform(-0.3, 0.1)) / rng.uniform(0.05, 0.4) + wobble, 0, 1)
    return _mix(share, any_color(rng), any_color(rng))


def _picture(rng: np.random.Generator) -> Floats:
    """Return [512, 512, 3] noise with the spectrum of a photograph, in three mixed colours."""
    layers = np.stack([noise(rng, _TILE, (90, 1.0), (30, 0.6), (10, 0.4), (3, 0.25), (1, 0.15)) for _ in range(3)], -1)
    mixed = layers @ rng.normal(0, 0.16, (3, 3)) + any_color(rng)
    return np.asarray(np.clip(mixed, 0.02, 0.97), np.float32)


def _photograph(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    return np.asarray(_sample(_picture(rng), u, v, float(rng.uniform(0.0008, 0.002))), np.float32)


def _letters(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    """Return a small print that repeats over the whole cloth."""
    image, ground = chest_print(rng), any_color(rng)
    side = float(rng.uniform(0.04, 0.16))
    texel = lambda x: (np.mod(x / side, 1) * _TILE).astype(np.int64) % _TILE
    found = image[texel(-v), texel(u)]
    return np.asarray(ground + (found[:, :3] - ground) * found[:, 3:], np.float32)


_Pattern = Callable[[np.random.Generator, Floats, Floats], Floats]
PATTERNS: dict[str, tuple[_Pattern, float]] = {  # name -> colours, how often
    "plain": (_plain, 3.0), "stripes": (_stripes, 1.6), "bands": (_bands, 1.2), "checks": (_checks, 1.6),
    "gingham": (_gingham, 0.6), "dots": (_dots, 0.8), "herringbone": (_herringbone, 0.6),
    "houndstooth": (_houndstooth, 0.4), "flowers": (_flowers, 1.2), "spots": (_spots, 0.5), "patches": (_patches, 0.6),
    "triangles": (_triangles, 0.5), "fade": (_fade, 0.5), "photograph": (_photograph, 0.8), "letters": (_letters, 0.7),
}  # fmt: skip
