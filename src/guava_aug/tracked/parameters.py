"""Identity, Motion, cameras and boxes of head and hands from the tracker's dictionaries, all of them checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guava_aug.body.params import Identity, Motion
from guava_aug.errors import InputError, annotate

PARTS = ("head", "left_hand", "right_hand")
BODY_CROP = 1024  # side of the body crop that the matrices refer to, for any stored size
PART_CROP = 512  # side of the head and hand crops
BOX_IMAGE = 512  # side of the image the boxes are for
_MAX_BETAS = 300  # of the body model; the tracker stores 200

# Motion field <- (group, key, shape of one frame)
_MOTION: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "global_orient": ("smplx_coeffs", "global_pose", (3,)),
    "body_pose": ("smplx_coeffs", "body_pose", (21, 3)),
    "left_hand_pose": ("smplx_coeffs", "left_hand_pose", (15, 3)),
    "right_hand_pose": ("smplx_coeffs", "right_hand_pose", (15, 3)),
    "expression": ("smplx_coeffs", "exp", (50,)),
    "flame_expression": ("flame_coeffs", "expression_params", (50,)),
    "jaw_pose": ("flame_coeffs", "jaw_params", (3,)),
    "eye_pose": ("flame_coeffs", "eye_pose_params", (2, 3)),
    "eyelids": ("flame_coeffs", "eyelid_params", (2,)),
}
CAMERA = ("smplx_coeffs", "camera_RT_params", (3, 4))

# Tracked cameras have PyTorch3D axes (x left, y up, z forward); here they are x right, y down, z forward.
_FLIP_XY = np.diag([-1.0, -1.0, 1.0]).astype(np.float32)


@dataclass(frozen=True)
class PartCrops:
    """Affine maps from each part's crop to the body crop; for a part without one, the reason."""

    to_body: Mapping[str, np.ndarray]  # part -> [T, 3, 3] float32, column vectors (x, y, 1)
    missing: Mapping[str, str]

    def boxes(self, index: int) -> dict[str, np.ndarray]:
        """Return part -> int64 [left, right, top, bottom] of frame `index` in a 512 image, within 0..511.

        An empty head box is the whole image, as in the original (`_load_source_info` of its data set).

        Raises:
            InputError: The tracked data have no usable crops. Rendering does not need them.
        """
        for reason in self.missing.values():
            raise InputError(reason)
        out = {}
        for part, maps in self.to_body.items():
            corners = maps[index] @ np.array([[0, PART_CROP], [0, PART_CROP], [1, 1]], np.float32)
            box = (corners[:2] * (BOX_IMAGE / BODY_CROP)).clip(0, BOX_IMAGE - 1).astype(np.int64).reshape(-1)
            if part == "head" and (box[0] >= box[1] or box[2] >= box[3]):
                box = np.array([0, BOX_IMAGE - 1, 0, BOX_IMAGE - 1], np.int64)
            out[part] = box
        return out


def read_motion(frames: Sequence[Mapping[str, Any]], frame_keys: Sequence[str], where: str) -> Motion:
    """Return Motion of T frames from their dictionaries. `where` (video and file) begins every error message."""
    return Motion(
        **{
            field: torch.from_numpy(stack_frames(frames, frame_keys, group, key, shape, where))
            for field, (group, key, shape) in _MOTION.items()
        }
    )


def read_viewmats(frames: Sequence[Mapping[str, Any]], frame_keys: Sequence[str], where: str) -> Tensor:
    """Return [T, 4, 4] float32 world to camera, OpenCV axes."""
    rt = stack_frames(frames, frame_keys, *CAMERA, where)  # [T, 3, 4]
    singular = np.abs(np.linalg.det(rt[:, :, :3])) < 1e-6
    if singular.any():
        i = int(np.argmax(singular))
        raise InputError(f"{where}, frame {frame_keys[i]!r}, {'/'.join(CAMERA[:2])}: the rotation is singular.")
    viewmats = np.zeros((len(rt), 4, 4), np.float32)
    viewmats[:, :3] = _FLIP_XY @ rt
    viewmats[:, 3, 3] = 1.0
    return torch.from_numpy(viewmats)


def camera_rt(viewmats: Tensor) -> np.ndarray:
    """Return the tracker's camera [T, 3, 4] float32 of matrices [T, 4, 4]; inverse of `read_viewmats`."""
    return _FLIP_XY @ viewmats[:, :3].detach().cpu().numpy().astype(np.float32)


def read_identity(shared: Any, where: str) -> Identity:
    """Return Identity from the dictionary of `id_share_params.pkl`.

    Row 0 of each entry is used; betas are padded to 300 with zeros.
    """

    def row(key: str, *shape: int) -> Tensor:
        if not isinstance(shared, Mapping) or key not in shared:
            raise InputError(f"{where}: {key!r} is missing. Track the video again.")
        value = _numbers(shared[key])
        if value is None:
            raise InputError(f"{where}, {key}: expected an array of numbers, found {type(shared[key]).__name__}.")
        if value.ndim > len(shape) and value.shape[0] > 0:
            value = value[0] if value.ndim == len(shape) + 1 else value.squeeze()
        if value.ndim != len(shape) or any(n not in (-1, m) for n, m in zip(shape, value.shape, strict=True)):
            expected = tuple(n if n >= 0 else "any" for n in shape)
            raise InputError(f"{where}, {key}: expected shape {expected}, found {np.shape(shared[key])}.")
        if not np.isfinite(value).all():
            raise InputError(f"{where}, {key}: NaN or infinite values. Track the video again.")
        return torch.from_numpy(value.copy())

    betas = row("smplx_shape", -1)
    if len(betas) > _MAX_BETAS:
        raise InputError(f"{where}, smplx_shape: expected at most {_MAX_BETAS} coefficients, found {len(betas)}.")
    return Identity(
        betas=torch.nn.functional.pad(betas, (0, _MAX_BETAS - len(betas))),
        flame_betas=row("flame_shape", -1),
        head_scale=row("head_scale", 3),
        hand_scale=row("hand_scale", 3),
        joints_offset=row("joints_offset", -1, 3),
    )


def stack_frames(
    frames: Sequence[Mapping[str, Any]],
    frame_keys: Sequence[str],
    group: str,
    key: str,
    shape: tuple[int, ...],
    where: str,
) -> np.ndarray:
    """Return [T, *shape] float32 of one entry of every frame.

    Extra or missing 1-dimensions are accepted, NaN is refused.
    """
    try:
        values = [frame[group][key] for frame in frames]
    except (KeyError, TypeError, IndexError):
        i = next(i for i, frame in enumerate(frames) if not _has(frame, group, key))
        reason = f"{where}, frame {frame_keys[i]!r}: {group}/{key} is missing. Track the video again."
        raise annotate(InputError(reason), frame=i) from None
    stacked = None
    if all(type(v) is np.ndarray and v.shape == values[0].shape and v.dtype.kind in "fiu" for v in values):
        with np.errstate(over="ignore"):
            stacked = np.array(values, dtype=np.float32)
    if stacked is None or not _fits(stacked.shape[1:], shape):
        stacked = np.empty((len(values), *shape), np.float32)
        for i, value in enumerate(values):
            numbers = _numbers(value)
            if numbers is None or not _fits(numbers.shape, shape):
                found = type(value).__name__ if numbers is None else f"shape {numbers.shape}"
                reason = (
                    f"{where}, frame {frame_keys[i]!r}, {group}/{key}: expected numbers of shape {shape}, "
                    f"found {found}. {_advice(numbers, shape)}"
                )
                raise annotate(InputError(reason), frame=i)
            stacked[i] = numbers.reshape(shape)
    stacked = stacked.reshape(len(values), *shape)
    bad = ~np.isfinite(stacked).reshape(len(values), -1).all(axis=1)
    if bad.any():
        more = f" ({int(bad.sum())} such frames)" if bad.sum() > 1 else ""
        first = int(np.argmax(bad))
        reason = (
            f"{where}, frame {frame_keys[first]!r}, {group}/{key}: NaN or infinite values{more}. "
            "Track the video again, or remove these frames."
        )
        raise annotate(InputError(reason), frame=first)
    return stacked


def _has(frame: Any, group: str, key: str) -> bool:
    return isinstance(frame, Mapping) and isinstance(frame.get(group), Mapping) and key in frame[group]


def _fits(found: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Return whether shapes are equal but for 1-dimensions, or `found` is flat."""
    squeezed = tuple(n for n in found if n != 1)
    return squeezed == tuple(n for n in shape if n != 1) or squeezed == (int(np.prod(shape)),)


def _advice(found: np.ndarray | None, shape: tuple[int, ...]) -> str:
    """Return advice about numbers of the wrong shape; the other common storage formats are recognised."""
    if found is not None and shape == (3, 4) and _fits(found.shape, (4, 4)):
        return "Store the upper three rows, [R|t]."
    if found is not None and shape[-1:] == (3,) and _fits(found.shape, (*shape, 3)):
        return "Store axis-angle vectors, not rotation matrices."
    return "Track the video again."


def _numbers(value: Any) -> np.ndarray | None:
    """Return `value` as a float32 array, or None if it is not one."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError, TypeError):  # nested lists that are no array, integers beyond int64
        return None
    if array.dtype.kind not in "fiu":
        return None
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def read_crops(frames: Sequence[Mapping[str, Any]], frame_keys: Sequence[str], where: str) -> PartCrops:
    """Return the part crops of all frames. They are needed for training only, so their absence is not an error here."""
    to_body: dict[str, np.ndarray] = {}
    missing: dict[str, str] = {}
    for part in PARTS:
        try:
            body = stack_frames(frames, frame_keys, "body_crop", "M_o2c-hd", (3, 3), where)
            crop = stack_frames(frames, frame_keys, f"{part}_crop", "M_c2o", (3, 3), where)
            to_body[part] = body @ crop
        except InputError as e:
            missing[part] = str(e)
    return PartCrops(to_body, missing)
