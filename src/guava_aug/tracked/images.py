"""The stored images of a tracked video: located on opening, checked and decoded on demand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import torch
from av.codec import CodecContext

from guava_aug.errors import InputError, annotate
from guava_aug.runtime.saved_tensors import SavedTensorsError, load_tensors
from guava_aug.tracked.mdb import MdbFile, Slot

IMAGE, MASK = "body_image", "body_mask"
KNOWN = "body_known"  # of the whole video, optional: what the video shows of the square
_MAX_SIDE = 8192  # pixels; the tracker stores 1024
_PERSON = 127  # mask values above belong to the person
_MASK_ADVICE = "store a mask as 8 bit, 0 for background and 255 for the person (multiply 0..1 by 255)"
_IMAGE_ADVICE = "store RGB as 8 bit, 0..255 (multiply 0..1 by 255)"
_KINDS = (  # first bytes of common other formats
    (0, b"GIF8", "a GIF"), (8, b"WEBP", "a WebP picture"), (0, b"BM", "a BMP"), (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"), (4, b"ftypavif", "an AVIF picture"), (4, b"ftyphei", "a HEIF picture"),
    (4, b"jP  ", "a JPEG 2000 picture"), (0, b"\xff\x0a", "a JPEG XL picture"), (4, b"JXL ", "a JPEG XL picture"),
    (0, b"\x93NUMPY", "a numpy array"), (0, b"\x1f\x8b", "gzip data"), (0, b"data:", "a data URL"),
)  # fmt: skip

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_SCAN = 0xDA  # second byte of the marker before the scans of a JPEG
_END_SLACK = 64  # bytes at the end of a file, in which the end marker must be
_HOLE = bytes(64)  # zeros of a hole in a copied file; more than a block of luma can have
# within the scans: escaped 255, restarts, and what may stand between scans (tables, comments, fill bytes)
_STRAY = re.compile(rb"\xff[^\x00\xc4\xd0-\xd7\xda-\xdd\xfe\xff]")
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2  # frame markers of the kinds with Huffman codes
_TABLES, _LUMA_AC = b"\xff\xc4", 0x10
_MOST_SCANS = 100  # a progressive one has about ten; each costs as much as a whole picture
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
_CHUNK_FIXED = 12  # bytes of a PNG's chunk beside its data: length, type, checksum
_CHUNKS_NEEDED = frozenset(
    {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}  # the picture
    | {b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"hIST", b"pHYs", b"tIME"}  # short, never compressed
)
_LONGEST_CHUNK = 1024  # bytes; PLTE has 768 at most


@dataclass(frozen=True)
class FrameImages:
    """Images and masks of the frames of one video. Holds no open file; safe to use from many threads."""

    video: str
    frame_keys: tuple[str, ...]
    file: MdbFile
    slots: tuple[tuple[Slot, Slot], ...]  # image, mask of each frame
    size: int  # pixels; side of every image
    known: np.ndarray | None = None  # [S, S] uint8, 255 = the video shows it, 0 = it ends before; None: all of it

    @staticmethod
    def open(path: Path, video: str, frame_keys: Sequence[str], prefix: str = "", source: int = 0) -> FrameImages:
        """Return the images of `frame_keys` in the LMDB file `path`, keys `<prefix><frame>/<image>`.

        Every image is located (presence, and position within the file); the source frame, number `source`, is decoded.

        Raises:
            InputError: A damaged or truncated file, missing frames, or a source frame that cannot be used.
        """
        try:
            file = MdbFile(path)
            found = dict(file.scan(prefix.encode()))
        except InputError as e:
            raise InputError(f"video {video!r}: {e}") from e
        slots: list[tuple[Slot, Slot]] = []
        missing: list[str] = []
        for frame in frame_keys:
            names = [f"{prefix}{frame}/{kind}" for kind in (IMAGE, MASK)]
            pair = [found.get(name.encode()) for name in names]
            missing += [name for name, slot in zip(names, pair, strict=True) if slot is None]
            if pair[0] is not None and pair[1] is not None:
                slots.append((pair[0], pair[1]))
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputError(f"video {video!r}: {path} has no image {missing[0]!r}{more}. Track the video again.")
        for frame, pair_slots in zip(frame_keys, slots, strict=True):
            for slot, kind in zip(pair_slots, (IMAGE, MASK), strict=True):
                try:
                    file.check_inside(slot.offset, slot.size)
                except InputError as e:
                    raise InputError(f"video {video!r}, frame {frame!r}, {kind}: {e}") from e
        images = FrameImages(video, tuple(frame_keys), file, tuple(slots), 0)
        rgb, mask = images.read(source, strict=True)
        if not (mask > _PERSON).any():
            where = f"video {video!r}, frame {frame_keys[source]!r}, {MASK}"
            if mask.max() == 1:
                raise InputError(f"{where}: its values are 0 to 1, expected 0 to 255; {_MASK_ADVICE}.")
            raise InputError(
                f"{where}: the mask is empty, so the source image shows no person. Track the video again, or take "
                "another frame as the source (--source_frame)."
            )
        known = images.known_plane(found.get(f"{prefix}{KNOWN}".encode()), rgb.shape[0])
        return FrameImages(video, tuple(frame_keys), file, tuple(slots), rgb.shape[0], known)

    def known_plane(self, slot: Slot | None, side: int) -> np.ndarray | None:
        """Return the plane of `KNOWN` [side, side]; None: there is none, so that all is known.

        Raises:
            InputError: It is damaged, of another size, or nothing is known.
        """
        if slot is None:
            return None
        where = f"video {self.video!r}, {KNOWN}"
        try:
            self.file.check_inside(slot.offset, slot.size)
            plane = decode_image(self.file.read(slot), 1, strict=True, side=side)
        except (_BadImage, InputError) as e:
            raise InputError(f"{where} in {self.file.path}: {e}") from e
        known = np.where(plane > _PERSON, 255, 0).astype(np.uint8)
        if not known.any():
            raise InputError(f"{where}: nothing of the picture is known; expected 255 where the video shows something.")
        return None if known.all() else known

    def read(self, index: int, *, strict: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return frame `index`: RGB uint8 [H, W, 3] and mask uint8 [H, W], both of the stored square size.

        `strict` detects more kinds of damage, in twice the time.
        """
        rgb = self._decode(index, 0, strict)
        return rgb, self._decode(index, 1, strict, expected=rgb.shape[0])

    def samples(self, count: int) -> Iterator[bytes]:
        """Return the stored length of every image and mask, then the bytes of those of `count` frames.

        The frames are spread evenly.
        """
        yield repr([(image.size, mask.size) for image, mask in self.slots]).encode()
        last = len(self.slots) - 1
        for index in sorted({last * i // max(count - 1, 1) for i in range(count)}):
            for slot in self.slots[index]:
                yield self.file.read(slot)

    def _decode(self, index: int, which: int, strict: bool, expected: int = 0) -> np.ndarray:
        kind = (IMAGE, MASK)[which]
        where = f"video {self.video!r}, frame {self.frame_keys[index]!r}, {kind}"
        try:
            data, channels = self.file.read(self.slots[index][which]), (3, 1)[which]
            return decode_image(data, channels, strict=strict, side=self.size or expected)
        except _WrongSize as e:
            raise annotate(InputError(f"{where}: {e}"), frame=index) from e
        except (_BadImage, InputError) as e:
            raise annotate(InputError(f"{where} in {self.file.path}: {e}"), frame=index) from e


class _BadImage(ValueError):
    """Stored bytes that are not a usable image; the message is the reason."""


class _WrongSize(_BadImage):
    """An image that is complete but differs in size from the others."""


def decode_image(data: bytes, channels: int, *, strict: bool = False, side: int = 0) -> np.ndarray:
    """Return uint8 [S, S, 3] RGB (`channels` 3) or [S, S] (1) of a JPEG or PNG, or of a tensor saved by `torch.save`.

    Args:
        data: The stored bytes.
        channels: 3 for an image, 1 for a mask.
        strict: Also detect damage to a JPEG that only a second decoder reports.
        side: The required S, pixels; 0: any. Checked first: decoding a picture may take much more memory than its
            bytes.
    """
    size: tuple[int, int] | None
    header = None
    if data.startswith(_JPEG_START):
        header, complete = read_jpeg_header(data), _JPEG_END in data[-_END_SLACK:]
        size = header and (header.width, header.height)
    elif data.startswith(_PNG_START):
        size, complete = _png_size(data), _PNG_END in data[-_END_SLACK:]
    else:
        return _saved_tensor(data, channels, side)
    if not complete:
        raise _BadImage(f"the image is truncated ({len(data)} bytes): it lacks its end marker")
    if size is None or not all(0 < n <= _MAX_SIDE for n in size):
        raise _BadImage("the image is damaged" if size is None else f"an image of {size[0]} x {size[1]} pixels")
    _check_size(*size, side)
    if header is None:
        picture = _only_picture(data)
        if picture is None:
            raise _BadImage("the image is damaged: its PNG chunks are broken. Copy it again, or track the video again")
        data = picture
    if header is not None and is_damaged_jpeg(data, header, strict=strict):
        raise _BadImage("the image is damaged: its JPEG data are broken. Copy it again, or track the video again")
    flags = cv2.IMREAD_IGNORE_ORIENTATION | (cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as e:
        raise _BadImage(f"the image does not decode ({e})") from e
    if image is None:
        raise _BadImage("the image does not decode")
    _check_size(image.shape[1], image.shape[0], side)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if channels == 3 else image


def _check_size(width: int, height: int, side: int) -> None:
    if height != width:
        raise _WrongSize(f"expected a square image, found {width} x {height} pixels.")
    if side and height != side:
        raise _WrongSize(
            f"expected {side} x {side} pixels as in the video's other images, found {width} x {height}. Track the "
            "video again."
        )


def _saved_tensor(data: bytes, channels: int, side: int) -> np.ndarray:
    """Return the image of a saved tensor, uint8 or 0..255, [C, H, W] or [H, W]: the original's fallback format."""
    if data.startswith(b"\x80"):
        raise _BadImage("a pickle, which does not load here: save the tensor with torch.save of torch 1.6 or later")
    if not data.startswith(b"PK"):
        raise _BadImage(_instead_of_image(data))
    try:
        tensor = load_tensors(data)
    except SavedTensorsError as e:
        raise _BadImage(f"a saved object that does not load as a tensor, expected one of uint8 ({e})") from e
    try:
        return _image_of_tensor(tensor, channels, side)
    except _BadImage:
        raise
    except Exception as e:  # kinds of tensors with hardly any operations
        kind = f"{type(tensor).__name__} of {getattr(tensor, 'dtype', 'unknown type')}"
        raise _BadImage(f"a saved {kind}, expected a plain tensor of uint8 ({type(e).__name__})") from e


def _image_of_tensor(tensor: object, channels: int, side: int) -> np.ndarray:
    if not isinstance(tensor, torch.Tensor) or tensor.dtype.is_complex:
        raise _BadImage(f"a saved {type(tensor).__name__}, expected a tensor of uint8")
    while tensor.ndim > 3 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3) or not 0 < max(tensor.shape[1:]) <= _MAX_SIDE:
        advice = "; permute(2, 0, 1) before saving" if tensor.ndim == 3 and tensor.shape[2] in (1, 3) else ""
        raise _BadImage(f"a saved tensor of shape {tuple(tensor.shape)}, expected [3, H, W] or [1, H, W]{advice}")
    if 0 in tensor.shape:
        raise _BadImage("a saved tensor without pixels")
    _check_size(tensor.shape[2], tensor.shape[1], side)
    if tensor.stride(0) == 0:  # one channel, expanded
        tensor = tensor[:1]
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise _BadImage("a saved tensor whose pixels share places; store tensor.contiguous()")
    if tensor.dtype != torch.uint8:
        tensor = tensor.float()
        if not bool(torch.isfinite(tensor).all()):
            raise _BadImage("a saved tensor with NaN or infinite values")
        if side == 0 and 0 < float(tensor.max()) <= 1:  # the source image; another may be a black frame
            raise _BadImage(f"a saved tensor with values between 0 and 1, expected 0..255; {_IMAGE_ADVICE}")
        tensor = tensor.round().clamp(0, 255).to(torch.uint8)
    if channels == 1:
        return np.ascontiguousarray(tensor[0].numpy())
    return np.ascontiguousarray(tensor.expand(3, -1, -1).permute(1, 2, 0).numpy())


def _instead_of_image(data: bytes) -> str:
    """Return the kind of stored bytes that are not an image."""
    for at, mark_, kind in _KINDS:
        if data[at : at + len(mark_)] == mark_:
            return f"{kind}, neither JPEG nor PNG nor a saved tensor; store the bytes of a JPEG or PNG file"
    if 0 < len(data) < 4096 and data.isascii() and data.decode("ascii").isprintable():
        words = data[:60].decode()
        return f"text ({words!r}), neither JPEG nor PNG nor a saved tensor; store the bytes of the file, not its path"
    return f"{len(data)} bytes that are neither JPEG nor PNG nor a saved tensor"


class JpegHeader(NamedTuple):
    """The frame header, and where the scans begin."""

    kind: int  # second byte of its marker
    width: int  # pixels
    height: int
    scan: int  # byte at which the first scan's marker is; -1: there is none


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """Return the frame header of a JPEG; None if there is none. A thumbnail in another segment is skipped."""
    at, found = 2, None
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # fill byte, or no length follows
            at += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[i : i + 2], "big") for i in (at + 5, at + 7))
            found = JpegHeader(marker, width, height, -1)
        if marker == _SCAN:
            return found and found._replace(scan=at)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return found


def is_damaged_jpeg(data: bytes, header: JpegHeader, *, strict: bool) -> bool:
    """Return whether the format of a complete JPEG is broken: OpenCV decodes one to a wrong picture, without an error.

    JPEG has no checksum. Damage to the format is detected; changed bytes that decode as other colours are not.

    `strict` decodes it with FFmpeg too, which takes about as long as OpenCV does; otherwise only markers and holes are
    checked (2 % of the time to decode).
    """
    kind, start, end = header.kind, header.scan, data.rfind(_JPEG_END)
    if start < 0 or _STRAY.search(data, start, end) or data.count(bytes((0xFF, _SCAN)), start, end) > _MOST_SCANS:
        return True
    if kind in _SEQUENTIAL and data.find(_HOLE, start, end) >= 0 and not _ends_blocks_with_zeros(data[:start]):
        return True
    return strict and kind in (*_SEQUENTIAL, _PROGRESSIVE) and not _decodes_strictly(data)


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


def _decodes_strictly(data: bytes) -> bool:
    codec = CodecContext.create("mjpeg", "r")
    codec.thread_count = 1  # as there are many callers
    codec.options = {"err_detect": "explode"}
    try:
        return bool(codec.decode(av.Packet(data)) + codec.decode(None))
    except av.error.InvalidDataError:
        return False
    except av.error.FFmpegError:  # a kind that FFmpeg does not know
        return True


def _png_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels of a PNG, from its header; None if it is too short for one."""
    if len(data) < 24 or data[12:16] != b"IHDR":
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _only_picture(data: bytes) -> bytes | None:
    """Return the same PNG without texts, profiles and anything else but the picture; None if its chunks are broken.

    The bytes are unchanged if there is nothing to remove. OpenCV's decoder inflates every compressed text and colour
    profile, up to 8 MB each: a PNG of 3 MB with 900 of them takes 46 s and 3.5 GB. None of them affects the pixels.
    """
    at, kept = len(_PNG_START), [_PNG_START]
    left_out = False
    while at + _CHUNK_FIXED <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + _CHUNK_FIXED + length
        if end > len(data):
            return None
        if kind == b"IDAT" or (kind in _CHUNKS_NEEDED and length <= _LONGEST_CHUNK):
            kept.append(data[at:end])
        else:
            left_out = True
        at = end
        if kind == _PNG_END:
            return b"".join(kept) if left_out else data
    return None
