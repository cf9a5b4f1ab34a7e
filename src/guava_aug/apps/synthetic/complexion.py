"""What faces and skin differ in beyond their tone: beards, make-up, freckles, blemishes, greying and dyed hair."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from guava_aug.apps.synthetic.bank import Bank, Floats, Proxy, expression_names
from guava_aug.apps.synthetic.paint import Image, noise
from guava_aug.apps.synthetic.raster import Surface, rasterize
from guava_aug.body.joints import INDEX
from guava_aug.body.surface_normals import vertex_normals

BEARDS = ("none", "stubble", "moustache", "goatee", "full")
_SIZE = 1024
_LIP_HEIGHT = 0.011  # metres from the middle of the mouth to the rim of a lip
_LIPS = ("mouthRollUpper", "mouthRollLower")  # lips are what rolls in when lips roll in


@dataclass(frozen=True)
class SkinChart:
    """Where the texels of MakeHuman's skins are on the mean body in the T pose."""

    position: Floats  # [S, S, 3] metres
    known: NDArray[np.bool_]  # [S, S]
    lips: Floats  # [S, S] 0..1
    head: Floats  # [S, S] 0..1 share of the head's bone
    eyes: Floats  # [2, 3] metres: left, right
    mouth: Floats  # [3]


def skin_chart(bank: Bank) -> SkinChart:
    """Return the chart that the bank's skins are painted in."""
    template, faces = bank.assets.body.v_template.numpy(), bank.assets.faces.numpy()
    joints = (bank.assets.body.J_regressor @ bank.assets.body.v_template).numpy()
    uv = torch.from_numpy(bank.skin_texcoords * _SIZE - 0.5).float()
    none = torch.zeros(len(faces))
    surface = Surface(
        bank.assets.faces_uv, torch.zeros(len(faces), 3, 2), none.bool(), none, torch.zeros(1, 1, dtype=torch.uint8)
    )
    ids, bary = rasterize(surface, torch.cat([uv, torch.zeros(len(uv), 1)], 1)[None], _SIZE, _SIZE)
    face, w = ids[0].numpy(), bary[0].numpy()
    known = face >= 0
    corner, w = faces[face[known]], w[known]
    spread = lambda values: (values[corner] * (w[..., None] if values.ndim > 1 else w)).sum(1)
    roll = lip_weights(bank)
    head = bank.assets.body.lbs_weights[:, INDEX["head"]].numpy()
    full = lambda values, *shape: _fill(np.zeros((_SIZE, _SIZE, *shape), np.float32), known, values)
    mouth = template[int(roll.argmax())]
    height = np.abs(spread(template)[:, 1] - mouth[1])  # the chin rolls in too
    lips = np.clip((spread(roll) - 0.4) / 0.25, 0, 1) * np.clip((_LIP_HEIGHT - height) / 0.002, 0, 1)
    return SkinChart(
        position=full(spread(template), 3), known=known, lips=full(lips), head=full(spread(head)),
        eyes=joints[[INDEX["left_eye"], INDEX["right_eye"]]], mouth=mouth,
    )  # fmt: skip


def lip_weights(bank: Bank) -> Floats:
    """Return [P] how far each vertex follows the lips, 0..1."""
    names, head = expression_names(), bank.assets.head
    roll = np.zeros(len(bank.assets.body.v_template), np.float32)
    ids = bank.assets.head_to_body.numpy()
    for n in _LIPS:
        size = head.exprdirs[:, :, names.index(n)].norm(dim=1).numpy()
        roll[ids] = np.maximum(roll[ids], size / size.max())
    return roll


def paint_skin(
    image: Image, chart: SkinChart, rng: np.random.Generator, *, female: bool, beard: str, hair: Floats,
    shaved: bool,
) -> Image:  # fmt: skip
    """Return the skin texture with what nature and taste add to it.

    hair: [3] colour 0..1, also of beard and stubble. shaved: there is no hair but stubble.
    """
    base = image[..., :3].astype(np.float32) / 255
    p, front = chart.position, chart.position[..., 2] > 0.03
    face = chart.head * front
    tone = 1 + noise(rng, _SIZE, (60, 0.02), (20, 0.015))[..., None] * np.array([0.6, 1.0, 1.1], np.float32)
    rgb: Floats = np.asarray(base * tone * (1 + rng.normal(0, 0.02, 3)), np.float32)
    rgb = _cheeks(rgb, chart, face, rng.uniform(0, 0.30))
    if rng.random() < 0.3:
        rgb = _freckles(rgb, chart, rng)
    if rng.random() < 0.6:
        rgb = _moles(rgb, chart, rng)
    if rng.random() < 0.25:
        rgb = _blotches(rgb, chart, face, rng)
    if female and rng.random() < 0.6:
        rgb = _made_up(rgb, chart, face, rng)
    if rng.random() < 0.3:
        rgb = _below_eyes(rgb, chart, face, rng.uniform(0.1, 0.3))
    scalp = scalp_region(p, chart.eyes) * chart.head * chart.known
    if not shaved:  # hair is cards, and some show the skin between them
        rgb = _toward(rgb, 0.92 * scalp, hair * (1 + noise(rng, _SIZE, (1.5, 0.15)))[..., None])
    elif rng.random() < 0.6:
        rgb = _toward(rgb, scalp * np.clip(rng.uniform(0.2, 0.6) + noise(rng, _SIZE, (0.8, 0.12)), 0, 0.85), hair * 0.7)
    if beard != "none":
        strands = noise(rng, _SIZE, (0.8, 0.5), (2.5, 0.3))
        share = beard_region(beard, p, chart.eyes, chart.mouth) * chart.known * (1 - chart.lips)
        if beard == "stubble":
            cover = share * np.clip(rng.uniform(0.15, 0.4) + 0.18 * strands, 0, 0.75)
            color = hair * 0.6
        else:
            cover = cv2.GaussianBlur(share, (0, 0), 1.5) * np.clip(0.9 + 0.35 * strands, 0, 1)
            color = hair * np.clip(0.85 + 0.35 * noise(rng, _SIZE, (1.2, 0.6), (4, 0.4)), 0.4, 1.6)[..., None]
        rgb = _toward(rgb, cover, color)
    return np.dstack([(np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8), image[..., 3]])


def beard_region(kind: str, p: Floats, eyes: Floats, mouth: Floats) -> Floats:
    """Return [...] share 0..1 of a beard at points p [..., 3] of the mean body's head."""
    x, y, z = np.abs(p[..., 0]), p[..., 1] - mouth[1], p[..., 2] - mouth[2]
    on = lambda d, soft: np.clip(d / soft + 0.5, 0, 1)
    lip = on(0.032 - x, 0.006) * on(y - 0.004, 0.003) * on(0.020 - y - 0.12 * x, 0.004) * on(z + 0.03, 0.01)
    chin = on(0.026 - x, 0.008) * on(-0.008 - y, 0.004) * on(y + 0.062, 0.012) * on(z + 0.065, 0.02)
    line = 0.004 + 0.55 * np.clip(x - 0.03, 0, 0.05)  # from the corner of the mouth up to the ear
    jaw = on(line - y, 0.008) * on(y + 0.058 - 0.35 * np.clip(x - 0.02, 0, 0.1), 0.014) * on(z + 0.125, 0.012)
    cheek = jaw * on(x - 0.024 + 0.4 * np.clip(-y - 0.008, 0, 0.03), 0.008)
    around = np.maximum(lip, chin)
    shares = {
        "moustache": lip, "goatee": around, "full": np.maximum(around, cheek), "stubble": np.maximum(around, cheek)
    }  # fmt: skip
    return np.asarray(shares[kind] if kind in shares else np.zeros_like(x), np.float32)


def scalp_region(p: Floats, eyes: Floats) -> Floats:
    """Return [...] share 0..1 of the hairy scalp at points p [..., 3] of the mean body's head."""
    middle = eyes.mean(0)
    back = np.clip(middle[2] - 0.035 - p[..., 2], 0, 0.12)
    line = middle[1] + 0.066 - 1.05 * back - 0.10 * np.abs(p[..., 0])
    beside_ear = (np.abs(p[..., 0]) > 0.066) & (p[..., 1] < middle[1] + 0.014)
    return np.asarray(np.clip((p[..., 1] - line) / 0.012 + 0.5, 0, 1) * ~beside_ear, np.float32)


def beard_offsets(bank: Bank, kind: str, thickness: float, chart: SkinChart) -> Floats:
    """Return [P, 3] metres that the body stands out under a beard, T pose."""
    template = bank.assets.body.v_template.numpy()[: bank.shipped]
    if kind in ("none", "stubble"):
        return np.zeros_like(template)
    normals = vertex_normals(torch.from_numpy(template)[None], bank.assets.faces)[0].numpy()
    share = beard_region(kind, template, chart.eyes, chart.mouth) * (lip_weights(bank)[: bank.shipped] < 0.25)
    share = share * (bank.assets.body.lbs_weights[: bank.shipped, INDEX["head"]].numpy() > 0.2)
    low = -np.clip(template[:, 1] - chart.mouth[1], -0.06, 0) / 0.06
    return np.asarray(thickness * share[:, None] * (0.5 + 0.5 * low[:, None]) * normals, np.float32)


def paint_hair(image: Image, rng: np.random.Generator, grey: float, dyed: bool) -> Image:
    """Return hair with streaks: white ones by the share `grey` 0..1, or of another colour."""
    rgb = image[..., :3].astype(np.float32) / 255
    size = rgb.shape[0]
    strands = cv2.resize(noise(rng, size, (1.0, 1.0))[:: 8 if size >= 256 else 1], (size, size))  # along v
    if grey > 0:
        level = rgb.mean(-1, keepdims=True)
        white = np.clip(0.35 + 1.2 * level, 0, 0.85) * np.array([1.0, 0.99, 0.96], np.float32)
        share = np.clip(grey + 0.35 * strands * min(1.0, 3 * grey), 0, 1)[..., None]
        rgb = rgb + (white - rgb) * share
    if dyed:
        color = np.asarray(
            [(0.75, 0.6, 0.35), (0.5, 0.12, 0.1), (0.25, 0.3, 0.55), (0.6, 0.25, 0.45)][rng.integers(4)], np.float32
        )
        light = np.clip(rgb.mean(-1, keepdims=True) / max(float(rgb[image[..., 3] > 128].mean()), 0.02), 0.4, 1.6)
        share = np.clip(rng.uniform(-0.6, 0.6) + strands, 0, 1)[..., None]
        rgb = rgb + (color * light - rgb) * share
    return np.dstack([(np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8), image[..., 3]])


def enlarge_hair(
    bank: Bank, hair: Proxy, factor: float, lift: float, rng: np.random.Generator, short_fringe: bool = False
) -> Proxy:
    """Return the hair with more volume: scaled about the head, and lifted along smooth waves.

    factor: 1 or more. lift: metres, at most, above the scalp. short_fringe: no hair before the eyes.
    """
    template = bank.assets.body.v_template.numpy()
    rest = hair.rest(template)
    joints = (bank.assets.body.J_regressor @ bank.assets.body.v_template).numpy()
    center = joints[INDEX["head"]] + np.array([0, 0.055, 0.02], np.float32)
    away = rest - center
    radius = np.linalg.norm(away, axis=1, keepdims=True)
    k = rng.normal(0, 25, (5, 3)).astype(np.float32)
    waves = 0.5 + 0.22 * np.sin(rest @ k.T + rng.uniform(0, 6.28, 5)).sum(1, keepdims=True) / np.sqrt(5) * 2
    # a fringe stays out of the eyes, the rim stays at the skin
    free = np.clip((radius - 0.085) / 0.03, 0, 1) * np.where(rest[:, 2:] > 0.12, 0.35, 1.0)
    out = away * (factor - 1) * free + away / np.maximum(radius, 1e-6) * lift * np.clip(waves, 0, 1) * free
    if short_fringe:  # what hangs before the eyes is drawn up to the brows
        eyes = joints[[INDEX["left_eye"], INDEX["right_eye"]]].mean(0)
        before = np.clip((rest[:, 2] - 0.09) / 0.03, 0, 1) * np.clip((0.08 - np.abs(rest[:, 0])) / 0.02, 0, 1)
        short = np.maximum(eyes[1] + 0.034 - rest[:, 1], 0) * before
        out = out + np.stack([0 * short, 0.85 * short, np.minimum(0.25 * short, 0.008)], 1)
    return replace(hair, offsets=(hair.offsets + out).astype(np.float32))


def _fill(out: Floats, known: NDArray[np.bool_], values: Floats) -> Floats:
    out[known] = values
    return out


def _toward(rgb: Floats, share: Floats, color: Floats) -> Floats:
    return np.asarray(rgb + (color - rgb) * share[..., None], np.float32)


def _from_eye(chart: SkinChart, side: int) -> tuple[Floats, Floats]:
    """Return metres outwards and upwards from one eye, per texel."""
    d = chart.position - chart.eyes[side]
    return d[..., 0] * (1 if side == 0 else -1), d[..., 1]


def _cheeks(rgb: Floats, chart: SkinChart, face: Floats, strength: float) -> Floats:
    for side in (0, 1):
        x, y = _from_eye(chart, side)
        spot = np.exp(-(((x - 0.012) / 0.018) ** 2 + ((y + 0.038) / 0.015) ** 2)) * face
        rgb = _toward(rgb, strength * spot, rgb * np.array([1.03, 0.72, 0.70], np.float32))
    return rgb


def _below_eyes(rgb: Floats, chart: SkinChart, face: Floats, strength: float) -> Floats:
    for side in (0, 1):
        x, y = _from_eye(chart, side)
        spot = np.exp(-((x / 0.014) ** 2 + ((y + 0.017) / 0.006) ** 2)) * face
        rgb = _toward(rgb, strength * spot, rgb * np.array([0.75, 0.68, 0.74], np.float32))
    return rgb


def _speckle(rng: np.random.Generator, count: int, least: float, most: float) -> Floats:
    """Return [S, S] small soft dots, 0..1."""
    dots = np.zeros((_SIZE, _SIZE), np.float32)
    for x, y, r, s in zip(*rng.integers(0, _SIZE, (2, count)), rng.uniform(least, most, count),
                          rng.uniform(0.3, 1.0, count), strict=True):  # fmt: skip
        cv2.circle(dots, (int(x * 8), int(y * 8)), int(r * 8), float(s), -1, cv2.LINE_AA, 3)
    return np.asarray(cv2.GaussianBlur(dots, (0, 0), 0.7), np.float32)


def _freckles(rgb: Floats, chart: SkinChart, rng: np.random.Generator) -> Floats:
    dots = _speckle(rng, int(rng.integers(4000, 14000)), 0.5, 1.3)
    where = 0.3 + 0.7 * chart.head * (chart.position[..., 1] > chart.mouth[1])
    return _toward(rgb, rng.uniform(0.25, 0.6) * dots * where, rgb * np.array([0.72, 0.58, 0.48], np.float32))


def _moles(rgb: Floats, chart: SkinChart, rng: np.random.Generator) -> Floats:
    dots = _speckle(rng, int(rng.integers(10, 120)), 0.8, 2.2)
    return _toward(rgb, 0.8 * dots, rgb * np.array([0.42, 0.32, 0.28], np.float32))


def _blotches(rgb: Floats, chart: SkinChart, face: Floats, rng: np.random.Generator) -> Floats:
    """Return skin with blemishes: reddish patches and spots on the face."""
    share = face * np.clip(noise(rng, _SIZE, (9, 0.4), (3, 0.3)) - 0.2, 0, 1) * rng.uniform(0.2, 0.6)
    spots = face * _speckle(rng, 3000, 0.8, 2.0) * 0.35
    return _toward(rgb, np.maximum(share, spots), rgb * np.array([0.98, 0.70, 0.66], np.float32))


def _made_up(rgb: Floats, chart: SkinChart, face: Floats, rng: np.random.Generator) -> Floats:
    lipstick = np.asarray(
        [(0.65, 0.10, 0.14), (0.78, 0.30, 0.36), (0.45, 0.10, 0.18), (0.80, 0.42, 0.36)][rng.integers(4)], np.float32
    )
    near = np.exp(-((np.linalg.norm(chart.position - chart.mouth, axis=-1) / 0.045) ** 4))
    rgb = _toward(rgb, rng.uniform(0.3, 0.8) * chart.lips * near, lipstick)
    if rng.random() < 0.6:
        shade = np.asarray(
            [(0.25, 0.18, 0.16), (0.35, 0.25, 0.4), (0.2, 0.28, 0.4), (0.45, 0.3, 0.22)][rng.integers(4)], np.float32
        )
        for side in (0, 1):
            x, y = _from_eye(chart, side)
            spot = np.exp(-(((x - 0.003) / 0.017) ** 2 + ((y - 0.010) / 0.006) ** 2)) * face
            rgb = _toward(rgb, rng.uniform(0.25, 0.7) * spot, shade)
    return rgb
