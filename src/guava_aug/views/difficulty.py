"""Difficulties: ranges of the views' angles, and the original's rule from a video's name to a seed."""

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
    """Return the original's seed of `difficulties[index]` for the video `name`.

    It depends on the number of difficulties and on their order, and two names share their seeds when their hashes agree
    modulo 100000. This is the original's rule and stays, so that its parameter sets can be reproduced.
    """
    name_hash = int(hashlib.md5(name.encode("utf-8"), usedforsecurity=False).hexdigest()[:8], 16)
    return base_seed + (name_hash % SEED_BUCKETS) * len(difficulties) + index


def extra_seed(name: str, difficulty: str, view_index: int, base_seed: int = 42) -> int:
    """Return the seed of view `view_index` > 0, independent of the list of difficulties.

    It has 48 bits, so that any JSON reader keeps it exactly.
    """
    key = f"{base_seed}\0{name}\0{difficulty}\0{view_index}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:6], "big")


def draw(difficulty: str, seed: int) -> tuple[float, float, float]:
    """Return (yaw, pitch, zoom) of a seed: the original's three uniform draws, in its order, from a new generator."""
    return draw_all(difficulty, [seed])[0]


def draw_all(difficulty: str, seeds: Sequence[int]) -> list[tuple[float, float, float]]:
    """Return `draw` of several seeds. One generator is seeded again for each, which is faster than new generators."""
    ranges = DIFFICULTIES[check_difficulty(difficulty)]
    (yaw, yaw_to), (pitch, pitch_to), (zoom, zoom_to) = ranges.yaw, ranges.pitch, ranges.zoom
    rng = random.Random(0)
    uniform, found = rng.random, []  # as `Random.uniform` has it: low + (high - low) * random()
    for seed in seeds:
        rng.seed(seed)
        found.append((
            yaw + (yaw_to - yaw) * uniform(), pitch + (pitch_to - pitch) * uniform(),
            zoom + (zoom_to - zoom) * uniform(),
        ))  # fmt: skip
    return found


def check_difficulty(name: str) -> str:
    """Return `name` if there is such a difficulty.

    Raises:
        UsageError: There is none; the message suggests the closest name.
    """
    if name in DIFFICULTIES:
        return name
    close = difflib.get_close_matches(name.lower(), DIFFICULTIES, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UsageError(f"--difficulties: expected {', '.join(DIFFICULTIES)}, found {name!r}{hint}")


def check_difficulties(names: Sequence[str]) -> list[str]:
    """Return the list if every name is known and none is repeated.

    Raises:
        UsageError: A name is unknown or repeated.
    """
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
