"""Exceptions and other text as one line."""

from __future__ import annotations

from guava_aug.errors import GuavaAugError
from guava_aug.runtime.printable import printable


def one_line(text: object, most: int = 200) -> str:
    """Return text without line breaks and repeated spaces, cut to at most `most` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def explain(error: BaseException) -> str:
    """Return the reason in one line: messages of this package unchanged, others with the type of the exception."""
    text = printable(" ".join(str(error).split()))
    if type(error).__name__ == "OutOfMemoryError":  # torch's; not imported for its name
        return f"{text} Use a smaller --frames_per_chunk."
    if isinstance(error, GuavaAugError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def in_short(error: BaseException, most: int = 200) -> str:
    """Return type and reason of a foreign exception in one line of at most `most` characters."""
    text = str(error).strip()
    return one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__, most)
