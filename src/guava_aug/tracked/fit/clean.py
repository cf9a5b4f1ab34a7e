"""Landmarks before they are fitted: swapped hands, hands that are none, scores, blur."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from guava_aug.tracked.detect.landmarks import Landmarks

_WRISTS = (15, 16)
_SHOULDERS = (11, 12)
_FAR = 0.45  # of the shoulder width: a hand farther than this from the wrist of its arm is no hand of that arm
_SAME = 0.35  # of a hand's length: two hands nearer than this on average are one hand found twice
_SURE_WRIST = 0.3  # visibility below which a wrist of the pose says nothing about the hands
_BLURRED = 0.6  # of a hand's length in 1/25 s: half the weight
_SEEN = 0.3  # score


@dataclass(frozen=True)
class HandRepairs:
    """What was changed, by frame."""

    swapped: np.ndarray  # [T] bool, left and right were exchanged
    dropped: np.ndarray  # [T, 2] bool, no hand of that arm


def repair_hands(landmarks: Landmarks) -> tuple[Landmarks, HandRepairs]:
    """Return landmarks whose hands belong to the arms they are at, and what was changed.

    A hand is judged by its distance from the wrists of the pose and from where it was in the frame before, relative to
    the width of the shoulders.
    """
    T = len(landmarks.pose)
    hands, score, world = landmarks.hands.copy(), landmarks.hand_score.copy(), landmarks.hands_world.copy()
    swapped, dropped = np.zeros(T, bool), np.zeros((T, 2), bool)
    width = _shoulder_width(landmarks)
    before: list[np.ndarray | None] = [None, None]
    age = [0, 0]
    for t in range(T):
        keep, cross = _arm_costs(landmarks, hands[t], score[t], t, width, before)
        if cross < keep - 0.1:
            hands[t], score[t], world[t] = hands[t, ::-1].copy(), score[t, ::-1].copy(), world[t, ::-1].copy()
            swapped[t] = True
        for s in _doubtful(landmarks, hands[t], score[t], t, width):
            score[t, s] = 0
            dropped[t, s] = True
        for s in (0, 1):
            if score[t, s] > _SEEN:
                before[s], age[s] = hands[t, s, :, :2].mean(0), 0
            else:
                age[s] += 1
                if age[s] > 5:
                    before[s] = None
    return replace(landmarks, hands=hands, hand_score=score, hands_world=world), HandRepairs(swapped, dropped)


def _shoulder_width(landmarks: Landmarks) -> float:
    ok = landmarks.pose_score[:, _SHOULDERS].min(1) > 0
    if not ok.any():
        return 1.0
    a, b = (landmarks.pose[ok, k, :2] for k in _SHOULDERS)
    return max(1.0, float(np.quantile(np.linalg.norm(a - b, axis=1), 0.8)))


def _arm_costs(
    landmarks: Landmarks, hands: np.ndarray, score: np.ndarray, t: int, width: float, before: list[np.ndarray | None]
) -> tuple[float, float]:
    """Return the cost of the hands as they are, and exchanged."""
    costs = []
    for order in ((0, 1), (1, 0)):
        total = 0.0
        for arm, hand in enumerate(order):
            if score[hand] <= _SEEN:
                continue
            if landmarks.pose_score[t, _WRISTS[arm]] > _SURE_WRIST:
                total += float(np.linalg.norm(hands[hand, 0, :2] - landmarks.pose[t, _WRISTS[arm], :2])) / width
            last = before[arm]
            if last is not None:
                total += 0.5 * float(np.linalg.norm(hands[hand, :, :2].mean(0) - last)) / width
        costs.append(total)
    return costs[0], costs[1]


def _doubtful(landmarks: Landmarks, hands: np.ndarray, score: np.ndarray, t: int, width: float) -> list[int]:
    far = []
    for s in (0, 1):
        if score[s] > _SEEN and landmarks.pose_score[t, _WRISTS[s]] > _SURE_WRIST:
            away = float(np.linalg.norm(hands[s, 0, :2] - landmarks.pose[t, _WRISTS[s], :2])) / width
            far.append((away, s))
    out = [s for away, s in far if away > _FAR]
    if len(far) == 2 and not out:
        length = np.linalg.norm(hands[:, 9, :2] - hands[:, 0, :2], axis=1).mean()
        apart = np.linalg.norm(hands[0, :, :2] - hands[1, :, :2], axis=1).mean()
        if apart < _SAME * max(float(length), 1.0):
            out.append(max(far)[1])
    return out


def hand_blur(landmarks: Landmarks, fps: float) -> np.ndarray:
    """Return what weight fast hands keep [T, 2], 0..1: their landmarks are of smeared pictures."""
    out = np.ones(landmarks.hand_score.shape)
    middle = landmarks.hands[..., :2].mean(2)
    for s in (0, 1):
        ok = landmarks.hand_score[:, s] > _SEEN
        if ok.sum() < 2:
            continue
        length = np.median(np.linalg.norm(landmarks.hands[ok, s, 9, :2] - landmarks.hands[ok, s, 0, :2], axis=1))
        both = ok[1:] & ok[:-1]
        step = np.where(both, np.linalg.norm(np.diff(middle[:, s], axis=0), axis=1), 0) * fps / 25
        speed = np.maximum(np.r_[step, 0], np.r_[0, step]) / max(float(length), 1.0)
        out[:, s] = 1 / (1 + (speed / _BLURRED) ** 2)
    return out
