"""Reading of JSON that may be damaged or come from outside: with bounds, and checked value by value.

Functions of this module raise nothing but ValueError: not for text nested a million levels deep, a number of 5,000
digits, NaN, or what is not text.
"""

from __future__ import annotations

import json
from typing import Any

LONGEST_TEXT = 100_000  # characters of one string
LARGEST = 1 << 63  # integers are below it, as in every other program that reads them
LARGEST_FLOAT = 1e300
DEEPEST = 8  # levels of lists and objects
MOST = 100_000  # values in one


def loads(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: The text is invalid in any way.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def is_text(value: Any) -> bool:
    """Return whether a value is a string of reasonable length that can be written.

    File names need not be Unicode, but half of a surrogate pair is not a character.
    """
    if type(value) is not str or len(value) > LONGEST_TEXT:
        return False
    if value.isascii():
        return True
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def as_text(value: str) -> str:
    """Return the string, shortened and escaped if `is_text` would refuse it."""
    return value if is_text(value) else value[: LONGEST_TEXT // 10].encode("utf-8", "backslashreplace").decode()


def is_count(value: Any) -> bool:
    """Return whether it is an integer of 0 or more, with at most 63 bits."""
    return type(value) is int and 0 <= value < LARGEST


def is_integer(value: Any) -> bool:
    """Return whether it is an integer with at most 63 bits and a sign."""
    return type(value) is int and -LARGEST <= value < LARGEST


def is_number(value: Any) -> bool:
    """Return whether it is a finite number."""
    kind = type(value)
    return (kind is float or kind is int) and -LARGEST_FLOAT < value < LARGEST_FLOAT


def is_scalar(value: Any) -> bool:
    """Return whether it is null, a boolean, a bounded integer, a finite number or text."""
    kind = type(value)
    if value is None or kind is bool:
        return True
    return is_integer(value) if kind is int else is_number(value) if kind is float else is_text(value)


def is_plain(value: Any, deepest: int = DEEPEST) -> bool:
    """Return whether it is a scalar, or lists and objects of them, limited in number and depth."""
    left = MOST
    level = [value]
    for _ in range(deepest + 1):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                if not all(map(is_text, item)):
                    return False
                below += item.values()
            elif kind is list:
                below += item
            elif not is_scalar(item):
                return False
        left -= len(below)
        if left < 0:
            return False
        level = below
        if not level:
            return True
    return False


def is_object(value: Any) -> bool:
    """Return whether it is an object of plain values."""
    return type(value) is dict and is_plain(value)
