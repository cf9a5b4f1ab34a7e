"""Where something failed: noted on the exception on its way up, read where it is told."""

from __future__ import annotations

from typing import TypeVar

Error = TypeVar("Error", bound=BaseException)


def annotate(error: Error, *, stage: str | None = None, frame: int | None = None) -> Error:
    """The same exception with the stage of the work and the frame, unless somebody nearer to the failure noted them."""
    for name, value in (("guava_aug_stage", stage), ("guava_aug_frame", frame)):
        if value is not None and getattr(error, name, None) is None:
            setattr(error, name, value)
    return error


def location(error: BaseException) -> tuple[str | None, int | None]:
    """Stage and frame (of the output, from 0; the first of the chunk in work) where it failed, as far as known."""
    return getattr(error, "guava_aug_stage", None), getattr(error, "guava_aug_frame", None)


def is_permanent(error: BaseException) -> bool:
    """Whether the same files would fail again: the video's own data are bad, and were read without trouble."""
    from guava_aug.errors import InputError

    if not isinstance(error, InputError):
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):  # a network file system may be better the next time
            return False
        cause = cause.__cause__
    return True


def in_short(error: BaseException, most: int = 200) -> str:
    """Kind and reason of a foreign exception in one short line."""
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."
