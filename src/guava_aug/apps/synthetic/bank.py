"""The picture bank in memory: the body model with MakeHuman's helpers, proxies that hang on it, textures.

Made by `pack_bank` from CC0 assets; without it subjects are painted on the body alone (see `subjects`).
"""

from __future__ import annotations

import functools
import tempfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from guava_aug.apps.synthetic import default_body_path
from guava_aug.body.assets import EhmAssets
from guava_aug.body.ehm import EhmModel
from guava_aug.body.files import load_body_file
from guava_aug.errors import AssetError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Proxy:
    """A mesh that rides the model: vertex = sum_k weights_k model[ids_k] + (blended rotation) offset."""

    name: str
    ids: Ints  # [n, 3]
    weights: Floats  # [n, 3]
    offsets: Floats  # [n, 3] metres in the T pose
    hidden: Ints  # body vertices underneath
    texcoords: Floats  # [Vt, 2] v down
    faces: Ints  # [F, 3]
    faces_uv: Ints  # [F, 3]

    def rest(self, template: Floats) -> Floats:
        """Return [n, 3] in the T pose of the mean body."""
        return (template[self.ids] * self.weights[..., None]).sum(1) + self.offsets


@dataclass(frozen=True)
class Bank:
    """Everything subjects are made from."""

    assets: EhmAssets  # all P vertices, helpers after the `shipped` ones
    shipped: int
    skin_texcoords: Floats  # [Vt, 2] chart the skins are painted in, v down
    tongue: Ints
    eyeballs: Ints
    phenotypes: Floats  # [B, .] sampled bodies
    phenotype_names: tuple[str, ...]
    betas: Floats  # [B, 20]
    proxies: dict[str, dict[str, Proxy]] = field(repr=False)  # kind -> name -> proxy
    _textures: dict[str, NDArray[np.uint8]] = field(repr=False)

    @functools.cached_property
    def model(self) -> EhmModel:
        """Return the body model of the bank."""
        return EhmModel(self.assets)

    @functools.cached_property
    def heights(self) -> Floats:
        """Return [B] metres from head to sole of every sampled body."""
        b = self.assets.body
        v, d = b.v_template[: self.shipped, 1].numpy(), b.shapedirs[: self.shipped, 1].numpy()
        y = v[None] + self.betas @ d[:, : self.betas.shape[1]].T
        return y.max(1) - y.min(1)

    def texture(self, name: str, size: int) -> NDArray[np.uint8]:
        """Return [size, size, 4] RGBA of one texture."""
        if name not in self._textures:
            raise AssetError(
                f"the picture bank has no texture {name!r}; pack it again with "
                "`python -m guava_aug.apps.synthetic.bake.pack_bank`"
            )
        stored = cv2.imdecode(self._textures[name], cv2.IMREAD_UNCHANGED)
        if stored is None:
            raise AssetError(f"the texture {name!r} of the picture bank cannot be decoded")
        image = cv2.resize(stored, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8)
        if image.shape[2] == 3:
            image = np.dstack([image, np.full((size, size), 255, np.uint8)])
        return np.ascontiguousarray(image[..., [2, 1, 0, 3]])

    def textures(self, prefix: str) -> list[str]:
        """Return the names of the textures that begin with `prefix`, sorted."""
        return sorted(n for n in self._textures if n.startswith(prefix))

    @classmethod
    def load(cls, path: Path | str) -> Bank:
        """Read a bundle of `pack_bank`. Raises AssetError when it is missing or something else."""
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as z:
                raw = {k: z[k] for k in z.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as e:
            raise AssetError(
                f"cannot read the picture bank {path}: {e}; expected a whole .npz file of "
                "`python -m guava_aug.apps.synthetic.bake.pack_bank`, make it again"
            ) from e
        if "model/shipped" not in raw:
            raise AssetError(
                f"{path} is no picture bank (no model/shipped); make it with `guava_aug.apps.synthetic.bake.pack_bank`"
            )
        proxies: dict[str, dict[str, Proxy]] = {}
        for key in sorted(k for k in raw if k.endswith("/ids")):
            _, kind, name, _ = key.split("/")
            part = lambda what, k=key: raw[k[: -len("ids")] + what]
            i64 = np.int64
            proxies.setdefault(kind, {})[name] = Proxy(
                name, part("ids").astype(i64), part("weights"), part("offsets"), part("hidden").astype(i64),
                part("texcoords"), part("faces").astype(i64), part("faces_uv").astype(i64),
            )  # fmt: skip
        return cls(
            assets=_assets(raw), shipped=int(raw["model/shipped"]), skin_texcoords=raw["model/skin_texcoords"],
            tongue=raw["model/tongue"].astype(np.int64), eyeballs=raw["model/eyeballs"].astype(np.int64),
            phenotypes=raw["samples/phenotypes"], phenotype_names=tuple(str(n) for n in raw["samples/names"]),
            betas=raw["samples/betas"], proxies=proxies,
            _textures={k[len("texture/") :]: v for k, v in raw.items() if k.startswith("texture/")},
        )  # fmt: skip

    @classmethod
    def bare(cls) -> Bank:
        """Return the shipped body alone: no proxies, no textures, no sampled bodies."""
        assets = load_body_file(default_body_path(), uv_size=64)
        none = np.zeros(0, np.int64)
        return cls(
            assets=assets, shipped=len(assets.body.v_template), skin_texcoords=assets.texcoords.numpy(), tongue=none,
            eyeballs=none, phenotypes=np.zeros((0, 0), np.float32), phenotype_names=(),
            betas=np.zeros((0, 20), np.float32), proxies={}, _textures={},
        )  # fmt: skip


@functools.cache
def expression_names() -> tuple[str, ...]:
    """Return the body's expressions in the order of their coefficients."""
    with np.load(default_body_path(), allow_pickle=False) as z:
        return tuple(str(n) for n in z["expression_names"])


def _assets(raw: dict[str, NDArray[Any]]) -> EhmAssets:
    """Return the bundle's own model, through the reader of body files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.npz"
        np.savez(path, **{k[len("model/") :]: v for k, v in raw.items() if k.startswith("model/")})  # type: ignore[arg-type]
        return load_body_file(path, uv_size=64)
