"""The stored images of a tracked video: found at opening, decoded when asked for."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from guava_aug.errors import InputError
from guava_aug.failure import mark
from guava_aug.tracked import jpeg
from guava_aug.tracked.mdb import MdbFile, Slot

IMAGE, MASK = "body_image", "body_mask"
_MAX_SIDE = 8192  # pixels; the tracker stores 1024
_PERSON = 127  # mask values above belong to the person
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"


@dataclass(frozen=True)
class FrameImages:
    """Images and masks of the frames of one video. Holds no open file; safe to use from many threads."""

    video: str
    frame_keys: tuple[str, ...]
    file: MdbFile
    slots: tuple[tuple[Slot, Slot], ...]  # image, mask of each frame
    size: int  # pixels; side of every image

    @staticmethod
    def open(path: Path, video: str, frame_keys: Sequence[str], prefix: str = "") -> FrameImages:
        """The images of `frame_keys` in the LMDB file `path`, keys `<prefix><frame>/<image>`.

        Every image is looked up (presence, and lying within the file); frame 0 is decoded.

        Raises:
            InputError: a damaged or truncated file, missing frames, or a source frame (0) that cannot be used.
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
        rgb, mask = images.read(0, strict=True)
        if not (mask > _PERSON).any():
            raise InputError(
                f"video {video!r}, frame {frame_keys[0]!r}, {MASK}: the mask is empty, so the source image shows no "
                "person. Track the video again, or start it at another frame."
            )
        return FrameImages(video, tuple(frame_keys), file, tuple(slots), rgb.shape[0])

    def read(self, index: int, *, strict: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Frame `index`: RGB uint8 [H, W, 3] and mask uint8 [H, W], both of the stored square size.

        strict: look for damage with all means, which takes twice as long.
        """
        rgb = self._decode(index, 0, strict)
        return rgb, self._decode(index, 1, strict, expected=rgb.shape[0])

    def samples(self, count: int) -> Iterator[bytes]:
        """The stored length of every image and mask, then the bytes of those of `count` frames, spread evenly."""
        yield repr([(image.size, mask.size) for image, mask in self.slots]).encode()
        last = len(self.slots) - 1
        for index in sorted({last * i // max(count - 1, 1) for i in range(count)}):
            for slot in self.slots[index]:
                yield self.file.read(slot)

    def _decode(self, index: int, which: int, strict: bool, expected: int = 0) -> np.ndarray:
        kind = (IMAGE, MASK)[which]
        where = f"video {self.video!r}, frame {self.frame_keys[index]!r}, {kind}"
        try:
            image = decode_image(self.file.read(self.slots[index][which]), channels=(3, 1)[which], strict=strict)
        except (_BadImage, InputError) as e:
            raise mark(InputError(f"{where} in {self.file.path}: {e}"), frame=index) from e
        height, width = image.shape[:2]
        if height != width:
            raise mark(InputError(f"{where}: expected a square image, found {width} x {height} pixels."), frame=index)
        expected = self.size or expected
        if expected and height != expected:
            reason = (
                f"{where}: expected {expected} x {expected} pixels as in the video's other images, "
                f"found {width} x {height}. Track the video again."
            )
            raise mark(InputError(reason), frame=index)
        return image


class _BadImage(ValueError):
    """Stored bytes that are no usable image; the message is the reason."""


def decode_image(data: bytes, channels: int, *, strict: bool = False) -> np.ndarray:
    """uint8 [H, W, 3] RGB (`channels` 3) or [H, W] (1) of a JPEG or PNG, or of a tensor saved by `torch.save`.

    strict: also find the damage to a JPEG that only decoding it a second time shows.
    """
    size: tuple[int, int] | None
    header = None
    if data.startswith(jpeg.START):
        header, complete = jpeg.read_header(data), jpeg.is_complete(data)
        size = header and (header.width, header.height)
    elif data.startswith(_PNG) and len(data) >= 24:
        size = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        complete = _PNG_END in data[-jpeg.END_SLACK :]
    else:
        return _saved_tensor(data, channels)
    if not complete:
        raise _BadImage(f"the image is truncated ({len(data)} bytes): it lacks its end mark")
    if size is None or not all(0 < n <= _MAX_SIDE for n in size):
        raise _BadImage("the image is damaged" if size is None else f"an image of {size[0]} x {size[1]} pixels")
    if header is not None and jpeg.is_damaged(data, header, strict=strict):
        raise _BadImage("the image is damaged: its JPEG data are broken. Copy it again, or track the video again")
    flags = cv2.IMREAD_IGNORE_ORIENTATION | (cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as e:
        raise _BadImage(f"the image does not decode ({e})") from e
    if image is None:
        raise _BadImage("the image does not decode")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if channels == 3 else image


def _saved_tensor(data: bytes, channels: int) -> np.ndarray:
    """The original's fallback for values that are no image: a saved tensor, uint8 or 0..255, [C, H, W] or [H, W]."""
    if not zipfile.is_zipfile(io.BytesIO(data)) and not data.startswith(b"\x80"):
        raise _BadImage(f"{len(data)} bytes that are neither JPEG nor PNG nor a saved tensor")
    try:
        tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as e:  # damaged archives raise nearly anything
        raise _BadImage(f"a saved object that does not load as a tensor ({type(e).__name__})") from e
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.dtype.is_complex:
        raise _BadImage(f"a saved {type(tensor).__name__}, expected a tensor")
    while tensor.ndim > 3 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3) or not 0 < max(tensor.shape[1:]) <= _MAX_SIDE:
        raise _BadImage(f"a saved tensor of shape {tuple(tensor.shape)}, expected [3, H, W] or [1, H, W]")
    if 0 in tensor.shape:
        raise _BadImage("a saved tensor without pixels")
    if tensor.dtype != torch.uint8:
        if not bool(torch.isfinite(tensor.float()).all()):
            raise _BadImage("a saved tensor with NaN or infinite values")
        tensor = tensor.float().round().clamp(0, 255).to(torch.uint8)
    if channels == 1:
        return np.ascontiguousarray(tensor[0].numpy())
    return np.ascontiguousarray(tensor.expand(3, -1, -1).permute(1, 2, 0).numpy())
