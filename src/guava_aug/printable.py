"""Text of others, made fit for a terminal, a pipe or a log."""

from __future__ import annotations


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


def _escape(character: str) -> str:
    return repr(character)[1:-1]
