"""SMPL-X parameters of a video as other tools write them: one `.npz`, under the names that are usual for them.

Everything is in the axes of the camera (x right, y down, z forward), as regressors of SMPL-X from pictures have it.
docs/own_video.md has the table of keys.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, get_args

import numpy as np
import torch

from guava_aug.body.params import Motion
from guava_aug.errors import InputError, annotate
from guava_aug.runtime.saved_tensors import SavedTensorsError, check_members
from guava_aug.runtime.text import briefly, in_short
from guava_aug.tracked.fit.rig import rotation_vector

BodyKind = Literal["smplx", "embedded"]

_LARGEST = 2**30  # bytes of all arrays; an hour of parameters has 0.1e9
_MOST_BETAS, _EXPRESSIONS = 300, 50
_SAME = 1e-3  # relative: a lens that changes less is one
_NO_ROTATION = 0.02  # largest entry of R R^T - I
_SMPL_BODY = 23  # joints of SMPL's body pose, which has no hands

# name -> the same under other names
_NAMES: dict[str, tuple[str, ...]] = {
    "global_orient": ("root_pose", "root_orient"),
    "body_pose": ("pose_body",),
    "left_hand_pose": ("lhand_pose",),
    "right_hand_pose": ("rhand_pose",),
    "jaw_pose": ("pose_jaw",),
    "leye_pose": ("left_eye_pose",),
    "reye_pose": ("right_eye_pose",),
    "betas": ("shape",),
    "expression": ("expr",),
    "transl": ("cam_trans", "trans"),
    "transl_pelvis": ("pelvis",),
    "K": ("intrinsics", "camera_matrix"),
    "focal": ("focal_length",),
    "princpt": ("center", "principal_point"),
    "image_size": ("img_size",),
    "frames": ("frame_numbers",),
    "flat_hand_mean": (),
    "hands_meanl": ("left_hand_mean",),
    "hands_meanr": ("right_hand_mean",),
    "body_model": ("model_type", "surface_model_type"),
    "gender": (),
}
_PREFIX = "smplx_"


@dataclass(frozen=True)
class SmplxParameters:
    """Parameters of T frames, in the axes of the camera."""

    body: BodyKind  # the body that betas and expression belong to
    betas: torch.Tensor  # [B] float32
    motion: Motion  # T frames
    translation: torch.Tensor  # [T, 3] float32 metres
    of_pelvis: bool  # `translation` is where the pelvis is; else what is added to the posed body
    K: torch.Tensor  # [3, 3] pixels of the picture
    image_size: tuple[int, int] | None  # (height, width) of the picture that K is of; None: the video's
    frames: tuple[int, ...] | None  # number of each frame in the video; None: all of it
    gender: str

    def __len__(self) -> int:
        """Return the number of frames T."""
        return len(self.motion)


def read_smplx(path: Path) -> SmplxParameters:
    """Return the parameters in an `.npz`. Nothing that is pickled is read.

    Raises:
        InputError: The file cannot be read, or something in it is missing, of a wrong shape, or impossible.
    """
    arrays = _Arrays(path, _read(path))
    orient = arrays.needed("global_orient", "the rotation of the body, [T, 3]")
    if orient.ndim < 2 or not len(orient):
        arrays.refuse("global_orient", "[T, 3] or [T, 3, 3]", orient)
    count = len(orient)
    hands = {side: _hand(arrays, side, count) for side in ("left", "right")}
    eyes = [arrays.rotations(name, 1, count) for name in ("leye_pose", "reye_pose")]
    expression = _expression(arrays, count)
    values = {
        "global_orient": arrays.rotations("global_orient", 1, count)[:, 0],
        "body_pose": _body_pose(arrays, count),
        "left_hand_pose": hands["left"], "right_hand_pose": hands["right"],
        "expression": expression, "flame_expression": expression,
        "jaw_pose": arrays.rotations("jaw_pose", 1, count)[:, 0],
        "eye_pose": np.concatenate(eyes, 1), "eyelids": np.zeros((count, 2)),
    }  # fmt: skip
    motion = Motion(**{name: torch.from_numpy(value.astype(np.float32)) for name, value in values.items()})
    translation, of_pelvis = _translation(arrays, count)
    return SmplxParameters(
        _body(arrays), _betas(arrays, count), motion, translation, of_pelvis, _lens(arrays), _image_size(arrays),
        _frames(arrays, count), (arrays.text("gender") or "neutral").lower(),
    )  # fmt: skip


def _read(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the file that are known here."""
    where = f"parameters {path}"
    known = {
        spelt for name, others in _NAMES.items() for other in (name, *others) for spelt in (other, _PREFIX + other)
    }
    try:
        with path.open("rb") as file:
            claimed = sum(member.file_size for member in check_members(file, os.fstat(file.fileno()).st_size))
            if claimed > _LARGEST:
                raise InputError(f"{where}: it has {claimed} bytes of arrays; expected at most {_LARGEST}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as z:
                return {key: z[key] for key in z.files if key in known}
    except InputError:
        raise
    except (OSError, SavedTensorsError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise InputError(f"{where}: cannot be read ({reason or error}); expected what numpy.savez writes") from error
    except Exception as error:  # damaged members raise nearly anything
        raise InputError(
            f"{where}: cannot be read ({in_short(error)}); expected plain arrays of numbers, as numpy.savez writes "
            "them, without objects"
        ) from error


class _Arrays:
    """The arrays of a file, found by any of their names."""

    def __init__(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        self.where, self._arrays = f"parameters {path}", arrays

    def spelt(self, name: str) -> str | None:
        """Return the key that a value has in the file; None: it is not there. InputError: it is there twice."""
        others = (name, *_NAMES[name])
        found = [key for other in others for key in (other, _PREFIX + other) if key in self._arrays]
        if len(found) > 1:
            raise InputError(f"{self.where}: {' and '.join(found)} are the same; expected one of them")
        return found[0] if found else None

    def get(self, name: str) -> np.ndarray | None:
        """Return finite numbers, float64; None: they are not there."""
        key = self.spelt(name)
        if key is None:
            return None
        array = self._arrays[key]
        if array.dtype.kind not in "fiu":
            raise InputError(f"{self.where}, {key}: expected numbers, found {array.dtype}")
        values = array.astype(np.float64)
        if not np.isfinite(values).all():
            bad = np.argwhere(~np.isfinite(values))[0]
            place = f", row {bad[0]}" if len(bad) else ""
            raise annotate(
                InputError(f"{self.where}, {key}{place}: NaN or infinite values; leave these frames out with `frames`"),
                frame=int(bad[0]) if len(bad) else None,
            )
        return values

    def needed(self, name: str, meaning: str) -> np.ndarray:
        """Return numbers that have to be there."""
        values = self.get(name)
        if values is None:
            names = ", ".join((name, *_NAMES[name]))
            raise InputError(f"{self.where}: {meaning}, is missing; expected it as one of {names}")
        return values

    def refuse(self, name: str, expected: str, found: np.ndarray, advice: str = "") -> NoReturn:
        """Raise InputError for a wrong shape."""
        more = f"; {advice}" if advice else ""
        raise InputError(f"{self.where}, {self.spelt(name)}: expected {expected}, found {found.shape}{more}")

    def rotations(self, name: str, joints: int, count: int) -> np.ndarray:
        """Return rotation vectors [T, joints, 3]: zero where they are missing, from matrices where these are stored."""
        values = self.get(name)
        if values is None:
            return np.zeros((count, joints, 3))
        per_frame = values.shape[1:]
        size = math.prod(per_frame)
        expected = f"[{count}, {3 * joints}], [{count}, {joints}, 3] or matrices [{count}, {joints}, 3, 3]"
        if values.ndim < 2 or len(values) != count:
            self.refuse(name, expected, values, f"global_orient has {count} frames")
        if size == 3 * joints and per_frame[-1] in (3, size):
            return values.reshape(count, joints, 3)
        if size == 9 * joints and per_frame[-2:] == (3, 3):
            return self._vectors(name, values.reshape(count, joints, 3, 3))
        self.refuse(name, expected, values, _advice(name, joints, size))

    def _vectors(self, name: str, R: np.ndarray) -> np.ndarray:
        """Return the rotation vectors of matrices [T, joints, 3, 3]."""
        error = np.abs(R @ R.swapaxes(-1, -2) - np.eye(3)).max((1, 2, 3))
        bad = (error > _NO_ROTATION) | (np.linalg.det(R) < 0).any(1)
        if bad.any():
            row = int(np.argmax(bad))
            raise annotate(
                InputError(f"{self.where}, {self.spelt(name)}, row {row}: the matrices are no rotations"), frame=row
            )
        vectors: np.ndarray = rotation_vector(torch.from_numpy(R)).numpy()
        return vectors

    def text(self, name: str) -> str | None:
        """Return a word; None: it is not there."""
        key = self.spelt(name)
        if key is None:
            return None
        array = self._arrays[key]
        if array.size != 1 or array.dtype.kind not in "US":
            raise InputError(f"{self.where}, {key}: expected one word, found {array.dtype} {array.shape}")
        word = array.reshape(-1)[0]
        return word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)

    def flag(self, name: str) -> bool | None:
        """Return a yes or no; None: it is not there."""
        key = self.spelt(name)
        if key is None:
            return None
        array = self._arrays[key]
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise InputError(f"{self.where}, {key}: expected True or False, found {array.dtype} {array.shape}")
        return bool(array.reshape(-1)[0])


def _advice(name: str, joints: int, size: int) -> str:
    if name.endswith("hand_pose") and size <= 3 * joints:
        return "these look like principal components: store the full pose of 15 joints"
    if name == "body_pose" and size in (3 * _SMPL_BODY, 9 * _SMPL_BODY):
        return "this is SMPL's body pose; expected SMPL-X's, of 21 joints"
    if size == 6 * joints:
        return "convert rotations of six numbers to rotation vectors"
    return ""


def _body_pose(arrays: _Arrays, count: int) -> np.ndarray:
    arrays.needed("body_pose", "the pose of 21 joints, [T, 21, 3]")
    return arrays.rotations("body_pose", 21, count)


def _hand(arrays: _Arrays, side: str, count: int) -> np.ndarray:
    """Return the absolute pose [T, 15, 3] of a hand."""
    name, mean_name = f"{side}_hand_pose", f"hands_mean{side[0]}"
    pose = arrays.rotations(name, 15, count)
    stored = arrays.get(name)
    if stored is None or arrays.flag("flat_hand_mean") is not False:
        return pose
    mean = arrays.get(mean_name)
    if mean is None:
        raise InputError(
            f"{arrays.where}: flat_hand_mean is False, so hand poses are differences from SMPL-X's mean hand; expected "
            f"also {mean_name} [45] (the array of that name in SMPLX_NEUTRAL_2020.npz), or absolute poses with "
            "flat_hand_mean True"
        )
    if mean.size != 45:
        arrays.refuse(mean_name, "[45]", mean)
    if stored.shape[-2:] == (3, 3):
        raise InputError(f"{arrays.where}, {name}: matrices cannot be differences; store rotation vectors")
    absolute: np.ndarray = pose + mean.reshape(15, 3)
    return absolute


def _expression(arrays: _Arrays, count: int) -> np.ndarray:
    """Return [T, 50]: the first coefficients, padded with zeros."""
    values = arrays.get("expression")
    out = np.zeros((count, _EXPRESSIONS))
    if values is not None:
        if len(values) != count or values.size % count or values.ndim < 2:
            arrays.refuse("expression", f"[{count}, E]", values)
        rows = values.reshape(count, -1)[:, :_EXPRESSIONS]
        out[:, : rows.shape[1]] = rows
    return out


def _betas(arrays: _Arrays, count: int) -> torch.Tensor:
    """Return [B]; of one row per frame the mean."""
    values = arrays.get("betas")
    if values is None:
        return torch.zeros(10)
    if values.ndim == 2 and len(values) in (1, count):
        values = values.mean(0)
    if values.ndim != 1 or not 1 <= len(values) <= _MOST_BETAS:
        arrays.refuse("betas", f"[B] or [{count}, B] with at most {_MOST_BETAS} numbers", values)
    return torch.from_numpy(values.astype(np.float32))


def _translation(arrays: _Arrays, count: int) -> tuple[torch.Tensor, bool]:
    """Return [T, 3], and whether it is of the pelvis."""
    of_pelvis = arrays.spelt("transl") is None and arrays.spelt("transl_pelvis") is not None
    name = "transl_pelvis" if of_pelvis else "transl"
    values = arrays.needed(name, "where the body is in the camera, [T, 3] in metres")
    if len(values) != count or values.size != 3 * count:
        arrays.refuse(name, f"[{count}, 3]", values)
    values = values.reshape(count, 3)
    behind = values[:, 2] <= 0
    if behind.any():
        row = int(np.argmax(behind))
        raise annotate(
            InputError(
                f"{arrays.where}, {arrays.spelt(name)}, row {row}: the body is behind the camera (z = "
                f"{values[row, 2]:g}); expected the camera's axes: x right, y down, z forward, metres"
            ),
            frame=row,
        )
    return torch.from_numpy(values.astype(np.float32)), of_pelvis


def _lens(arrays: _Arrays) -> torch.Tensor:
    """Return K [3, 3]."""
    K = arrays.get("K")
    if K is not None:
        if K.shape[-2:] != (3, 3) or K.ndim > 3:
            arrays.refuse("K", "[3, 3]", K)
        return torch.from_numpy(_constant(arrays, "K", K.reshape(-1, 3, 3)))
    focal = arrays.needed("focal", "the lens: K [3, 3], or focal and princpt, pixels")
    center = arrays.needed("princpt", "the principal point, [2] pixels")
    focal = np.atleast_1d(focal)
    if focal.shape[-1] not in (1, 2):
        focal = focal[..., None]
    if center.shape[-1] != 2 or focal.ndim > 2 or center.ndim > 2:
        arrays.refuse("princpt", "[2]", center)
    fx, fy = np.broadcast_to(_constant(arrays, "focal", focal.reshape(-1, focal.shape[-1])), 2)
    cx, cy = _constant(arrays, "princpt", center.reshape(-1, 2))
    return torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float64)


def _constant(arrays: _Arrays, name: str, values: np.ndarray) -> np.ndarray:
    """Return the one value of rows that are equal."""
    first: np.ndarray = values[0]
    if np.abs(values - first).max() > _SAME * max(float(np.abs(first).max()), 1.0):
        raise InputError(
            f"{arrays.where}, {arrays.spelt(name)}: differs between frames; expected one lens of the whole picture "
            "(not of crops around the person), and a video without zoom"
        )
    return first


def _image_size(arrays: _Arrays) -> tuple[int, int] | None:
    size = arrays.get("image_size")
    if size is None:
        return None
    if size.size != 2 or (size < 1).any():
        arrays.refuse("image_size", "[width, height]", size)
    width, height = (round(v) for v in size.reshape(2).tolist())
    return height, width


def _frames(arrays: _Arrays, count: int) -> tuple[int, ...] | None:
    numbers = arrays.get("frames")
    if numbers is None:
        return None
    if numbers.shape != (count,):
        arrays.refuse("frames", f"[{count}]", numbers)
    if (numbers != np.round(numbers)).any() or numbers[0] < 0 or (np.diff(numbers) <= 0).any():
        raise InputError(f"{arrays.where}, {arrays.spelt('frames')}: expected ascending numbers of frames, from 0")
    return tuple(int(n) for n in numbers)


def _body(arrays: _Arrays) -> BodyKind:
    word = (arrays.text("body_model") or "smplx").lower().replace("-", "")
    known: Iterable[BodyKind] = get_args(BodyKind)
    for kind in known:
        if word == kind:
            return kind
    raise InputError(
        f"{arrays.where}, {arrays.spelt('body_model')}: expected smplx, found {briefly(word)}; convert the parameters "
        "to SMPL-X first"
    )
