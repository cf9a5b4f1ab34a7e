"""Which people the generator makes: two sets with the same seeds, and a mix of both."""

from __future__ import annotations

STANDARD = "standard"  # the people of the bundled clips and of the first held-out table; pixels never change
LIFELIKE = "lifelike"  # loose and patterned clothes, beards, glasses, jewellery, light that casts shadows
MIXED = "mixed"  # every second seed is lifelike
VARIETIES = (STANDARD, LIFELIKE)


def variety_of(seed: int, choice: str) -> str:
    """Return the set that the person of `seed` is of, if people are of `choice`: one of `VARIETIES`, or `MIXED`."""
    if choice == MIXED:
        return LIFELIKE if seed % 2 else STANDARD
    if choice not in VARIETIES:
        raise ValueError(f"{choice!r} is no set of people; expected {', '.join((*VARIETIES, MIXED))}")
    return choice
