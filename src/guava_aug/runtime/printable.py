"""Escaping of foreign text for a terminal, a pipe or a log."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from guava_aug.errors import printable as printable


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
