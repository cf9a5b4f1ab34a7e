"""Cuts are found where they are, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from guava_aug.errors import InputError, UsageError
from guava_aug.tracked.reading import Frame, Source, find_shots
from guava_aug.tracked.reading.time_axis import axis_of


class Frames(Source):
    """A source of given pictures."""

    def __init__(self, pictures: list[np.ndarray], numbers: list[int] | None = None) -> None:
        super().__init__()
        self.path, self.size = Path("talk.mp4"), pictures[0].shape[:2]
        self.axis = axis_of(np.arange(len(pictures)), Fraction(1, 25), (25.0,))
        self._pictures, self._numbers = pictures, numbers or list(range(len(pictures)))

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for n, rgb in zip(self._numbers, self._pictures, strict=True):
            yield Frame(n, self.axis.seconds(0), rgb)


def _room(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(
        rng.integers(40, 220, (5, 7, 3)).astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    fine = cv2.resize(rng.integers(0, 60, (30, 40, 3)).astype(np.uint8), (width, height))
    return np.clip(coarse.astype(int) + fine - 30, 0, 255).astype(np.uint8)


def _shot(seed: int, count: int, speed: float = 0.5) -> list[np.ndarray]:
    """A person in front of a still room, with arms that cross the picture; grain on every frame."""
    rng = np.random.default_rng(seed + 100)
    skin, cloth = rng.integers(60, 240, 3).tolist(), rng.integers(10, 200, 3).tolist()
    out = []
    for i in range(count):
        p = _room(seed).copy()
        cv2.ellipse(p, (80, 110), (38, 60), 0, 0, 360, cloth, -1)
        cv2.circle(p, (80, 40), 17, skin, -1)
        for side in (-1, 1):
            end = (int(80 + side * (25 + 40 * np.sin(speed * i + side))), int(60 + 45 * np.cos(1.3 * speed * i)))
            cv2.line(p, (80 + side * 30, 70), end, cloth, 14)
            cv2.circle(p, end, 10, skin, -1)
        out.append(np.clip(p.astype(int) + rng.integers(-6, 7, p.shape), 0, 255).astype(np.uint8))
    return out


def test_cuts_are_found_exactly() -> None:
    found = find_shots(Frames(_shot(1, 40) + _shot(2, 7) + _shot(3, 30)))
    assert found.cuts == (40, 47)
    assert [(s.name, s.start, s.stop) for s in found.shots] == [
        ("talk_01", 0, 40), ("talk_02", 40, 47), ("talk_03", 47, 77),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_fast_signs_are_no_cut(seed: int) -> None:
    found = find_shots(Frames(_shot(seed, 60, speed=2.5)))
    assert not found.cuts and [(s.name, len(s)) for s in found.shots] == [("talk", 60)]


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_flash_is_no_cut(length: int) -> None:
    pictures = _shot(4, 60)
    for i in (20, 41):
        for k in range(length):
            lit = pictures[i + k].astype(float) * (2.5 - 0.3 * k) + 60
            pictures[i + k] = np.clip(lit, 0, 255).astype(np.uint8)
    assert not find_shots(Frames(pictures)).cuts


def test_changing_light_pans_and_zooms_are_no_cuts() -> None:
    dimmed = [np.clip(p * (1 if i < 30 else 0.6), 0, 255).astype(np.uint8) for i, p in enumerate(_shot(5, 60))]
    assert not find_shots(Frames(dimmed)).cuts
    wide = cv2.resize(_room(6, 200, 600), (1200, 400))
    pan = [wide[100:300, 12 * i : 12 * i + 300] for i in range(60)]
    assert not find_shots(Frames(pan)).cuts
    zoom = [cv2.resize(wide[i : 400 - i, 2 * i : 800 - 2 * i], (160, 120)) for i in range(0, 120, 3)]
    assert not find_shots(Frames(zoom)).cuts


def test_a_cut_beside_a_flash_and_beside_fast_movement() -> None:
    pictures = _shot(7, 30, 2.0) + _shot(8, 30, 2.0)
    pictures[22] = np.clip(pictures[22].astype(int) * 2 + 80, 0, 255).astype(np.uint8)
    assert find_shots(Frames(pictures)).cuts == (30,)


def test_a_fade_through_black_separates_and_is_named() -> None:
    first, second = _shot(9, 40), _shot(10, 40)
    out = [(p * max(0.0, 1 - k / 10)).astype(np.uint8) for k, p in enumerate(first[30:])]
    into = [(p * min(1.0, k / 10)).astype(np.uint8) for k, p in enumerate(second[:10])]
    pictures = first[:30] + out + [np.zeros_like(first[0])] * 5 + into + second[10:]
    found = find_shots(Frames(pictures))
    assert not found.cuts and len(found.fades) == 1 and len(found.shots) == 2
    a, b = found.fades[0]
    assert 36 <= a <= 40 and 44 <= b <= 48
    assert (found.shots[0].stop, found.shots[1].start) == (a, b + 1)
    assert any("blank" in note for note in found.notes)


def test_frames_keep_their_numbers_and_short_shots_are_named() -> None:
    numbers = [i for i in range(52) if i not in (3, 4)]
    found = find_shots(Frames(_shot(1, 25) + _shot(2, 3) + _shot(3, 22), numbers))
    assert [s.frames for s in found.shots] == [tuple(numbers[:25]), tuple(numbers[28:])]
    assert any("frames 27 to 29" in note for note in found.notes)


def test_refusing_a_cut_names_it() -> None:
    with pytest.raises(InputError, match=r"1 cut, at frame 20 \(0\.80 s\)"):
        find_shots(Frames(_shot(1, 20) + _shot(2, 20)), on_cut="refuse")
    assert find_shots(Frames(_shot(1, 20)), on_cut="refuse").shots[0].name == "talk"
    with pytest.raises(UsageError, match="--on_cut"):
        find_shots(Frames(_shot(1, 5)), on_cut="ignore")  # type: ignore[arg-type]


def test_very_short_and_blank_videos() -> None:
    assert len(find_shots(Frames(_shot(1, 1))).shots[0]) == 1
    assert len(find_shots(Frames([np.zeros((20, 30, 3), np.uint8)] * 9)).shots) == 1
