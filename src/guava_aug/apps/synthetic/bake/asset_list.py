"""Which of MakeHuman's CC0 assets the picture bank holds, and where they lie in whatever tree they came in.

The list is fixed, since subjects of a seed depend on it. Files are found by name: the project's repositories and its
releases sort them into different folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from guava_aug.errors import AssetError

_BROWS = [f"eyebrow{i:03d}" for i in range(1, 13)]
_LASHES = [f"eyelashes{i:02d}" for i in range(1, 5)]
_MALE = [f"male_casualsuit{i:02d}" for i in range(1, 7)]
_IRIS = ("blue", "bluegreen", "brown", "brownlight", "deepblue", "green", "grey", "ice", "lightblue")
_HAIR = ("bob02", "braid01", "long01", "ponytail01", "short01", "short02", "short03", "short04")

PROXIES = {
    "hair": _HAIR,
    "clothes": ("female_casualsuit01", "female_casualsuit02", "female_elegantsuit01", "female_sportsuit01", *_MALE,
                "male_elegantsuit01"),
    "eyebrows": tuple(_BROWS),
    "eyelashes": tuple(_LASHES),
    "eyes": ("high-poly",),
    "teeth": ("teeth_base",),
    "tongue": ("tongue01",),
}  # fmt: skip
TEXTURES = (  # kind/asset/file; the clothes with a printed logo come without their colours
    *(f"clothes/{n}/{n}_ao" for n in PROXIES["clothes"] if n != "male_elegantsuit01"),
    *(f"clothes/{n}/{n}_diffuse" for n in PROXIES["clothes"] if n not in ("female_casualsuit02", "male_casualsuit01")),
    *(f"eyebrows/{n}/{n}" for n in _BROWS),
    *(f"eyelashes/{n}/{n}" for n in _LASHES),
    *(f"eyes/materials/{n}_eye" for n in _IRIS),
    *(f"hair/{n}/{n}_diffuse" for n in _HAIR),
    "skins/middleage_asian_male/middleage_lightskinned_male_diffuse2",
    "skins/young_african_male/young_darkskinned_male_diffuse",
    "skins/young_asian_female/young_lightskinned_female_diffuse3",
    "skins/young_caucasian_female2/young_lightskinned_female_diffuse2",
    "skins/young_caucasian_male/young_lightskinned_male_diffuse",
    "teeth/teeth_base/teeth",
    "tongue/tongue01/tongue01_diffuse",
)
_LARGEST = 1024  # pixels; larger textures are shrunk
_QUALITY = 90  # of WebP
_POINTER = b"version https://git-lfs"


def find_assets(roots: Sequence[Path]) -> tuple[dict[str, dict[str, Path]], dict[str, Path]]:
    """Return (kind -> name -> fitting file, texture -> picture file) of everything wanted, from anywhere below `roots`.

    Raises AssetError naming what is missing.
    """
    names: dict[str, Path] = {}
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.suffix in (".mhclo", ".webp", ".png"):
                names.setdefault(path.name, path)
    proxies = {kind: {n: names.get(f"{n}.mhclo") for n in wanted} for kind, wanted in PROXIES.items()}
    stems = {t: t.rsplit("/", 1)[1] for t in TEXTURES}
    textures = {t: names.get(f"{stem}.webp") or names.get(f"{stem}.png") for t, stem in stems.items()}
    missing = [f"{n}.mhclo" for by in proxies.values() for n, path in by.items() if path is None]
    missing += [f"{stems[t]}.png" for t, path in textures.items() if path is None]
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        below = ", ".join(map(str, roots))
        raise AssetError(
            f"below {below} there is no {', '.join(missing[:4])}{more}; expected MakeHuman's assets "
            "(makehuman-assets/base, and makehuman/makehuman/data for the eyes)"
        )
    return (
        {kind: {n: path for n, path in by.items() if path} for kind, by in proxies.items()},
        {t: path for t, path in textures.items() if path},
    )


def texture_bytes(path: Path) -> bytes:
    """Return the picture as WebP of at most 1024 pixels a side; a WebP file as it is. Raises AssetError."""
    data = path.read_bytes()
    if data.startswith(_POINTER):
        raise AssetError(f"{path} is only a pointer of Git LFS; run `git lfs pull` in that repository")
    if path.suffix == ".webp":
        return data
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise AssetError(f"{path} cannot be decoded; download it again")
    if picture.dtype != np.uint8:
        picture = (picture / 257).round().astype(np.uint8)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    scale = _LARGEST / max(picture.shape[:2])
    if scale < 1:
        size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    good, encoded = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    if not good:
        raise AssetError(f"{path} cannot be stored as WebP")
    return encoded.tobytes()
