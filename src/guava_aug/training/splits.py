"""Which seeds of the people generator are trained on and which are kept for evaluation, fixed before any training.

A person, their motion, light and camera all follow from one seed, so disjoint seeds make disjoint data. Bundled clips
and everything a user makes with small seeds are held out too: training draws from its own range only.
"""

from __future__ import annotations

TRAIN_FIRST, TRAIN_LAST = 1_000_000, 1_999_999
HELD_OUT_PEOPLE: tuple[int, ...] = (90_101, 90_102, 90_103, 90_104, 90_105, 90_106, 90_107, 90_108)
HELD_OUT_MOTION: tuple[int, ...] = (91_101, 91_102, 91_103, 91_104, 91_105, 91_106, 91_107, 91_108)
_MOTIONS_PER_PERSON = 8


def train_seed(index: int) -> int:
    """Seed of training person `index`."""
    seed = TRAIN_FIRST + index
    if not TRAIN_FIRST <= seed <= TRAIN_LAST:
        raise ValueError(f"training person {index} is outside the training seeds")
    return seed


def train_motion_seed(index: int, take: int) -> int:
    """Seed of one take of training person `index`; never one of `HELD_OUT_MOTION`."""
    if not 0 <= take < _MOTIONS_PER_PERSON:
        raise ValueError(f"take {take} is outside 0..{_MOTIONS_PER_PERSON - 1}")
    return TRAIN_FIRST * 10 + index * _MOTIONS_PER_PERSON + take
