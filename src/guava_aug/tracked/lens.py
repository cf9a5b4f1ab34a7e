"""The true lens of a camera from what a user knows of it: field of view, focal length, or a calibration.

All of these give K [3, 3] in pixels of the upright picture, with integer pixel coordinates at pixel centres (as OpenCV
has it).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from torch import Tensor

from guava_aug.errors import InputError, UsageError
from guava_aug.runtime.files import read_text
from guava_aug.runtime.text import briefly
from guava_aug.views.cameras import check_K, resized_K

FILM_DIAGONAL = math.hypot(36.0, 24.0)  # mm: what "35 mm equivalent" refers to (CIPA DCG-001)
_NARROWEST, _WIDEST = 1.0, 170.0  # degrees
_MATRIX_KEYS = ("K", "camera_matrix", "matrix", "intrinsic_matrix", "intrinsics")
_DISTORTION_KEYS = ("distortion", "distortion_coefficients", "distortions", "dist_coeffs", "dist")
_SIZE_PAIRS = (("image_width", "image_height"), ("width", "height"), ("w", "h"))
_SAME_SHAPE = 0.01  # relative difference of aspect ratios
_DISTORTION_COUNTS = (0, 4, 5, 8, 12, 14)  # of OpenCV's model


@dataclass(frozen=True)
class Calibration:
    """A calibrated camera."""

    K: Tensor  # [3, 3] float32
    size: tuple[int, int]  # (height, width) of the pictures it was calibrated with, pixels
    distortion: tuple[float, ...] = ()  # OpenCV's k1, k2, p1, p2, k3, ...; empty: none

    def at(self, size: tuple[int, int], where: str) -> Calibration:
        """Return the calibration for pictures of another size (height, width).

        Raises:
            InputError: They have another shape, so that they are a crop of unknown place; `where` begins the message.
        """
        (h0, w0), (h, w) = self.size, size
        if abs(w0 * h / (h0 * w) - 1) > _SAME_SHAPE:
            raise InputError(
                f"{where}: is for pictures of {w0} x {h0}, the video has {w} x {h}, which is another shape. Calibrate "
                "with the video's own format, or turn width and height if the video is upright"
            )
        return Calibration(resized_K(self.K, (w0, h0), (w, h)), size, self.distortion)


class Undistortion:
    """Turns pictures of a calibrated camera into those of a pinhole camera with the same K.

    Args:
        calibration: Of pictures of the video's size (`Calibration.at`).
    """

    def __init__(self, calibration: Calibration) -> None:
        height, width = calibration.size
        K = calibration.K.double().numpy()
        self._maps = cv2.initUndistortRectifyMap(
            K, np.array(calibration.distortion), np.eye(3), K, (width, height), cv2.CV_16SC2
        )
        self.valid = self.apply(np.full((height, width), 255, np.uint8))  # [H, W], 255 where the video shows something

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Return a picture [H, W, ...] uint8 without distortion; 0 where the video shows nothing."""
        straight: np.ndarray = cv2.remap(
            picture, *self._maps, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
        )
        return straight


def lens_of_fov(text: str | float, size: tuple[int, int]) -> Tensor:
    """Return K [3, 3] of a symmetric lens.

    Args:
        text: Degrees: "60" or "60h" across the width of the upright picture, "40v" over its height, "78d" from corner
            to corner (what makers of webcams give).
        size: (height, width) of the upright picture, pixels.

    Raises:
        UsageError: It is no angle from 1 to 170 degrees.
    """
    height, width = size
    found = re.fullmatch(r"\s*(\d{1,3}(?:\.\d{1,6})?)\s*([hvdHVD]?)\s*", str(text))
    degrees = float(found[1]) if found else 0.0
    if not found or not _NARROWEST <= degrees <= _WIDEST:
        raise UsageError(
            f"--fov: expected degrees from {_NARROWEST:g} to {_WIDEST:g}, such as 60 (across the width), 40v (over the "
            f"height) or 78d (corner to corner), found {briefly(str(text))}"
        )
    across = {"v": float(height), "d": math.hypot(width, height)}.get(found[2].lower(), float(width))
    return _symmetric(across / 2 / math.tan(math.radians(degrees) / 2), size)


def lens_of_focal_35mm(focal: float, size: tuple[int, int]) -> Tensor:
    """Return K [3, 3] of a lens with the given focal length in mm of a 35 mm film camera (EXIF).

    `size` is (height, width) of the upright picture. The equivalence is that of the diagonals of picture and film.

    Raises:
        UsageError: The focal length is not positive.
    """
    if not math.isfinite(focal) or focal <= 0:
        raise UsageError(f"focal length: expected millimetres above 0, found {focal}")
    return _symmetric(focal * math.hypot(*size) / FILM_DIAGONAL, size)


def load_calibration(path: str | Path, camera: str | None = None) -> Calibration:
    """Return the camera of a calibration file: JSON, YAML or TOML.

    The intrinsics are `K` (or `camera_matrix`, `matrix`; rows, nine numbers, or OpenCV's `{rows, cols, data}`), or
    `fx, fy, cx, cy`; the size of the pictures is `size` ([width, height]) or `width, height` (`image_width`,
    `image_height`); `distortion` holds OpenCV's coefficients.

    Args:
        path: The file; its suffix decides how it is read.
        camera: Name of the camera (a table of the file); needed where the file has several.

    Raises:
        InputError: The file cannot be read, or something in it is missing or impossible.
    """
    path = Path(path)
    where = f"calibration {path}"
    content = _parsed(path, where)
    tables = {
        str(key): value for key, value in content.items() if isinstance(value, Mapping) and _has_intrinsics(value)
    }
    if camera is not None:
        if camera not in tables:
            raise InputError(f"{where}: has no camera {briefly(camera)} (there: {', '.join(tables) or 'none'})")
        return calibration_of_table(tables[camera], f"{where}, camera {briefly(camera)}")
    if not _has_intrinsics(content) and len(tables) > 1:
        raise InputError(f"{where}: has {len(tables)} cameras ({', '.join(tables)}); say which one: FILE:NAME")
    return calibration_of_table(
        content if _has_intrinsics(content) or not tables else next(iter(tables.values())), where
    )


def lens_of_crop(K: Tensor, left: float, top: float, side: float, size: int) -> Tensor:
    """Return K of a square crop that is scaled to `size` x `size` pixels.

    Args:
        K: [3, 3] of the whole picture.
        left: Edge of the crop in the picture, pixels; 0 is the left edge of the first pixel.
        top: As `left`.
        side: Of the crop, pixels.
        size: Side of the result, pixels.
    """
    (fx, _, cx), (_, fy, cy), _ = check_K(K).double().tolist()
    s = size / side
    cx, cy = (cx + 0.5 - left) * s - 0.5, (cy + 0.5 - top) * s - 0.5
    return torch.tensor([[fx * s, 0.0, cx], [0.0, fy * s, cy], [0.0, 0.0, 1.0]])


def _symmetric(focal: float, size: tuple[int, int]) -> Tensor:
    height, width = size
    return torch.tensor([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])


def _parsed(path: Path, where: str) -> Mapping[str, Any]:
    text = read_text(path, where)
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            content = json.loads(text)
        elif suffix in (".yaml", ".yml"):
            # OpenCV writes "%YAML:1.0", which is no directive of YAML, and tags its matrices
            plain = re.sub(r"^%YAML[: ].*$", "", text, count=1, flags=re.M).replace("!!opencv-matrix", "")
            content = yaml.safe_load(plain)
        elif suffix == ".toml":
            content = parsed_toml(text, where)
        else:
            raise InputError(f"{where}: expected a file that ends in .json, .yaml or .toml")
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{where}: cannot be parsed ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: expected names and values such as fx, fy, cx, cy, found {briefly(content)}")
    return content


def parsed_toml(text: str, where: str) -> Mapping[str, Any]:
    """Return the content of a TOML file; `where` begins the message.

    Raises:
        InputError: Python 3.10 without tomli.
        ValueError: It is no TOML.
    """
    try:
        import tomllib as toml  # noqa: PLC0415 - from Python 3.11 on
    except ModuleNotFoundError:
        try:
            import tomli as toml  # noqa: PLC0415 - the same for Python 3.10, not always there
        except ModuleNotFoundError as error:
            raise InputError(
                f"{where}: TOML needs Python 3.11 or later, or tomli (pip install tomli); or write it as JSON or YAML"
            ) from error
    content: Mapping[str, Any] = toml.loads(text)
    return content


def _has_intrinsics(table: Mapping[str, Any]) -> bool:
    return any(key in table for key in _MATRIX_KEYS) or {"fx", "cx"} <= set(table)


def calibration_of_table(table: Mapping[str, Any], where: str) -> Calibration:
    """Return the camera of a table of a calibration file, see `load_calibration`; `where` begins the messages.

    Raises:
        InputError: Something is missing or impossible.
    """
    rows = _matrix(table, where)
    size = _size(table, where)
    distortion = _distortion(table, where)
    try:
        K = check_K(torch.tensor(rows, dtype=torch.float64))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if not (0 <= float(K[0, 2]) <= size[1] and 0 <= float(K[1, 2]) <= size[0]):
        raise InputError(
            f"{where}: the principal point ({float(K[0, 2]):g}, {float(K[1, 2]):g}) is outside of a picture of "
            f"{size[1]} x {size[0]} pixels; check that both are of the same size"
        )
    return Calibration(K, size, distortion)


def _matrix(table: Mapping[str, Any], where: str) -> list[list[float]]:
    key = next((k for k in _MATRIX_KEYS if k in table), None)
    if key is None:
        fx, fy, cx, cy = (_number(table.get(name, table.get("fx") if name == "fy" else None), name, where) for name in (
            "fx", "fy", "cx", "cy"))  # fmt: skip
        return [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]
    values = _flat(table[key])
    if len(values) == 4:
        fx, fy, cx, cy = (_number(v, key, where) for v in values)
        return [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]
    if len(values) != 9:
        raise InputError(f"{where}: expected {key} to have nine numbers, row by row, found {len(values)}")
    nine = [_number(v, key, where) for v in values]
    return [nine[:3], nine[3:6], nine[6:]]


def _size(table: Mapping[str, Any], where: str) -> tuple[int, int]:
    pair: Sequence[Any] | None = None
    for key in ("size", "image_size", "resolution"):
        if key in table:
            pair = _flat(table[key])
            break
    else:
        pair = next(([table[a], table[b]] for a, b in _SIZE_PAIRS if a in table and b in table), None)
    if pair is None or len(pair) != 2:
        raise InputError(f"{where}: expected size: [width, height] of the pictures it was calibrated with, in pixels")
    width, height = (int(_number(value, "size", where)) for value in pair)
    if not (0 < width <= 65536 and 0 < height <= 65536):
        raise InputError(f"{where}: expected a size in pixels, found {width} x {height}")
    return height, width


def _distortion(table: Mapping[str, Any], where: str) -> tuple[float, ...]:
    key = next((k for k in _DISTORTION_KEYS if k in table), None)
    values = [] if key is None or table[key] is None else [_number(v, key, where) for v in _flat(table[key])]
    if str(table.get("fisheye", "")).lower() == "true" or "fisheye" in str(table.get("distortion_model", "")).lower():
        raise InputError(f"{where}: fisheye lenses are not supported; undistort the video first")
    if len(values) not in _DISTORTION_COUNTS:
        raise InputError(f"{where}: expected {key} to have 4, 5, 8, 12 or 14 numbers, found {len(values)}")
    return tuple(values) if any(values) else ()


def _flat(value: Any) -> list[Any]:
    """Return the numbers of nested lists, or of OpenCV's matrices with rows, cols and data."""
    if isinstance(value, Mapping):
        return _flat(value.get("data", []))
    if not isinstance(value, (list, tuple)):
        return [value]
    return [number for item in value for number in _flat(item)]


def _number(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where}: expected {name} to be a number, found {briefly(value)}")
    return float(value)
