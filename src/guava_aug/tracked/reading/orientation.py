"""Turning of pictures as the file's display matrix says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BYTES = 36  # 3 x 3 int32


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways in which a picture can be turned by quarter turns and mirrored."""

    transpose: bool = False  # rows become columns, before the flips
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of_matrix(cls, matrix: bytes) -> Orientation | None:
        """Return the orientation of a display matrix; None: it is no quarter turn, as in some damaged files.

        The matrix [a b u; c d v; x y w], nine int32, maps a row vector: (x, y) -> (a x + c y, b x + d y).
        """
        if len(matrix) < _BYTES:
            return None
        a, b, _, c, d = np.frombuffer(matrix[:_BYTES], np.int32)[:5].astype(np.float64)
        straight, turned = abs(a) + abs(d), abs(b) + abs(c)
        if max(straight, turned) == 0 or min(straight, turned) > 0.02 * max(straight, turned):
            return None
        if straight > turned:
            return cls(False, bool(a < 0), bool(d < 0))
        return cls(True, bool(c < 0), bool(b < 0))

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Return the turned picture [H, W, ...], contiguous."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        if self.flip_x:
            picture = picture[:, ::-1]
        if self.flip_y:
            picture = picture[::-1]
        return np.ascontiguousarray(picture)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the turned picture."""
        return (width, height) if self.transpose else (height, width)
