"""Text of a number and its noun, for messages."""

from __future__ import annotations


def pluralize(number: int, noun: str, form: str = "") -> str:
    """Return `1 view`, `2 views`, `2 processes`; `form` formats the number, such as "," for thousands."""
    many = f"{noun}es" if noun.endswith(("s", "x")) else f"{noun}s"
    return f"{number:{form}} {noun if number == 1 else many}"
