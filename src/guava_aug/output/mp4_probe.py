"""Reading of an MP4 file's boxes without decoding: completeness and number of frames."""

from __future__ import annotations

import struct
from pathlib import Path

LARGEST_INDEX = 64 << 20  # bytes of a `moov` box that are still read; a day of video has less


def probe_frame_count(path: Path) -> int:
    """Return the number of frames listed in the file; a few small reads, whatever its length.

    Raises:
        ValueError: Empty, truncated, or not an MP4; the message says which.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    if size == 0:
        raise ValueError("the file is empty")
    index: bytes | None = None
    names: set[bytes] = set()
    with open(path, "rb") as file:
        at = 0
        while at < size:
            file.seek(at)
            head = file.read(16)
            if len(head) < 8:
                raise ValueError(f"the file is cut off at byte {size}")
            length, name = struct.unpack(">I4s", head[:8])
            skip = 8
            if length == 1 and len(head) == 16:
                length, skip = struct.unpack(">Q", head[8:])[0], 16
            elif length == 0:
                length = size - at
            if length < skip or (not names and name != b"ftyp"):
                raise ValueError("the file is not an MP4")
            if at + length > size:
                raise ValueError(f"the file is cut off: {size} bytes of {at + length}")
            names.add(name)
            if name == b"moov" and length <= LARGEST_INDEX:
                file.seek(at + skip)
                index = file.read(length - skip)
            at += length
    if index is None or b"mdat" not in names:
        raise ValueError("the file has no index or no frames")
    table = index.find(b"stsz")  # 4 bytes version and flags, 4 sample size, 4 sample count
    if table < 0 or table + 16 > len(index):
        raise ValueError("the index lists no frames")
    frames: int = struct.unpack(">I", index[table + 12 : table + 16])[0]
    if frames == 0:
        raise ValueError("the file holds no frame")
    return frames
