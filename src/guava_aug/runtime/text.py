"""Text of messages: numbers with nouns, exceptions and foreign values in one line, without control characters."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from guava_aug.errors import GuavaAugError, printable


def pluralize(number: int, noun: str, form: str = "") -> str:
    """Return `1 view`, `2 views`, `2 processes`; `form` formats the number, such as "," for thousands."""
    many = f"{noun}es" if noun.endswith(("s", "x")) else f"{noun}s"
    return f"{number:{form}} {noun if number == 1 else many}"


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


class PrintableFormatter(logging.Formatter):
    """Format records with foreign text escaped: names and reasons are arguments, the format string is our own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and a traceback if there is one."""
        arguments = record.args
        if isinstance(arguments, Mapping):
            arguments = {key: _argument(value) for key, value in arguments.items()}
        elif arguments:
            arguments = tuple(_argument(value) for value in arguments)
        copy = logging.makeLogRecord({**record.__dict__, "args": arguments})
        return printable(super().format(copy), "\n\t")


def printable_json(text: str) -> str:
    r"""Return JSON equivalent to `text` (written with `ensure_ascii=False`) without control characters.

    Letters of all scripts are unchanged. What a terminal would interpret as a command becomes \uXXXX.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _argument(value: object) -> object:
    """Return the same value, or its text escaped if that is not printable."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = str(value)
    return value if text.isprintable() else printable(text)
