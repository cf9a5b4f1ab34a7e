"""From body, proxies and textures to the mesh that is drawn: one set of triangles, one atlas, baked occlusion."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guava_aug.apps.synthetic.bank import Bank, Floats, Ints, Proxy
from guava_aug.apps.synthetic.raster import Surface
from guava_aug.apps.synthetic.render import CLOTH, EYE, HAIR, METAL, MOUTH, PLASTIC, SKIN, Skin, occlusion
from guava_aug.body.joints import INDEX
from guava_aug.body.params import Identity, Motion

ATLAS = 2048
SLOTS: dict[str, tuple[int, int, int]] = {  # left, top, side in atlas texels
    "skin": (0, 0, 1024),
    "clothes": (1024, 0, 1024),
    "hair": (0, 1024, 1024),
    "eyes": (1024, 1024, 512),
    "eyebrows": (1536, 1024, 512),
    "eyelashes": (1024, 1536, 512),
    "teeth": (1536, 1536, 256),
    "tongue": (1792, 1536, 256),
    "glasses": (1536, 1792, 128),
    "jewellery": (1536, 1920, 128),
    "collar": (1792, 1792, 256),
}
_MATERIAL = {
    "skin": SKIN, "clothes": CLOTH, "eyes": EYE, "teeth": MOUTH, "tongue": MOUTH, "glasses": PLASTIC,
    "jewellery": METAL, "collar": CLOTH,
}  # fmt: skip
_CUTOUT = ("hair", "eyebrows", "eyelashes", "eyes")
_BIAS = {"eyebrows": 0.004, "eyelashes": 0.002}  # metres
_FIXED_OCCLUSION = {"teeth": 0.55, "tongue": 0.22, "eyes": 0.9}  # baked with a closed mouth they would be black
_DARKEST = 0.15
NUM_TEETH = 136  # helper teeth, the body's last vertices


@dataclass(frozen=True)
class _Part:
    kind: str
    ids: Ints  # [n, K]
    weights: Floats  # [n, K]
    offsets: Floats  # [n, 3]
    faces: Ints  # [F, 3]
    corners: Floats  # [F, 3, 2]


def assemble(
    bank: Bank,
    identity: Identity,
    textures: dict[str, NDArray[np.uint8]],
    proxies: dict[str, Proxy],
    *,
    chart: Floats | None = None,
    stand_off: Floats | None = None,
    shown: NDArray[np.bool_] | None = None,
    cut_clothes: bool = False,
    device: torch.device | str = "cpu",
) -> Skin:
    """Return the drawn mesh of one person.

    textures: RGBA per slot, of the slot's side. proxies: what rides the body, by slot. chart: where the skin texture
    is painted [Vt, 2], default MakeHuman's. stand_off: offsets [P, 3] of the body's own vertices in the
    T pose. shown: [P] body vertices to draw even below clothes. cut_clothes: clothes end where their texture's alpha
    does. device: where occlusion is baked.
    """
    atlas = np.zeros((ATLAS, ATLAS, 4), np.uint8)
    for slot, image in textures.items():
        x, y, side = SLOTS[slot]
        atlas[y : y + side, x : x + side] = image
    parts = [_body(bank, proxies, bank.skin_texcoords if chart is None else chart, stand_off, shown)]
    parts += [_Part(k, p.ids, p.weights, p.offsets, p.faces, p.texcoords[p.faces_uv]) for k, p in proxies.items()]
    starts = np.cumsum([0, *(len(p.ids) for p in parts)])
    cutout = (*_CUTOUT, "clothes") if cut_clothes else _CUTOUT
    most = max(p.ids.shape[1] for p in parts)
    padded = lambda a: np.pad(a, ((0, 0), (0, most - a.shape[1])))
    per_face = lambda value, dtype: _join([np.full(len(p.faces), value(p.kind)) for p in parts], dtype)
    surface = Surface(
        faces=_join([p.faces + s for p, s in zip(parts, starts[:-1], strict=True)], np.int64),
        corners=_join([_in_atlas(p) for p in parts], np.float32),
        cutout=per_face(lambda k: k in cutout, bool),
        bias=per_face(lambda k: _BIAS.get(k, 0.0), np.float32),
        alpha=torch.from_numpy(np.ascontiguousarray(atlas[..., 3])),
    )
    skin = Skin(
        surface=surface,
        ids=_join([padded(p.ids) for p in parts], np.int64),
        weights=_join([padded(p.weights) for p in parts], np.float32),
        offsets=_join([p.offsets for p in parts], np.float32),
        material=per_face(lambda k: _MATERIAL.get(k, HAIR), np.int64),
        occlusion=torch.ones(int(starts[-1])),
        atlas=torch.from_numpy(np.ascontiguousarray(atlas[..., :3])),
    )
    baked = _bake_occlusion(bank, identity, skin, device)
    for p, start in zip(parts, starts[:-1], strict=True):
        if p.kind in _FIXED_OCCLUSION:
            baked[start : start + len(p.ids)] = _FIXED_OCCLUSION[p.kind]
    return replace(skin, occlusion=baked)


def _body(
    bank: Bank, proxies: dict[str, Proxy], chart: Floats, stand_off: Floats | None, shown: NDArray[np.bool_] | None
) -> _Part:
    own = np.arange(bank.shipped)
    first = np.zeros((bank.shipped, 3), np.float32)
    first[:, 0] = 1
    faces, faces_uv = bank.assets.faces.numpy(), bank.assets.faces_uv.numpy()
    keep = _visible_body(bank, faces, proxies, shown)
    offsets = np.zeros_like(first) if stand_off is None else stand_off[: bank.shipped]
    return _Part("skin", np.stack([own] * 3, 1), first, offsets, faces[keep], chart[faces_uv[keep]])


def _visible_body(
    bank: Bank, faces: Ints, proxies: dict[str, Proxy], shown: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Return [F] which body faces are drawn: not those under clothes, nor parts that a proxy replaces."""
    under, replaced = np.zeros(bank.shipped, bool), np.zeros(bank.shipped, bool)
    for p in proxies.values():
        under[p.hidden] = True
    if shown is not None:
        under &= ~shown
    if "eyes" in proxies:
        replaced[bank.eyeballs] = True
    if "tongue" in proxies:
        replaced[bank.tongue] = True
    if "teeth" in proxies:
        replaced[bank.shipped - NUM_TEETH : bank.shipped] = True
    return np.asarray(~under[faces].all(1) & ~replaced[faces].any(1))


def _in_atlas(part: _Part) -> Floats:
    """Return corner coordinates in the atlas, one texel clear of the neighbouring slots."""
    x, y, side = SLOTS[part.kind]
    return ((np.clip(part.corners, 0, 1) * (side - 2) + (x + 1, y + 1)) / ATLAS).astype(np.float32)


def _join(arrays: list[np.ndarray], dtype: type) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(dtype))


def _bake_occlusion(bank: Bank, identity: Identity, skin: Skin, device: torch.device | str) -> Tensor:
    vertices = skin.vertices(bank.model(identity, relaxed()))[0]
    share = occlusion(vertices.to(device), skin.surface.to(device)).cpu().clamp(0, 1)
    faces = skin.surface.faces
    ends = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    count = torch.zeros_like(share).index_add_(0, ends[:, 0], torch.ones(len(ends)))
    for _ in range(3):
        around = torch.zeros_like(share).index_add_(0, ends[:, 0], share[ends[:, 1]]) / count.clamp(min=1)
        share = torch.where(count > 0, 0.5 * share + 0.5 * around, share)
    return _DARKEST + (1 - _DARKEST) * share**0.8


def still(frames: int = 1) -> Motion:
    """Return the T pose, in the body's own frame."""
    z = lambda *shape: torch.zeros(frames, *shape)
    return Motion(z(3), z(21, 3), z(15, 3), z(15, 3), z(50), z(50), z(3), z(2, 3), z(2))


def relaxed() -> Motion:
    """Return arms half lowered and elbows bent: a pose that shows most of the body."""
    motion = still()
    body = motion.body_pose.clone()
    for side, s in (("left", -1.0), ("right", 1.0)):
        body[0, INDEX[f"{side}_shoulder"] - 1, 2] = s * 0.9
        body[0, INDEX[f"{side}_elbow"] - 1, 1] = s * 1.0
    return replace(motion, body_pose=body)
