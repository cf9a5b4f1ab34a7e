"""A fitted avatar as a file: safetensors, without the body model.

It holds a person's likeness, and the network's numbers that it was begun with: with official weights, licensed data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from guava_aug.avatar.avatar import Avatar
from guava_aug.body import EhmModel, Identity, Motion
from guava_aug.errors import AssetError, OutputError
from guava_aug.runtime.atomic import atomic_write

_FORMAT = "guava-aug avatar 1"
_NOTICE = (
    "This file holds the likeness of a person; handle it as you would the video it was made from. If it was made with "
    "official GUAVA weights, it also holds data under their licence."
)
_HALF = ("features", "opacities", "uv_local", "uv_quats", "uv_scales", "vertex_quats", "vertex_scales")
_EXACT = ("uv_face", "uv_bary", "kept")


@dataclass(frozen=True)
class AvatarFile:
    """What an avatar file holds."""

    avatar: Avatar
    motion: Motion  # of the video's frames, as fitted
    viewmats: Tensor  # [T, 4, 4]
    made_with: dict[str, str]  # whatever the writer noted: fingerprints, settings, figures


def write_avatar_file(
    path: Path | str, avatar: Avatar, motion: Motion, viewmats: Tensor, made_with: dict[str, str]
) -> Path:
    """Write the file, whole or not at all; what is seen of the person is in half precision.

    Raises:
        OutputError: The file cannot be written.
    """
    path = Path(path)
    tensors = {f"avatar.{k}": getattr(avatar, k).detach().half() for k in _HALF}
    tensors |= {f"avatar.{k}": getattr(avatar, k) for k in _EXACT}
    if avatar.rest.offsets is not None:
        tensors["avatar.offsets"] = avatar.rest.offsets.detach()
    tensors |= {f"identity.{k}": v for k, v in vars(avatar.rest.identity).items()}
    tensors |= {f"motion.{k}": v for k, v in vars(motion).items()} | {"viewmats": viewmats}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    shape = {"vertices": len(avatar.vertex_scales), "faces": len(avatar.body.assets.faces)}
    metadata = {
        "format": _FORMAT, "notice": _NOTICE, "body": json.dumps(shape), "made_with": json.dumps(made_with),
        "content": _digest(tensors),
    }  # fmt: skip
    try:
        with atomic_write(path) as part:
            part.write_bytes(save(tensors, metadata))  # `save_file` writes beside it and renames
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write {path}: {error}; check the folder, its rights and the free space") from error
    return path


def read_avatar_file(path: Path | str, body: EhmModel) -> AvatarFile:
    """The avatar on `body` and its device. Raises AssetError for what is no such file, or is of another body model."""
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                found = metadata.get("format", "no format named")
                raise AssetError(f"{path} is not an avatar file of this version: expected {_FORMAT!r}, found {found!r}")
            shape, made_with = json.loads(metadata["body"]), json.loads(metadata["made_with"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - no dictionary
        if metadata["content"] != _digest(tensors):
            raise ValueError("its content is not what was written")
        found = {"vertices": len(body.assets.body.v_template), "faces": len(body.assets.faces)}
        if shape != found:
            raise AssetError(
                f"{path} was made with another body model: it has {shape['vertices']} vertices and {shape['faces']} "
                f"faces, the one in use {found['vertices']} and {found['faces']}; fit the avatar again with this model"
            )
        device = body.assets.faces.device
        part = lambda kind, prefix: kind(**{f.name: tensors[f"{prefix}.{f.name}"].to(device) for f in fields(kind)})
        rest = body.shape(part(Identity, "identity"))
        if "avatar.offsets" in tensors:
            rest = replace(rest, offsets=tensors["avatar.offsets"].to(device))
        look = {k: tensors[f"avatar.{k}"].to(device).float() for k in _HALF}
        look |= {k: tensors[f"avatar.{k}"].to(device) for k in _EXACT}
        motion, viewmats = part(Motion, "motion"), tensors["viewmats"].to(device)
        return AvatarFile(Avatar(body=body, rest=rest, **look), motion, viewmats, made_with)
    except torch.OutOfMemoryError:
        raise  # the file is not to blame
    except (OSError, SafetensorError, LookupError, ValueError, TypeError, RuntimeError) as error:
        raise AssetError(f"cannot read the avatar file {path}: {error}; fit the avatar again") from error


def read_notes(path: Path | str) -> dict[str, str]:
    """Return `made_with` of an avatar file; its tensors are neither read nor checked.

    Raises:
        AssetError: It is no avatar file.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"expected {_FORMAT!r}, found {metadata.get('format')!r}")
        return {str(key): str(value) for key, value in dict(json.loads(metadata["made_with"])).items()}
    except (OSError, SafetensorError, LookupError, ValueError, TypeError) as error:
        raise AssetError(f"cannot read the avatar file {path}: {error}; fit the avatar again") from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return SHA-256 of tensors with their names: a disk or a copy may have changed what still looks like numbers."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
