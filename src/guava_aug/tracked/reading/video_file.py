"""Any video file that FFmpeg reads, as a source of frames."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
from av.error import BlockingIOError as WouldBlock
from av.error import EOFError as EndOfStream
from av.error import FFmpegError
from av.sidedata.sidedata import Type as SideData

from guava_aug.errors import InputError
from guava_aug.runtime.text import pluralize
from guava_aug.tracked.reading.colour import PEAK, WHITE, Colour, to_rgb
from guava_aug.tracked.reading.orientation import Orientation
from guava_aug.tracked.reading.source import Frame, Source
from guava_aug.tracked.reading.time_axis import TimeAxis, axis_of

_PLAYLISTS = {"hls", "concat", "dash", "sdp", "rtp", "rtsp", "lavfi", "data"}  # name other files, or are none
_TEXT = {"tty", "bin", "xbin", "adf", "idf", "srt", "ass", "webvtt"}
_OPTIONS = {"protocol_whitelist": "file"}  # a file must not make this machine open connections
_MP4_BOXES = (b"ftyp", b"mdat", b"moov", b"wide", b"free")
_MISSING = 1.0  # seconds at the end of what the header says: more means that the file is truncated
_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_BEFORE = 48  # frames decoded ahead of the wanted one after a jump: leading frames of open groups, deinterlacing
_FOCAL_KEYS = ("com.apple.quicktime.camera.focal_length.35mm_equivalent",)
_MOST_SIDE = 16384  # pixels
_MORE = "convert it, for example with ffmpeg -i FILE -c:v libx264 OUT.mp4"


class VideoFile(Source):
    """A video file. Holds no open file between iterations.

    Opening reads the whole file once without decoding it, for the times of its frames.

    Raises:
        InputError: It is no video, has no video stream, or no frame of it can be decoded.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        with self._opened() as (container, stream):
            self._rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
            self.audio = bool(container.streams.audio)
            self.focal_35mm = _focal_of({**container.metadata, **stream.metadata})
            self._listed = int(stream.frames or 0)
            self._by_ticks = True
            self.axis = self._scan(container, stream)
        self._read_first()

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """See `Source`."""
        stop = len(self) if stop is None else min(stop, len(self))
        last, given = -1, 0
        for index, picture in self._pictures(start):
            if index >= stop:
                break
            if index <= last or index < start:
                continue
            if index > last + 1 and last >= 0:
                self.note(f"{_numbered(last + 1, index - 1)} cannot be decoded and left out")
            last, given = index, given + 1
            yield Frame(index, self.axis.seconds(index), self._rgb(picture))
        if not given and start < stop:
            raise InputError(f"{self.path}: {_numbered(start, stop - 1)} cannot be decoded; {_MORE}")
        if last + 1 < stop:
            self.note(f"{_numbered(last + 1, stop - 1)} cannot be decoded and left out: the end is damaged")

    # opening

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """Open the file and its best video stream for the time of a block."""
        try:
            container = av.open(f"file:{self.path.absolute()}", options=dict(_OPTIONS), **_METADATA)
        except FileNotFoundError as error:
            raise InputError(f"{self.path}: there is no such file; check the path") from error
        except PermissionError as error:
            raise InputError(f"{self.path}: cannot be read (no permission)") from error
        except (FFmpegError, OSError, ValueError) as error:
            raise InputError(self._no_video(error)) from error
        with container:
            kind = container.format.name
            if kind in _PLAYLISTS or kind in _TEXT:
                raise InputError(f"{self.path}: expected a video, found {_kind_of(kind)}; give the video itself")
            if kind.endswith("_pipe") or kind == "image2":
                raise InputError(
                    f"{self.path}: expected a video, found a single picture; give a video, or a folder of pictures"
                )
            streams = [s for s in container.streams.video if not _is_cover(s)]
            if not streams:
                kinds = sorted({s.type for s in container.streams})
                if kinds in ([], ["data"]) and self._starts_as_mp4():
                    raise InputError(self._no_index())
                there = ", ".join(kinds) or "nothing"
                raise InputError(f"{self.path}: has no video stream (there: {there}); give a file with pictures")
            best = container.streams.best("video")
            stream = best if best in streams else streams[0]
            if stream.codec_context is None:
                raise InputError(f"{self.path}: its codec is not known to this FFmpeg; {_MORE}")
            if len(streams) > 1:
                self.note(f"has {len(streams)} video streams: number {stream.index} is taken")
            stream.thread_type = "AUTO"
            yield container, stream

    def _no_video(self, error: Exception) -> str:
        with contextlib.suppress(OSError):
            if self.path.stat().st_size == 0:
                return f"{self.path}: is empty; copy it again"
        if self._starts_as_mp4():
            return self._no_index()
        why = getattr(error, "strerror", None) or error  # without the number of the error and the name once more
        return f"{self.path}: is not a video that can be read ({why}). If it is one, {_MORE}"

    def _starts_as_mp4(self) -> bool:
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            return file.read(8)[4:] in _MP4_BOXES
        return False

    def _no_index(self) -> str:
        return (
            f"{self.path}: an MP4 or MOV without its index: it is truncated, or its recording was not ended. Copy it "
            "again, or repair it with the program that recorded it"
        )

    def _scan(self, container: Any, stream: Any) -> TimeAxis:
        """Return the times of all packets; nothing is decoded."""
        ticks: list[int] = []
        count = unstamped = hidden = 0
        for packet in self._packets(container, stream):
            if not packet.size:
                continue
            if packet.is_discard:  # before the beginning that an edit list says
                hidden += 1
                continue
            count += 1
            if packet.pts is None:
                unstamped += 1
            else:
                ticks.append(packet.pts)
        if not count:
            raise InputError(f"{self.path}: its video stream has no frames; it may be truncated. Copy it again")
        if self._listed > count + hidden:
            self.note(
                f"is truncated or damaged: its index lists {pluralize(self._listed, 'frame')}, {count + hidden} are "
                "there; these are kept"
            )
        found = np.unique(np.array(ticks, np.int64))
        self._compare_duration(container, stream, found)
        if unstamped or len(found) < count:
            return self._counted(count)
        return axis_of(found, stream.time_base, self._rates)

    def _compare_duration(self, container: Any, stream: Any, ticks: np.ndarray) -> None:
        said = stream.duration * stream.time_base if stream.duration else None
        if said is None and container.duration and len(container.streams) == 1:
            said = Fraction(container.duration, av.time_base)
        if said is None or not len(ticks) or self.notes:
            return
        there = int(ticks[-1] - ticks[0]) * stream.time_base
        if said - there > max(_MISSING, 3 * there / len(ticks)):
            self.note(
                f"is truncated: its header says {float(said):.1f} s, {float(there):.1f} s are there; these are kept"
            )

    def _counted(self, count: int) -> TimeAxis:
        """Return a time axis of a file without usable time stamps: a constant rate."""
        rate = next((Fraction(r) for r in self._rates if r), Fraction(25))
        self.note(f"has no usable time stamps: {float(rate):g} frames per second are assumed")
        self._by_ticks = False
        return axis_of(np.arange(count), 1 / rate, (rate,))

    def _packets(self, container: Any, stream: Any) -> Iterator[Any]:
        """Give the packets up to the end, or to where the file cannot be read any further."""
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, EndOfStream):
                return
            except (FFmpegError, OSError) as error:
                self.note(f"cannot be read to its end ({error.strerror or error}): what is before is kept")
                return
            yield packet

    def _read_first(self) -> None:
        """Set size, orientation and peak by the first frame that can be decoded."""
        with self._opened() as (container, stream):
            picture = next(self._decoded(container, stream), None)
            if picture is None:
                raise InputError(f"{self.path}: no frame of it can be decoded ({stream.codec_context.name}); {_MORE}")
            ratio = Fraction(picture_ratio(stream))
        width, height = picture.width, picture.height
        if ratio > 1:
            width = round(width * ratio)
        elif ratio < 1:
            height = round(height / ratio)
        if ratio != 1:
            self.note(f"pixels are not square ({ratio.numerator}:{ratio.denominator}): pictures are {width} x {height}")
        if not 0 < max(width, height) <= _MOST_SIDE:
            raise InputError(
                f"{self.path}: pictures of {width} x {height} pixels; expected at most {_MOST_SIDE} a side"
            )
        self._stored = picture.width, picture.height
        self._square = width, height
        self._orientation = self._orientation_of(picture)
        self.size = self._orientation.size(height, width)
        self._peak = _peak_of(picture)
        if (said := self._colour(picture).in_words()) is not None:
            self.note(said)
        if not self.axis.constant:
            self.note(f"has a variable frame rate: {float(self.axis.fps):.4g} frames per second in the mean")

    def _orientation_of(self, picture: Any) -> Orientation:
        data = _side_data(picture, SideData.DISPLAYMATRIX)
        if data is not None:
            found = Orientation.of_matrix(data)
            if found is not None:
                return found
            self.note("its display matrix is no quarter turn: pictures are taken as they are stored")
        return Orientation()

    # decoding

    def _pictures(self, start: int) -> Iterator[tuple[int, Any]]:
        """Give (number, decoded frame) from some frames before `start` on; nothing is converted yet."""
        with self._opened() as (container, stream):
            first = max(0, start - _BEFORE)
            if self._by_ticks and first:
                with contextlib.suppress(FFmpegError):
                    container.seek(int(self.axis.ticks[first]), stream=stream, backward=True)
            yield from self._progressive(self._numbered(self._decoded(container, stream)))

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        """Give the decoded frames; packets that cannot be decoded are passed over."""
        for packet in self._packets(container, stream):
            try:
                pictures = packet.decode()
            except EndOfStream:
                continue
            except (FFmpegError, OSError, ValueError):
                self.note("holds damaged data")
                continue
            for picture in pictures:
                if not picture.is_corrupt:
                    yield picture

    def _numbered(self, pictures: Iterator[Any]) -> Iterator[tuple[int, Any]]:
        ticks = self.axis.ticks
        for count, picture in enumerate(pictures):
            if not self._by_ticks:
                yield count, picture
            elif picture.pts is not None:
                at = int(np.searchsorted(ticks, picture.pts))
                if at < len(ticks) and ticks[at] == picture.pts:
                    yield at, picture

    def _progressive(self, pictures: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Give the same frames, deinterlaced from the first one on that says that it is interlaced."""
        for index, picture in pictures:
            if picture.interlaced_frame:
                self.note("is interlaced: deinterlaced (bwdif), one picture per frame")
                yield from self._deinterlaced(index, picture, pictures)
                return
            yield index, picture

    def _deinterlaced(self, number: int, first: Any, others: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        graph = av.filter.Graph()
        nodes = [
            graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=first.time_base),
            graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        waiting: deque[int] = deque()  # one picture leaves for each that enters, in order

        def pulled() -> Iterator[tuple[int, Any]]:
            while True:
                try:
                    out = graph.pull()
                except (WouldBlock, EndOfStream):
                    return
                yield waiting.popleft(), out

        shape = first.width, first.height, first.format.name
        for index, picture in itertools.chain([(number, first)], others):
            if (picture.width, picture.height, picture.format.name) != shape:
                self.note("changes its pixel format or size within: it is deinterlaced up to there only")
                graph.push(None)
                yield from pulled()
                yield index, picture
                yield from others
                return
            waiting.append(index)
            graph.push(picture)
            yield from pulled()
        graph.push(None)
        yield from pulled()

    def _colour(self, picture: Any) -> Colour:
        return Colour.of(picture, self._peak)

    def _rgb(self, picture: Any) -> np.ndarray:
        if (picture.width, picture.height) != self._stored:
            self.note(f"changes its size to {picture.width} x {picture.height}: pictures are scaled to the first size")
        width, height = self._square
        return self._orientation.apply(to_rgb(picture, self._colour(picture), width, height))


def picture_ratio(stream: Any) -> Fraction:
    """Return width / height of a stored pixel; 1 where the file says nothing or nonsense."""
    ratio = stream.sample_aspect_ratio
    return Fraction(ratio) if ratio and Fraction(1, 4) <= ratio <= 4 else Fraction(1)


def _peak_of(picture: Any) -> float:
    """Return the brightest light of a PQ video in nits (MaxCLL), where it says so."""
    data = _side_data(picture, SideData.CONTENT_LIGHT_LEVEL)
    if data is not None:
        brightest = int.from_bytes(data[:4], "little")
        if WHITE < brightest <= 10000:
            return float(brightest)
    return PEAK


def _side_data(picture: Any, kind: SideData) -> bytes | None:
    """Return the bytes of a picture's side data of a kind; None where it has none."""
    found = picture.side_data.get(kind)  # to iterate gives the data before PyAV 19, and its kinds from then on
    return None if found is None else bytes(memoryview(found))


def _focal_of(metadata: dict[str, str]) -> float | None:
    for key in _FOCAL_KEYS:
        with contextlib.suppress(ValueError, KeyError):
            if 1 < (focal := float(metadata[key])) < 2000:
                return focal
    return None


def _is_cover(stream: Any) -> bool:
    """Return whether a stream is the picture of a song or a thumbnail."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _kind_of(name: str) -> str:
    return "text" if name in _TEXT else f"a list of other files ({name})"


def _numbered(first: int, last: int) -> str:
    return f"frame {first}" if first == last else f"frames {first} to {last}"
