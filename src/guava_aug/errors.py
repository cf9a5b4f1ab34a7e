"""Errors for users. Each message says what, where, expected and found, and what to do next.

The place of a failure is added to the exception by `annotate` and read by `location`.
"""

from __future__ import annotations

from typing import TypeVar

_Error = TypeVar("_Error", bound=BaseException)


class GuavaAugError(Exception):
    """Base of every error this package raises on purpose.

    As text, characters of its message that are not printable are escaped: names, paths and reasons in it come from
    outside.
    """

    has_lines = False  # True: the message has several lines, and foreign text in it is escaped already

    def __str__(self) -> str:
        return printable(super().__str__(), "\n" if self.has_lines else "")


class InputError(GuavaAugError):
    """A tracked video (or another input file of the user) is missing, damaged or out of range."""


class AssetError(GuavaAugError):
    """A model file (checkpoint, config, body model, index file) is missing or does not fit."""


class DeviceError(GuavaAugError):
    """The requested device cannot be used."""


class DeviceLostError(DeviceError):
    """The device failed during the work and can only be used again by a new process. Stops a run."""


class OutputError(GuavaAugError):
    """A result could not be written, or could not be read back."""


class DiskFullError(OutputError):
    """There is no space or quota left for a result, so that every other video would fail too. Stops a run."""


class UsageError(GuavaAugError):
    """The command line or the arguments of a call are invalid; exit code 2."""


def annotate(error: _Error, *, stage: str | None = None, frame: int | None = None) -> _Error:
    """Return the same exception with stage and frame, unless they were set before, closer to the failure."""
    for name, value in (("guava_aug_stage", stage), ("guava_aug_frame", frame)):
        if value is not None and getattr(error, name, None) is None:
            setattr(error, name, value)
    return error


def location(error: BaseException) -> tuple[str | None, int | None]:
    """Return stage and frame (of the output, from 0; the first of its chunk) of a failure, as far as known."""
    return getattr(error, "guava_aug_stage", None), getattr(error, "guava_aug_frame", None)


def is_permanent(error: BaseException) -> bool:
    """Return whether the same files would fail again: the video's own data are invalid, and reading them succeeded."""
    if not isinstance(error, InputError):
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):  # a network file system may be better the next time
            return False
        cause = cause.__cause__
    return True


def printable(text: object, keep: str = "") -> str:
    """Return `text` with every character that is not printable escaped, as `repr` does.

    Names, paths and reasons come from tracked data, file systems and other processes. Control characters in them could
    move the cursor, set a title, or forge a line of a log; bidirectional ones display a name as another. Printable is
    defined by `str.isprintable`: letters of all scripts are, and so is the space; newline, tab, escape, C1 controls,
    bidirectional and zero-width characters, and halves of surrogate pairs are not. Printable text is returned
    unchanged, so the function may be applied twice.

    Args:
        text: Any text.
        keep: Characters to leave unchanged, such as the newlines of a message of several lines.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escape(c) for c in text)


def _escape(character: str) -> str:
    return repr(character)[1:-1]
