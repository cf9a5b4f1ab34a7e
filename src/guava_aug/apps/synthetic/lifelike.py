"""People as in real videos: loose, patterned, differently cut clothes, hair with volume, beards, glasses, jewellery.

The second set of people of the generator (`subjects.make_person(..., variety="lifelike")`).
"""

from __future__ import annotations

import numpy as np
import torch

from guava_aug.apps.synthetic import accessories
from guava_aug.apps.synthetic.assemble import SLOTS, assemble, still
from guava_aug.apps.synthetic.bank import Bank, Floats, Proxy
from guava_aug.apps.synthetic.complexion import (
    BEARDS,
    beard_offsets,
    enlarge_hair,
    paint_hair,
    paint_skin,
    skin_chart,
)  # fmt: skip
from guava_aug.apps.synthetic.garments import beneath, loosen, pick_cut, pick_folds
from guava_aug.apps.synthetic.paint import PALETTE_HAIR, PALETTE_SKIN, Image, eye_texture, recolor, tint
from guava_aug.apps.synthetic.prints import any_color
from guava_aug.apps.synthetic.render import Skin
from guava_aug.apps.synthetic.tailored import collar_texture, paint_outfit
from guava_aug.body.params import Identity

_DARK_SHARE = 0.35
_NUM_DARK = 3  # the last tones of PALETTE_SKIN, painted on the dark skin
_OTHER_SEX = 0.25  # share that wears clothes or hair cut for the other sex
_LONG_SLEEVE = 0.5  # metres from the middle
_COLLARED = ("elegantsuit", "casualsuit02", "casualsuit03", "casualsuit05")
_SHAVED = "none"
_FRINGED = ("short03", "braid01", "bob02")  # larger, they would cover an eye
_METALS = ((0.80, 0.62, 0.25), (0.75, 0.75, 0.77), (0.72, 0.48, 0.38))


def dress(
    bank: Bank, identity: Identity, female: bool, rng: np.random.Generator, device: torch.device | str
) -> tuple[Skin, str, str]:
    """Return the drawn mesh of one person, the name of the outfit and of the hair."""
    pick = lambda options: options[rng.integers(len(options))]
    dark = bool(rng.random() < _DARK_SHARE)
    chart = skin_chart(bank)
    proxies: dict[str, Proxy] = {}
    textures: dict[str, Image] = {}

    outfit = _outfit(bank, female, rng)
    clothes = bank.proxies["clothes"][outfit]
    template = bank.assets.body.v_template.numpy()
    long = bool(np.abs(clothes.rest(template)[:, 0]).max() > _LONG_SLEEVE)
    cut = pick_cut(rng, long, any(n in outfit for n in _COLLARED))
    folds = pick_folds(rng, cut)
    proxies["clothes"] = loosen(bank, clothes, folds)
    textures["clothes"] = paint_outfit(bank, clothes, folds, cut, rng)
    shown, drawn_in = beneath(bank, clothes, cut)

    grey = float(rng.uniform(0.1, 1.0)) if rng.random() < 0.25 else 0.0
    hair_color = _vary(rng, PALETTE_HAIR[rng.integers(len(PALETTE_HAIR) - 4 if dark else len(PALETTE_HAIR))])
    hair = _hair(bank, female, rng)
    if hair != _SHAVED:
        most = 0.06 if hair in _FRINGED else 0.22
        volume = enlarge_hair(
            bank, bank.proxies["hair"][hair], 1 + most * float(rng.random()), 0.09 * most * float(rng.random()), rng,
            short_fringe=bool(rng.random() < 0.75),
        )  # fmt: skip
        proxies["hair"] = volume
        image = recolor(bank.texture(f"hair/{hair}/{hair}_diffuse", SLOTS["hair"][2]), hair_color)
        textures["hair"] = paint_hair(image, rng, grey, dyed=bool(rng.random() < 0.12))
    beard = "none" if female or rng.random() < 0.35 else str(pick(BEARDS[1:]))
    beard_color = np.asarray(hair_color, np.float32) * 0.8 * (1 - grey) + grey * 0.62
    stand_off = drawn_in + beard_offsets(bank, beard, float(rng.uniform(0.003, 0.014)), chart)
    skin = _skin_texture(bank, female, dark, rng)
    textures["skin"] = paint_skin(
        skin, chart, rng, female=female, beard=beard, hair=beard_color, shaved=hair == _SHAVED
    )

    brows = str(pick(sorted(bank.proxies["eyebrows"])))
    lashes = str(pick(sorted(bank.proxies["eyelashes"]) if female else ["eyelashes04"]))
    brow_color = np.asarray(hair_color) * rng.uniform(0.4, 0.9) * (1 - 0.6 * grey) + 0.3 * grey
    side = lambda slot: SLOTS[slot][2]
    proxies |= {
        "eyes": bank.proxies["eyes"]["high-poly"], "eyebrows": bank.proxies["eyebrows"][brows],
        "eyelashes": bank.proxies["eyelashes"][lashes], "teeth": bank.proxies["teeth"]["teeth_base"],
        "tongue": bank.proxies["tongue"]["tongue01"],
    }  # fmt: skip
    iris = bank.textures("eyes/materials/")
    eye = next(e for e in iris if "/brown_" in e) if dark or rng.random() < 0.3 else str(pick(iris))
    teeth = bank.texture("teeth/teeth_base/teeth", side("teeth")).astype(np.float32)
    teeth[..., :3] *= rng.uniform(0.8, 1.05) * np.array([1.0, rng.uniform(0.92, 1.0), rng.uniform(0.78, 1.0)])
    textures |= {
        "eyes": eye_texture(bank.texture(eye, side("eyes"))),
        "eyebrows": recolor(
            bank.texture(f"eyebrows/{brows}/{brows}", side("eyebrows")), brow_color.tolist(), flat=True
        ),
        "eyelashes": recolor(
            bank.texture(f"eyelashes/{lashes}/{lashes}", side("eyelashes")), (0.05, 0.04, 0.035), flat=True
        ),
        "teeth": np.clip(teeth, 0, 255).astype(np.uint8),
        "tongue": bank.texture("tongue/tongue01/tongue01_diffuse", side("tongue")),
    }
    add_accessories(bank, identity, female, rng, proxies, textures)
    mesh = assemble(
        bank, identity, textures, proxies, stand_off=stand_off, shown=shown, cut_clothes=True, device=device
    )  # fmt: skip
    return mesh, outfit, hair


def add_accessories(
    bank: Bank, identity: Identity, female: bool, rng: np.random.Generator, proxies: dict[str, Proxy],
    textures: dict[str, Image],
) -> None:  # fmt: skip
    """Add glasses, jewellery and a scarf to some people: meshes to `proxies` and their textures to `textures`."""
    posed = bank.model(identity, still())
    rest, joints = posed.vertices[0].numpy(), posed.joints[0].numpy()
    if rng.random() < 0.45:
        frames = accessories.pick_frames(rng)
        proxies["glasses"] = accessories.glasses(bank, rest, joints, frames)
        colors = np.stack([frames.color, frames.lens]).astype(np.float32)
        textures["glasses"] = accessories.swatches(colors, SLOTS["glasses"][2])
    found: list[accessories.Mesh] = []
    rings: list[Proxy] = []
    if rng.random() < (0.6 if female else 0.08):
        found.append(accessories.earrings(bank, rest, joints, rng))
    if rng.random() < (0.35 if female else 0.12):
        found.append(accessories.necklace(bank, rest, joints, rng))
    for hand in ("left", "right"):
        if rng.random() < 0.35:
            found.append(accessories.wristband(bank, rest, joints, hand, rng))
        for finger in ("index", "middle", "ring", "pinky"):
            if rng.random() < (0.5 if finger == "ring" else 0.15) * (0.8 if female else 0.5):
                rings.append(accessories.finger_ring(bank, rest, joints, hand, finger))
    if found:
        rings.append(accessories.hang(bank, accessories.Mesh.join(found), rest, "jewellery"))
    if rings:
        proxies["jewellery"] = accessories.joined("jewellery", rings)
        dial = np.asarray([(0.02, 0.02, 0.03), (0.9, 0.9, 0.88)][rng.integers(2)])
        straps = [any_color(rng) for _ in range(13)]
        colors = np.stack([np.asarray(_METALS[rng.integers(3)]), np.asarray(_METALS[rng.integers(3)]), dial, *straps])
        textures["jewellery"] = accessories.swatches(colors, SLOTS["jewellery"][2])
    if rng.random() < 0.15:
        mesh = accessories.scarf(bank, rest, joints, rng)
        proxies["collar"] = accessories.hang(bank, mesh, rest, "collar", count=6)
        textures["collar"] = collar_texture(rng, SLOTS["collar"][2])


def _outfit(bank: Bank, female: bool, rng: np.random.Generator) -> str:
    as_female = female != (rng.random() < _OTHER_SEX)
    names = [n for n in bank.proxies["clothes"] if n.startswith("female") == as_female and "sportsuit" not in n]
    return str(names[rng.integers(len(names))])


def _hair(bank: Bank, female: bool, rng: np.random.Generator) -> str:
    if rng.random() < (0.02 if female else 0.18):
        return _SHAVED
    other = rng.random() < _OTHER_SEX
    long, short = ("long01", "ponytail01", "braid01", "bob02", "short03"), ("short01", "short02", "short04", "short03")
    names = long if female != other else short
    return names[rng.integers(len(names))]


def _skin_texture(bank: Bank, female: bool, dark: bool, rng: np.random.Generator) -> Image:
    names = [s for s in bank.textures("skins/") if ("african" in s) == dark]
    same_sex = [s for s in names if ("female" in s.split("/")[1]) == female] or names
    tones = PALETTE_SKIN[-_NUM_DARK:] if dark else PALETTE_SKIN[:-_NUM_DARK]
    a, b = rng.integers(len(tones), size=2)
    share = rng.random()
    tone = [share * x + (1 - share) * y for x, y in zip(tones[a], tones[b], strict=True)]
    return tint(bank.texture(same_sex[rng.integers(len(same_sex))], SLOTS["skin"][2]), _vary(rng, tone))


def _vary(rng: np.random.Generator, color: Floats | tuple[float, ...] | list[float]) -> list[float]:
    return [float(c) for c in np.clip(np.asarray(color) * rng.uniform(0.9, 1.1) + rng.normal(0, 0.015, 3), 0.02, 0.95)]
