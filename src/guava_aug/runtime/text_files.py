"""Reading of small text files with bounds, and with a clear error for any other kind of file."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from guava_aug.errors import GuavaAugError, InputError
from guava_aug.runtime.presence import broken_link_target

LONGEST_TEXT = 2**29  # bytes; a merged set of 100,000 videos has half of it
_BLOCK = 2**20
_BOMS_16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path, what: str, error: type[GuavaAugError] = InputError, *, regular: bool = False) -> str:
    r"""Return the text of a UTF-8 file, without its byte order mark; line ends as "\n".

    Args:
        path: The file.
        what: Name of the file in messages, such as "time map x.json".
        error: Type of exception to raise.
        regular: Accept only a regular file; otherwise also a pipe, as of a shell's `<(...)`.

    Raises:
        error: The file cannot be read, is longer than half a GiB, or is not UTF-8; says what it is instead.
    """
    try:
        data = _read(path, what, error, regular)
    except OSError as e:
        with contextlib.suppress(OSError):
            if (target := broken_link_target(path)) is not None:
                raise error(f"{what} cannot be read: it is a link to {target}, which is not there.") from e
        raise error(f"{what} cannot be read: {e.strerror or e}") from e
    if data[:2] in _BOMS_16 or (len(data) > 1 and (data[0] == 0) != (data[1] == 0)):
        raise error(f"{what} is UTF-16 text; expected UTF-8: save it with that encoding.")
    if b"\0" in data[:_BLOCK]:
        raise error(f"{what} contains zero bytes: it is not text, or only a part was copied. Copy it again.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise error(f"{what} is not UTF-8 text (byte {e.start}); save it with that encoding.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(path: Path, what: str, error: type[GuavaAugError], regular: bool) -> bytes:
    # without O_NONBLOCK, opening a FIFO would wait for a writer without limit
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_NONBLOCK if regular else 0))
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if regular and not stat.S_ISREG(found.st_mode):
            raise error(f"{what} is not a regular file.")
        data = file.read(_BLOCK)
        if found.st_size > LONGEST_TEXT or (data and not data.strip(b"\0")):
            raise error(f"{what} is not text: {found.st_size} bytes, beginning with {data[:8]!r}. Copy it again.")
        if b"\0" in data:  # the rest is not needed
            return data
        data += file.read(LONGEST_TEXT + 1 - len(data))
    if len(data) > LONGEST_TEXT:
        raise error(f"{what} is too long: more than {LONGEST_TEXT} bytes.")
    return data


def briefly(value: object, most: int = 60) -> str:
    """Return a foreign value for a message: a short literal, or only its type if it may be long or deep."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return repr(value) if len(value) <= most else f"{value[:most]!r}... ({len(value)} characters)"
    if isinstance(value, int):
        return str(value) if value.bit_length() < 128 else f"a number of {int(value.bit_length() * 0.30103) + 1} digits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object with {len(value)} {'entry' if len(value) == 1 else 'entries'}"
    return type(value).__name__
