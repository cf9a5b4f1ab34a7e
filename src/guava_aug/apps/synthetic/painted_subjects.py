"""Subjects without any assets: skin, hair, brows, eyes and clothes painted on the bare body.

Hair and shirt also stand off the skin a little, so that they have a rim of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guava_aug.apps.synthetic import default_body_path
from guava_aug.apps.synthetic.bake.chart import TEETH_BOXES
from guava_aug.apps.synthetic.fabric import Fabric, pattern_colors, pick_fabric
from guava_aug.apps.synthetic.paint import PALETTE_HAIR, PALETTE_SKIN, Image, bleed, noise
from guava_aug.apps.synthetic.raster import Surface, rasterize
from guava_aug.body.assets import EhmAssets
from guava_aug.body.joints import INDEX
from guava_aug.body.surface_normals import vertex_normals

Floats = NDArray[np.float32]
SIZE = 1024
_HAIR_THICKNESS, _SHIRT_THICKNESS = 0.013, 0.006  # metres
_TONGUE_BOX, _MOUTH_BOX = (648, 6, 698, 100), (656, 880, 846, 1022)  # of the shipped chart, in 1/1024
_EYES_BOX = (696, 10, 862, 114)
_LEGS = (1, 2, 4, 5, 7, 8, 10, 11)
_TRUNK = (0, 1, 2, 3, 6, 9, 13, 14)


def paint_person(assets: EhmAssets, rng: np.random.Generator) -> tuple[Image, Floats]:
    """Return texture [1024, 1024, 4] in the shipped chart, and how far each vertex stands off the body [P, 3]."""
    rest = assets.body.v_template
    weights = assets.body.lbs_weights.numpy()
    joints = (assets.body.J_regressor @ rest).numpy()
    normals = vertex_normals(rest[None], assets.faces)[0].numpy()
    face, bary = _texels(assets)
    hit = face >= 0
    corner, w = assets.faces.numpy()[face[hit]], bary[hit][..., None]
    p = (rest.numpy()[corner] * w).sum(1)
    part = (weights[corner] * w).sum(1)
    speckle = noise(rng, SIZE, (2, 0.02), (18, 0.03))[hit]
    skin = np.asarray(PALETTE_SKIN[rng.integers(len(PALETTE_SKIN))], np.float32)
    hair = np.asarray(PALETTE_HAIR[rng.integers(5 if skin[0] < 0.6 else len(PALETTE_HAIR))], np.float32)
    fabric = pick_fabric(rng)
    style = _Style(float(rng.uniform(0.045, 0.06)), float(rng.uniform(0.02, 0.12)), bool(rng.random() < 0.5))

    c = skin * (1 + speckle[:, None] * np.array([0.8, 1.0, 1.2], np.float32))
    c = _face(assets, joints, c, p, corner, w, skin, hair)
    scalp = _scalp(p, joints, part[:, INDEX["head"]], style)
    streaks = 1 + noise(rng, SIZE, (3, 0.10), (9, 0.10))[hit]
    c = _mix(c, scalp, hair * streaks[:, None] * 1.1)
    c = _clothes(c, p, part, joints, fabric, style, noise(rng, SIZE, (1.2, 0.02), (14, 0.02), (60, 0.03))[hit])
    texture = np.zeros((SIZE, SIZE, 3), np.float32)
    texture[hit] = c
    texture = bleed(texture, hit)
    for x0, y0, x1, y1, color in (
        (*_TONGUE_BOX, (0.62, 0.32, 0.32)), (*_MOUTH_BOX, (0.30, 0.10, 0.10)),
        *((int(a), int(b), int(x), int(y), (0.86, 0.84, 0.78)) for a, b, x, y in TEETH_BOXES),
    ):  # fmt: skip
        texture[y0:y1, x0:x1] = color
    ball = np.zeros((SIZE, SIZE), bool)
    ball[_EYES_BOX[1] : _EYES_BOX[3], _EYES_BOX[0] : _EYES_BOX[2]] = True
    texture[hit & ball] = _eyeballs(p[ball[hit]], joints, rng)

    inner = weights[:, [INDEX["left_eye"], INDEX["right_eye"]]].sum(1) > 0.5
    vertex_hair = _scalp(rest.numpy(), joints, weights[:, INDEX["head"]], style)
    vertex_shirt = _covered(rest.numpy(), weights, joints, style)[0]
    stand = _HAIR_THICKNESS * vertex_hair + _SHIRT_THICKNESS * vertex_shirt
    stand[inner] = 0
    image = np.dstack([(np.clip(texture, 0, 1) * 255 + 0.5).astype(np.uint8), np.full((SIZE, SIZE), 255, np.uint8)])
    return image, (normals * _spread(stand, assets.faces.numpy())[:, None]).astype(np.float32)


class _Style:
    """Where the hair line and the sleeves end."""

    def __init__(self, brow_to_hair: float, sleeve: float, long_sleeves: bool):
        self.hair_line = brow_to_hair  # metres above the eyes
        self.sleeve = 0.54 if long_sleeves else 0.10 + sleeve  # metres from the shoulder


def _texels(assets: EhmAssets) -> tuple[NDArray[np.int64], Floats]:
    uv = torch.cat([assets.texcoords * SIZE - 0.5, torch.zeros(len(assets.texcoords), 1)], 1)
    none = torch.zeros(len(assets.faces_uv))
    surface = Surface(
        assets.faces_uv, torch.zeros(len(none), 3, 2), none.bool(), none, torch.zeros(1, 1, dtype=torch.uint8)
    )
    ids, bary = rasterize(surface, uv[None], SIZE, SIZE)
    return ids[0].numpy(), bary[0].numpy()


def _face(
    assets: EhmAssets, joints: Floats, c: Floats, p: Floats, corner: NDArray[Any], w: Floats, skin: Floats, hair: Floats
) -> Floats:
    with np.load(default_body_path(), allow_pickle=False) as z:
        names = [str(n) for n in z["expression_names"]]
    # lips are what rolls in when lips roll in
    roll = np.zeros(len(assets.body.v_template), np.float32)
    ids = assets.head_to_body.numpy()
    for n in ("mouthRollUpper", "mouthRollLower"):
        size = assets.head.exprdirs[:, :, names.index(n)].norm(dim=1).numpy()
        roll[ids] = np.maximum(roll[ids], size / size.max())
    middle = assets.body.v_template[int(roll.argmax())].numpy()
    lips = np.clip(((roll[corner] * w[..., 0]).sum(1) - 0.4) / 0.25, 0, 1) * (np.abs(p[:, 1] - middle[1]) < 0.012)
    front = p[:, 2] > joints[INDEX["head"], 2]
    c = _mix(c, 0.75 * lips * front, skin * np.array([0.92, 0.58, 0.58], np.float32))
    for side, s in (("left", 1.0), ("right", -1.0)):
        eye = joints[INDEX[f"{side}_eye"]]
        d = p - eye
        x = d[:, 0] * s
        cheek = np.exp(-(((x - 0.012) / 0.016) ** 2 + ((d[:, 1] + 0.038) / 0.014) ** 2)) * front
        c = _mix(c, 0.22 * cheek, skin * np.array([1.0, 0.66, 0.62], np.float32))
        t = np.clip((x + 0.018) / 0.046, 0, 1)
        arch = 0.0180 + 0.0045 * np.sin(np.pi * np.clip(0.15 + t * 0.95, 0, 1)) - 0.002 * t
        thick = 0.0034 * (1 - 0.55 * t)
        brow = np.clip(1.4 - np.abs(d[:, 1] - arch) / thick, 0, 1) * (x > -0.018) * (x < 0.028) * front
        c = _mix(c, 0.85 * brow, hair * 0.7)
    return c


def _eyeballs(p: Floats, joints: Floats, rng: np.random.Generator) -> Floats:
    iris = np.asarray(
        [(0.22, 0.13, 0.08), (0.30, 0.20, 0.10), (0.25, 0.36, 0.42), (0.28, 0.36, 0.24)][rng.integers(4)], np.float32
    )
    c: NDArray[Any] = np.full((len(p), 3), 0.84, np.float32)
    for side in ("left", "right"):
        eye = joints[INDEX[f"{side}_eye"]]
        r = np.linalg.norm((p - eye)[:, :2], axis=1)
        mine = (np.linalg.norm(p - eye, axis=1) < 0.02) & (p[:, 2] > eye[2])
        c = np.where((mine & (r < 0.0060))[:, None], iris * (0.75 + 0.5 * np.clip(r / 0.006, 0, 1))[:, None], c)
        c = np.where((mine & (r < 0.0026))[:, None], 0.03, c)
    return c


def _scalp(p: Floats, joints: Floats, head: Floats, style: _Style) -> Floats:
    """Return the hair mask 0..1: above a line that falls from the forehead to the nape."""
    eye = (joints[INDEX["left_eye"]] + joints[INDEX["right_eye"]]) / 2
    back = np.clip(eye[2] - 0.035 - p[:, 2], 0, 0.12)
    line = eye[1] + style.hair_line - 1.05 * back + 0.004 * np.sin(p[:, 0] * 90) - 0.10 * np.abs(p[:, 0])
    beside_ear = (np.abs(p[:, 0]) > 0.068) & (p[:, 1] < eye[1] + 0.012)
    return (np.clip((p[:, 1] - line) / 0.008, 0, 1) * (head > 0.6) * ~beside_ear).astype(np.float32)


def _covered(p: Floats, part: Floats, joints: Floats, style: _Style) -> tuple[Floats, Floats]:
    """Return the masks 0..1 of shirt and trousers."""
    reach = np.abs(p[:, 0]) - joints[INDEX["left_shoulder"], 0]
    trunk = part[:, list(_TRUNK)].sum(1) + part[:, [16, 17, 18, 19]].sum(1) * (reach < style.sleeve)
    neck_line = joints[INDEX["neck"], 1] - 0.012 - 0.35 * np.clip(p[:, 2] - joints[INDEX["neck"], 2], 0, 0.1)
    shirt = (trunk > 0.5) & (p[:, 1] < neck_line) & (p[:, 1] > joints[0, 1] - 0.05)
    trousers = (p[:, 1] <= joints[0, 1] - 0.05) & (part[:, [*_LEGS, 0]].sum(1) > 0.4)
    return shirt.astype(np.float32), trousers.astype(np.float32)


def _clothes(
    c: Floats, p: Floats, part: Floats, joints: Floats, fabric: Fabric, style: _Style, weave: Floats
) -> Floats:
    shirt, trousers = _covered(p, part, joints, style)
    c = _mix(c, shirt, pattern_colors(fabric, p) * (1 + weave)[:, None])
    return _mix(c, trousers, np.asarray(fabric.trousers, np.float32) * (1 + weave)[:, None])


def _mix(c: Floats, share: Floats, color: Floats) -> Floats:
    return c + (color - c) * share[:, None]


def _spread(x: Floats, faces: NDArray[np.int64]) -> Floats:
    """Return values smoothed over neighbours."""
    for _ in range(2):
        total, count = np.zeros_like(x), np.zeros_like(x)
        for a, b in ((0, 1), (1, 2), (2, 0)):
            np.add.at(total, faces[:, a], x[faces[:, b]])
            np.add.at(count, faces[:, a], 1)
        x = (0.6 * x + 0.4 * total / np.maximum(count, 1)).astype(np.float32)
    return x
