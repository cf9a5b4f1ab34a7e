"""Standard output and standard error without control characters from names, paths and messages."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from guava_aug.errors import printable

_LAYOUT = "\n\t"  # of our own tables and messages


class Guarded:
    """A text stream that writes characters which are not printable as escapes, but for newlines and tabs.

    When its reader has ended, as of `guava-aug status | head`, what follows is dropped, and the command goes on.
    `stream` is the stream beneath, for what draws with control sequences of its own (`terminal.Terminal`, tyro).
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write text; return the number of characters that were given."""
        with _reader_may_end(self.stream):
            self.stream.write(printable(text, _LAYOUT))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        with _reader_may_end(self.stream):
            self.stream.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        """Return False: libraries that colour their output would see their own escapes written out."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """For the time of a block, guard sys.stdout and sys.stderr, and escape what their encoding does not have."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_guarded(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, Guarded):
                stream.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def bare_streams() -> Iterator[None]:
    """For the time of a block, the streams beneath, for a library that draws on them and shows nothing of others."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (bare(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def bare(stream: Any) -> Any:
    """Return the stream beneath a guarded one; any other one as it is."""
    return stream.stream if isinstance(stream, Guarded) else stream


def say(text: str) -> None:
    """Print one line on standard output, whatever names, paths and reasons are in it."""
    print(printable(text))


@contextmanager
def _reader_may_end(stream: TextIO) -> Iterator[None]:
    """Connect the stream to the null device if nobody reads from its pipe any more."""
    try:
        yield
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # of a stream without a descriptor
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def _guarded(stream: Any) -> Any:
    if stream is None or isinstance(stream, Guarded):
        return stream
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # of LC_ALL=C, say: a name must not end the run
    return Guarded(stream)
