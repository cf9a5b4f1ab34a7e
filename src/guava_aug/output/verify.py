"""Verification of all files of a finished view: the MP4, the sidecar beside it, the PNGs."""

from __future__ import annotations

import math
import os
import struct
import zlib
from fractions import Fraction
from pathlib import Path

from guava_aug.errors import OutputError
from guava_aug.output.metadata import load_sidecar, read_sidecar
from guava_aug.output.mp4_probe import probe_frame_count
from guava_aug.output.tree import png_dir, sidecar_path, video_path
from guava_aug.runtime.files import file_digest
from guava_aug.runtime.frame_rate import Rate
from guava_aug.runtime.text import pluralize

_BLOCK = 1 << 20  # bytes read at a time
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER, _END = b"IHDR", b"IEND"


def verify_view(
    root: str | os.PathLike[str],
    label: str,
    name: str,
    *,
    frames: int | None = None,
    fps: Rate | None = None,
    digest: str | None = None,
    has_sidecar: bool = False,
    has_pngs: bool = False,
) -> None:
    """Raise OutputError unless every file of a view can be read completely and has the expected content.

    Args:
        root: Output root.
        label: Label of the view.
        name: Name of the video.
        frames: Frames of the view; None: as many as its MP4 lists.
        fps: Frames per second; None: unknown, and times are not checked.
        digest: Digest of the MP4 when it was written (`file_digest`). With it every byte is compared and nothing is
            decoded, as it was decoded when written. Without it, damage that decodes to other pictures is not detected:
            H.264 has no checksums.
        has_sidecar: Require a sidecar. An existing one is always checked.
        has_pngs: Require a PNG of every frame. They are not checked otherwise.
    """
    path, beside = video_path(root, label, name), sidecar_path(root, label, name)
    if digest is not None:
        try:
            found = file_digest(path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be read ({error})") from error
        if found != digest:
            raise OutputError(f"{path}: is damaged (its SHA-256 differs from that of the written file)")
    if frames is None:
        try:
            frames = probe_frame_count(path)
        except (OSError, ValueError) as error:
            raise OutputError(f"{path}: is damaged ({error})") from error
    if digest is None:
        from guava_aug.output.video import verify_video  # noqa: PLC0415 - imports PyAV, which is slow

        times = read_sidecar(beside).get("times")  # of a variable rate
        verify_video(path, frames, rate=fps, times=[Fraction(t) for t in times] if times else None)
    if has_sidecar or os.path.lexists(beside):
        verify_sidecar(beside, frames, fps)
    if has_pngs:
        verify_pngs(png_dir(root, label, name), frames)


def verify_sidecar(path: Path, frames: int, fps: Rate | None = None) -> None:
    """Raise OutputError unless a sidecar can be read and lists the expected number of frames and rate."""
    content = load_sidecar(path)
    sources = content.get("source_frames")
    counts = [content.get("frames"), *([len(sources)] if isinstance(sources, list) else [])]
    if any(count != frames for count in counts):
        raise OutputError(f"{path}: is damaged (expected {pluralize(frames, 'frame')}, found {counts[-1]!r:.40})")
    for key in ("yaw", "pitch", "zoom", "fps"):
        value = content.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise OutputError(f"{path}: is damaged (expected {key} to be a number, found {value!r:.40})")
    if fps is not None and abs(content["fps"] / float(fps) - 1) > 1e-6:
        raise OutputError(f"{path}: is damaged (expected {float(fps):g} fps, found {content['fps']:g})")


def verify_pngs(folder: Path, frames: int) -> None:
    """Raise OutputError unless `folder` contains 00000.png ... for all frames, with correct checksums."""
    size = None
    for index in range(frames):
        path = folder / f"{index:05d}.png"
        try:
            found = _png_size(path.read_bytes())
        except FileNotFoundError as error:
            raise OutputError(f"{path}: is not there") from error
        except (OSError, ValueError) as error:
            raise OutputError(f"{path}: is damaged ({error})") from error
        size = size or found
        if found != size:
            raise OutputError(f"{path}: expected {size[0]}x{size[1]} pixels as before, found {found[0]}x{found[1]}")


def _png_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a PNG with correct checksums.

    Raises:
        ValueError: The PNG is damaged.
    """
    if not data.startswith(_SIGNATURE):
        raise ValueError("it is not a PNG")
    at, kinds, size = len(_SIGNATURE), [], (0, 0)
    while at < len(data):
        if at + 12 > len(data):
            raise ValueError("it is truncated")
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise ValueError("it is truncated")
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(memoryview(data)[at + 4 : at + 8 + length]) != checksum:
            raise ValueError(f"a checksum at byte {at} is wrong")
        if kind == _HEADER and length >= 8:
            size = struct.unpack_from(">II", data, at + 8)
        kinds.append(kind)
        at += 12 + length
    if not kinds or kinds[0] != _HEADER or kinds[-1] != _END or b"IDAT" not in kinds:
        raise ValueError("it is truncated")
    return size
