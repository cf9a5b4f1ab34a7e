"""The focal length in the EXIF data of a picture.

Source: EXIF 2.32 (tags), TIFF 6.0 (folders), JPEG and PNG (where they are kept).
"""

from __future__ import annotations

import struct
from pathlib import Path

_READ = 1 << 20  # bytes from the beginning of a file that are searched
_EXIF_FOLDER, _FOCAL_35MM = 0x8769, 0xA405
_SHORT, _LONG = 3, 4
_MOST_ENTRIES = 512
_MOST = 2000.0  # mm


def read_focal_35mm(path: Path) -> float | None:
    """Return the focal length in mm of a 35 mm film camera that a JPEG, PNG or TIFF was taken with; None: unknown."""
    try:
        with path.open("rb") as file:
            data = file.read(_READ)
    except OSError:
        return None
    tiff = _tiff_of(data)
    if tiff is None:
        return None
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        first = _entries(tiff, struct.unpack_from(order + "I", tiff, 4)[0], order)
        inner = _entries(tiff, first[_EXIF_FOLDER], order) if _EXIF_FOLDER in first else {}
        focal = {**first, **inner}.get(_FOCAL_35MM, 0)
    except (KeyError, struct.error):
        return None
    return float(focal) if 0 < focal < _MOST else None


def _tiff_of(data: bytes) -> bytes | None:
    """Return the TIFF structure within a file."""
    if data[:4] in (b"II*\0", b"MM\0*"):
        return data
    if data[:2] == b"\xff\xd8":
        at = 2
        while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
                return data[at + 10 : at + 2 + length]
            at += 2 + max(length, 2)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        at = 8
        while at + 8 <= len(data):
            length = int.from_bytes(data[at : at + 4], "big")
            if data[at + 4 : at + 8] == b"eXIf":
                return data[at + 8 : at + 8 + length]
            at += 12 + length
    return None


def _entries(tiff: bytes, at: int, order: str) -> dict[int, int]:
    """Return the whole numbers of a folder: tag -> value."""
    found: dict[int, int] = {}
    count = struct.unpack_from(order + "H", tiff, at)[0]
    for i in range(min(count, _MOST_ENTRIES)):
        tag, kind, number = struct.unpack_from(order + "HHI", tiff, at + 2 + 12 * i)
        if number == 1 and kind in (_SHORT, _LONG):
            found[tag] = struct.unpack_from(order + ("H" if kind == _SHORT else "I"), tiff, at + 2 + 12 * i + 8)[0]
    return found
