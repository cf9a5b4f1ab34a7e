"""A source as a pinhole camera would have filmed it, where the lens distorts."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from guava_aug.tracked.lens import Calibration
from guava_aug.tracked.reading.source import Frame, Source


class Undistorted(Source):
    """The frames of another source without the distortion of the lens; the matrix K stays.

    Args:
        source: the video.
        lens: its calibration, for its size.
    """

    def __init__(self, source: Source, lens: Calibration) -> None:
        super().__init__()
        self._source = source
        self.path, self.size, self.axis, self.focal_35mm = source.path, source.size, source.axis, source.focal_35mm
        height, width = source.size
        K = lens.K.double().numpy()
        self._maps = cv2.initUndistortRectifyMap(
            K, np.array(lens.distortion), np.eye(3), K, (width, height), cv2.CV_16SC2
        )
        self.valid = self._undistorted(np.full((height, width), 255, np.uint8))  # [H, W], 255 = in the picture

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the notes of the source."""
        return self._source.notes

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Give the frames as `Source.frames`, undistorted; black where the picture ends."""
        for frame in self._source.frames(start, stop):
            yield frame._replace(rgb=self._undistorted(frame.rgb))

    def _undistorted(self, picture: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.remap(picture, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))
