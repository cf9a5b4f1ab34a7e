"""A folder of pictures as a source of frames."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from guava_aug.errors import InputError, UsageError
from guava_aug.runtime.frame_rate import Rate, exact_rate
from guava_aug.tracked.exif import read_focal_35mm
from guava_aug.tracked.reading.source import Frame, Source
from guava_aug.tracked.reading.time_axis import axis_of

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
DEFAULT_RATE = 25.0
_MOST_SIDE = 16384  # pixels


class PictureFolder(Source):
    """The pictures of a folder, in the order of the numbers in their names (2 before 10).

    Args:
        path: The folder.
        fps: Frames per second, as pictures have no times.

    Raises:
        InputError: It holds no pictures, or the first one cannot be read.
        UsageError: `fps` is not a rate.
    """

    def __init__(self, path: Path, fps: Rate | None = None) -> None:
        super().__init__()
        self.path = path
        try:
            files = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
        if not files:
            raise InputError(f"{path}: holds no pictures; expected {', '.join(SUFFIXES)}, or give a video file")
        self.files = sorted(files, key=lambda p: _natural(p.name))
        try:
            rate = exact_rate(DEFAULT_RATE if fps is None else fps)
        except ValueError as error:
            raise UsageError(f"{path}: frames per second: {error}") from None
        if fps is None:
            self.note(f"pictures have no times: {DEFAULT_RATE:g} frames per second are assumed")
        self.axis = axis_of(np.arange(len(self.files)), 1 / rate, (rate,))
        first = self._read(self.files[0])
        self.size = first.shape[0], first.shape[1]
        self.focal_35mm = read_focal_35mm(self.files[0])

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """See `Source`.

        Raises:
            InputError: A picture has another size.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        given = False
        for index in range(start, stop):
            file = self.files[index]
            try:
                rgb = self._read(file)
            except InputError:
                self.note(f"frame {index} ({file.name}) cannot be decoded and is left out")
                continue
            if rgb.shape[:2] != self.size:
                raise InputError(
                    f"{file}: expected {self.size[1]} x {self.size[0]} pixels as the folder's first picture, found "
                    f"{rgb.shape[1]} x {rgb.shape[0]}"
                )
            given = True
            yield Frame(index, self.axis.seconds(index), rgb)
        if not given and start < stop:
            raise InputError(f"{self.path}: none of the pictures {start} to {stop - 1} can be decoded")

    def _read(self, file: Path) -> np.ndarray:
        """Return a picture, turned as its EXIF says, [H, W, 3] uint8 RGB."""
        try:
            data = np.frombuffer(file.read_bytes(), np.uint8)
            bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        except (OSError, cv2.error) as error:
            raise InputError(f"{file}: cannot be read ({error})") from error
        if bgr is None:
            raise InputError(f"{file}: is not a picture that can be decoded; convert it to PNG or JPEG")
        if max(bgr.shape) > _MOST_SIDE:
            raise InputError(f"{file}: {bgr.shape[1]} x {bgr.shape[0]} pixels; expected at most {_MOST_SIDE} a side")
        rgb: np.ndarray = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        return rgb


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"(\d+)", name.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name
