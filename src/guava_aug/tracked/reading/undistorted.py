"""A source as a pinhole camera would have filmed it, where the lens distorts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from guava_aug.tracked.lens import Calibration, Undistortion
from guava_aug.tracked.reading.source import Frame, Source


class Undistorted(Source):
    """The frames of another source without the distortion of the lens; the matrix K stays.

    Args:
        source: The video.
        lens: Its calibration, for pictures of its size.
    """

    def __init__(self, source: Source, lens: Calibration) -> None:
        super().__init__()
        self._source, self._undistortion = source, Undistortion(lens)
        self.path, self.size, self.axis = source.path, source.size, source.axis
        self.audio, self.focal_35mm = source.audio, source.focal_35mm

    @property
    def valid(self) -> np.ndarray:
        """Return what the video shows of every picture, [H, W] uint8, 255 = something."""
        return self._undistortion.valid

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the notes of the source."""
        return self._source.notes

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Give the frames as `Source.frames`, undistorted; black where the picture ends."""
        for frame in self._source.frames(start, stop):
            yield frame._replace(rgb=self._undistortion.apply(frame.rgb))
