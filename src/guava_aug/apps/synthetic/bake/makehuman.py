"""Reads the MakeHuman project's CC0 assets (.obj geometry, .mhclo fitting) from an unpacked asset tree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from guava_aug.errors import AssetError

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Obj:
    """Triangles with texture coordinates (v up). Faces are fans of the file's polygons."""

    texcoords: Array  # [Vt, 2]
    faces: Ints  # [F, 3]
    faces_uv: Ints  # [F, 3]


@dataclass(frozen=True)
class Fit:
    """How a proxy's vertices hang on MakeHuman's base mesh: sum_k weights_k base[ids_k] + offsets * scale."""

    ids: Ints  # [n, 3]
    weights: Array  # [n, 3]
    offsets: Array  # [n, 3] in units of `scale`
    scale: dict[str, tuple[int, int, float]]  # axis -> two base vertices whose distance / value is the unit
    hidden: Ints  # base vertices that lie under the proxy
    obj_file: Path


def read_obj(path: Path) -> Obj:
    """Return the mesh of one .obj file. Raises AssetError when it holds no textured faces."""
    vt: list[list[float]] = []
    faces: list[list[int]] = []
    faces_uv: list[list[int]] = []
    for line in path.read_text(encoding="utf-8", errors="ignore").splitlines():
        p = line.split()
        if not p:
            continue
        if p[0] == "vt":
            vt.append([float(x) for x in p[1:3]])
        elif p[0] == "f":
            corners = [[int(y) - 1 for y in x.split("/")[:2]] for x in p[1:]]
            for k in range(1, len(corners) - 1):
                faces.append([corners[i][0] for i in (0, k, k + 1)])
                faces_uv.append([corners[i][1] for i in (0, k, k + 1)])
    if not faces or not vt:
        raise AssetError(f"{path} holds no textured faces; expected a MakeHuman proxy mesh")
    return Obj(np.array(vt), np.array(faces), np.array(faces_uv))


def read_fit(path: Path) -> Fit:
    """Return the fitting of one .mhclo file."""
    ids: list[list[int]] = []
    weights: list[list[float]] = []
    offsets: list[list[float]] = []
    hidden: list[int] = []
    scale: dict[str, tuple[int, int, float]] = {}
    obj_file, section = "", ""
    for line in path.read_text(encoding="utf-8", errors="ignore").splitlines():
        p = line.split()
        if not p or line.startswith("#"):
            continue
        if p[0] in ("x_scale", "y_scale", "z_scale"):
            scale[p[0][0]] = (int(p[1]), int(p[2]), float(p[3]))
        elif p[0] == "obj_file":
            obj_file = p[1]
        elif p[0] == "verts":
            section = "verts"
        elif p[0] == "delete_verts":
            section = "hidden"
        elif section == "verts" and p[0].lstrip("-").isdigit():
            full = len(p) >= 9
            ids.append([int(x) for x in p[:3]] if full else [int(p[0])] * 3)
            weights.append([float(x) for x in p[3:6]] if full else [1.0, 0.0, 0.0])
            offsets.append([float(x) for x in p[6:9]] if full else [0.0, 0.0, 0.0])
        elif section == "hidden":
            k = 0
            while k < len(p):
                if k + 2 < len(p) and p[k + 1] == "-":
                    hidden += range(int(p[k]), int(p[k + 2]) + 1)
                    k += 3
                else:
                    hidden += [int(p[k])] if p[k].isdigit() else []
                    k += 1
    if not ids or not obj_file:
        raise AssetError(f"{path} is not a MakeHuman fitting file: no vertices or no obj_file line")
    return Fit(
        np.array(ids), np.array(weights), np.array(offsets), scale, np.array(hidden, np.int64), path.parent / obj_file
    )
