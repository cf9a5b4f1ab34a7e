"""The stored images of a tracked video: located on opening, decoded on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from guava_aug.errors import InputError, annotate
from guava_aug.runtime.saved_tensors import SavedTensorsError, load_tensors
from guava_aug.tracked import jpeg, png
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
    if data.startswith(jpeg.START):
        header, complete = jpeg.read_header(data), jpeg.is_complete(data)
        size = header and (header.width, header.height)
    elif data.startswith(png.START):
        size, complete = png.read_size(data), png.END in data[-jpeg.END_SLACK :]
    else:
        return _saved_tensor(data, channels, side)
    if not complete:
        raise _BadImage(f"the image is truncated ({len(data)} bytes): it lacks its end marker")
    if size is None or not all(0 < n <= _MAX_SIDE for n in size):
        raise _BadImage("the image is damaged" if size is None else f"an image of {size[0]} x {size[1]} pixels")
    _check_size(*size, side)
    if header is None:
        picture = png.only_picture(data)
        if picture is None:
            raise _BadImage("the image is damaged: its PNG chunks are broken. Copy it again, or track the video again")
        data = picture
    if header is not None and jpeg.is_damaged(data, header, strict=strict):
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
