"""Text of others, made fit for a terminal, a pipe or a log."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping


def printable(text: object, keep: str = "") -> str:
    """Return `text` with every character that is not printable written as an escape, as `repr` writes it.

    Names, paths and reasons come from tracked data, file systems and other processes. Control characters in them could
    move the cursor, set a title, or forge a line of a log; bidirectional ones show a name as another. What counts as
    printable is `str.isprintable`: letters of all scripts are, and so is the space; newline, tab, escape, C1 controls,
    bidirectional and zero-width characters, and halves of surrogate pairs are not. Text that is printable comes back
    as it is, and what came back may be given again.

    keep: characters to leave alone, such as the newlines of a message that has several lines.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escape(c) for c in text)


class PrintableFormatter(logging.Formatter):
    """Formats records with the text of others escaped: names and reasons are arguments, the rest is a line of ours."""

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
    """Return JSON that says the same as `text`, written with `ensure_ascii=False`, without control characters.

    Letters of all scripts stay as they are. What a terminal would take for an instruction becomes \\uXXXX.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _escape(character: str) -> str:
    return repr(character)[1:-1]


def _argument(value: object) -> object:
    """The same value, or its text where that is not printable."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = str(value)
    return value if text.isprintable() else printable(text)
