"""Checkpoints: the official `.pt`, read strictly and without code execution, and our own `.safetensors`.

Every key of a checkpoint is accounted for: it is a network weight, it belongs to the body model, or it is listed in
`UNUSED` with the reason. Any other key, and any missing key, is an error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from guava_aug.avatar.config import ModelConfig
from guava_aug.avatar.config import find_checkpoint as find_checkpoint
from guava_aug.avatar.network import ReconstructionNetwork
from guava_aug.avatar.styleunet import StyleUNet
from guava_aug.body import EhmAssets, LinearModel, assets_from_checkpoint, check_assets
from guava_aug.errors import AssetError, OutputError
from guava_aug.runtime.saved_tensors import SavedTensorsError, load_tensors

log = logging.getLogger(__name__)

REFINER_PREFIX = "nerual_refiner."  # sic: the original's spelling
_FORMAT = "guava-aug-1"
_MAX_EXPANDED = 2**24  # elements of a weight of which several share one place

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
    """The weights of one model and, if the file has it, the body model."""

    path: Path
    network: dict[str, Tensor]
    refiner: dict[str, Tensor]
    assets: EhmAssets | None
    config: ModelConfig | None


def read_checkpoint(path: Path, config: ModelConfig | None = None, assets_root: Path | None = None) -> Checkpoint:
    """Return the checkpoint of a file of either format. Tensors are memory-mapped; nothing is copied yet.

    Args:
        path: A `.pt` or `.safetensors` file.
        config: The model's configuration; may be None for a `.safetensors` file, which contains its own.
        assets_root: Folder with SMPLX/ and FLAME/, where the index files of an official checkpoint are. An official
            checkpoint without a body model gives `assets=None`.

    Raises:
        AssetError: The file cannot be read or does not fit.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_official(path, config or ModelConfig(), assets_root)


@contextlib.contextmanager
def bare_modules() -> Iterator[None]:
    """Create modules without memory and values inside the block, for weights that are read from a file."""
    with torch.device("meta"), _SkipInit():
        yield


class _SkipInit(TorchFunctionMode):
    """Skip random initialisation: on the meta device it takes seconds, as it imports torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _FILLS:
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


def load_weights(checkpoint: Checkpoint, network: ReconstructionNetwork, refiner: StyleUNet) -> None:
    """Load the weights into the modules strictly: same keys, same shapes.

    Raises:
        AssetError: Keys or shapes differ; the message lists the differences.
    """
    for part, module, state in (
        ("network", network, checkpoint.network),
        ("refiner", refiner, checkpoint.refiner),
    ):
        expected = module.state_dict()
        missing = sorted(expected.keys() - state.keys())
        extra = sorted(state.keys() - expected.keys())
        both = sorted(expected.keys() & state.keys())
        shapes = [
            f"{k}: {tuple(state[k].shape)} instead of {tuple(expected[k].shape)}"
            for k in both
            if state[k].shape != expected[k].shape
        ]
        types = [
            f"{k}: {state[k].dtype}"
            for k in both
            if state[k].is_floating_point() != expected[k].is_floating_point() or state[k].is_complex()
        ]
        wrong = (("lacks", missing), ("has unknown", extra), ("has wrong shapes", shapes), ("has wrong types", types))
        if lines := [f"{name} {_some(keys)}" for name, keys in wrong if keys]:
            raise AssetError(f"{checkpoint.path}: the {part} does not fit the configuration: " + "; ".join(lines))
        if broken := [k for k in both if not is_finite(state[k])]:
            raise AssetError(
                f"{checkpoint.path}: the {part} has values that are not finite in {_some(broken)}; the file is "
                "damaged, or its training went wrong"
            )
        module.load_state_dict({k: v.to(expected[k].dtype) for k, v in state.items()}, strict=True, assign=True)


def is_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite."""
    if not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum(dtype=torch.float32))):
        return True  # after one pass over the memory
    return bool(torch.isfinite(tensor).all())


def classify_key(key: str) -> str:
    """Return the use of a key of an official checkpoint's `model` part: `network`, `body` or `unused: <reason>`."""
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
    """Write our checkpoint format (docs/formats.md). `dtype` casts the network's floating-point weights."""

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

    tensors = {f"model.{k}": cast(v) for k, v in network.items()}
    tensors |= {f"render_model.{REFINER_PREFIX}{k}": cast(v) for k, v in refiner.items()}
    if assets is not None:
        tensors |= {f"body.{k}": v for k, v in _flatten_assets(assets).items()}
    metadata = {"format": _FORMAT, "config": json.dumps(config.to_dict())}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # a private folder with a random name: in a shared one, other users could place a link at the file's path
        with tempfile.TemporaryDirectory(prefix=".guava-aug-", dir=out.parent, ignore_cleanup_errors=True) as folder:
            part = Path(folder) / "part.safetensors"
            part.touch()  # so that it has the default permissions of a new file
            mode = part.stat().st_mode
            save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata)
            part.chmod(mode)
            os.replace(part, out)
    except (OSError, SafetensorError) as e:
        raise OutputError(f"cannot write {out}: {e}; check the folder, its rights and the free space") from e


def _read_official(path: Path, config: ModelConfig, assets_root: Path | None) -> Checkpoint:
    try:
        saved = load_tensors(path)
    except FileNotFoundError as e:
        raise AssetError(f"{path} is missing") from e
    except OSError as e:
        raise AssetError(f"cannot read the checkpoint {path}: {e.strerror or e}") from e
    except SavedTensorsError as e:
        raise AssetError(
            f"cannot read the checkpoint {path}: {e}; expected GUAVA's torch.save dictionary with `model` and "
            "`render_model`. Download it again"
        ) from e
    model, render_model = (_named_tensors(path, saved, part) for part in ("model", "render_model"))
    kinds = {k: classify_key(k) for k in model}
    unused = [k for k, kind in kinds.items() if kind.startswith("unused")]
    log.debug("%s: %d keys of the model are not used at inference", path.name, len(unused))
    stray = [k for k in render_model if not k.startswith(REFINER_PREFIX)]
    if stray:
        raise AssetError(f"{path}: the render model has unknown {_some(stray)}")
    for part in ({k: v for k, v in model.items() if not kinds[k].startswith("unused")}, render_model):
        for key, value in part.items():
            if not isinstance(value, Tensor):
                raise AssetError(f"{path}: {key[:100]} is a {type(value).__name__}, expected a tensor")
            if value.numel() > max(_MAX_EXPANDED, value.untyped_storage().nbytes() // value.element_size()):
                raise AssetError(f"{path}: {key[:100]} claims the shape {tuple(value.shape)}, which is not stored")
    has_body = any(k.startswith("smplx.") for k in model)
    assets = _official_body(path, model, assets_root) if has_body and assets_root is not None else None
    return Checkpoint(
        path=path,
        network={k: v for k, v in model.items() if kinds[k] == "network"},
        refiner={k.removeprefix(REFINER_PREFIX): v for k, v in render_model.items()},
        assets=assets,
        config=config,
    )


def _official_body(path: Path, model: Mapping[str, Tensor], assets_root: Path) -> EhmAssets:
    try:
        assets = assets_from_checkpoint(model, assets_root)
    except KeyError as e:
        raise AssetError(f"{path}: the body model inside lacks {e}") from e
    except AssetError as e:
        raise AssetError(f"{path}: {e}") from e
    except (RuntimeError, IndexError, ValueError, TypeError) as e:
        raise AssetError(f"{path}: the body model inside does not fit together: {str(e).splitlines()[0]}") from e
    check_assets(assets, f"{path}: the body model inside")
    return assets


def _named_tensors(path: Path, saved: Any, part: str) -> dict[str, Any]:
    if not isinstance(saved, dict):
        raise AssetError(
            f"{path} holds a {type(saved).__name__}, expected a dictionary with `model` and `render_model`"
        )
    if part not in saved:
        raise AssetError(f"{path} has no entry {part!r}; expected a dictionary with `model` and `render_model`")
    state = saved[part]
    if not isinstance(state, dict):
        raise AssetError(f"{path}: {part} is a {type(state).__name__}, expected a dictionary of tensors")
    for key in state:
        if not isinstance(key, str):
            raise AssetError(f"{path}: {part} has the key {str(key)[:40]} ({type(key).__name__}), expected names")
    return state


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118  # no dictionary
    except Exception as e:  # the library raises many kinds for a damaged or foreign file
        raise AssetError(f"cannot read the checkpoint {path}: {' '.join(str(e).split())[:300]}") from e
    if metadata.get("format") != _FORMAT:
        found = metadata.get("format")
        raise AssetError(f"{path} is not a guava-aug checkpoint (format {str(found)[:40]!r}, expected {_FORMAT!r})")
    try:
        described = json.loads(metadata["config"])
    except KeyError:
        raise AssetError(f"{path}: its header has no entry 'config'; convert the checkpoint again") from None
    except (ValueError, RecursionError) as e:
        raise AssetError(f"{path}: the entry 'config' of its header is not valid JSON ({str(e)[:100]})") from e

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    body = part("body.")
    return Checkpoint(
        path=path,
        network=part("model."),
        refiner=part(f"render_model.{REFINER_PREFIX}"),
        assets=_unflatten_assets(body, path) if body else None,
        config=ModelConfig.from_dict(described, f"{path}: the configuration in its header"),
    )


def _flatten_assets(assets: EhmAssets) -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for name, value in vars(assets).items():
        if isinstance(value, LinearModel):
            flat |= {f"{name}.{k}": v for k, v in vars(value).items()}
        else:
            flat[name] = value
    return flat


def _unflatten_assets(flat: Mapping[str, Tensor], path: Path) -> EhmAssets:
    def linear(prefix: str) -> LinearModel:
        return LinearModel(**{f.name: flat[f"{prefix}.{f.name}"] for f in fields(LinearModel)})

    try:
        rest = {f.name: flat[f.name] for f in fields(EhmAssets) if f.name not in ("body", "head")}
        assets = EhmAssets(body=linear("body"), head=linear("head"), **rest)
    except KeyError as e:
        raise AssetError(f"{path}: the body model inside lacks 'body.{str(e)[1:]}") from None
    check_assets(assets, f"{path}: the body model inside")
    return assets


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:5])
    return shown if len(keys) <= 5 else f"{shown} and {len(keys) - 5} more"
