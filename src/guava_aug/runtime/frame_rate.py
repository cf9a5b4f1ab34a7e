"""Frame rates: decimal numbers, or exact fractions such as 30000/1001 of NTSC."""

from __future__ import annotations

import re
from fractions import Fraction

FASTEST = 1000  # frames per second
LARGEST_PART = 1_000_000  # of numerator and denominator: what an MP4's time scale and x264 keep exactly
_COMMON = 1001  # largest denominator of the rates in use; a decimal number means the nearest of these

Rate = float | Fraction  # frames per second; a fraction only where the rate was given as one


def parse_rate(text: str) -> Rate:
    """Return the rate of a text: "25" and "29.97" as numbers, "30000/1001" as a fraction.

    Raises:
        ValueError: It is not a rate, or out of range; the message says what was expected.
    """
    found = re.fullmatch(r"\s*(\d{1,12})\s*/\s*(\d{1,12})\s*", text, re.ASCII)
    try:
        rate: Rate = Fraction(int(found[1]), int(found[2])) if found else float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"expected a number such as 25 or a fraction such as 30000/1001, found {text[:40]!r}"
        ) from None
    check_rate(rate)
    return float(rate) if rate == int(rate) else rate


def check_rate(rate: Rate) -> None:
    """Check that `rate` is a possible rate of a video.

    Raises:
        ValueError: It is not.
    """
    if not 0 < rate <= FASTEST:  # false for NaN
        raise ValueError(f"expected more than 0 and at most {FASTEST} frames per second, found {_in_words(rate)}")
    if isinstance(rate, Fraction) and (max(rate.as_integer_ratio()) > LARGEST_PART or rate * _COMMON < 1):
        raise ValueError(
            f"expected a fraction of numbers up to {LARGEST_PART}, 1/{_COMMON} or more, found {_in_words(rate)}"
        )


def exact_rate(rate: Rate) -> Fraction:
    """Return the exact rate of a video: a fraction unchanged, for a number the nearest with a denominator up to 1001.

    So 29.97 is 2997/100, and 23.976023976 is 24000/1001.

    Raises:
        ValueError: It is not a rate.
    """
    check_rate(rate)
    exact = rate if isinstance(rate, Fraction) else Fraction(rate).limit_denominator(_COMMON)
    check_rate(exact)
    return exact


def rate_text(rate: Rate) -> str:
    """Return the exact rate in the notation of FFmpeg's tools: "30000/1001", "25/1"."""
    exact = exact_rate(rate)
    return f"{exact.numerator}/{exact.denominator}"


def _in_words(rate: Rate) -> str:
    try:
        return str(rate)[:40]
    except ValueError:  # Python writes no whole numbers of more than some thousand digits
        return "a number of thousands of digits"
