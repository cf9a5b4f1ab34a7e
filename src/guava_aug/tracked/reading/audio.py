"""The sound of a part of a video, without encoding it again where an MP4 can hold it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from guava_aug.errors import OutputError
from guava_aug.runtime.atomic import atomic_write

log = logging.getLogger(__name__)

COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")  # codecs that an MP4 holds
_RATE = 160_000  # bits per second of AAC, where it has to be encoded
_OPTIONS = {"protocol_whitelist": "file"}


def extract_audio(source: Path, start: Fraction, stop: Fraction, target: Path) -> bool:
    """Write the sound of a video from `start` to `stop` into an M4A file; return False if it has none there.

    Packets are copied, so the part is exact to one of them (about 20 ms); other codecs are encoded as AAC.

    Args:
        source: The video.
        start: Of the part, seconds on the file's own clock (`Source.axis.start` + a time of it). The result begins
            with it: its time 0 is `start`.
        stop: End of the part.
        target: The file; it appears complete or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        with av.open(f"file:{source.absolute()}", options=dict(_OPTIONS)) as container:
            if not container.streams.audio:
                return False
            stream = container.streams.best("audio") or container.streams.audio[0]
            if stream.codec_context is None:
                log.warning("%s: the codec of its sound is not known: it is left out", source)
                return False
            with atomic_write(target, durable=False) as temporary:
                written = _write(container, stream, start, stop, temporary)
                if not written:
                    raise _NothingThereError
        return True
    except _NothingThereError:
        return False
    except FFmpegError as error:
        raise OutputError(
            f"{target}: the sound of {source} could not be written ({error}); see --audio none"
        ) from error
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error})") from error


class _NothingThereError(Exception):
    """No sound in the part."""


def _write(container: Any, stream: Any, start: Fraction, stop: Fraction, target: Path) -> int:
    """Return the number of packets written."""
    written = 0
    with av.open(f"file:{target.absolute()}", "w", format="mp4") as out:
        if stream.codec_context.name in COPIED:
            sink = out.add_stream_from_template(stream)
            for packet in _packets(container, stream, start, stop):
                shift = round(start / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.pts - shift, sink
                out.mux(packet)
                written += 1
        else:
            written = _encode(container, stream, start, stop, out)
    return written


def _encode(container: Any, stream: Any, start: Fraction, stop: Fraction, out: Any) -> int:
    context = stream.codec_context
    sink = out.add_stream("aac", rate=context.sample_rate)
    sink.codec_context.layout = "stereo" if context.layout.nb_channels >= 2 else "mono"
    sink.codec_context.bit_rate = _RATE
    resampler = av.AudioResampler(format="fltp", layout=sink.codec_context.layout, rate=context.sample_rate)
    written = 0
    for packet in _packets(container, stream, start, stop):
        for frame in packet.decode():
            frame.pts = None if frame.pts is None else frame.pts - round(start / frame.time_base)
            for part in resampler.resample(frame):
                for encoded in sink.encode(part):
                    out.mux(encoded)
                    written += 1
    for encoded in sink.encode(None):
        out.mux(encoded)
        written += 1
    return written


def _packets(container: Any, stream: Any, start: Fraction, stop: Fraction) -> Iterator[Any]:
    """Give the packets that begin within the part, in order."""
    if start > 1:
        container.seek(int((start - 1) * av.time_base), backward=True)
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):  # the end, or where the file is damaged
            return
        if packet.pts is None or packet.is_corrupt:
            continue
        at = packet.pts * packet.time_base
        if at >= stop:
            return
        if at >= start:
            yield packet
