"""Clothes that are not skin-tight: how far each point of an outfit stands off the body, in the T pose.

MakeHuman's clothes lie within millimetres of the body. Here they are pushed outwards: along the body's normals,
averaged over a few centimetres so that all layers of an outfit move alike, by a field that is never negative (ease and
folds). Because it is an offset of the rest pose it follows the skinning. Sleeves can be cut off, and necks be cut out,
by the texture's alpha.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from guava_aug.apps.synthetic.arrays import components
from guava_aug.apps.synthetic.bank import Bank, Floats, Ints, Proxy
from guava_aug.body.joints import FINGERS, INDEX, SIDES
from guava_aug.body.surface_normals import vertex_normals

WAIST = -0.20  # metres, model frame: a part that reaches above is a top
_SHOULDER, _WRIST = 0.17, 0.705  # metres from the middle, T pose of the mean body
_CHEST, _HEM, _NECK = 0.08, -0.40, 0.22  # metres, heights
_AXIS = 0.01  # metres: where the trunk's axis is in depth
_ARM = 0.117  # metres: height of the arms' axis
_UNDERARM = -0.02  # metres: no arm reaches below this height
_REACH = 0.04  # metres over which normals are averaged
_COARSE = 0.022  # metres: meshes with longer edges are divided
_OPENING = 0.10  # metres: the body is drawn this deep below hems, cuffs and collars
_SHRINK = 0.006  # metres the body is drawn in below clothes
_MOST, _MOST_IN_FRONT = 0.065, 0.020  # metres, and at most so much
_LEAST = 0.003  # metres every garment is pushed outwards
_NO_CLOTHES = ("head", "jaw", "left_eye", "right_eye", *(f"{s}_{f}{k}" for s in SIDES for f in FINGERS for k in (2, 3)))


@dataclass(frozen=True)
class Cut:
    """Where an outfit is tailored differently than MakeHuman's."""

    sleeve: float  # metres from the middle: what lies further out is cut off
    neck_depth: float  # metres of a V below the collar, 0: none
    neck_width: float  # metres, half of the V's width at the top

    def keeps(self, p: Floats, margin: float = 0.0) -> NDArray[np.bool_]:
        """Return [n] whether T-pose points p [n, 3] are covered; `margin` metres more cover with positive values."""
        keep = (np.abs(p[:, 0]) < self.sleeve + margin) | ~on_arm(p)
        if self.neck_depth > 0:
            down = (_NECK - 0.03 - p[:, 1] + margin) / self.neck_depth
            inside = (np.abs(p[:, 0]) < self.neck_width * (1 - down) - margin) & (p[:, 2] > 0) & (p[:, 1] > -0.1)
            keep &= ~inside
        return np.asarray(keep)


@dataclass(frozen=True)
class Folds:
    """A smooth field over the T pose: how wide an outfit is and how it falls. All lengths in metres."""

    chest: float  # ease at the chest
    hem: float  # at the hem of a top
    upper_arm: float
    cuff: float
    leg: float
    depth: float  # of folds, share of the ease
    fine: float  # of wrinkles
    waves: NDArray[np.float64]  # [K, 4] of the trunk: folds around, slope (rad / m), phase, weight
    rings: NDArray[np.float64]  # [K, 4] of limbs: rad / m along, turns around, phase, weight
    ripples: NDArray[np.float64]  # [K, 5] wave vector (rad / m), phase, weight
    cuff_bulge: float  # of a rolled cuff
    sleeve: float  # where it ends

    def at(self, p: Floats) -> Floats:
        """Return [n] metres >= 0 that tops stand further off the body at T-pose points p [n, 3]."""
        side, t, angle, limb = _along_arm(p)
        down = np.clip((_CHEST - p[:, 1]) / (_CHEST - _HEM), 0, 1.3)
        trunk = self.chest + (self.hem - self.chest) * down**1.3
        arm = self.upper_arm + (self.cuff - self.upper_arm) * t**1.5
        ease = trunk + (arm - trunk) * side
        fold = self._folds(p, t, angle, limb, down, side)
        near_neck = np.clip(np.hypot(p[:, 0], np.maximum(p[:, 1] - 0.14, 0) - 0.08) / 0.10, 0, 1)
        near_neck = np.where(p[:, 1] > 0.10, 0.25 + 0.75 * _smooth(near_neck), 1.0)
        bulge = self.cuff_bulge * np.exp(-(((np.abs(p[:, 0]) - self.sleeve + 0.015) / 0.014) ** 2))
        amount = ease * (1 + self.depth * fold) + self.fine * (1 + self.wrinkles(p)) + bulge
        # hands are kept clear of the bare body by 3 cm, so the front must not swallow them
        front = _smooth(np.clip((p[:, 2] - 0.01) / 0.07, 0, 1)) * (1 - side) * (p[:, 1] > _HEM)
        most = _MOST + (_MOST_IN_FRONT - _MOST) * front
        return np.asarray(_LEAST + most * np.tanh(np.maximum(amount, 0) / most) * near_neck, np.float32)

    def legs_at(self, p: Floats) -> Floats:
        """Return [n] metres >= 0 that trousers stand further off; at the waist they stay below a top."""
        angle = np.arctan2(np.abs(p[:, 0]) - 0.12, p[:, 2])
        fold = sum(w * np.sin(a * p[:, 1] + n * angle + f) for a, n, f, w in self.rings)
        down = np.clip((-0.36 - p[:, 1]) / 0.12, 0, 1)
        fold = fold * (
            0.1 + 0.5 * np.exp(-(((p[:, 1] + 0.82) / 0.07) ** 2)) + 0.3 * np.exp(-(((p[:, 1] + 0.45) / 0.05) ** 2))
        )
        amount = self.leg * (1 + self.depth * fold) + self.fine * (1 + self.wrinkles(p))
        return np.asarray(_LEAST * 0.7 + np.maximum(amount, 0) * down, np.float32)

    def wrinkles(self, p: Floats) -> Floats:
        """Return [n] fine relief, about -1..1, in some places more than in others."""
        waves, f32 = self.ripples, np.float32
        phase = p @ waves[:, :3].T.astype(f32)
        where = np.clip(0.4 + np.sin(0.23 * phase[:, ::-1] + 2 * waves[:, 3].astype(f32)), 0, 1)
        return np.asarray((np.sin(phase + waves[:, 3].astype(f32)) * where * waves[:, 4].astype(f32)).sum(1), f32)

    def _folds(
        self, p: Floats, t: Floats, angle: Floats, limb: Floats, down: Floats, side: Floats
    ) -> NDArray[np.floating]:
        theta = np.arctan2(p[:, 0], p[:, 2] - _AXIS)
        trunk = sum(
            w * np.sin(round(n) * theta + s * p[:, 1] + f + 0.8 * np.sin(7 * p[:, 1] + f)) for n, s, f, w in self.waves
        )
        elbow = 0.45 + 0.55 * np.exp(-(((t - 0.52) / 0.2) ** 2))
        arm = elbow * sum(w * np.sin(a * limb + n * angle + f) for a, n, f, w in self.rings)
        return np.asarray(trunk * (0.25 + 0.75 * np.minimum(down, 1)) * (1 - side) + arm * side)


def on_arm(p: Floats, beyond: float = _SHOULDER) -> NDArray[np.bool_]:
    """Return [n] whether T-pose points p [n, 3] are further out than `beyond` and on an arm, not on the hips."""
    x = np.abs(p[:, 0])
    lowest = _UNDERARM - 1.5 * np.clip(x - 0.2, 0, 0.06)  # wide sleeves hang lower
    return np.asarray((x > beyond) & (p[:, 1] > lowest))


def pick_cut(rng: np.random.Generator, long_sleeves: bool, collar: bool) -> Cut:
    """Return how an outfit is tailored. collar: the outfit has one, so the neck stays."""
    sleeve = np.inf
    if long_sleeves and rng.random() < 0.45:
        sleeve = rng.uniform(0.28, 0.62)
    elif not long_sleeves and rng.random() < 0.15:
        sleeve = rng.uniform(0.215, 0.26)
    deep = not collar and rng.random() < 0.35
    return Cut(
        float(sleeve), float(rng.uniform(0.05, 0.13)) if deep else 0.0, float(rng.uniform(0.05, 0.085))
    )  # fmt: skip


def pick_folds(rng: np.random.Generator, cut: Cut) -> Folds:
    """Return how wide an outfit is: from nearly tight to very loose."""
    wide = rng.beta(1.3, 1.6)  # 0 tight, 1 oversized
    waves = [(rng.integers(3, 9), rng.normal(0, 5), rng.uniform(0, 6.28), rng.uniform(0.2, 0.5)) for _ in range(4)]
    rings = [
        (2 * np.pi / rng.uniform(0.05, 0.13), rng.integers(-2, 3), rng.uniform(0, 6.28), rng.uniform(0.2, 0.5))
        for _ in range(4)
    ]
    ripples = []
    for _ in range(7):
        k = rng.normal(0, 1, 3)
        ripples.append([*(k / np.linalg.norm(k) * 2 * np.pi / rng.uniform(0.025, 0.09)), rng.uniform(0, 6.28), 0.35])
    chest = 0.003 + 0.026 * wide * rng.uniform(0.5, 1)
    upper = 0.003 + 0.025 * wide * rng.uniform(0.4, 1)
    return Folds(
        chest=chest,
        hem=chest + wide * rng.uniform(0, 0.040),
        upper_arm=upper,
        cuff=upper * rng.uniform(0.2, 1.0) if rng.random() < 0.55 else upper + wide * rng.uniform(0.005, 0.045),
        leg=0.002 + 0.02 * wide * rng.random(),
        depth=float(rng.uniform(0.35, 0.8)),
        fine=float(rng.uniform(0.0005, 0.0025)),
        waves=np.array(waves, np.float64),
        rings=np.array(rings, np.float64),
        ripples=np.array(ripples, np.float64),
        cuff_bulge=float(rng.uniform(0.003, 0.009)) if np.isfinite(cut.sleeve) and cut.sleeve > 0.27 else 0.0,
        sleeve=cut.sleeve if np.isfinite(cut.sleeve) else 9.0,
    )


def loosen(bank: Bank, proxy: Proxy, folds: Folds) -> Proxy:
    """Return the outfit pushed outwards, its mesh divided where it is coarse."""
    template = bank.assets.body.v_template.numpy()
    rest = proxy.rest(template)
    edges = rest[proxy.faces] - rest[np.roll(proxy.faces, 1, axis=1)]
    if np.linalg.norm(edges, axis=-1).mean() > _COARSE:
        proxy = divide(proxy)
        rest = proxy.rest(template)
    part = components(proxy.faces, len(rest))
    top_of = np.full(part.max() + 1, -np.inf)
    np.maximum.at(top_of, part, rest[:, 1])
    amount = np.where(top_of[part] > WAIST, folds.at(rest), folds.legs_at(rest))
    return replace(proxy, offsets=(proxy.offsets + outwards(bank, proxy, rest) * amount[:, None]).astype(np.float32))


def outwards(bank: Bank, proxy: Proxy, rest: Floats) -> Floats:
    """Return [n, 3] unit directions away from the body: its normals around each point, of the same limb."""
    body = bank.assets.body
    template = body.v_template[: bank.shipped]
    skinning = body.lbs_weights
    bare = skinning[: bank.shipped, [INDEX[n] for n in _NO_CLOTHES]].sum(1) < 0.5
    pick = torch.nonzero(bare)[:, 0][::5]
    normals = vertex_normals(template[None], bank.assets.faces)[0, pick]
    ours = (skinning[torch.from_numpy(proxy.ids)] * torch.from_numpy(proxy.weights)[..., None]).sum(1)
    points = torch.from_numpy(rest)
    out = []
    for at, own in zip(points.split(2048), ours.split(2048), strict=True):
        away = torch.cdist(at, template[pick])
        share = torch.exp(-0.5 * ((away - away.amin(1, keepdim=True)) / _REACH) ** 2)
        out.append((share * (own @ skinning[pick].T + 1e-6)) @ normals)
    return np.asarray(torch.nn.functional.normalize(torch.cat(out), dim=1).numpy(), np.float32)


def divide(proxy: Proxy) -> Proxy:
    """Return the mesh with every triangle as four; new vertices hang on what both ends of their edge hang on."""
    ends, mid = _edges(proxy.faces)
    n, nv = len(proxy.ids), len(proxy.texcoords)
    old_ids = np.concatenate([proxy.ids, proxy.ids], 1)
    old_weights = np.concatenate([proxy.weights, np.zeros_like(proxy.weights)], 1)
    both = lambda a: np.concatenate([a[ends[:, 0]], a[ends[:, 1]]], 1)
    ends_uv, mid_uv = _edges(proxy.faces_uv)
    return replace(
        proxy,
        ids=np.concatenate([old_ids, both(proxy.ids)]),
        weights=np.concatenate([old_weights, both(proxy.weights) / 2]).astype(np.float32),
        offsets=np.concatenate([proxy.offsets, proxy.offsets[ends].mean(1)]).astype(np.float32),
        texcoords=np.concatenate([proxy.texcoords, proxy.texcoords[ends_uv].mean(1)]).astype(np.float32),
        faces=_quarters(proxy.faces, mid + n),
        faces_uv=_quarters(proxy.faces_uv, mid_uv + nv),
    )


def beneath(bank: Bank, proxy: Proxy, cut: Cut) -> tuple[NDArray[np.bool_], Floats]:
    """Return which body vertices to draw although the outfit hides them [P], and how the body is drawn in [P, 3].

    They are those below what is cut off, and those one could see when looking into a hem, a cuff or a collar.
    """
    template = bank.assets.body.v_template.numpy()[: bank.shipped]
    hidden = np.zeros(bank.shipped, bool)
    hidden[proxy.hidden] = True
    rest = proxy.rest(bank.assets.body.v_template.numpy())
    ends, _, count = _edges_counted(proxy.faces)
    rim = torch.from_numpy(rest[np.unique(ends[count == 1])])
    near = np.zeros(bank.shipped, bool)
    at = torch.from_numpy(template[hidden])
    near[hidden] = (torch.cdist(at, rim).amin(1) < _OPENING).numpy()
    shown = hidden & (near | ~cut.keeps(template, margin=-0.03))
    deep = (hidden & cut.keeps(template, margin=-0.01)).astype(np.float32)
    faces = bank.assets.faces.numpy()
    for _ in range(2):  # nothing at the border, the whole amount two edges further in
        low = deep.copy()
        for a, b in ((0, 1), (1, 2), (2, 0)):
            np.minimum.at(low, faces[:, a], deep[faces[:, b]])
            np.minimum.at(low, faces[:, b], deep[faces[:, a]])
        deep = 0.5 * (deep + low)
    normals = vertex_normals(torch.from_numpy(template)[None], bank.assets.faces)[0].numpy()
    return shown, (-_SHRINK * deep[:, None] * normals).astype(np.float32)


def _along_arm(p: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return share of the arm 0..1, way along it 0..1, angle around it, and metres from the middle, each [n]."""
    x = np.abs(p[:, 0])
    side = _smooth(np.clip((x - _SHOULDER) / 0.06, 0, 1)) * _smooth(np.clip((p[:, 1] - _UNDERARM) / 0.04 + 1, 0, 1))
    t = np.clip((x - _SHOULDER) / (_WRIST - _SHOULDER), 0, 1)
    angle = np.arctan2(p[:, 1] - _ARM, p[:, 2] - 0.024)
    return np.asarray(side, np.float32), np.asarray(t, np.float32), angle, x


def _smooth(x: NDArray[np.floating]) -> NDArray[np.floating]:
    return x * x * (3 - 2 * x)


def _edges(faces: Ints) -> tuple[Ints, Ints]:
    ends, inverse, _ = _edges_counted(faces)
    return ends, inverse


def _edges_counted(faces: Ints) -> tuple[Ints, Ints, Ints]:
    """Return edges [E, 2], which of them each side of each face is [F, 3], and how many faces each has [E]."""
    pairs = np.stack([faces, np.roll(faces, -1, axis=1)], -1).reshape(-1, 2)
    ends, inverse, count = np.unique(np.sort(pairs, 1), axis=0, return_inverse=True, return_counts=True)
    return ends, inverse.reshape(-1, 3), count


def _quarters(faces: Ints, mid: Ints) -> Ints:
    a, b, c = faces.T
    ab, bc, ca = mid.T
    return np.concatenate([np.stack(x, 1) for x in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
