"""Numbers with what they count."""

from __future__ import annotations

import pytest

from guava_aug.runtime.text import pluralize


@pytest.mark.parametrize(
    ("number", "noun", "form", "text"),
    [
        (0, "view", "", "0 views"),
        (1, "view", "", "1 view"),
        (2, "view", "", "2 views"),
        (1, "process", "", "1 process"),
        (3, "process", "", "3 processes"),
        (12_345, "frame", ",", "12,345 frames"),
    ],
)
def test_one_and_many(number: int, noun: str, form: str, text: str):
    assert pluralize(number, noun, form) == text
