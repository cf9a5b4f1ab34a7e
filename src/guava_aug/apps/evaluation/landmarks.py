"""What the detection nets find in pictures of an avatar, against what they find in the true ones.

Each picture is looked at by itself, without the frames around it, so that neither the smoothing of a video nor a hand
that was followed from the frame before hides what a picture does not show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from guava_aug.apps.evaluation.likeness import TRUTH
from guava_aug.tracked.detect import Landmarks, detect

UNITS = 1024  # pixels of the picture's side that errors are told in
_SEEN = 0.5  # score of what counts
_BODY = slice(11, 17)  # shoulders, elbows, wrists of the 33 points of a pose


@dataclass(frozen=True)
class Found:
    """Landmarks of one picture, in pixels of a picture of `UNITS`; NaN where a part was not found."""

    face: np.ndarray  # [468, 2]
    body: np.ndarray  # [6, 2] shoulders, elbows, wrists
    hands: np.ndarray  # [2, 21, 2] left, right

    @property
    def number_of_hands(self) -> int:
        """Return how many hands were found."""
        return int(np.isfinite(self.hands[:, 0, 0]).sum())


def find_landmarks(
    pictures: Iterable[np.ndarray],  # [H, W, 3] uint8 RGB
    device: torch.device | str = "cpu",
    stop: Callable[[], None] = lambda: None,
) -> list[Found]:
    """Return what the nets find in each picture, each looked at by itself. `stop` is called once per picture."""
    return [_of(detect([picture], device=device, stop=stop)) for picture in pictures]


def score_landmarks(
    pictures: Mapping[str, Mapping[int, np.ndarray]],  # state -> frame -> [H, W, 3] uint8 RGB
    frames: Sequence[int],
    device: torch.device | str = "cpu",
    stop: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, float]]:
    """Return by state the figures of `landmark_scores` against the true pictures, which are the state `TRUTH`.

    hands_share: hands that are found, of two a frame; of the true pictures the only figure.
    """
    found = {state: find_landmarks((by[i] for i in frames), device, stop) for state, by in pictures.items()}
    share = lambda state: sum(f.number_of_hands for f in found[state]) / (2 * len(frames))
    return {
        state: {
            "hands_share": share(state),
            **({} if state == TRUTH else landmark_scores(found[state], found[TRUTH])),
        }
        for state in found
    }  # fmt: skip


def landmark_scores(found: list[Found], truth: list[Found]) -> dict[str, float]:
    """Return errors in pixels of a picture of 1024, and shares that were found.

    face_px, body_px, hands_px: mean distance of landmarks that were found in both pictures; a part that was never found
    in both is missing. face_found, hands_found: of those found in the true pictures, the share that was found in these.
    """
    scores = {}
    for part in ("face", "body", "hands"):
        ours, theirs = (np.stack([getattr(f, part) for f in side]) for side in (found, truth))
        apart = np.linalg.norm(ours - theirs, axis=-1)
        if np.isfinite(apart).any():
            scores[f"{part}_px"] = float(np.nanmean(apart))
        if part != "body":
            seen, also = np.isfinite(theirs[..., 0, 0]), np.isfinite(ours[..., 0, 0])
            if seen.any():
                scores[f"{part}_found"] = float((seen & also).sum() / seen.sum())
    return scores


def _of(landmarks: Landmarks) -> Found:
    """Return the landmarks of a single picture in the units of this module."""
    scale = UNITS / max(landmarks.size)
    there = lambda points, seen: np.where(seen, points * scale, np.nan)
    return Found(
        face=there(landmarks.face[0, :, :2], landmarks.face_score[0] > _SEEN),
        body=there(landmarks.pose[0, _BODY, :2], (landmarks.pose_score[0, _BODY] > _SEEN)[:, None]),
        hands=there(landmarks.hands[0, :, :, :2], (landmarks.hand_score[0] > _SEEN)[:, None, None]),
    )
