"""Which videos a task of a cluster job works on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from guava_aug.errors import UsageError

_ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX")

_LONGEST = 18  # digits of a number


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 0. Every video belongs to exactly one part, by its name alone."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            last = f"0/{self.count} to {self.count - 1}/{self.count}" if self.count > 0 else "i/n with n of 1 or more"
            raise UsageError(f"--shard is {self}; the first part is 0: expected {last}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the part that is written `i/n`. Raises UsageError."""
        index, slash, count = text.partition("/")
        if not (slash and all(part.strip().isdecimal() and len(part) <= _LONGEST for part in (index, count))):
            raise UsageError(f"--shard is {text!r}; expected i/n, such as 0/4 for the first of four parts")
        return cls(int(index), int(count))

    def has(self, name: str) -> bool:
        """Return whether the video is of this part."""
        return number_of(name) % self.count == self.index

    def select(self, names: Iterable[str]) -> list[str]:
        """Return the names of this part, in their order."""
        return [name for name in names if self.has(name)]


def number_of(name: str) -> int:
    """Return the first 64 bits of SHA-256 of the name in UTF-8: the same on every machine and in every release."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")


def shard_of_slurm_array(environment: Mapping[str, str]) -> Shard | None:
    """Return the part that belongs to this task of a SLURM array; None outside of one.

    Tasks are counted from the lowest id, in steps: ids 1, 2, 3 and 0, 10, 20 are parts 0/3, 1/3, 2/3.

    Raises:
        UsageError: the ids are not evenly spaced (as when some tasks are submitted again), so that the number of
            parts is unknown.
    """
    if _ARRAY[0] not in environment:
        return None
    try:
        task, count, first, last = (int(environment[name]) for name in _ARRAY)
        step = int(environment.get("SLURM_ARRAY_TASK_STEP", 1))
    except (KeyError, ValueError):
        raise UsageError(f"SLURM's {', '.join(_ARRAY)} are not all numbers; say the part with --shard i/n") from None
    index, rest = divmod(task - first, max(step, 1))
    if rest or last != first + (count - 1) * step or not 0 <= index < count:
        raise UsageError(
            f"the {count} tasks of this SLURM array ({first} to {last}) are not evenly spaced, so their parts are not "
            "known; give the part with --shard i/n (as the script of `guava-aug slurm` does), or --shard none for "
            "the whole list"
        )
    return Shard(index, count)
