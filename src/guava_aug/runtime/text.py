"""A number and what it counts, for messages."""

from __future__ import annotations


def pluralize(number: int, noun: str, form: str = "") -> str:
    """`1 view`, `2 views`, `2 processes`; form: of the number, such as "," for thousands."""
    many = f"{noun}es" if noun.endswith(("s", "x")) else f"{noun}s"
    return f"{number:{form}} {noun if number == 1 else many}"
