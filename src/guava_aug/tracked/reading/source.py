"""What every source of frames has."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from guava_aug.runtime.frame_rate import Rate
from guava_aug.tracked.reading.time_axis import TimeAxis


class Frame(NamedTuple):
    """One picture of a source."""

    number: int  # in the file, from 0; some are missing where frames cannot be decoded
    time: Fraction  # seconds after the first frame
    rgb: np.ndarray  # [H, W, 3] uint8, upright, square pixels, BT.709 primaries


class Source(abc.ABC):
    """A video as upright RGB frames. It can be iterated any number of times, and gives the same each time.

    Attributes:
        path: The file or folder.
        size: (height, width) of every picture, pixels.
        axis: Times of all frames that the file lists.
        notes: What a user should know: damage, deinterlacing, tone mapping. Grows while frames are read.
        audio: Whether the file has sound.
        focal_35mm: Focal length in mm of a 35 mm film camera, from the file's metadata; None: not given.
    """

    path: Path
    size: tuple[int, int]
    axis: TimeAxis
    focal_35mm: float | None = None
    audio: bool = False

    def __init__(self) -> None:
        self._notes: dict[str, None] = {}

    @property
    def name(self) -> str:
        """Return the name of a tracked video made of it: that of the file without its suffix."""
        return self.path.stem if self.path.suffix and not self.path.is_dir() else self.path.name

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a user should know, each once, in the order in which it was found."""
        return tuple(self._notes)

    @property
    def fps(self) -> Rate:
        """Return frames per second: exact where constant, else the mean (`axis.constant`)."""
        return self.axis.fps

    @property
    def times(self) -> tuple[Fraction, ...]:
        """Return the time of every listed frame, seconds after the first."""
        return tuple(map(self.axis.seconds, range(len(self.axis))))

    def __len__(self) -> int:
        """Return the number of frames that the file lists; fewer are given where some cannot be decoded."""
        return len(self.axis)

    def __iter__(self) -> Iterator[Frame]:
        """Give all frames in the order of their times."""
        return self.frames()

    @abc.abstractmethod
    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Give the frames with numbers `start` to `stop` (exclusive; None: to the end) in the order of their times.

        Raises:
            InputError: The file has changed, or cannot be read any more.
        """

    def note(self, text: str) -> None:
        """Add a note for the user."""
        self._notes.setdefault(text)
