"""Reading of the licensed SMPL-X and FLAME files, in GUAVA's asset tree.

Vertex numbers and file names of the official models are only in this module and in `teeth.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from guava_aug.body.assets import EhmAssets, LinearModel, check_assets
from guava_aug.body.ehm import canonical_template
from guava_aug.body.files import read_arrays
from guava_aug.body.teeth import (
    FLAME_TEETH,
    LOWER_LIP,
    NUM_TEETH,
    SMPLX_TEETH,
    UPPER_LIP,
    TeethRule,
    teeth_faces,
    teeth_order_in_head_map,
    teeth_shapedirs,
    teeth_texcoords,
    teeth_vertices,
    teeth_weights,
)
from guava_aug.body.uv import rasterize_uv
from guava_aug.errors import AssetError
from guava_aug.runtime.files import is_file
from guava_aug.runtime.safe_pickle import load_pickle
from guava_aug.runtime.text import in_short

NUM_SHAPE = 300  # shape components of either model's `shapedirs`; expression follows
NUM_EXPRESSION = 50
_SMPLX_FILE = "SMPLX/SMPLX_NEUTRAL_2020.npz"
_FLAME_FILE = "FLAME/FLAME2020/generic_model.pkl"


def load_official_assets(assets_root: Path | str, uv_size: int = 512) -> EhmAssets:
    """Return the body model of the official files below `assets_root` (which contains SMPLX/ and FLAME/).

    Raises:
        AssetError: A file is missing or does not have the official shape; names it.
    """
    root = Path(assets_root)
    smplx_path, flame_path = _need(root, _SMPLX_FILE), _need(root, _FLAME_FILE)
    smplx = read_arrays(smplx_path, "the SMPL-X model file (of smpl-x.is.tue.mpg.de)", list(_RAW_KEYS))
    flame = load_pickle(flame_path, error=AssetError)
    missing = [k for k in _RAW_KEYS if not (isinstance(flame, dict) and isinstance(flame.get(k), np.ndarray))]
    if missing:
        raise AssetError(f"{flame_path} is not a FLAME model file: it lacks {', '.join(missing)}")
    for path, raw in ((smplx_path, smplx), (flame_path, flame)):
        for key, dimensions in _RAW_KEYS.items():
            if raw[key].ndim != dimensions or raw[key].dtype.kind not in "fiu":
                found = f"{raw[key].dtype} {list(raw[key].shape)}"
                raise AssetError(f"{path}: {key} is {found}, expected numbers of {dimensions} dimensions")
    try:
        assets = _official_assets(smplx, flame, _PublicFiles(root), smplx_path, flame_path, uv_size)
    except AssetError:
        raise
    except (IndexError, KeyError, ValueError, TypeError, RuntimeError, cv2.error, MemoryError) as e:
        raise AssetError(f"the body model files below {root} do not fit together: {in_short(e)}") from e
    check_assets(assets, f"the body model of {root}")
    return assets


def _official_assets(
    smplx: Mapping[str, np.ndarray],
    flame: Mapping[str, np.ndarray],
    index: _PublicFiles,
    smplx_path: Path,
    flame_path: Path,
    uv_size: int,
) -> EhmAssets:
    head_ids = index.head_ids
    lips = np.array(UPPER_LIP), np.array(LOWER_LIP)
    head, _ = _with_teeth(flame, lips[0], lips[1], FLAME_TEETH, flame_path)
    body, faces = _with_teeth(smplx, head_ids[lips[0]], head_ids[lips[1]], SMPLX_TEETH, smplx_path)
    return _assemble(body, head, faces, index, body.v_template[: len(smplx["v_template"])], uv_size)


def assets_from_checkpoint(state: Mapping[str, Tensor], assets_root: Path | str) -> EhmAssets:
    """Return the body model of an official checkpoint's own buffers and the public index files.

    `state` is the `model` part of the checkpoint (keys `smplx.*`, `ehm.flame.*`, `ehm.v_template`). The licensed SMPL-X
    and FLAME files are not needed.
    """

    def take(key: str, dimensions: int) -> Tensor:
        value = state[key]
        if not isinstance(value, Tensor) or value.ndim != dimensions:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise AssetError(f"the body model inside: {key} is {shape}, expected a tensor of {dimensions} dimensions")
        return value

    def linear(prefix: str) -> LinearModel:
        def get(key: str) -> Tensor:
            value: Tensor = state[f"{prefix}.{key}"]
            return value.float()

        dirs = take(f"{prefix}.shapedirs", 3).float()
        return LinearModel(
            v_template=get("v_template"),
            shapedirs=dirs[..., :NUM_SHAPE],
            exprdirs=dirs[..., NUM_SHAPE:],
            posedirs=get("posedirs"),
            J_regressor=get("J_regressor"),
            lbs_weights=get("lbs_weights"),
            parents=state[f"{prefix}.parents"].long(),
        )

    index = _PublicFiles(Path(assets_root), need_chart=False)
    body, head = linear("smplx"), linear("ehm.flame")
    face = take("smplx.uvmap_f_idx", 2).int()
    return EhmAssets(
        body=body,
        head=head,
        faces=state["smplx.faces_tensor"].long(),
        **index.vertex_maps(len(body.v_template) - NUM_TEETH),
        left_hand_center=state["smplx.left_hand_center"].float(),
        right_hand_center=state["smplx.right_hand_center"].float(),
        left_eyelid=take("ehm.flame.l_eyelid", 3)[0].float(),
        right_eyelid=take("ehm.flame.r_eyelid", 3)[0].float(),
        v_canonical=state["ehm.v_template"].float(),
        texcoords=state["smplx.texcoords"].float(),
        faces_uv=state["smplx.faces_uv_idx"].long(),
        # the stored index is 0, not -1, where the mask is off
        uv_face=torch.where(take("smplx.uvmap_mask", 2), face, torch.full_like(face, -1)),
        uv_bary=state["smplx.uvmap_f_bary"].float(),
    )


_RAW_KEYS = {  # and how many dimensions they have
    "v_template": 2, "f": 2, "shapedirs": 3, "posedirs": 3, "J_regressor": 2, "weights": 2, "kintree_table": 2,
}  # fmt: skip


def _with_teeth(
    raw: Mapping[str, np.ndarray], upper: np.ndarray, lower: np.ndarray, rule: TeethRule, path: Path
) -> tuple[LinearModel, np.ndarray]:
    """Return one official model with the teeth appended, and its faces."""
    v = np.asarray(raw["v_template"], np.float64)
    shapedirs = np.asarray(raw["shapedirs"], np.float32)
    if shapedirs.ndim != 3 or shapedirs.shape[2] < NUM_SHAPE + NUM_EXPRESSION:
        raise AssetError(
            f"{path}: shapedirs has shape {shapedirs.shape}, expected (vertices, 3, 400) with {NUM_SHAPE} shape and "
            f"100 expression components; take the 2020 release of the model"
        )
    shape, expression = shapedirs[..., :NUM_SHAPE], shapedirs[..., NUM_SHAPE : NUM_SHAPE + NUM_EXPRESSION]
    # (P, 3, R) -> (R, P * 3)
    posedirs = np.asarray(raw["posedirs"], np.float32)
    posedirs = posedirs.reshape(-1, posedirs.shape[-1]).T
    J = raw["weights"].shape[1]
    parents = np.asarray(raw["kintree_table"][0]).astype(np.int64)
    parents[0] = -1  # stored as 2**32 - 1
    regressor = np.asarray(raw["J_regressor"], np.float32)

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    model = LinearModel(
        v_template=_t(np.concatenate([v, teeth_vertices(v[upper], v[lower], rule)])),
        shapedirs=_t(np.concatenate([shape, teeth_shapedirs(shape, upper, lower)])),
        exprdirs=_t(np.concatenate([expression, zeros(NUM_TEETH, 3, NUM_EXPRESSION)])),
        posedirs=_t(np.concatenate([posedirs, zeros(len(posedirs), NUM_TEETH * 3)], 1)),
        J_regressor=_t(np.concatenate([regressor, zeros(J, NUM_TEETH)], 1)),
        lbs_weights=_t(np.concatenate([np.asarray(raw["weights"], np.float32), teeth_weights(J, rule)])),
        parents=torch.from_numpy(parents),
    )
    faces = np.concatenate([np.asarray(raw["f"]).astype(np.int64), teeth_faces() + len(v)])
    return model, faces


def _assemble(
    body: LinearModel, head: LinearModel, faces: np.ndarray, index: _PublicFiles, template: Tensor, uv_size: int
) -> EhmAssets:
    maps = index.vertex_maps(len(template))
    texcoords, faces_uv = index.chart(faces)
    uv_face, uv_bary = rasterize_uv(texcoords, faces_uv, uv_size)
    canonical = canonical_template(body, head, maps["head_to_body"])
    zeros = np.zeros((NUM_TEETH, 3), np.float32)
    return EhmAssets(
        body=body,
        head=head,
        faces=torch.from_numpy(faces),
        **maps,
        left_hand_center=template[maps["left_hand"]].mean(0),
        right_hand_center=template[maps["right_hand"]].mean(0),
        left_eyelid=_t(np.concatenate([index.eyelid("l"), zeros])),
        right_eyelid=_t(np.concatenate([index.eyelid("r"), zeros])),
        v_canonical=canonical,
        texcoords=_t(texcoords),
        faces_uv=torch.from_numpy(faces_uv),
        uv_face=torch.from_numpy(uv_face),
        uv_bary=torch.from_numpy(uv_bary),
    )


class _PublicFiles:
    """Index maps, chart and eyelids: the files of the tree that need no registration."""

    def __init__(self, root: Path, need_chart: bool = True):
        self.root = root
        self.head_ids = self._npy("SMPLX/SMPL-X__FLAME_vertex_ids.npy").astype(np.int64)
        path = _need(root, "SMPLX/MANO_SMPLX_vertex_ids.pkl")
        hands = load_pickle(path, error=AssetError)
        for name in ("left_hand", "right_hand"):
            ids = hands.get(name) if isinstance(hands, dict) else None
            if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu" or ids.ndim != 1:
                raise AssetError(f"{path}: {name} is not a list of vertex numbers; take the file from GUAVA's assets/")
        self.left_hand, self.right_hand = (hands[k].astype(np.int64) for k in ("left_hand", "right_hand"))
        if need_chart:
            _need(root, "SMPLX/smplx_uv.obj")

    def vertex_maps(self, num_body_vertices: int) -> dict[str, Tensor]:
        """Return the maps into body vertices; the teeth follow the `num_body_vertices` of the plain model."""
        teeth = num_body_vertices + teeth_order_in_head_map()
        return {
            "head_to_body": torch.from_numpy(np.concatenate([self.head_ids, teeth])),
            "left_hand": torch.from_numpy(self.left_hand),
            "right_hand": torch.from_numpy(self.right_hand),
        }

    def chart(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return chart coordinates (Vt, 2) and corners (F, 3), teeth included."""
        path = self.root / "SMPLX/smplx_uv.obj"
        texcoords, faces_uv = _read_obj_chart(path)
        if len(faces_uv) != len(faces) - len(teeth_faces()):
            raise AssetError(f"{path} has {len(faces_uv)} faces, the body model {len(faces) - len(teeth_faces())}")
        texcoords[:, 1] = 1 - texcoords[:, 1]
        corners = np.concatenate([faces_uv, teeth_faces() + len(texcoords)])
        return np.concatenate([texcoords, teeth_texcoords()]).astype(np.float32), corners

    def eyelid(self, side: str) -> np.ndarray:
        return self._npy(f"FLAME/{side}_eyelid.npy").astype(np.float32)

    def _npy(self, name: str) -> np.ndarray:
        path = _need(self.root, name)
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError, MemoryError) as e:
            raise AssetError(f"{path} is not a plain numpy file: {' '.join(str(e).split())[:200]}") from e
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
            raise AssetError(f"{path} is not a plain numpy file of numbers")
        return array


def _read_obj_chart(path: Path) -> tuple[np.ndarray, np.ndarray]:
    texcoords, corners = [], []
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("vt "):
                    texcoords.append([float(x) for x in line.split()[1:3]])
                elif line.startswith("f "):
                    corners.append([int(c.split("/")[1]) - 1 for c in line.split()[1:4]])
    except (OSError, ValueError, IndexError) as e:
        raise AssetError(f"{path} is not the chart of GUAVA's assets: {str(e)[:200]}") from e
    return np.array(texcoords), np.array(corners, np.int64)


def _need(root: Path, name: str) -> Path:
    path = root / name
    if not is_file(path, AssetError):
        licensed = name in (_SMPLX_FILE, _FLAME_FILE)
        hint = (
            "it is licensed: register at smpl-x.is.tue.mpg.de (SMPL-X) or flame.is.tue.mpg.de (FLAME) and copy it there"
            if licensed
            else "it is part of the GUAVA repository's assets/ folder"
        )
        raise AssetError(f"{path} is missing; {hint}")
    return path


def _t(a: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(a, np.float32))
