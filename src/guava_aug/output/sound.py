"""The sound of a clip, copied packet by packet into the video of a view."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

log = logging.getLogger(__name__)


class Sound:
    """Packets of a sound file on their way into a container, in step with its pictures."""

    def __init__(self, path: Path, source: Any, target: Any) -> None:
        self._path = path
        self._stream = target.add_stream_from_template(source.streams.audio[0])
        self._target = target
        self._packets = source.demux(source.streams.audio[0])
        self._next: Any = None

    @classmethod
    @contextmanager
    def opened(cls, path: Path | None, target: Any) -> Iterator[Sound | Silence]:
        """Open the file for the time of a block and add its stream to `target`; an unreadable file gives no sound."""
        if path is None:
            yield Silence()
            return
        try:
            source = av.open(f"file:{path.absolute()}", format="mp4", options={"protocol_whitelist": "file"})
        except (FFmpegError, OSError) as error:
            log.warning("%s: the sound cannot be read (%s); the video is made without", path, error)
            yield Silence()
            return
        with source:
            fine = bool(source.streams.audio) and source.streams.audio[0].codec_context is not None
            if not fine:
                log.warning("%s: holds no sound; the video is made without", path)
            yield cls(path, source, target) if fine else Silence()

    def mux_until(self, seconds: Fraction) -> None:
        """Copy the packets that begin before a time."""
        while True:
            if self._next is None:
                try:
                    self._next = next(self._packets, None)
                except (FFmpegError, OSError) as error:
                    log.warning("%s: the sound ends early (%s)", self._path, error)
                    self._packets = iter(())
                if self._next is None:
                    return
            packet = self._next
            if packet.pts is None:  # the last packet is empty
                self._next = None
                continue
            if packet.pts * packet.time_base >= seconds:
                return
            packet.stream = self._stream
            self._target.mux(packet)
            self._next = None


class Silence:
    """No sound."""

    def mux_until(self, seconds: Fraction) -> None:
        """Do nothing."""
