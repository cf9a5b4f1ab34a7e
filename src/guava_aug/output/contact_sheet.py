"""A picture of pictures: what a run made, at a glance."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np

from guava_aug.errors import OutputError
from guava_aug.output.pngs import write_png

CELL = 256  # pixels; pictures are scaled to this height
GAP = 4
LABEL_HEIGHT = 22
PAPER, INK = 250, 30  # grey levels


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]], path: str | os.PathLike[str], cell: int = CELL
) -> None:
    """Writes a PNG with one labelled row of pictures (uint8 [H, W, 3] RGB) after another.

    Pictures keep their shape and are scaled to `cell` pixels of height; rows may differ in length.
    Raises OutputError when there is nothing to show or the file cannot be written.
    """
    if not any(pictures for _, pictures in rows):
        raise OutputError(f"{path}: expected at least one picture for the contact sheet, found none")
    strips = [_strip(label, pictures, cell) for label, pictures in rows]
    sheet = np.full((sum(len(s) for s in strips) + GAP, max(s.shape[1] for s in strips), 3), PAPER, np.uint8)
    top = 0
    for strip in strips:
        sheet[top : top + len(strip), : strip.shape[1]] = strip
        top += len(strip)
    write_png(path, sheet)


def _strip(label: str, pictures: Sequence[np.ndarray], cell: int) -> np.ndarray:
    """[LABEL_HEIGHT + cell, W, 3]: the label above the pictures side by side."""
    small = [_scaled(p, cell) for p in pictures]
    text = label.encode("ascii", "replace").decode()  # OpenCV's font has nothing else
    text_width = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0] + 2 * GAP
    width = max(GAP + sum(p.shape[1] + GAP for p in small), text_width)
    strip = np.full((LABEL_HEIGHT + cell, width, 3), PAPER, np.uint8)
    cv2.putText(strip, text, (GAP, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (INK, INK, INK), 1, cv2.LINE_AA)
    left = GAP
    for picture in small:
        strip[LABEL_HEIGHT:, left : left + picture.shape[1]] = picture
        left += picture.shape[1] + GAP
    return strip


def _scaled(picture: np.ndarray, cell: int) -> np.ndarray:
    height, width = picture.shape[:2]
    way = cv2.INTER_AREA if height > cell else cv2.INTER_LINEAR
    return cv2.resize(picture, (max(1, round(width * cell / height)), cell), interpolation=way)
