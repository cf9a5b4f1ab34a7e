"""Contact sheets: an overview picture of the results of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from guava_aug.errors import OutputError, UsageError
from guava_aug.runtime.atomic import atomic_write

CELL = 256  # pixels; pictures are scaled to this height
GAP = 4
PAPER, INK = 255, 40  # grey levels
_FONT, _SCALE, _LINE = cv2.FONT_HERSHEY_SIMPLEX, 0.42, 17  # 17 pixels a line
_TITLE_SCALE, _TITLE_HEIGHT, _COLUMN_HEIGHT = 0.55, 28, 20
_MARGIN = 12  # around a block
_QUALITIES = (92, 88, 84, 80, 75, 70)  # of a JPEG, until it fits
_SMALLER = 0.85  # then the cells


@dataclass(frozen=True)
class Block:
    """A table of pictures."""

    title: str
    columns: Sequence[str]  # titles above the pictures; may be fewer
    rows: Sequence[tuple[str, Sequence[np.ndarray]]]  # label (may have several lines), pictures uint8 [H, W, 3] RGB


def contact_sheet(
    blocks: Sequence[Block],
    path: str | os.PathLike[str],
    cell: int = CELL,
    *,
    abreast: int = 1,
    max_bytes: int | None = None,
) -> None:
    """Write a PNG or JPEG (by the suffix of `path`) with `abreast` blocks per row.

    Pictures keep their aspect ratio and are scaled to a height of `cell` pixels. With `max_bytes` the quality of a
    JPEG, and then the size of the cells, is reduced until the file is no larger.

    Raises:
        OutputError: There are no pictures, or the file cannot be written.
        UsageError: Another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"{path}: expected a name that ends in .png or .jpg")
    if not any(pictures for block in blocks for _, pictures in block.rows):
        raise OutputError(f"{path}: expected at least one picture for the contact sheet, found none")
    while True:
        sheet = _sheet([_block(b, cell) for b in blocks], abreast)
        for quality in _QUALITIES if path.suffix.lower() != ".png" else (0,):
            data = _encoded(sheet, path, quality)
            if max_bytes is None or len(data) <= max_bytes:
                _write(path, data)
                return
        if cell < 32:
            raise OutputError(f"{path}: {len(blocks)} blocks of pictures do not fit into {max_bytes} bytes; show fewer")
        cell = int(cell * _SMALLER)


def _sheet(blocks: Sequence[np.ndarray], abreast: int) -> np.ndarray:
    """Return the image [H, W, 3] of all blocks, row by row."""
    lines = [blocks[i : i + abreast] for i in range(0, len(blocks), abreast)]
    return _stacked([_stacked(line, 1) for line in lines], 0)


def _stacked(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Return pictures concatenated along `axis`; shorter ones are padded with the background colour."""
    most = max(p.shape[1 - axis] for p in pictures)

    def pad(p: np.ndarray) -> list[tuple[int, int]]:
        return [(0, most - p.shape[0] if axis else 0), (0, 0 if axis else most - p.shape[1]), (0, 0)]

    return np.concatenate([np.pad(p, pad(p), constant_values=PAPER) for p in pictures], axis)


def _block(block: Block, cell: int) -> np.ndarray:
    """Return the image [H, W, 3] of a block: title, column names, rows with their labels at the left."""
    label_width = max((_text_width(line, _SCALE) for label, _ in block.rows for line in label.split("\n")), default=0)
    label_width += 2 * GAP if label_width else 0
    rows = [[_scaled(p, cell) for p in pictures] for _, pictures in block.rows]
    head = _TITLE_HEIGHT * bool(block.title) + _COLUMN_HEIGHT * bool(block.columns)
    width = max([sum(p.shape[1] + GAP for p in row) for row in rows] + [_text_width(block.title, _TITLE_SCALE)])
    sheet = np.full((head + len(rows) * (cell + GAP), label_width + width, 3), PAPER, np.uint8)
    _write_text(sheet, block.title, 0, 18, _TITLE_SCALE)
    top = head
    for i, ((label, _), row) in enumerate(zip(block.rows, rows, strict=True)):
        for k, line in enumerate(label.split("\n")):
            _write_text(sheet, line, 0, top + 14 + k * _LINE, _SCALE)
        left = label_width
        for k, picture in enumerate(row):
            sheet[top : top + cell, left : left + picture.shape[1]] = picture
            if i == 0 and k < len(block.columns):
                _write_text(sheet, block.columns[k], left, head - 6, _SCALE)
            left += picture.shape[1] + GAP
        top += cell + GAP
    return np.pad(sheet, [(_MARGIN, 0), (_MARGIN, _MARGIN - GAP), (0, 0)], constant_values=PAPER)


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()  # OpenCV's font has no other characters


def _text_width(text: str, scale: float) -> int:
    return cv2.getTextSize(_ascii(text), _FONT, scale, 1)[0][0]


def _write_text(sheet: np.ndarray, text: str, left: int, base: int, scale: float) -> None:
    cv2.putText(sheet, _ascii(text), (left, base), _FONT, scale, (INK, INK, INK), 1, cv2.LINE_AA)


def _scaled(picture: np.ndarray, cell: int) -> np.ndarray:
    height, width = picture.shape[:2]
    way = cv2.INTER_AREA if height > cell else cv2.INTER_LINEAR
    return cv2.resize(picture, (max(1, round(width * cell / height)), cell), interpolation=way)


def _encoded(sheet: np.ndarray, path: Path, quality: int) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1] if quality else []
    good, data = cv2.imencode(path.suffix.lower(), sheet[..., ::-1], options)
    if not good:
        raise OutputError(f"{path}: a picture of {sheet.shape[1]} x {sheet.shape[0]} pixels cannot be encoded")
    return data.tobytes()


def _write(path: Path, data: bytes) -> None:
    try:
        with atomic_write(path, durable=False) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); check the disk and run again") from error
