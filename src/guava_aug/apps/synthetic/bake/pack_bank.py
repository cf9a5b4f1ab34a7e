"""Packs everything pictures of subjects need into one file: the model with helpers, proxies and textures.

    python -m guava_aug.apps.synthetic.bake.pack_bank --assets DIR [--assets DIR] OUT.npz

DIRs hold MakeHuman's CC0 assets, in any folders (see `wanted`). Needs the package anny. The bundle goes where pictures
are made (another machine, a GPU); `bank.Bank` reads it. It holds textures of the assets and therefore does not ship
with the product.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guava_aug.apps.synthetic.bake.anny import AnnyRig
from guava_aug.apps.synthetic.bake.asset_list import find_assets, texture_bytes
from guava_aug.apps.synthetic.bake.body import Baked, arrays, bake
from guava_aug.apps.synthetic.bake.makehuman import read_fit, read_obj
from guava_aug.errors import AssetError

log = logging.getLogger(__name__)


def pack(rig: AnnyRig, baked: Baked, assets: Sequence[Path]) -> dict[str, NDArray[Any]]:
    """Return the arrays of the bundle. Raises AssetError when something is missing below `assets`."""
    proxies, textures = find_assets(assets)
    out = {f"model/{k}": v for k, v in arrays(baked, with_helpers=True).items()}
    out["model/skin_texcoords"] = baked.skin_texcoords.astype(np.float32)
    out["model/shipped"] = np.array(baked.shipped)
    out["samples/phenotypes"] = baked.phenotypes.astype(np.float32)
    out["samples/betas"] = baked.betas.astype(np.float32)
    out["samples/names"] = np.array(rig.phenotypes)
    out["model/tongue"] = np.flatnonzero(np.isin(baked.source[: baked.shipped], np.flatnonzero(rig.tongue)))
    out["model/eyeballs"] = np.flatnonzero(
        np.isin(baked.source[: baked.shipped], np.concatenate(list(rig.eyes.values())))
    )
    to_local = np.full(rig.num_vertices, -1)
    to_local[baked.source] = np.arange(len(baked.source))
    rest = rig.rest(rig.mean_phenotype())
    turns = rig.t_pose(rest, 0).transforms[:, :, :3]
    for kind, by_name in proxies.items():
        for name, path in sorted(by_name.items()):
            fit, key = read_fit(path), f"proxy/{kind}/{name}"
            obj = read_obj(fit.obj_file)
            ids = to_local[fit.ids]
            if (ids < 0).any():
                raise AssetError(f"{path} hangs on base vertices that the body model lacks: {fit.ids[ids < 0][:5]}")
            scale = np.array([_unit(rest.vertices[0], fit.scale.get(a), "xyz".index(a)) for a in "xyz"])
            turn = np.einsum("nk,nkij->nij", fit.weights / fit.weights.sum(1, keepdims=True), turns[fit.ids])
            out[f"{key}/ids"] = ids.astype(np.int32)
            out[f"{key}/weights"] = fit.weights.astype(np.float32)
            out[f"{key}/offsets"] = np.einsum("nij,nj->ni", turn, fit.offsets * scale).astype(np.float32)
            hidden = to_local[fit.hidden]
            out[f"{key}/hidden"] = hidden[(hidden >= 0) & (hidden < baked.shipped)].astype(np.int32)
            out[f"{key}/texcoords"] = np.stack([obj.texcoords[:, 0], 1 - obj.texcoords[:, 1]], 1).astype(np.float32)
            out[f"{key}/faces"] = obj.faces.astype(np.int32)
            out[f"{key}/faces_uv"] = obj.faces_uv.astype(np.int32)
    for name, path in sorted(textures.items()):
        out[f"texture/{name}"] = np.frombuffer(texture_bytes(path), np.uint8)
    return out


def _unit(vertices: NDArray[np.float64], pair: tuple[int, int, float] | None, axis: int) -> float:
    if pair is None:
        return 0.1  # MakeHuman's unit is a decimetre
    a, b, value = pair
    return abs(vertices[a, axis] - vertices[b, axis]) / value


def main() -> int:
    """Pack the bank and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m guava_aug.apps.synthetic.bake.pack_bank", description="pack the picture bank"
    )
    parser.add_argument("--assets", type=Path, required=True, action="append", metavar="DIR", help="may be repeated")
    parser.add_argument("out", type=Path, metavar="OUT.npz")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rig = AnnyRig()
    np.savez_compressed(args.out, **pack(rig, bake(rig), args.assets))  # type: ignore[arg-type]
    log.info("wrote %s, %.1f MB", args.out, args.out.stat().st_size / 1e6)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
