"""The texture of a tailored outfit: a pattern for every garment, prints, seams, wrinkles, and alpha where it is cut."""

from __future__ import annotations

import cv2
import numpy as np

from guava_aug.apps.synthetic.arrays import components
from guava_aug.apps.synthetic.bank import Bank, Floats, Proxy
from guava_aug.apps.synthetic.fabric import TEXTURE_SIZE, paint_positions
from guava_aug.apps.synthetic.garments import WAIST, Cut, Folds, on_arm
from guava_aug.apps.synthetic.paint import Image, bleed
from guava_aug.apps.synthetic.prints import any_color, any_pattern, chest_print, pattern, weave

_BELT, _ANKLE = -0.33, -1.0  # metres, model frame
_SLEEVE = 0.19  # metres from the middle: from here on patterns run along the arm
_STEP = 0.004  # metres over which the slope of wrinkles is looked at


def paint_outfit(bank: Bank, proxy: Proxy, folds: Folds, cut: Cut, rng: np.random.Generator) -> Image:
    """Return [1024, 1024, 4]; alpha is 0 where the outfit is cut off."""
    size = TEXTURE_SIZE
    rest = proxy.rest(bank.assets.body.v_template.numpy())
    part = components(proxy.faces, len(rest))
    position, owner = paint_positions(proxy, rest, part)
    color = np.zeros((size, size, 3), np.float32)
    top_of = np.array([rest[part == c, 1].max() for c in range(part.max() + 1)])
    denim = np.asarray([(0.16, 0.20, 0.30), (0.35, 0.45, 0.60), (0.10, 0.10, 0.12)][rng.integers(3)], np.float32)
    trousers = denim if rng.random() < 0.4 else any_color(rng)
    for c in np.argsort(-np.bincount(part, minlength=part.max() + 1)):
        mine = owner == c
        p = position[mine]
        if not len(p):
            continue
        u, v = _along(p)
        if top_of[c] > WAIST:
            found = _top(rng, p, u, v)
            legs = p[:, 1] < _BELT - 0.08
            if (p[:, 1] < -0.8).any():  # an overall is painted as shirt and trousers
                found = np.where(legs[:, None], trousers, found)
        elif top_of[c] > _ANKLE:
            found = any_pattern(rng, u, v) if rng.random() < 0.15 else np.broadcast_to(trousers, p.shape)
        else:
            found = np.broadcast_to(any_color(rng) * 0.6, p.shape)
        color[mine] = found * weave(rng, u, v)[:, None] * _wrinkled(rng, folds, p, top_of[c] > WAIST)[:, None]
    for name in bank.textures(f"clothes/{proxy.name}/"):
        if name.endswith("_ao"):
            shadow = cv2.GaussianBlur(bank.texture(name, size)[..., :3].mean(-1) / 255, (0, 0), 1.5)
            color *= (0.6 + 0.4 * shadow)[..., None]
    hit = owner >= 0
    off = np.zeros((size, size), np.uint8)
    off[hit] = ~(cut.keeps(position[hit]) | (position[hit][:, 1] < _BELT))
    wide = np.asarray(cv2.dilate(off, np.ones((9, 9), np.uint8)), np.uint8)
    off |= wide * ~hit  # beyond the rim of an island, which sampling may touch
    alpha = 255 * (1 - off)
    return np.dstack([(np.clip(bleed(color, hit), 0, 1) * 255 + 0.5).astype(np.uint8), alpha])


def _top(rng: np.random.Generator, p: Floats, u: Floats, v: Floats) -> Floats:
    """Return [n, 3] colours of a top: its cloth, perhaps other sleeves, a yoke, a print, a row of buttons, pockets."""
    out = any_pattern(rng, u, v)
    x, y, front = p[:, 0], p[:, 1], p[:, 2] > 0.0
    sleeve = on_arm(p, _SLEEVE)
    if rng.random() < 0.15:
        out[sleeve] = any_pattern(rng, u[sleeve], v[sleeve])
    if rng.random() < 0.10:
        upper = ~sleeve & (y > rng.uniform(-0.05, 0.1))
        out[upper] = any_color(rng)
    if rng.random() < 0.35:
        image = chest_print(rng)
        side = float(rng.choice([rng.uniform(0.06, 0.10), rng.uniform(0.14, 0.32)]))
        middle = float(rng.choice([-1, 1])) * 0.085 if side < 0.11 else 0.0
        top = rng.uniform(0.04, 0.10)
        col, row = (x - middle) / side + 0.5, (top - y) / side
        on = front & ~sleeve & (col >= 0) & (col < 1) & (row >= 0) & (row < 1)
        found = image[(row[on] * image.shape[0]).astype(int), (col[on] * image.shape[1]).astype(int)]
        out[on] += (found[:, :3] - out[on]) * found[:, 3:]
    if rng.random() < 0.25:  # a row of buttons, or a zip
        line = front & (np.abs(x) < 0.019) & ~sleeve
        out[line & (np.abs(np.abs(x) - 0.018) < 0.001)] *= 0.6
        ink = any_color(rng)
        if rng.random() < 0.6:
            out[line & (np.hypot(x, np.mod(y, 0.075) - 0.04) < 0.0055)] = ink
        else:
            out[line & (np.abs(x) < 0.004)] = ink
    if rng.random() < 0.2:
        dx, dy = np.abs(np.abs(x) - 0.09), np.abs(y + 0.02)
        if rng.random() < 0.5:
            dx = np.abs(x - 0.09)
        pocket = front & (dx < 0.05) & (dy < 0.055)
        out[pocket & ~((dx < 0.047) & (dy < 0.052))] *= 0.65
    if rng.random() < 0.3:  # other cuffs and hem
        trim = (np.abs(y + 0.33) < rng.uniform(0.01, 0.03)) & ~sleeve
        out[trim] = any_color(rng)
    return out


def collar_texture(rng: np.random.Generator, size: int) -> Image:
    """Return [size, size, 4] the cloth of a scarf or collar; u runs once around the neck (0.5 m)."""
    v, u = np.mgrid[0:size, 0:size].astype(np.float32).reshape(2, -1) / size
    u, v = u * 0.5, v * 0.25
    color = pattern("plain", rng, u, v) if rng.random() < 0.4 else any_pattern(rng, u, v)
    color = color * weave(rng, u, v)[:, None] * (1 + 0.10 * np.sin(u * 60 + 4 * np.sin(v * 40)))[:, None]
    image = (np.clip(color, 0, 1) * 255 + 0.5).astype(np.uint8).reshape(size, size, 3)
    return np.dstack([image, np.full((size, size), 255, np.uint8)])


def _along(p: Floats) -> tuple[Floats, Floats]:
    """Return metres around and along trunk, sleeve or leg."""
    sleeve = on_arm(p, _SLEEVE)
    leg = (p[:, 1] < -0.42) & ~sleeve
    theta = np.arctan2(p[:, 0], p[:, 2] - 0.01) * 0.15
    around_arm = np.arctan2(p[:, 1] - 0.117, p[:, 2] - 0.024) * 0.05
    around_leg = np.arctan2(np.abs(p[:, 0]) - 0.12, p[:, 2]) * 0.09
    u = np.where(sleeve, around_arm, np.where(leg, around_leg, theta))
    return u.astype(np.float32), np.where(sleeve, np.abs(p[:, 0]), p[:, 1]).astype(np.float32)


def _wrinkled(rng: np.random.Generator, folds: Folds, p: Floats, top: bool) -> Floats:
    """Return [n] a factor of the colour: folds and wrinkles are lighter above and darker below."""
    high = p + np.array([0, _STEP, 0], np.float32)
    stands = folds.at if top else folds.legs_at
    large = (stands(high) - stands(p)) / _STEP
    small = (folds.wrinkles(high) - folds.wrinkles(p)) / _STEP * folds.fine
    strength = rng.uniform(0.1, 0.35)
    return np.asarray(np.clip(1 + strength * np.tanh(large + 3 * small), 0.6, 1.3), np.float32)
