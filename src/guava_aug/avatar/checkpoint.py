"""Checkpoints: the official `.pt`, read strictly and lean, and our own `.safetensors`.

Every key of a checkpoint is accounted for: it is a network weight, it is part of the body model, or it is listed
in `UNUSED` with the reason. Anything else, and anything missing, is an error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..body import EhmAssets, LinearModel, assets_from_checkpoint
from ..errors import AssetError, OutputError
from .config import ModelConfig
from .find import find_checkpoint as find_checkpoint
from .network import ReconstructionNetwork
from .styleunet import StyleUNet

log = logging.getLogger(__name__)

REFINER_PREFIX = "nerual_refiner."  # sic: the original's spelling
_FORMAT = "guava-aug-1"

# What an official checkpoint holds beyond network and body model, and why nothing reads it.
UNUSED: tuple[tuple[str, str], ...] = (
    (r"laplacian_matrix", "training regulariser, 449 MB"),
    (r"v_template", "copy of ehm.v_template"),
    (r"xy_image_coord", "never read by the original"),
    (r"(ehm\.)?smplx\.(extra_joint|lmk_|mp_lmk_|dynamic_lmk_|source_idxs|target_idxs|head_kin_chain).*", "landmarks"),
    (r"(ehm\.)?smplx\.((global|neck|jaw|eye|head|body|left_hand|right_hand)_pose)", "default pose, always given"),
    (r"(ehm\.)?smplx\.(shape_params|expression_params)", "default coefficients, always given"),
    (r"(ehm\.)?smplx\.(face_[lr]_eyelid|head_center|vertex_uv_coord)", "not part of the forward pass"),
    (r"ehm\.flame\.(full_lmk_|lmk_|mp_lmk_|dynamic_lmk_|neck_kin_chain).*", "landmarks"),
    (r"ehm\.flame\.(eye_pose|neck_pose|faces_tensor)", "default pose; faces of the head alone"),
    (r"ehm\.flame\.mask\..*", "region masks of training losses"),
    (r"mesh_renderer\..*", "copies of faces, chart and skinning weights"),
)
_BODY_KEYS = re.compile(
    r"(ehm\.)?smplx\.(v_template|shapedirs|posedirs|J_regressor|lbs_weights|parents|faces_tensor|faces_uv_idx|texcoords"
    r"|left_hand_center|right_hand_center|uvmap_f_idx|uvmap_f_bary|uvmap_mask)"
    r"|ehm\.flame\.(v_template|shapedirs|posedirs|J_regressor|lbs_weights|parents|l_eyelid|r_eyelid)|ehm\.v_template"
)

_FILLS = {"normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_"}  # of tensors and of nn.init


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one model and, when the file has it, the body model."""

    path: Path
    network: dict[str, Tensor]
    refiner: dict[str, Tensor]
    assets: EhmAssets | None
    config: ModelConfig | None


def read_checkpoint(path: Path, config: ModelConfig | None = None, assets_root: Path | None = None) -> Checkpoint:
    """The checkpoint of either format. Tensors are memory-mapped; nothing is copied yet.

    `assets_root` (holding SMPLX/ and FLAME/) is where an official checkpoint's index files are. An official
    checkpoint without a body model inside comes back with `assets=None`.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_official(path, config or ModelConfig(), assets_root)


@contextlib.contextmanager
def bare_modules() -> Iterator[None]:
    """Modules are made without memory and values in here, for weights that come from a file."""
    with torch.device("meta"), _NoFilling():
        yield


class _NoFilling(TorchFunctionMode):
    """Leaves out the drawing of random values: on the meta device it takes seconds, for it imports torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _FILLS:
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


def load_weights(checkpoint: Checkpoint, network: ReconstructionNetwork, refiner: StyleUNet) -> None:
    """Put the weights into the modules, strictly: same keys, same shapes. Raises AssetError with the differences."""
    for part, module, state in (
        ("network", network, checkpoint.network),
        ("refiner", refiner, checkpoint.refiner),
    ):
        expected = module.state_dict()
        missing = sorted(expected.keys() - state.keys())
        extra = sorted(state.keys() - expected.keys())
        shapes = [
            f"{k}: {tuple(state[k].shape)} instead of {tuple(expected[k].shape)}"
            for k in sorted(expected.keys() & state.keys())
            if state[k].shape != expected[k].shape
        ]
        if missing or extra or shapes:
            lines = [
                f"{name} {_some(keys)}"
                for name, keys in (("lacks", missing), ("has unknown", extra), ("has wrong shapes", shapes))
                if keys
            ]
            raise AssetError(f"{checkpoint.path}: the {part} does not fit the configuration: " + "; ".join(lines))
        module.load_state_dict({k: v.to(expected[k].dtype) for k, v in state.items()}, strict=True, assign=True)


def classify_key(key: str) -> str:
    """Where a key of the `model` part of an official checkpoint goes: `network`, `body` or `unused: <reason>`."""
    if _BODY_KEYS.fullmatch(key):
        return "body"
    for pattern, reason in UNUSED:
        if re.fullmatch(pattern, key):
            return f"unused: {reason}"
    return "network"


def write_safetensors(
    out: Path,
    config: ModelConfig,
    network: Mapping[str, Tensor],
    refiner: Mapping[str, Tensor],
    assets: EhmAssets | None,
    dtype: torch.dtype | None = None,
) -> None:
    """Our checkpoint format, documented in docs/formats.md. `dtype` casts the network's floating-point weights."""
    cast = lambda t: t.to(dtype) if dtype is not None and t.is_floating_point() else t
    tensors = {f"model.{k}": cast(v) for k, v in network.items()}
    tensors |= {f"render_model.{REFINER_PREFIX}{k}": cast(v) for k, v in refiner.items()}
    if assets is not None:
        tensors |= {f"body.{k}": v for k, v in _flatten_assets(assets).items()}
    metadata = {"format": _FORMAT, "config": json.dumps(config.to_dict())}
    part = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(b"")  # so that it gets the rights of any other new file
        mode = part.stat().st_mode
        save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata)
        part.chmod(mode)
        part.replace(out)
    except (OSError, SafetensorError) as e:
        raise OutputError(f"cannot write {out}: {e}; check the folder, its rights and the free space") from e
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _read_official(path: Path, config: ModelConfig, assets_root: Path | None) -> Checkpoint:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        model, render_model = saved["model"], saved["render_model"]
    except FileNotFoundError as e:
        raise AssetError(f"{path} is missing") from e
    except Exception as e:  # torch.load raises many kinds for a damaged or foreign file
        if not isinstance(e, OSError) and not zipfile.is_zipfile(path):  # torch would speak of its options
            raise AssetError(
                f"cannot read the checkpoint {path}: its {path.stat().st_size} bytes are no whole file of torch.save; "
                "is it an interrupted download, or a page or pointer in its place? Download it again"
            ) from e
        raise AssetError(
            f"cannot read the checkpoint {path}: {type(e).__name__}: {str(e).split(chr(10))[0]}; "
            f"expected GUAVA's torch.save dictionary with `model` and `render_model`. Is the download complete?"
        ) from e
    kinds = {k: classify_key(k) for k in model}
    unused = [k for k, kind in kinds.items() if kind.startswith("unused")]
    log.debug("%s: %d keys of the model are not used at inference", path.name, len(unused))
    stray = [k for k in render_model if not k.startswith(REFINER_PREFIX)]
    if stray:
        raise AssetError(f"{path}: the render model has unknown {_some(stray)}")
    has_body = any(k.startswith("smplx.") for k in model)
    assets = None
    if has_body and assets_root is not None:
        try:
            assets = assets_from_checkpoint(model, assets_root)
        except KeyError as e:
            raise AssetError(f"{path}: the body model inside lacks {e}") from e
    return Checkpoint(
        path=path,
        network={k: v for k, v in model.items() if kinds[k] == "network"},
        refiner={k.removeprefix(REFINER_PREFIX): v for k, v in render_model.items()},
        assets=assets,
        config=config,
    )


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError) as e:
        raise AssetError(f"cannot read the checkpoint {path}: {e}") from e
    if metadata.get("format") != _FORMAT:
        found = metadata.get("format")
        raise AssetError(f"{path} is not a guava-aug checkpoint (format {found!r}, expected {_FORMAT!r})")
    part = lambda prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    body = part("body.")
    return Checkpoint(
        path=path,
        network=part("model."),
        refiner=part(f"render_model.{REFINER_PREFIX}"),
        assets=_unflatten_assets(body) if body else None,
        config=ModelConfig.from_dict(json.loads(metadata["config"])),
    )


def _flatten_assets(assets: EhmAssets) -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for name, value in vars(assets).items():
        if isinstance(value, LinearModel):
            flat |= {f"{name}.{k}": v for k, v in vars(value).items()}
        else:
            flat[name] = value
    return flat


def _unflatten_assets(flat: Mapping[str, Tensor]) -> EhmAssets:
    linear = lambda prefix: LinearModel(**{f.name: flat[f"{prefix}.{f.name}"] for f in fields(LinearModel)})
    rest = {f.name: flat[f.name] for f in fields(EhmAssets) if f.name not in ("body", "head")}
    return EhmAssets(body=linear("body"), head=linear("head"), **rest)


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:5])
    return shown if len(keys) <= 5 else f"{shown} and {len(keys) - 5} more"
