"""A body model in one file: the free body of the package, or any other in the same schema."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from guava_aug.body.assets import EhmAssets, LinearModel, check_assets
from guava_aug.body.ehm import canonical_template
from guava_aug.body.uv import rasterize_uv
from guava_aug.errors import AssetError
from guava_aug.runtime.saved_tensors import SavedTensorsError, check_members
from guava_aug.runtime.text import in_short

_MAX_ARRAYS = 2**31  # bytes of all arrays of a file; the official body has 0.3e9


def load_body_file(path: Path | str, uv_size: int = 512) -> EhmAssets:
    """Return the body model of an `.npz` file; see docs/formats.md for its keys.

    Raises:
        AssetError: The file is missing, lacks a key, or its arrays are inconsistent.
    """
    path = Path(path)
    raw = read_arrays(path, "the body model")
    _check_arrays(raw, f"the body model {path}")

    def f32(key: str) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(raw[key], np.float32))

    def i64(key: str) -> Tensor:
        return torch.from_numpy(raw[key].astype(np.int64))

    def linear(prefix: str) -> LinearModel:
        return LinearModel(
            v_template=f32(f"{prefix}_v_template"),
            shapedirs=f32(f"{prefix}_shapedirs"),
            exprdirs=f32(f"{prefix}_exprdirs"),
            posedirs=f32(f"{prefix}_posedirs"),
            J_regressor=f32(f"{prefix}_J_regressor"),
            lbs_weights=f32(f"{prefix}_weights"),
            parents=i64(f"{prefix}_parents"),
        )

    try:
        body, head = linear("body"), linear("head")
        left, right = i64("left_hand"), i64("right_hand")
        head_to_body = i64("head_to_body")
        faces_uv = raw["faces_uv"].astype(np.int64)
        uv_face, uv_bary = rasterize_uv(raw["texcoords"], faces_uv, uv_size)
        # texels of triangles that round to a line have no weights; their Gaussians would be at the world's origin.
        # Official weights were trained with them, the embedded ones without.
        uv_face[uv_bary.sum(-1) == 0] = -1
        assets = EhmAssets(
            body=body,
            head=head,
            faces=i64("faces"),
            head_to_body=head_to_body,
            left_hand=left,
            right_hand=right,
            left_hand_center=body.v_template[left].mean(0),
            right_hand_center=body.v_template[right].mean(0),
            left_eyelid=f32("left_eyelid"),
            right_eyelid=f32("right_eyelid"),
            v_canonical=canonical_template(body, head, head_to_body),
            texcoords=f32("texcoords"),
            faces_uv=torch.from_numpy(faces_uv),
            uv_face=torch.from_numpy(uv_face),
            uv_bary=torch.from_numpy(uv_bary),
        )
    except KeyError as e:
        raise AssetError(
            f"the body model {path} lacks {e}; bake it again with `python -m guava_aug.apps.synthetic.bake.body`"
        ) from e
    except (IndexError, ValueError, TypeError, RuntimeError, cv2.error, MemoryError) as e:
        raise AssetError(f"the body model {path} does not fit together: {in_short(e)}") from e
    if assets.faces.shape != assets.faces_uv.shape or len(head_to_body) != len(head.v_template):
        raise AssetError(
            f"the body model {path} does not fit together: {len(assets.faces)} faces against {len(assets.faces_uv)} in "
            f"the chart, head map of {len(head_to_body)} against {len(head.v_template)} head vertices"
        )
    check_assets(assets, f"the body model {path}")
    return assets


_PARTS = ("body", "head")
_DIMENSIONS = {
    **{f"{part}_{name}": 2 for part in _PARTS for name in ("v_template", "posedirs", "J_regressor", "weights")},
    **{f"{part}_{name}": 3 for part in _PARTS for name in ("shapedirs", "exprdirs")},
    **dict.fromkeys(("texcoords", "left_eyelid", "right_eyelid"), 2),
}
_INDICES = {
    **dict.fromkeys(("body_parents", "head_parents", "left_hand", "right_hand", "head_to_body"), 1),
    **dict.fromkeys(("faces", "faces_uv"), 2),
}


def _check_arrays(raw: dict[str, np.ndarray], what: str) -> None:
    """Check what has to hold before anything is computed from the arrays; `check_assets` checks the rest."""
    for kinds, wanted, named in (("fiu", _DIMENSIONS, "numbers"), ("iu", _INDICES, "integers")):
        for key, dimensions in wanted.items():
            found = raw.get(key)
            if found is not None and (found.ndim != dimensions or found.dtype.kind not in kinds):
                raise AssetError(
                    f"{what}: {key} is {found.dtype} {list(found.shape)}, expected {named} of {dimensions} dimensions"
                )
    for part in _PARTS:
        regressor, weights = raw.get(f"{part}_J_regressor"), raw.get(f"{part}_weights")
        if regressor is not None and weights is not None and regressor.shape != weights.shape[::-1]:
            raise AssetError(
                f"{what}: {part}_J_regressor is {list(regressor.shape)}, expected {list(weights.shape[::-1])}"
            )
    for key, target in (("left_hand", "body_v_template"), ("right_hand", "body_v_template"),
                        ("head_to_body", "body_v_template"), ("faces_uv", "texcoords")):  # fmt: skip
        ids, end = raw.get(key), len(raw.get(target, ()))
        if ids is not None and ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < end:
            raise AssetError(f"{what}: {key} goes from {ids.min()} to {ids.max()}, expected 0 to {end - 1}")


def read_arrays(path: Path, what: str, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an `.npz` file, all or those with these names; pickled ones are refused.

    Raises:
        AssetError: The file is missing, is not an `.npz`, lacks a name, or claims more data than it can hold.
    """
    try:
        with path.open("rb") as file:
            claimed = sum(member.file_size for member in check_members(file, os.fstat(file.fileno()).st_size))
            if claimed > _MAX_ARRAYS:
                raise AssetError(f"cannot read {what} {path}: it claims {claimed} bytes of arrays")
            file.seek(0)
            with np.load(file, allow_pickle=False) as z:
                return {k: z[k] for k in (z.files if names is None else names)}
    except AssetError:
        raise
    except KeyError as e:
        raise AssetError(f"{path} is not {what}: it lacks {str(e)[:100]}") from e
    except OSError as e:
        raise AssetError(f"cannot read {what} {path}: {e.strerror or e}") from e
    except SavedTensorsError as e:
        raise AssetError(f"cannot read {what} {path}: {e}") from e
    except Exception as e:  # damaged members raise nearly anything
        raise AssetError(f"cannot read {what} {path}: {type(e).__name__}: {' '.join(str(e).split())[:200]}") from e
