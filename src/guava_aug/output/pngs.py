"""The per-frame PNGs of a view."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from guava_aug.errors import OutputError
from guava_aug.runtime.atomic import atomic_write

COMPRESSION = 3  # of 9: a third of the time of 9 for a few percent of size


class PngWriter:
    """Write frames as {folder}/00000.png, 00001.png, ... ; each file is written atomically."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.frames = 0

    def write(self, frames: np.ndarray) -> None:
        """Write frames uint8 [T, H, W, 3] RGB (rounded: `to_png_bytes`), in order.

        Raises:
            OutputError: A file cannot be written.
        """
        for frame in frames:
            write_png(self.folder / f"{self.frames:05d}.png", frame)
            self.frames += 1


def write_png(path: str | os.PathLike[str], rgb: np.ndarray) -> None:
    """Write one picture uint8 [H, W, 3] RGB atomically.

    Raises:
        OutputError: It cannot be written.
    """
    path = Path(path)
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise OutputError(f"{path}: expected a picture uint8 [H, W, 3], found {rgb.dtype} {list(rgb.shape)}")
    try:
        done, data = cv2.imencode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, COMPRESSION])
        if not done:
            raise OutputError(f"{path}: the PNG encoder failed")
        with atomic_write(path, durable=False) as temporary:
            temporary.write_bytes(data.tobytes())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); check the disk and run again") from error
