"""A synthetic checkpoint in the official layout, filled as the golden data's `weights.py` says."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from guava_aug.body import EhmAssets

_DTYPES = {"float32": torch.float32, "int64": torch.int64, "int32": torch.int32, "bool": torch.bool}


def read_tsv(path: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Key -> (shape, dtype) of the entries a checkpoint holds."""
    entries = {}
    for line in path.read_text().splitlines()[1:]:
        name, shape, dtype, _, _, persistence = line.split("\t")
        if persistence == "persistent":
            entries[name] = (tuple(int(s) for s in shape.split("x")) if shape else (), _DTYPES[dtype])
    return entries


def official_state(shared_golden: Path, golden_weights, assets: EhmAssets) -> dict:
    """The dictionary `torch.save` would write: network weights by rule, body model from `assets`, the rest zero.

    Zeros are one shared element expanded to the shape, so the 449 MB Laplacian costs nothing.
    """
    body = _body_buffers(assets)

    def part(tsv: str) -> dict[str, Tensor]:
        state = {}
        for key, (shape, dtype) in read_tsv(shared_golden / tsv).items():
            filled = golden_weights.fill_array(key, shape)
            plain = key.removeprefix("ehm.") if key.startswith("ehm.smplx.") else key
            if filled is not None:
                state[key] = torch.from_numpy(filled)
            elif plain in body:
                state[key] = body[plain].to(dtype)
                assert state[key].shape == shape, (key, state[key].shape, shape)
            else:
                state[key] = torch.zeros(1, dtype=dtype).expand(shape)
        return state

    return {
        "model": part("state_dict_model.tsv"),
        "render_model": part("state_dict_render_model.tsv"),
        "meta_cfg": {},
        "global_iter": 200000,
    }


def _body_buffers(a: EhmAssets) -> dict[str, Tensor]:
    buffers: dict[str, Tensor] = {}
    for prefix, m in (("smplx", a.body), ("ehm.flame", a.head)):
        buffers |= {
            f"{prefix}.v_template": m.v_template,
            f"{prefix}.shapedirs": torch.cat([m.shapedirs, m.exprdirs], -1),
            f"{prefix}.posedirs": m.posedirs,
            f"{prefix}.J_regressor": m.J_regressor,
            f"{prefix}.lbs_weights": m.lbs_weights,
            f"{prefix}.parents": m.parents,
        }
    return buffers | {
        "smplx.faces_tensor": a.faces,
        "smplx.faces_uv_idx": a.faces_uv,
        "smplx.texcoords": a.texcoords,
        "smplx.left_hand_center": a.left_hand_center,
        "smplx.right_hand_center": a.right_hand_center,
        "smplx.uvmap_f_idx": a.uv_face,  # -1 where empty, as golden's uvmap.npz has it
        "smplx.uvmap_f_bary": a.uv_bary,
        "smplx.uvmap_mask": a.uv_face >= 0,
        "ehm.flame.l_eyelid": a.left_eyelid[None],
        "ehm.flame.r_eyelid": a.right_eyelid[None],
        "ehm.v_template": a.v_canonical,
    }
