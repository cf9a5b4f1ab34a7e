"""Detection of damaged JPEGs: OpenCV decodes one to a wrong picture, without an error.

JPEG has no checksum. Damage to the format is detected; changed bytes that decode as other colours are not.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import av
from av.codec import CodecContext

START, END = b"\xff\xd8", b"\xff\xd9"
_SCAN = 0xDA  # second byte of the marker
END_SLACK = 64  # bytes in which the end marker must be
_HOLE = bytes(64)  # zeros of a hole in a copied file; more than a block of luma can have
# within the scans: escaped 255, restarts, and what may stand between scans (tables, comments, fill bytes)
_STRAY = re.compile(rb"\xff[^\x00\xc4\xd0-\xd7\xda-\xdd\xfe\xff]")
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2  # frame markers of the kinds with Huffman codes
_TABLES, _LUMA_AC = b"\xff\xc4", 0x10
_MOST_SCANS = 100  # a progressive one has about ten; each costs as much as a whole picture


class Header(NamedTuple):
    """The frame header, and where the scans begin."""

    kind: int  # second byte of its marker
    width: int  # pixels
    height: int
    scan: int  # byte at which the first scan's marker is; -1: there is none


def read_header(data: bytes) -> Header | None:
    """Return the frame header of a JPEG; None if there is none. A thumbnail in another segment is skipped."""
    at, found = 2, None
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # fill byte, or no length follows
            at += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[i : i + 2], "big") for i in (at + 5, at + 7))
            found = Header(marker, width, height, -1)
        if marker == _SCAN:
            return found and found._replace(scan=at)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return found


def is_complete(data: bytes) -> bool:
    """Return whether the end marker is present."""
    return END in data[-END_SLACK:]


def is_damaged(data: bytes, header: Header, *, strict: bool) -> bool:
    """Return whether the format of a complete JPEG is broken.

    `strict` decodes it with FFmpeg too, which takes about as long as OpenCV does; otherwise only markers and holes are
    checked (2 % of the time to decode).
    """
    kind, start, end = header.kind, header.scan, data.rfind(END)
    if start < 0 or _STRAY.search(data, start, end) or data.count(bytes((0xFF, _SCAN)), start, end) > _MOST_SCANS:
        return True
    if kind in _SEQUENTIAL and data.find(_HOLE, start, end) >= 0 and not _ends_blocks_with_zeros(data[:start]):
        return True
    return strict and kind in (*_SEQUENTIAL, _PROGRESSIVE) and not _decodes(data)


def _ends_blocks_with_zeros(headers: bytes) -> bool:
    """Return whether zeros may be empty blocks of luma.

    They are if "no more coefficients" is the first code of their table.
    """
    at = 2
    while at < len(headers):
        table = headers[at + 4 : at + 2 + int.from_bytes(headers[at + 2 : at + 4], "big")]
        is_table = headers[at : at + 2] == _TABLES
        at += 4 + len(table)
        while is_table and table:  # class and number, how many codes of 1 to 16 bits, their symbols
            if table[0] == _LUMA_AC:
                return table[17:18] == b"\0"
            table = table[17 + sum(table[1:17]) :]
    return True


def _decodes(data: bytes) -> bool:
    codec = CodecContext.create("mjpeg", "r")
    codec.thread_count = 1  # as there are many callers
    codec.options = {"err_detect": "explode"}
    try:
        return bool(codec.decode(av.Packet(data)) + codec.decode(None))
    except av.error.InvalidDataError:
        return False
    except av.error.FFmpegError:  # a kind that FFmpeg does not know
        return True
