"""The shots of a video: what is between two cuts is one clip.

A cut is a single step after which most of the picture is different and stays so. Fast movement changes a part of the
picture only; a pan changes all of it, but in many steps of one size; after a flash the picture is what it was before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np

from guava_aug.errors import InputError, UsageError
from guava_aug.runtime.text import pluralize
from guava_aug.tracked.reading.source import Frame, Source
from guava_aug.tracked.report import clip_names

OnCut = Literal["split", "refuse"]

_WIDTH, _HEIGHT = 64, 48  # pixels that are compared
_BLOCK = 8  # pixels; 48 blocks
_CHANGED = 0.06  # of full scale, in the mean over a block
_MOST_BLOCKS = 0.45  # changed blocks of a cut: a person in front of a still background has fewer
_HISTOGRAM = 0.12  # of the pixels have another colour after a cut
_CERTAIN = 0.75  # changed blocks that need no other colours
_TIMES_USUAL = 2.5  # the step of a cut against the largest of those around it
_AROUND = 4  # frames before and after
_FLASH = 5  # frames that a flash lasts at most
_SAME = 0.6  # of the step: what is left of it after a flash
_FLAT = 0.02  # of full scale: spread of a black (or one-coloured) picture
SHORTEST = 5  # frames of a clip; shorter ones are named and left out


@dataclass(frozen=True)
class Shot:
    """A part of a source without cuts."""

    name: str  # of the tracked video
    frames: tuple[int, ...]  # numbers of the frames that can be decoded, ascending

    @property
    def start(self) -> int:
        """Return the number of the first frame."""
        return self.frames[0]

    @property
    def stop(self) -> int:
        """Return the number after that of the last frame."""
        return self.frames[-1] + 1

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.frames)


@dataclass(frozen=True)
class Shots:
    """The shots of a source, and what was found between them."""

    shots: tuple[Shot, ...]
    cuts: tuple[int, ...]  # numbers of the first frames after a cut
    fades: tuple[tuple[int, int], ...]  # first and last frame of every fade and of every blank part
    notes: tuple[str, ...]


def find_shots(source: Source, *, on_cut: OnCut = "split", shortest: int = SHORTEST) -> Shots:
    """Return the shots of a source; it is decoded once, and only small pictures of a few frames are kept.

    Args:
        source: The video.
        on_cut: "split": every shot is a clip of its own, named NAME_01, NAME_02, ...; "refuse": a cut is an error.
        shortest: Frames of a shot; shorter ones are left out and named.

    Raises:
        InputError: Nothing can be decoded, all shots are too short, or there is a cut and `on_cut` is "refuse".
        UsageError: Another `on_cut`.
    """
    if on_cut not in ("split", "refuse"):
        raise UsageError(f"--on_cut: expected split or refuse, found {on_cut!r}")
    numbers: list[int] = []
    blank: list[bool] = []
    cuts = list(_cuts(_small(source, numbers, blank)))
    if not numbers:
        raise InputError(f"{source.path}: no frame of it can be decoded")
    blank_runs = _runs(blank, 2)
    seconds = source.axis.seconds
    if cuts and on_cut == "refuse":
        at = ", ".join(f"{numbers[i]} ({float(seconds(numbers[i])):.2f} s)" for i in cuts[:5])
        more = f" and {len(cuts) - 5} more" if len(cuts) > 5 else ""
        raise InputError(
            f"{source.path}: has {pluralize(len(cuts), 'cut')}, at frame {at}{more}; expected one shot, as --on_cut is "
            "refuse. Cut the video there, or give --on_cut split"
        )
    pieces = _pieces(len(numbers), cuts, blank_runs)
    kept = [(a, b) for a, b in pieces if b - a >= shortest] or ([max(pieces)] if len(pieces) == 1 else [])
    notes = [
        f"frames {numbers[a]} to {numbers[b - 1]} are a shot of only {pluralize(b - a, 'frame')} and left out"
        for a, b in pieces
        if (a, b) not in kept
    ]
    notes += [f"frames {numbers[a]} to {numbers[b - 1]} are blank and left out" for a, b in blank_runs]
    if not kept:
        raise InputError(
            f"{source.path}: has no shot of at least {pluralize(shortest, 'frame')} ({'; '.join(notes[:3])})"
        )
    names = clip_names(source.name, len(kept))
    shots = tuple(Shot(name, tuple(numbers[a:b])) for name, (a, b) in zip(names, kept, strict=True))
    fades = tuple((numbers[a], numbers[b - 1]) for a, b in blank_runs)
    return Shots(shots, tuple(numbers[i] for i in cuts), fades, tuple(notes))


def _pieces(count: int, cuts: list[int], blank: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts [start, stop) between cuts and blank parts; all if everything is blank."""
    ends = sorted({0, count, *cuts, *(i for run in blank for i in run)})
    gone = set(blank)
    pieces = [(a, b) for a, b in pairwise(ends) if not any(x <= a and b <= y for x, y in gone)]
    return pieces or [(0, count)]


def _runs(flags: list[bool], shortest: int) -> list[tuple[int, int]]:
    """Return the runs [start, stop) of True that are long enough."""
    found, start = [], None
    for i, flag in enumerate([*flags, False]):
        if flag and start is None:
            start = i
        elif not flag and start is not None:
            if i - start >= shortest:
                found.append((start, i))
            start = None
    return found


def _small(source: Iterable[Frame], numbers: list[int], blank: list[bool]) -> Iterator[np.ndarray]:
    """Give pictures [_HEIGHT, _WIDTH, 3] float32 0..1; the lists get the number of each, and whether it is blank."""
    for frame in source:
        small = cv2.resize(frame.rgb, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        numbers.append(frame.number)
        blank.append(bool(small.reshape(-1, 3).std(0).max() < _FLAT))
        yield cv2.GaussianBlur(small, (0, 0), 1.0)


def _cuts(pictures: Iterator[np.ndarray]) -> Iterator[int]:
    """Give the places of the first pictures after a cut, ascending."""
    around: deque[np.ndarray] = deque(maxlen=2 * _AROUND + _FLASH + 2)  # the last of them is picture `last`
    steps: list[float] = [0.0]  # steps[i]: from picture i - 1 to i
    last = -1
    for last, picture in enumerate(pictures):
        if around:
            steps.append(_changed(around[-1], picture))
        around.append(picture)
        at = last - _AROUND - _FLASH
        if at > 0 and _is_cut(at, last, steps, around):
            yield at
    for at in range(max(1, last - _AROUND - _FLASH + 1), last + 1):
        if _is_cut(at, last, steps, around):
            yield at


def _is_cut(at: int, last: int, steps: list[float], around: deque[np.ndarray]) -> bool:
    """Return whether picture `at` is the first of a shot, where `around[-1]` is picture `last`."""
    step = steps[at]
    if step < _MOST_BLOCKS:
        return False
    usual = [*steps[max(1, at - _AROUND) : at], *steps[at + 1 : at + 1 + _AROUND]]
    others = sorted(usual)[:-1] if len(usual) > 2 else []  # another cut, or the end of a flash, may be near
    if others and step < _TIMES_USUAL * max(np.median(others), 0.05):
        return False
    first = last - len(around) + 1

    def picture(i: int) -> np.ndarray:
        return around[i - first]

    before = picture(at - 1)
    for later in range(at + 1, min(at + _FLASH, last) + 1):
        if _changed(before, picture(later)) < _SAME * step:
            return False
    if at >= 2 and at - 2 >= first and _ends_a_flash(at, first, picture, step):
        return False
    return step >= _CERTAIN or _colours_changed(before, picture(at)) >= _HISTOGRAM


def _ends_a_flash(at: int, first: int, picture: Callable[[int], np.ndarray], step: float) -> bool:
    """Return whether picture `at` is like one shortly before the step: then the step is the end of a flash."""
    return any(
        _changed(picture(i), picture(at)) < _SAME * step and _changed(picture(i), picture(at - 1)) >= _SAME * step
        for i in range(max(first, at - _FLASH - 1), at - 1)
    )


def _changed(a: np.ndarray, b: np.ndarray) -> float:
    """Return the share of blocks that differ between two pictures, 0..1; the same in another light does not count."""
    plain = _blocks(a - b)
    gain = float(np.clip((a.std() + 1e-3) / (b.std() + 1e-3), 0.5, 2.0))
    lit = _blocks(a - a.mean((0, 1)) - gain * (b - b.mean((0, 1))))
    changed: float = (np.minimum(plain, lit) > _CHANGED).mean()
    return float(changed)


def _blocks(difference: np.ndarray) -> np.ndarray:
    h, w = _HEIGHT // _BLOCK, _WIDTH // _BLOCK
    means: np.ndarray = np.abs(difference).reshape(h, _BLOCK, w, _BLOCK, 3).mean((1, 3, 4))
    return means


def _colours_changed(a: np.ndarray, b: np.ndarray) -> float:
    """Return the share of pixels without one of the same colour in the other picture, 0..1."""
    counts = []
    for picture in (a, b):
        bins = np.minimum((picture * 8).astype(int), 7)
        index = (bins[..., 0] * 8 + bins[..., 1]) * 8 + bins[..., 2]
        cube = np.bincount(index.ravel(), minlength=512).reshape(8, 8, 8).astype(np.float64)
        for axis in range(3):  # neighbours of a bin are nearly the same colour
            padded = np.pad(cube, [(1, 1) if k == axis else (0, 0) for k in range(3)], mode="edge")
            low, high = (np.take(padded, range(k, k + 8), axis) for k in (0, 2))
            cube = 0.5 * cube + 0.25 * (low + high)
        counts.append(cube / cube.sum())
    return float(1 - np.minimum(*counts).sum())
