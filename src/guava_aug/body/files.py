"""A body model in one file: the free body that ships with the package, or any other baked to its schema."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import AssetError
from .assets import EhmAssets, LinearModel
from .official import canonical_template
from .uv import rasterize_uv


def load_body_file(path: Path | str, uv_size: int = 512) -> EhmAssets:
    """The body model of one `.npz`; see docs/formats.md for its keys.

    Raises AssetError when the file is missing, lacks a key or its arrays do not fit together.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as z:
            raw = {k: z[k] for k in z.files}
    except (OSError, ValueError) as e:
        raise AssetError(f"cannot read the body model {path}: {e}") from e

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
        # texels of triangles that round to a line have no weights; their Gaussians would float at the world's origin.
        # Official weights were trained with them, ours do without.
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
        raise AssetError(f"the body model {path} lacks {e}; bake it again with `python -m guava_aug.demo.bake`") from e
    if assets.faces.shape != assets.faces_uv.shape or len(head_to_body) != len(head.v_template):
        raise AssetError(
            f"the body model {path} does not fit together: {len(assets.faces)} faces against {len(assets.faces_uv)} in "
            f"the chart, head map of {len(head_to_body)} against {len(head.v_template)} head vertices"
        )
    return assets
