"""Repair of frames in which left and right hand are taken for each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from guava_aug.tracked.detect.landmarks import LEFT, RIGHT, Landmarks

_SHOULDERS, _WRISTS = (11, 12), (15, 16)  # of the pose landmarks; left, right
_WRIST = 0  # of the hand landmarks
_SHAPE_WEIGHT = 0.5  # cost of a hand whose shape says it is surely of the other side,
_POSE_WEIGHT = 0.5  # and of one a shoulder's width farther from its own pose wrist; moving as far costs 1
_FORGET = 0.8  # per frame, what the last place of a hand that is not seen still counts


def repair_swaps(landmarks: Landmarks, leftness: np.ndarray) -> Landmarks:
    """Return the landmarks with each hand on the side that makes both move least over the clip.

    In each frame the hands are as found, or exchanged: the cheapest sequence (Viterbi) of movement of both wrists,
    shape against side, and distance from the pose's wrists.

    Args:
        landmarks: As found.
        leftness: [T, 2] probability that what was found for each side is a left hand.
    """
    exchanged = _cheapest(*_costs(landmarks, leftness))
    order = np.where(exchanged[:, None], [RIGHT, LEFT], [LEFT, RIGHT])
    frames = np.arange(len(order))[:, None]
    return replace(
        landmarks,
        hands=landmarks.hands[frames, order],
        hand_score=landmarks.hand_score[frames, order],
        hands_world=landmarks.hands_world[frames, order],
    )


def _costs(landmarks: Landmarks, leftness: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the cost [T, 2] of leaving and of exchanging, wrists [T, 2, 2] in shoulder widths, and seen [T, 2]."""
    seen = landmarks.hand_score > 0
    shoulders = landmarks.pose[:, _SHOULDERS, :2]
    widths = np.linalg.norm(shoulders[:, 0] - shoulders[:, 1], axis=-1)
    width = float(np.median(widths[landmarks.found])) if landmarks.found.any() else 1.0
    wrists = landmarks.hands[:, :, _WRIST, :2] / max(width, 1.0)
    pose_wrists = landmarks.pose[:, _WRISTS, :2] / max(width, 1.0)
    far = np.linalg.norm(wrists[:, :, None] - pose_wrists[:, None], axis=-1)  # [T, found side, pose side]
    wrong_shape = np.stack([1 - leftness, leftness], -1)  # [T, found side, given side]
    cost = np.where(seen[..., None], _SHAPE_WEIGHT * wrong_shape + _POSE_WEIGHT * far, 0)
    stay = cost[:, LEFT, LEFT] + cost[:, RIGHT, RIGHT]
    exchange = cost[:, LEFT, RIGHT] + cost[:, RIGHT, LEFT]
    return np.stack([stay, exchange], -1), wrists, seen


def _cheapest(own: np.ndarray, wrists: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return [T] bool: whether the hands of a frame are exchanged on the cheapest path.

    Each of the two states remembers where its path last saw each hand, as movement is measured from there.
    """
    count = len(own)
    total = own[0].copy()
    back = np.zeros((count, 2), int)
    place = np.stack([wrists[0], wrists[0, ::-1]])  # [state, side, 2]
    trust = np.stack([seen[0], seen[0, ::-1]]).astype(float)  # [state, side], 0: never seen
    for t in range(1, count):
        now = np.stack([wrists[t], wrists[t, ::-1]])
        here = np.stack([seen[t], seen[t, ::-1]])
        moved = np.linalg.norm(now[:, None] - place[None], axis=-1)  # [state, state before, side]
        step = (moved * trust[None] * here[:, None]).sum(-1)
        through = total[None] + step
        back[t] = through.argmin(1)
        total = through.min(1) + own[t]
        place = np.where(here[..., None], now, place[back[t]])
        trust = np.where(here, 1.0, _FORGET * trust[back[t]])
    path = np.zeros(count, bool)
    state = int(total.argmin())
    for t in range(count - 1, -1, -1):
        path[t] = bool(state)
        state = int(back[t, state])
    return path
