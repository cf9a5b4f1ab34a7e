"""The square that is tracked: the tracker's framing, all hands inside, and what is not known stays unknown."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from guava_aug.tracked.reading import Crop, choose_crop


def _seen(count: int = 50, size: tuple[int, int] = (720, 1280), at: tuple[float, float] = (640, 300),
          width: float = 200, hands: np.ndarray | None = None) -> SimpleNamespace:  # fmt: skip
    """A person with shoulders `width` apart around `at`; hands [T, 2, 2] are their middles."""
    x, y = at
    pose, score = np.zeros((count, 33, 3), np.float32), np.zeros((count, 33), np.float32)
    pose[:, 11, :2], pose[:, 12, :2], pose[:, 0, :2] = (x + width / 2, y), (x - width / 2, y), (x, y - 0.5 * width)
    score[:, [0, 11, 12]] = 1
    rng = np.random.default_rng(0)
    face = rng.uniform(-1, 1, (468, 2)) * (0.2 * width, 0.26 * width) + (x, y - 0.5 * width)
    if hands is None:
        hands = np.tile([[x + 0.4 * width, y + width], [x - 0.4 * width, y + width]], (count, 1, 1))
    points = rng.uniform(-0.2, 0.2, (21, 2)) * width
    full = np.zeros((count, 2, 21, 3), np.float32)
    full[..., :2] = hands[:, :, None] + points
    return SimpleNamespace(
        pose=pose, pose_score=score, hands=full, hand_score=np.ones((count, 2)), size=size,
        face=np.concatenate([np.tile(face, (count, 1, 1)), np.zeros((count, 468, 1))], -1), face_score=np.ones(count),
    )  # fmt: skip


def test_the_trackers_framing() -> None:
    crop = choose_crop(_seen())
    assert crop is not None
    assert 200 / crop.side == pytest.approx(0.30, abs=0.01)
    middle = crop.points(np.array([640.0, 300.0])) / 1024
    np.testing.assert_allclose(middle, [0.5, 0.33], atol=0.02)


def test_all_hands_are_inside() -> None:
    t = np.linspace(0, 6, 60)
    hands = np.stack([np.stack([640 + 350 * np.sin(t), 300 + 150 * np.cos(t)], -1),
                      np.stack([640 - 330 * np.sin(t), 100 + 200 * np.cos(2 * t)], -1)], 1)  # fmt: skip
    seen = _seen(60, hands=hands)
    crop = choose_crop(seen)
    assert crop is not None and crop.side < 1.4 * 667
    points = crop.points(seen.hands[..., :2])
    assert points[..., 0].min() > 5 and points[..., 0].max() < 1019
    visible = seen.hands[..., 1] > 0  # above the picture there is nothing to see
    assert points[..., 1][visible].min() > -2 and points[..., 1].max() < 1019


def test_a_landmark_that_flies_away_and_hands_not_seen_do_not_count() -> None:
    seen = _seen()
    usual = choose_crop(seen)
    seen.hands[20, 0] += 900
    assert choose_crop(seen) == usual
    seen.hands[25:, 1] -= 600
    seen.hand_score[25:, 1] = 0.1
    assert choose_crop(seen) == usual


def test_a_walking_person_stays_inside() -> None:
    seen = _seen()
    shift = np.linspace(-150, 150, 50)
    for field in ("pose", "hands", "face"):
        values = getattr(seen, field)
        values[..., 0] += shift.reshape(-1, *[1] * (values.ndim - 2))
    crop = choose_crop(seen)
    assert crop is not None
    points = crop.points(seen.face[..., :2])
    assert points.min() > 0 and points.max() < 1024


def test_turned_to_the_side_the_scale_is_that_of_the_head() -> None:
    seen = _seen()
    seen.pose[:, 11, 0], seen.pose[:, 12, 0] = 660, 620
    crop = choose_crop(seen)
    assert crop is not None and 500 < crop.side < 750


def test_nobody() -> None:
    seen = _seen()
    seen.pose_score[:] = 0.2
    assert choose_crop(seen) is None


@pytest.mark.parametrize("side, size", [(100, 100), (50, 100), (300, 100)])
def test_outside_of_the_picture_nothing_is_known(side: int, size: int) -> None:
    picture = np.full((80, 120, 3), 200, np.uint8)
    crop = Crop(60, -20, side, (80, 120))
    taken, known = crop.take(picture, size), crop.known(size)
    assert taken.shape == (size, size, 3) and known is not None
    s = size / side
    inside = np.zeros((size, size), bool)
    inside[int(np.ceil(20 * s)) : int(100 * s), : int(60 * s)] = True
    assert not (known > 0)[~inside].any() and ((known > 0) == inside).mean() > 0.98
    assert (taken[known > 0] > 190).all()
    assert (taken[: int(18 * s)] == 127).all()
    assert Crop(0, 0, 80, (80, 120)).known(64) is None


def test_points_and_pictures_agree() -> None:
    picture = np.zeros((400, 400), np.uint8)
    picture[150:160, 210:220] = 255
    crop = Crop(100, 50, 250, (400, 400))
    taken = crop.take(picture, 1000).astype(float)
    y, x = np.mgrid[:1000, :1000]
    found = np.array([(taken * x).sum(), (taken * y).sum()]) / taken.sum()
    expected = crop.points(np.array([214.5, 154.5]), 1000)
    np.testing.assert_allclose(found, expected, atol=0.6)
    np.testing.assert_allclose((crop.matrix(1000) @ [214.5, 154.5, 1])[:2], expected)
