"""Atomic writing and verification of MP4 files."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

from guava_aug.errors import DiskFullError, OutputError, UsageError, annotate
from guava_aug.output.frames import NotFiniteError, PendingFrames
from guava_aug.output.sinks import PRESETS
from guava_aug.output.sound import Sound
from guava_aug.runtime import timing
from guava_aug.runtime.atomic import remove_stale_files, sync_file, sync_folder, temporary_path
from guava_aug.runtime.frame_rate import Rate, exact_rate
from guava_aug.runtime.processes import fault_point
from guava_aug.runtime.text import pluralize

CRF = 10  # the original's quality (imageio's 8)
PRESET = "veryfast"
PIECE = 8  # frames passed to the encoder at a time
PIECES_WAITING = 4  # so at most about 40 frames of a writer are in memory
_NEAR = 1e-6  # relative: a rate may be known as a decimal number only, where the file has the exact one
CLOCK = Fraction(1, 90000)  # seconds a tick, of videos with a variable frame rate
SMPTE170M_MATRIX = 6  # AVCOL_SPC_SMPTE170M, which PyAV's enumeration lacks; the same matrix as ITU601 (5)


class VideoWriter:
    """Write one H.264 MP4 in a separate thread; the file gets its name only when it is complete.

    yuv420p, BT.601 limited range and tagged as such (the original has the same colours, untagged). Frames are written
    to a temporary file in the same folder; `close` flushes it, decodes it, compares frame count and size, and renames
    it. As a context manager it closes at the end and aborts on an exception. Equal frames give equal bytes: the encoder
    has one thread unless `threads` says otherwise, as a run is parallel over views.

    Args:
        path: The MP4.
        width: Pixels, even.
        height: Pixels, even.
        fps: Frames per second, fractional allowed.
        crf: 0 (lossless) .. 51.
        threads: Threads of the encoder.
        comment: Text of the file's metadata (`read_comment`).
        times: When every frame is shown, seconds after the first, ascending; None: at a constant `fps`.
        sound: An M4A file whose packets are copied; it begins with the first frame and is cut after the last. One that
            cannot be read is left out with a warning.

    Raises:
        UsageError: Impossible arguments.
        OutputError: The file cannot be created.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        fps: Rate = 30,
        *,
        crf: int = CRF,
        preset: str = PRESET,
        threads: int | None = None,
        comment: str | None = None,
        times: Sequence[Fraction] | None = None,
        sound: Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.frames = 0  # accepted so far
        self._size = width, height
        self._fps = _rate(fps)
        self._options = {"crf": str(crf), "preset": preset}
        self._threads = threads or 1
        self._comment = comment
        self._times = times
        self._sound = sound
        self._error: BaseException | None = None
        self._abort = threading.Event()
        self._done = False
        self._encoded = 0
        self._black = True
        self._flushed = False
        self._pieces: queue.Queue[np.ndarray | PendingFrames | None] = queue.Queue(PIECES_WAITING)

        if width < 2 or height < 2 or width % 2 or height % 2:
            raise UsageError(
                f"{self.path}: expected an even width and height, as colours are stored at half size (yuv420p); "
                f"found {width}x{height}"
            )
        if not 0 <= crf <= 51:
            raise UsageError(f"--crf: expected 0 (lossless) to 51 (worst), found {crf}")
        if preset not in PRESETS:
            raise UsageError(f"--preset: expected one of {', '.join(PRESETS)}, found {preset!r}")

        self._temporary = temporary_path(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_stale_files(self.path.parent)
            self._temporary.touch(exist_ok=False)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be created ({error}); check the folder and its permissions"
            ) from error
        self._thread = threading.Thread(target=self._run, name=f"encode {self.path.name}", daemon=True)
        self._thread.start()

    def write(self, frames: np.ndarray | PendingFrames) -> None:
        """Queue frames in order, uint8 [T, H, W, 3] RGB or pending on a GPU; wait while the queue is full.

        The array is not copied and must not be changed afterwards.

        Raises:
            OutputError: The encoder has stopped; contains the cause.
        """
        if self._done or self._flushed:
            raise OutputError(f"{self.path}: this writer was closed; open a new one")
        width, height = self._size
        if isinstance(frames, PendingFrames):
            if frames.shape[1:] != (height * 3 // 2, width):
                raise OutputError(f"{self.path}: expected planes of {width}x{height} pixels, found {frames.shape}")
        else:
            frames = np.asarray(frames)
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (height, width, 3):
                raise OutputError(
                    f"{self.path}: expected frames uint8 [T, {height}, {width}, 3], found {frames.dtype} "
                    f"{list(frames.shape)} after frame {self.frames}"
                )
        for start in range(0, len(frames), PIECE):
            self._put(frames[start : start + PIECE])
        self.frames += len(frames)

    def flush(self) -> bool:
        """Encode all queued frames; no more can be written. Return whether any pixel of any frame is not black."""
        if not self._flushed:
            self._put(None)
            self._flushed = True
            self._thread.join()
            self._raise_error()
        return not self._black

    def close(self) -> None:
        """Finish the file, verify it by decoding, and rename it.

        Raises:
            OutputError: The file is not complete; then it does not exist.
        """
        if self._done:
            return
        try:
            self.flush()
            self._verify()
            os.replace(self._temporary, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise self._output_error(error) from error
        finally:
            self.abort()

    def abort(self) -> None:
        """Stop and remove the temporary file; no effect after a successful `close`."""
        self._done = True
        self._abort.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _verify(self) -> None:
        with timing.busy(timing.VERIFY):
            try:
                verify_video(self._temporary, self.frames, self._size, rate=self._fps, times=self._times)
            except OutputError as error:
                raise OutputError(f"{error}; it is removed, check the disk and run again") from error

    def _put(self, piece: np.ndarray | PendingFrames | None) -> None:
        while True:
            self._raise_error()
            try:
                self._pieces.put(piece, timeout=0.1)
                return
            except queue.Full:  # check again whether the encoder is alive
                continue

    def _raise_error(self) -> None:
        if self._error is not None:
            error = annotate(self._output_error(self._error), frame=self._encoded)
            self.abort()
            if error is self._error:
                raise error  # with "from" it would be its own cause, and following the causes would never end
            raise error from self._error

    def _run(self) -> None:
        try:
            self._encode()
            fault_point("before-fsync")
            if not self._abort.is_set():
                sync_file(self._temporary)
        except BaseException as error:
            self._error = error

    def _encode(self) -> None:
        container = av.open(_file_url(self._temporary), "w", format="mp4", options={"movflags": "faststart"})
        try:
            if self._comment is not None:
                container.metadata["comment"] = self._comment
            stream = _add_stream(
                container, self._fps, self._size, self._options, self._threads, self._times is not None
            )
            with Sound.opened(self._sound, container) as sound:
                for piece in self._next_pieces():
                    try:
                        pictures = piece.planes() if isinstance(piece, PendingFrames) else piece
                    except NotFiniteError as error:
                        raise error.after(self._encoded) from None
                    with timing.busy(timing.ENCODE):
                        self._black = self._black and _is_black(pictures, self._size[1])
                        for picture in pictures:
                            sound.mux_until(self._time(self._encoded))
                            for packet in stream.encode(_to_yuv(picture, self._tick(self._encoded))):
                                container.mux(packet)
                            self._encoded += 1
                if self._abort.is_set():
                    return
                with timing.busy(timing.ENCODE):  # the frames in x264's look-ahead
                    sound.mux_until(self._time(self._encoded))
                    for packet in stream.encode():
                        container.mux(packet)
        finally:
            container.close()

    def _time(self, index: int) -> Fraction:
        """Return when a frame is shown, or for the number after the last when that one ends, seconds."""
        if self._times is None:
            return index / self._fps
        if index < len(self._times):
            return self._times[index] - self._times[0]
        return self._times[-1] - self._times[0] + 1 / self._fps

    def _tick(self, index: int) -> int:
        return index if self._times is None else round(self._time(index) / CLOCK)

    def _next_pieces(self) -> Any:
        """Yield frames in order until the end or an abort."""
        while not self._abort.is_set():
            try:
                piece = self._pieces.get(timeout=0.1)
            except queue.Empty:
                continue
            if piece is None:
                return
            yield piece

    def _output_error(self, error: BaseException) -> OutputError:
        if isinstance(error, OutputError):
            return error
        where = f"{self.path}: writing stopped at frame {self._encoded}"
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            kind = (
                OutputError if number == errno.EFBIG else DiskFullError
            )  # a file over the size limit concerns one video only
            folder, mib = self.path.parent, 2**20
            with contextlib.suppress(OSError):
                written, free = self._temporary.stat().st_size / mib, shutil.disk_usage(folder).free / mib
                # Lossless 4:2:0 is the most a frame can take; a tenth of it is usual at crf 10.
                usual = 0.15 * self._size[0] * self._size[1] * max(self.frames, 1) / mib
                return kind(
                    f"{where}: no space ({error}); {written:.1f} MiB were written, {free:.1f} MiB are free in "
                    f"{folder}, about {max(usual, written):.1f} MiB are needed for "
                    f"{pluralize(self.frames, 'frame')} so far. Free some space or the quota and run again: finished "
                    "views are kept"
                )
        return OutputError(f"{where} ({type(error).__name__}: {error}); check the disk and run again")


# Damaged text in the metadata is no damage to the pictures. PyAV 19 has no such option; it never refuses text.
_OPEN_OPTIONS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


@contextmanager
def open_video(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """Open an MP4 for the time of a block and return its PyAV container and video stream.

    The file is always read as an MP4, and no other file is opened, whatever its name and content. Every exception in
    the block is reported as a damaged file: PyAV raises FFmpeg's errors as almost every built-in exception.

    Raises:
        OutputError: The file cannot be read or decoded, or has no video stream or several; names the path.
    """
    path = Path(path)
    try:
        with av.open(_file_url(path), format="mp4", **_OPEN_OPTIONS) as container:
            if len(container.streams.video) != 1:
                raise OutputError(f"{path}: expected one video stream, found {len(container.streams.video)}")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise OutputError(f"{path}: cannot be decoded (its index names no supported codec)")
            yield container, stream
    except OutputError:
        raise
    except FileNotFoundError as error:
        raise OutputError(f"{path}: is not there") from error
    except Exception as error:
        raise OutputError(f"{path}: cannot be decoded ({error or type(error).__name__})") from error


def read_comment(path: str | os.PathLike[str]) -> str | None:
    """Return the comment in an MP4's metadata; None if it has none.

    Raises:
        OutputError: The file is damaged.
    """
    with open_video(path) as (container, _):
        comment: str | None = container.metadata.get("comment")
        return comment


def verify_video(
    path: str | os.PathLike[str],
    frames: int,
    size: tuple[int, int] | None = None,
    *,
    rate: Rate | None = None,
    times: Sequence[Fraction] | None = None,
    decode: bool = True,
) -> None:
    """Raise OutputError unless the file has exactly `frames` frames of `size` at `rate`.

    Args:
        path: The MP4.
        frames: Expected number of frames.
        size: (width, height), pixels; None: whatever the file lists, the same in every frame.
        rate: Frames per second; with it every frame must have its time stamp. None: times are not checked.
        times: Of every frame, in place of those of a constant `rate`.
        decode: Decode every picture (reliable); False only counts the packets (a hundred times faster, detects
            truncation).
    """
    path = Path(path)
    with open_video(path) as (container, stream):
        context = stream.codec_context
        context.options = {"err_detect": "explode"}
        found_size = context.width, context.height
        size = size or found_size
        exact = None if rate is None else exact_rate(rate)
        if decode:
            found = 0
            for found, picture in enumerate(container.decode(stream), start=1):
                if picture.is_corrupt or (picture.width, picture.height) != size:
                    what = "is damaged" if picture.is_corrupt else f"is {picture.width}x{picture.height}"
                    raise OutputError(f"{path}: frame {found - 1} {what}, expected {size[0]}x{size[1]}")
                if times is not None and found <= len(times):
                    _check_time(path, picture, found - 1, times[found - 1] - times[0])
                elif exact is not None and times is None:
                    _check_time(path, picture, found - 1, (found - 1) / exact)
        else:
            found = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_corrupt)
        shown_rate = stream.average_rate
    if found != frames or found_size != size:
        raise OutputError(
            f"{path}: expected {pluralize(frames, 'frame')} of {size[0]}x{size[1]}, "
            f"found {found} of {found_size[0]}x{found_size[1]}"
        )
    if exact is not None and times is None and not (shown_rate and abs(float(shown_rate / exact) - 1) < _NEAR):
        raise OutputError(f"{path}: expected {float(exact):g} frames per second, found {shown_rate}")


def _check_time(path: Path, picture: Any, index: int, due: Fraction) -> None:
    """Raise OutputError unless a frame is shown at `due` seconds, within a tick of the file's clock."""
    if picture.pts is None or not picture.time_base:
        raise OutputError(f"{path}: frame {index} has no time stamp")
    at = picture.pts * picture.time_base
    if abs(at - due) > picture.time_base + due * _NEAR:
        raise OutputError(f"{path}: frame {index} is shown at {float(at):g} s, expected {float(due):g} s")


def _file_url(path: Path) -> str:
    """Return `path` for FFmpeg: a colon, a dash or the word pipe at its beginning would have another meaning there."""
    return f"file:{path.absolute()}"


def _rate(fps: Rate) -> Fraction:
    """Return the frame rate as a fraction: 29.97 -> 2997/100, 30000/1001 stays."""
    try:
        return exact_rate(fps)
    except ValueError as error:
        raise UsageError(f"--fps: {error}") from None


def _add_stream(
    container: Any, fps: Fraction, size: tuple[int, int], options: dict[str, str], threads: int, variable: bool
) -> Any:
    stream = container.add_stream("libx264", rate=fps, options=options)
    context = stream.codec_context
    context.width, context.height = size
    context.pix_fmt = "yuv420p"
    context.thread_count = threads
    context.time_base = CLOCK if variable else 1 / fps
    context.color_range = ColorRange.MPEG
    context.colorspace = SMPTE170M_MATRIX
    context.color_primaries = ColorPrimaries.SMPTE170M
    context.color_trc = ColorTrc.SMPTE170M
    return stream


def _to_yuv(picture: np.ndarray, tick: int) -> av.VideoFrame:
    """Return [H, W, 3] uint8 full-range RGB, or I420 planes [3 H / 2, W], as a yuv420p frame, BT.601 limited."""
    if picture.ndim == 2:
        planes = av.VideoFrame.from_ndarray(picture, format="yuv420p")
        planes.pts = tick
        return planes
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame = rgb.reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        dst_colorspace=Colorspace.ITU601,
        interpolation=Interpolation.BICUBIC,
    )
    frame.pts = tick
    return frame


def _is_black(pictures: np.ndarray, height: int) -> bool:
    return not pictures.any() if pictures.ndim == 4 else bool((pictures[:, :height] <= 16).all())
