"""Synthetic subjects: a body shape, a face, and what they look like.

Everything follows from a seed. With a picture bank (`bank.Bank.load`) subjects wear MakeHuman's clothes and hair,
recoloured and with our own fabric patterns, so that no logo is left; without, they are painted on the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from guava_aug.apps.synthetic.assemble import assemble
from guava_aug.apps.synthetic.bank import Bank, Proxy
from guava_aug.apps.synthetic.fabric import clothe, pick_fabric
from guava_aug.apps.synthetic.lifelike import add_accessories, dress
from guava_aug.apps.synthetic.paint import PALETTE_HAIR, PALETTE_SKIN, Image, eye_texture, recolor, tint
from guava_aug.apps.synthetic.painted_subjects import paint_person
from guava_aug.apps.synthetic.render import Skin
from guava_aug.apps.synthetic.varieties import LIFELIKE, STANDARD
from guava_aug.body.params import Identity

_KEYS = {STANDARD: 0x5167, LIFELIKE: 0x5168}  # of the random generators
_MIN_HEIGHT, _MAX_HEIGHT = 1.52, 1.95  # metres
_MAX_AGE = 0.9  # Anny's scale: 0.67 is a young adult, 1 is old
_DARK_SHARE = 0.3
_NUM_DARK = 3  # the last tones of PALETTE_SKIN, painted on the dark skin
_HAIR = {
    True: ("long01", "ponytail01", "braid01", "bob02", "short03"),
    False: ("short01", "short02", "short04", "short03"),
}
_LASHES = {True: "eyelashes02", False: "eyelashes04"}
_THIN_BROWS = ("eyebrow006", "eyebrow007")
_LASH_COLOR = (0.05, 0.04, 0.035)


@dataclass(frozen=True)
class Person:
    """Who is drawn. `skin` hangs on the vertices of the bank's model."""

    identity: Identity
    skin: Skin
    female: bool
    outfit: str
    hair: str


def make_person(
    bank: Bank, seed: int, device: torch.device | str = "cpu", *, painted: bool = False, variety: str = STANDARD
) -> Person:
    """Return the person of one seed, on the CPU; same arguments, same person.

    device: where occlusion is baked. painted: paint on the body even though the bank has clothes and hair.
    variety: the set of people, one of `VARIETIES`; the people of one set are not those of the other. Painted ones
    of `LIFELIKE` have glasses and jewellery, but no loose clothes.
    """
    rng = np.random.default_rng([seed, _KEYS[variety]])
    female = bool(rng.random() < 0.5)
    identity = make_identity(bank, rng, female)
    if painted or not bank.proxies:
        texture, stand_off = paint_person(bank.assets, rng)
        chart = bank.assets.texcoords.numpy()
        proxies: dict[str, Proxy] = {}
        textures = {"skin": texture}
        if variety == LIFELIKE:
            add_accessories(bank, identity, female, rng, proxies, textures)
        skin = assemble(bank, identity, textures, proxies, chart=chart, stand_off=stand_off, device=device)
        return Person(identity, skin, female, "painted", "painted")
    if variety == LIFELIKE:
        skin, outfit, hair = dress(bank, identity, female, rng, device)
        return Person(identity, skin, female, outfit, hair)
    return _dressed(bank, identity, female, rng, device)


def make_identity(bank: Bank, rng: np.random.Generator, female: bool) -> Identity:
    """Return a random adult's shape: a mix of two of the bank's bodies of that sex, and a face of their own."""
    count = bank.assets.body.shapedirs.shape[-1]
    if len(bank.betas):
        gender = bank.phenotypes[:, bank.phenotype_names.index("gender")]
        age = bank.phenotypes[:, bank.phenotype_names.index("age")]
        fits = (bank.heights > _MIN_HEIGHT) & (bank.heights < _MAX_HEIGHT) & (age < _MAX_AGE)
        fits &= (gender > 0.75) if female else (gender < 0.25)
        a, b = rng.choice(np.flatnonzero(fits), 2, replace=False)
        share = rng.uniform(0.6, 1.0)
        betas = share * bank.betas[a] + (1 - share) * bank.betas[b]
    else:
        betas = rng.normal(0, 0.6, count)
        betas[0] *= 0.4  # mostly height
    body = torch.tensor(betas, dtype=torch.float32)
    face = torch.tensor(rng.normal(0, 0.6, bank.assets.head.shapedirs.shape[-1] - count), dtype=torch.float32)
    one = torch.ones(3)
    return Identity(body, torch.cat([body, face]), one, one.clone(), torch.zeros(55, 3))


def _dressed(
    bank: Bank, identity: Identity, female: bool, rng: np.random.Generator, device: torch.device | str
) -> Person:
    dark = bool(rng.random() < _DARK_SHARE)
    outfit = _pick(
        rng, [n for n in bank.proxies["clothes"] if n.startswith("female") == female and "sportsuit" not in n]
    )
    hair = _pick(rng, list(_HAIR[female]))
    hair_color = PALETTE_HAIR[rng.integers(len(PALETTE_HAIR) - 4 if dark else len(PALETTE_HAIR))]
    brows = _pick(rng, [n for n in sorted(bank.proxies["eyebrows"]) if female or n not in _THIN_BROWS])
    lashes = _LASHES[female]
    iris = bank.textures("eyes/materials/")
    brown = next(e for e in iris if "/brown_" in e)
    eye = brown if dark or rng.random() < 0.5 else _pick(rng, iris)
    chosen = {
        "clothes": outfit, "hair": hair, "eyes": "high-poly", "eyebrows": brows, "eyelashes": lashes,
        "teeth": "teeth_base", "tongue": "tongue01",
    }  # fmt: skip
    proxies: dict[str, Proxy] = {kind: bank.proxies[kind][name] for kind, name in chosen.items()}
    textures: dict[str, Image] = {
        "skin": _skin(bank, female, dark, rng),
        "clothes": clothe(bank, proxies["clothes"], pick_fabric(rng), rng),
        "hair": recolor(bank.texture(f"hair/{hair}/{hair}_diffuse", 1024), hair_color),
        "eyes": eye_texture(bank.texture(eye, 512)),
        "eyebrows": recolor(bank.texture(f"eyebrows/{brows}/{brows}", 512), [0.55 * c for c in hair_color], flat=True),
        "eyelashes": recolor(bank.texture(f"eyelashes/{lashes}/{lashes}", 512), _LASH_COLOR, flat=True),
        "teeth": bank.texture("teeth/teeth_base/teeth", 256),
        "tongue": bank.texture("tongue/tongue01/tongue01_diffuse", 256),
    }
    skin = assemble(bank, identity, textures, proxies, device=device)
    return Person(identity, skin, female, outfit, hair)


def _skin(bank: Bank, female: bool, dark: bool, rng: np.random.Generator) -> Image:
    names = [s for s in bank.textures("skins/") if ("african" in s) == dark]
    same_sex = [s for s in names if ("female" in s.split("/")[1]) == female]
    tones = PALETTE_SKIN[-_NUM_DARK:] if dark else PALETTE_SKIN[:-_NUM_DARK]
    return tint(bank.texture(_pick(rng, same_sex or names), 1024), tones[rng.integers(len(tones))])


def _pick(rng: np.random.Generator, options: list[str]) -> str:
    return options[rng.integers(len(options))]
