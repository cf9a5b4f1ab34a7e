"""Difficulties: how far a view may turn, and the original's rule from a video's name to a seed."""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from guava_aug.errors import UsageError

SEED_BUCKETS = 100_000  # the original reduces the name's hash to this many values


@dataclass(frozen=True)
class Difficulty:
    """Uniform ranges of one difficulty: (low, high) of yaw and pitch in radians, zoom as a factor on the distance."""

    yaw: tuple[float, float]
    pitch: tuple[float, float]
    zoom: tuple[float, float]


DIFFICULTIES = {
    "easy": Difficulty((-0.15, 0.15), (-0.10, 0.10), (0.90, 1.10)),
    "medium": Difficulty((-0.35, 0.35), (-0.25, 0.25), (0.75, 1.30)),
    "hard": Difficulty((-0.52, 0.52), (-0.40, 0.40), (0.60, 1.50)),
}


def seed_for(name: str, difficulties: Sequence[str], index: int, base_seed: int = 42) -> int:
    """The original's seed of `difficulties[index]` for the video `name`.

    It depends on how many difficulties are asked for and on their order, and two names share their seeds when their
    hashes agree modulo 100000. That is the original's rule and stays, so that its parameter sets can be made again.
    """
    name_hash = int(hashlib.md5(name.encode("utf-8"), usedforsecurity=False).hexdigest()[:8], 16)
    return base_seed + (name_hash % SEED_BUCKETS) * len(difficulties) + index


def extra_seed(name: str, difficulty: str, view_index: int, base_seed: int = 42) -> int:
    """Seed of view `view_index` > 0, whatever the list of difficulties; 48 bits, so that any JSON reader keeps it."""
    key = f"{base_seed}\0{name}\0{difficulty}\0{view_index}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:6], "big")


def draw(difficulty: str, seed: int) -> tuple[float, float, float]:
    """(yaw, pitch, zoom) of a seed: the original's three uniform draws, in its order, from a generator of its own."""
    ranges = DIFFICULTIES[check_difficulty(difficulty)]
    rng = random.Random(seed)
    return rng.uniform(*ranges.yaw), rng.uniform(*ranges.pitch), rng.uniform(*ranges.zoom)


def check_difficulty(name: str) -> str:
    """`name`, if there is such a difficulty; UsageError with the closest name if not."""
    if name in DIFFICULTIES:
        return name
    close = difflib.get_close_matches(name.lower(), DIFFICULTIES, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UsageError(f"--difficulties: expected {', '.join(DIFFICULTIES)}, found {name!r}{hint}")


def check_difficulties(names: Sequence[str]) -> list[str]:
    """The list, if every name is known and none comes twice; UsageError if not."""
    if isinstance(names, str) or not names:
        raise UsageError(f"--difficulties: expected a list of {', '.join(DIFFICULTIES)}, found {names!r}")
    for i, name in enumerate(names):
        check_difficulty(name)
        if name in names[:i]:
            raise UsageError(
                f"--difficulties: {name!r} is named twice; both would be written to the same file. "
                "Use --views_per_difficulty for more views of one difficulty"
            )
    return list(names)
