"""Synthetic people: a body shape, a face, and the mesh with its textures that is drawn on it.

Everything follows from a seed. With a picture bank (`bank.Bank.load`) people wear MakeHuman's clothes and hair,
recoloured and with our own fabric patterns, so that no logo is left; without, they are painted on the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..body.params import Identity, Motion
from .bank import Bank, Floats, Ints, Proxy
from .fabric import clothe, pick_fabric
from .paint import PALETTE_HAIR, PALETTE_SKIN, eye_texture, paint_plain, recolor, tint
from .raster import Surface
from .render import CLOTH, EYE, HAIR, MOUTH, SKIN, Skin, occlusion

ATLAS = 2048
# (left, top, side) in atlas texels
_SLOTS = {
    "skin": (0, 0, 1024), "clothes": (1024, 0, 1024), "hair": (0, 1024, 1024), "eyes": (1024, 1024, 512),
    "eyebrows": (1536, 1024, 512), "eyelashes": (1024, 1536, 512), "teeth": (1536, 1536, 256), "tongue": (1792, 1536, 256),
}  # fmt: skip
_BIAS = {"eyebrows": 0.004, "eyelashes": 0.002}
_MATERIAL = {"hair": HAIR, "clothes": CLOTH, "eyebrows": HAIR, "eyelashes": HAIR, "eyes": EYE, "teeth": MOUTH, "tongue": MOUTH}
_CUTOUT = ("hair", "eyebrows", "eyelashes", "eyes", "clothes")
_MIN_HEIGHT, _MAX_HEIGHT = 1.52, 1.95  # metres
_MOUTH_OCCLUSION = {"teeth": 0.62, "tongue": 0.5}


@dataclass(frozen=True)
class Person:
    """Who is drawn. `skin` hangs on `bank.model`'s vertices."""

    identity: Identity
    skin: Skin
    female: bool
    outfit: str
    hair: str


def make_person(bank: Bank, seed: int) -> Person:
    """The person of one seed: same bank and seed, same person."""
    rng = np.random.default_rng([seed, 0x5167])
    female = bool(rng.random() < 0.5)
    identity = make_identity(bank, rng, female)
    if not bank.proxies:
        return _assemble(bank, identity, {}, paint_plain(bank, rng), female, "painted", "painted")
    dark = rng.random() < 0.3
    skins = [s for s in bank.textures("skins/") if ("african" in s) == dark and ("female" in s) == (female or dark) * ("african" not in s)]
    skins = skins or [s for s in bank.textures("skins/") if ("african" in s) == dark]
    tone = PALETTE_SKIN[-3:] if dark else PALETTE_SKIN[:-3]
    skin = tint(bank.texture(skins[rng.integers(len(skins))], 1024), tone[rng.integers(len(tone))])

    names = [n for n in bank.proxies["clothes"] if n.startswith("female") == female and "sportsuit" not in n]
    outfit = names[rng.integers(len(names))]
    hairs = (["long01", "ponytail01", "braid01", "bob02", "short03"] if female else ["short01", "short02", "short04", "short03"])
    hair = hairs[rng.integers(len(hairs))]
    hair_color = PALETTE_HAIR[rng.integers(len(PALETTE_HAIR) - 4 if dark else len(PALETTE_HAIR))]
    chosen = {
        "clothes": bank.proxies["clothes"][outfit], "hair": bank.proxies["hair"][hair], "eyes": bank.proxies["eyes"]["high-poly"],
        "eyebrows": _pick(bank, "eyebrows", rng), "eyelashes": bank.proxies["eyelashes"]["eyelashes02" if female else "eyelashes04"],
        "teeth": bank.proxies["teeth"]["teeth_base"], "tongue": bank.proxies["tongue"]["tongue01"],
    }  # fmt: skip
    eyes = bank.textures("eyes/materials/")
    eye = next(e for e in eyes if "/brown_" in e) if dark or rng.random() < 0.5 else eyes[rng.integers(len(eyes))]
    brow = 0.55 * np.asarray(hair_color)
    textures = {
        "skin": skin,
        "clothes": clothe(bank, chosen["clothes"], pick_fabric(rng), rng),
        "hair": recolor(bank.texture(f"hair/{hair}/{hair}_diffuse", 1024), hair_color),
        "eyes": eye_texture(bank.texture(eye, 512)),
        "eyebrows": recolor(bank.texture(f"eyebrows/{chosen['eyebrows'].name}/{chosen['eyebrows'].name}", 512), brow, flat=True),
        "eyelashes": recolor(bank.texture(f"eyelashes/{chosen['eyelashes'].name}/{chosen['eyelashes'].name}", 512), (0.05, 0.04, 0.035), flat=True),
        "teeth": bank.texture("teeth/teeth_base/teeth", 256),
        "tongue": bank.texture("tongue/tongue01/tongue01_diffuse", 256),
    }  # fmt: skip
    return _assemble(bank, identity, chosen, textures, female, outfit, hair)


def make_identity(bank: Bank, rng: np.random.Generator, female: bool | None = None) -> Identity:
    """A random adult's shape: a mix of two of the bank's bodies, and a face of their own."""
    faces = bank.assets.head.shapedirs.shape[-1] - bank.assets.body.shapedirs.shape[-1]
    betas = rng.normal(0, 0.6, bank.assets.body.shapedirs.shape[-1])
    if len(bank.betas):
        gender = bank.phenotypes[:, bank.phenotype_names.index("gender")]
        age = bank.phenotypes[:, bank.phenotype_names.index("age")]
        fits = (bank.heights > _MIN_HEIGHT) & (bank.heights < _MAX_HEIGHT) & (age < 0.9)
        if female is not None:
            fits &= (gender > 0.75) if female else (gender < 0.25)
        a, b = rng.choice(np.flatnonzero(fits), 2, replace=False)
        share = rng.uniform(0.6, 1.0)
        betas = share * bank.betas[a] + (1 - share) * bank.betas[b]
    else:
        betas[0] *= 0.4  # height
    f32 = torch.float32
    body = torch.tensor(betas, dtype=f32)
    return Identity(
        betas=body,
        flame_betas=torch.cat([body, torch.tensor(rng.normal(0, 0.6, faces), dtype=f32)]),
        head_scale=torch.ones(3), hand_scale=torch.ones(3), joints_offset=torch.zeros(55, 3),
    )  # fmt: skip


def still(frames: int = 1) -> Motion:
    """The T pose."""
    z = lambda *shape: torch.zeros(frames, *shape)
    return Motion(z(3), z(21, 3), z(15, 3), z(15, 3), z(50), z(50), z(3), z(2, 3), z(2))


def _pick(bank: Bank, kind: str, rng: np.random.Generator) -> Proxy:
    names = sorted(bank.proxies[kind])
    return bank.proxies[kind][names[rng.integers(len(names))]]


def _assemble(bank: Bank, identity: Identity, proxies: dict[str, Proxy], textures: dict[str, np.ndarray], female: bool,
              outfit: str, hair: str) -> Person:  # fmt: skip
    atlas = np.zeros((ATLAS, ATLAS, 4), np.uint8)
    for slot, image in textures.items():
        x, y, side = _SLOTS[slot]
        atlas[y : y + side, x : x + side] = image
    faces, faces_uv = bank.assets.faces.numpy(), bank.assets.faces_uv.numpy()
    kept = _visible_body(bank, faces, proxies)
    parts: list[tuple[str, Ints, Floats, Floats, Ints, Floats]] = []
    own = np.arange(bank.shipped)
    one = np.zeros((bank.shipped, 3), np.float32)
    one[:, 0] = 1
    parts.append(("skin", np.stack([own] * 3, 1), one, np.zeros_like(one), faces[kept], bank.skin_texcoords[faces_uv[kept]]))
    for kind, p in proxies.items():
        parts.append((kind, p.ids, p.weights, p.offsets, p.faces, p.texcoords[p.faces_uv]))

    all_faces, corners, material, cutout, bias, start = [], [], [], [], [], 0
    for kind, ids, _, _, f, uv in parts:
        x, y, side = _SLOTS[kind]
        all_faces.append(f + start)
        corners.append((np.clip(uv, 0, 1) * (side - 2) + (x + 1, y + 1)) / ATLAS)
        material.append(np.full(len(f), _MATERIAL.get(kind, SKIN)))
        cutout.append(np.full(len(f), kind in _CUTOUT and kind != "clothes"))
        bias.append(np.full(len(f), _BIAS.get(kind, 0.0)))
        start += len(ids)
    tensor = lambda arrays, dtype: torch.from_numpy(np.concatenate(arrays).astype(dtype))
    surface = Surface(
        tensor(all_faces, np.int64), tensor(corners, np.float32), tensor(cutout, bool), tensor(bias, np.float32),
        torch.from_numpy(np.ascontiguousarray(atlas[..., 3])),
    )  # fmt: skip
    bare = Skin(
        surface=surface, ids=tensor([p[1] for p in parts], np.int64), weights=tensor([p[2] for p in parts], np.float32),
        offsets=tensor([p[3] for p in parts], np.float32), material=tensor(material, np.int64),
        occlusion=torch.ones(start), atlas=torch.from_numpy(np.ascontiguousarray(atlas[..., :3])),
    )  # fmt: skip
    open_share = occlusion(bare.vertices(bank.model(identity, _relaxed()))[0], surface)
    open_share = 0.15 + 0.85 * open_share.clamp(0, 1) ** 0.8
    at = 0
    for kind, ids, *_ in parts:
        if kind in _MOUTH_OCCLUSION:
            open_share[at : at + len(ids)] = _MOUTH_OCCLUSION[kind]
        at += len(ids)
    skin = Skin(surface, bare.ids, bare.weights, bare.offsets, bare.material, open_share, bare.atlas)
    return Person(identity, skin, female, outfit, hair)


def _visible_body(bank: Bank, faces: Ints, proxies: dict[str, Proxy]) -> np.ndarray:
    """[F] which body faces are drawn: not those under clothes, nor parts that a proxy replaces."""
    gone = np.zeros(bank.shipped, bool)
    for p in proxies.values():
        gone[p.hidden] = True
    keep = ~gone[faces].all(1)
    replaced = np.zeros(bank.shipped, bool)
    if "eyes" in proxies:
        replaced[bank.eyeballs] = True
    if "tongue" in proxies:
        replaced[bank.tongue] = True
    if "teeth" in proxies:
        replaced[bank.shipped - 136 : bank.shipped] = True  # 68 + 68 helper teeth come last
    return keep & ~replaced[faces].any(1)


def _relaxed() -> Motion:
    """Arms half lowered, elbows bent: the pose occlusion is baked in."""
    m = still()
    body = m.body_pose.clone()
    for j, s in ((16, -1.0), (17, 1.0)):
        body[0, j - 1, 2] = s * 0.9
    for j, s in ((18, -1.0), (19, 1.0)):
        body[0, j - 1, 1] = s * 1.0
    return Motion(m.global_orient, body, m.left_hand_pose, m.right_hand_pose, m.expression, m.flame_expression,
                  m.jaw_pose, m.eye_pose, m.eyelids)  # fmt: skip
