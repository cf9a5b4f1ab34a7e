"""Exceptions as one line of text."""

from __future__ import annotations

from guava_aug.errors import GuavaAugError
from guava_aug.runtime.printable import printable


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
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."
