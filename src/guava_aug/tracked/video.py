"""A tracked video: identity, motion, cameras, and the frames."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from guava_aug.body.params import Identity, Motion
from guava_aug.errors import InputError, UsageError
from guava_aug.runtime.cpus import usable_cpus
from guava_aug.runtime.frame_rate import Rate
from guava_aug.runtime.safe_pickle import load_pickle
from guava_aug.runtime.text import pluralize
from guava_aug.runtime.timing import DECODE, busy
from guava_aug.tracked import layout
from guava_aug.tracked.images import FrameImages
from guava_aug.tracked.parameters import PartCrops, read_crops, read_identity, read_motion, read_viewmats
from guava_aug.tracked.timemap import Timing
from guava_aug.views.cameras import resized_K

SOURCE_SIZE = 518  # pixels; input size of the image encoder (37 patches of 14)
_MAX_THREADS = 8
_PLAIN = "store the dictionary by pickle.dump, with numpy arrays"
_INSTEAD_OF_PICKLE = (
    (b"PK\x03\x04", "a zip archive, as torch.save and numpy.savez write", _PLAIN),
    (b"\x93NUMPY", "a numpy array file", _PLAIN),
    (b"\x1f\x8b", "gzip data", "unpack it"), (b"BZh", "bzip2 data", "unpack it"),
    (b"\xfd7zXZ", "xz data", "unpack it"), (b"\x28\xb5\x2f\xfd", "zstd data", "unpack it"),
    (b"\x89HDF", "an HDF5 file", _PLAIN), (b"{", "text, perhaps JSON", _PLAIN),
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """The data an avatar is made from: one frame of a video, the first by default."""

    image: Tensor  # [3, S, S] float 0..1, the person on black
    identity: Identity
    motion: Motion  # T = 1
    viewmat: Tensor  # [4, 4] world to camera, OpenCV axes
    K: Tensor | None = None  # [3, 3] lens, pixels of `image`; None: the format's own, nearly orthographic
    picture: Tensor | None = None  # [4, H, W] uint8 RGB and mask as stored; only models with `source_pixels` need it


@dataclass(frozen=True)
class Chunk:
    """Frames `start` to `stop` (exclusive) of a video, T of them."""

    start: int
    stop: int
    motion: Motion
    viewmats: Tensor  # [T, 4, 4]
    images: Tensor  # [T, 3, h, w] float 0..1
    masks: Tensor  # [T, 1, h, w] float 0..1, 1 = person

    def __len__(self) -> int:
        """Return the number of frames T."""
        return self.stop - self.start


@dataclass(frozen=True)
class TrackedVideo:
    """One tracked video, all its parameters in memory (CPU), its images on disk.

    Holds no open file. Use `TrackedVideo.open` to create one.
    """

    name: str
    path: Path
    frame_keys: tuple[str, ...]  # in playing order
    fps: Rate | None  # None: not in the tracked data
    source_frames: list[int] | None  # number of each frame in the original video; None: not in the tracked data
    identity: Identity
    motion: Motion  # all T frames
    viewmats: Tensor  # [T, 4, 4] float32 world to camera, OpenCV axes
    _images: FrameImages = field(repr=False)
    _crops: PartCrops = field(repr=False)
    K: Tensor | None = None  # [3, 3] lens, pixels of the stored images; None: the format's own, nearly orthographic
    source_frame: int = 0  # number of the frame (from 0) that the avatar is made from
    times: layout.FrameTimes | None = None  # of the frames in the original video; None: as `fps` says
    sound: Path | None = None  # the file with the clip's sound, which begins with the first frame

    @classmethod
    def open(
        cls, tracked_root: str | Path, name: str, *, timing: Timing | None = None, source_frame: int = 0
    ) -> TrackedVideo:
        """Return video `name` below `tracked_root`; `timing` overrides the times in its `videos_info.json`.

        Everything that is cheap to check is checked here: all parameters of all frames, the presence of all images
        within the image file, and the source frame's image and mask by decoding them. The other images are checked when
        they are decoded.

        Args:
            tracked_root: Folder with tracked videos.
            name: Name of the video.
            timing: Frame rate and source frames.
            source_frame: Number of the frame (from 0, in playing order) that the avatar is made from.

        Raises:
            InputError: Names the video, and the frame and key if there is one.
        """
        files = layout.find_video(tracked_root, name)
        name, last = files.name, len(files.frame_keys) - 1
        if not 0 <= source_frame <= last:
            raise InputError(
                f"video {name!r}: the source frame asked for is {source_frame} (--source_frame); expected 0 to {last}, "
                f"as it has {pluralize(last + 1, 'frame')}."
            )
        try:
            shared = _load(files.path / layout.IDENTITY, files.shared)
            tracking = _load(files.path / layout.TRACKING, files.shared)
        except InputError as e:
            raise InputError(f"video {name!r}: {e}") from e
        # the original's rule: in a merged set the video's id is a key of the identity file
        merged = isinstance(shared, Mapping) and files.video_id in shared
        where = f"video {name!r}, {files.path / layout.IDENTITY}"
        identity = read_identity(shared[files.video_id] if merged else shared, where)

        where = f"video {name!r}, {files.path / layout.TRACKING}"
        if merged:
            tracking = tracking.get(files.video_id) if isinstance(tracking, Mapping) else None
        if not isinstance(tracking, Mapping):
            raise InputError(f"{where}: expected a dictionary of frames. Track the video again.")
        missing = [k for k in files.frame_keys if k not in tracking]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputError(f"{where}: frame {missing[0]!r}{more} of {layout.INFO} is missing. Track the video again.")
        frames = [tracking[k] for k in files.frame_keys]

        timing = timing or Timing(None, None)
        source_frames = files.source_frames if timing.source_frames is None else timing.source_frames
        layout.check_source_frames(source_frames, len(frames), f"video {name!r}, time map")
        return cls(
            name=name,
            path=files.path,
            frame_keys=files.frame_keys,
            fps=files.fps if timing.fps is None else timing.fps,
            source_frames=None if source_frames is None else list(source_frames),
            identity=identity,
            motion=read_motion(frames, files.frame_keys, where),
            viewmats=read_viewmats(frames, files.frame_keys, where),
            _images=FrameImages.open(
                files.path / layout.IMAGES, name, files.frame_keys, f"{files.video_id}/" if merged else "", source_frame
            ),
            _crops=read_crops(frames, files.frame_keys, where),
            K=None if files.lens is None else torch.tensor(files.lens),
            source_frame=source_frame,
            times=files.times if timing.fps is None else None,
            sound=_sound(files) if timing.fps in (None, files.fps) else None,
        )

    @property
    def num_frames(self) -> int:
        """Return the number of frames."""
        return len(self.frame_keys)

    @property
    def seconds(self) -> tuple[Fraction, ...] | None:
        """Return when every frame is shown, seconds after the first; None: at a constant `fps`."""
        if self.times is None:
            return None
        base, ticks = self.times
        return tuple((tick - ticks[0]) * base for tick in ticks)

    @property
    def image_size(self) -> int:
        """Return the side of the stored square images in pixels (the tracker's: 1024)."""
        return self._images.size

    @property
    def source(self) -> Source:
        """Return the source frame at the encoder's size."""
        return self.source_at(SOURCE_SIZE)

    def source_at(self, size: int) -> Source:
        """Return the source frame with an image of `size` x `size` pixels; the mask is applied before resizing."""
        index = self.source_frame
        rgb, mask = self.read_frame(index)
        image = _floats(rgb) * _floats(mask)
        return Source(
            image=_resize(image, size),
            identity=self.identity,
            motion=self.motion[index : index + 1],
            viewmat=self.viewmats[index],
            K=self.lens_at(size),
            picture=torch.from_numpy(np.dstack([rgb, mask])).permute(2, 0, 1),
        )

    def lens_at(self, size: int) -> Tensor | None:
        """Return K [3, 3] for images of `size` x `size` pixels; None: the video has no lens of its own."""
        stored = (self.image_size, self.image_size)
        return None if self.K is None else resized_K(self.K, stored, (size, size))

    @property
    def known(self) -> np.ndarray | None:
        """Return what the original video shows of the square, [S, S] uint8, 255 = known, 0 = not; None: all of it.

        Outside of it there is neither person nor background to learn from: masks are 0, and pictures mean nothing.
        """
        return self._images.known

    def known_at(self, size: int) -> np.ndarray | None:
        """Return `known` as [size, size] bool: pixels that are known completely; None: all are."""
        if self.known is None:
            return None
        plane: np.ndarray = cv2.resize(self.known, (size, size), interpolation=cv2.INTER_AREA) >= 255
        return plane

    def read_frame(self, index: int, *, strict: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return frame `index` in its stored size: RGB uint8 [H, W, 3], mask uint8 [H, W] (255 = person). Thread-safe.

        `strict` detects more kinds of damage, in twice the time.
        """
        with busy(DECODE):
            return self._images.read(index, strict=strict)

    def image_samples(self, count: int) -> Iterator[bytes]:
        """Return data that identify the images without reading them all: their stored sizes, then `count` of them."""
        return self._images.samples(count)

    def part_boxes(self, index: int) -> dict[str, np.ndarray]:
        """Return boxes of `head`, `left_hand`, `right_hand` in frame `index`.

        Boxes are int64 [left, right, top, bottom] in a 512 image.

        Raises:
            InputError: The tracked data have no usable crops.
        """
        return self._crops.boxes(index)

    def chunks(self, frames_per_chunk: int, image_size: int = 512, *, images: bool = True) -> Iterator[Chunk]:
        """Yield all frames in order, `frames_per_chunk` at a time (the last chunk may be shorter).

        Without `images` nothing is decoded, and the chunks' images and masks are empty.

        Images are decoded in threads ahead of use: while one chunk is processed the next is decoded, and no more, so
        memory does not grow with the video. The threads end with the iterator, whether it is exhausted, dropped or left
        by an exception.

        Raises:
            InputError: An image that cannot be used, when its chunk is reached.
        """
        if frames_per_chunk < 1 or image_size < 1:
            raise UsageError(f"chunks({frames_per_chunk}, {image_size}): both must be at least 1.")
        if images:
            return self._decode_ahead(frames_per_chunk, image_size)
        starts = range(0, self.num_frames, frames_per_chunk)
        return (self._chunk(start, frames_per_chunk, image_size, 0) for start in starts)

    def _chunk(self, start: int, length: int, size: int, images: int) -> Chunk:
        stop = min(start + length, self.num_frames)
        return Chunk(
            start=start,
            stop=stop,
            motion=self.motion[start:stop],
            viewmats=self.viewmats[start:stop],
            images=torch.empty(min(images, stop - start), 3, size, size),  # no memory is used before it is filled
            masks=torch.empty(min(images, stop - start), 1, size, size),
        )

    def _decode_ahead(self, frames_per_chunk: int, size: int) -> Iterator[Chunk]:
        starts = iter(range(0, self.num_frames, frames_per_chunk))
        threads = min(_MAX_THREADS, usable_cpus(), frames_per_chunk)
        pool = ThreadPoolExecutor(threads, thread_name_prefix=f"decode {self.name}")
        ahead: deque[tuple[Chunk, list[Future[None]]]] = deque()

        def submit_next() -> None:
            start = next(starts, None)
            if start is None:
                return
            chunk = self._chunk(start, frames_per_chunk, size, frames_per_chunk)
            ahead.append((chunk, [pool.submit(self._decode_into, chunk, i) for i in range(start, chunk.stop)]))

        try:
            submit_next()
            while ahead:
                for future in ahead[0][1]:
                    future.result()
                submit_next()
                yield ahead.popleft()[0]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _decode_into(self, chunk: Chunk, index: int) -> None:
        rgb, mask = self.read_frame(index)
        size = chunk.images.shape[-1]
        chunk.images[index - chunk.start] = _resize(_floats(rgb), size)
        chunk.masks[index - chunk.start] = _resize(_floats(mask), size)


def _sound(files: layout.VideoFiles) -> Path | None:
    path = layout.sound_of(files.path, files.video_id, files.shared)
    with contextlib.suppress(OSError):
        if path.is_file():
            return path
    return None


def _floats(image: np.ndarray) -> Tensor:
    """Return [3 or 1, H, W] float 0..1 of uint8 [H, W, 3] or [H, W]."""
    planes = image[None] if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))
    return torch.from_numpy(
        np.divide(planes, np.float32(255), dtype=np.float32)
    )  # numpy: one thread, as there are many of these


def _resize(image: Tensor, size: int) -> Tensor:
    """Return [C, H, W] resized to [C, size, size], antialiased bilinear, as in the original."""
    if image.shape[-1] == size:
        return image
    return F.interpolate(image[None], (size, size), mode="bilinear", align_corners=False, antialias=True)[0]


def _load(path: Path, shared: bool) -> Any:
    """Return the content of the pickle; that of a merged set is cached for all of its videos.

    Raises:
        InputError: It cannot be read; names the expected format for common other ones.
    """
    try:
        return _load_kept(path, shared)
    except InputError as e:
        with contextlib.suppress(OSError), path.open("rb") as file:
            first = file.read(8)
            for mark, kind, advice in _INSTEAD_OF_PICKLE:
                if first.startswith(mark):
                    raise InputError(f"{path} is {kind}, expected a pickle: {advice}.") from e
        raise


def _load_kept(path: Path, shared: bool) -> Any:
    if not shared:
        return load_pickle(path)
    try:
        stat = path.stat()
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror or e}") from e
    return _load_shared(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=2)  # the two pickles of one set
def _load_shared(path: Path, mtime_ns: int, size: int) -> Any:
    return load_pickle(path)
