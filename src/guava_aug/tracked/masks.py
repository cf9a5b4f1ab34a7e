"""Detection of frames whose mask misses the person, so that the person would be part of the background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from guava_aug.runtime.text import pluralize
from guava_aug.tracked.outline import SIZE, BodyOutline, spread_frames

if TYPE_CHECKING:
    from guava_aug.tracked.video import TrackedVideo

PLATE_FRAMES = 64  # at most this many frames make a clean plate, spread evenly: 64 x 512 x 512 x 4 bytes = 67 MB
MASK_LEVEL = 0.05  # the matte counts as person above it, as in the original; JPEG ringing stays below
SMALL = 0.2  # of the median area of a video's masks that are not empty; a person who steps aside leaves more
IN_PICTURE = 0.002  # of the picture: a smaller silhouette is not used
COMPARABLE = 0.9  # of the silhouette is covered in the best frames: below, body and masks are inconsistent
ALIKE = 0.5  # intersection over union in the best frames: below, likewise; loose clothes leave 0.7
MISSED = 0.8  # of the part of the silhouette that is covered in the best frames
BEST = 0.9  # the best frames: this quantile, so that the bad ones may be many
LIMB = 0.04  # of the silhouette, in one frame more than in most, lies deep outside of the mask; a forearm has 5 %
DEEP = 5  # pixels of SIZE, from the rim of the silhouette and from the mask together: loose clothes, hair, small errors


def plate_frames(num_frames: int) -> list[int]:
    """Return the frames that a clean plate is made of, from 0."""
    return spread_frames(num_frames, PLATE_FRAMES)


def left_out(
    video: TrackedVideo, frames: Sequence[int], masks: np.ndarray, outline: BodyOutline | None
) -> tuple[int, ...]:
    """Return those of `frames` whose masks miss the person.

    Args:
        video: The video.
        frames: T frame numbers.
        masks: Their small masks [T, SIZE, SIZE] bool.
        outline: Outline of the body model; None: only areas are compared.

    Raises:
        InputError: The identity belongs to another body model.
    """
    frames = list(frames)
    silhouettes = None
    if outline is not None:
        rest = outline.rest(video.identity)
        silhouettes = outline.silhouettes(rest, video.motion[frames], video.viewmats[frames], K=video.lens_at(SIZE))
        if (known := video.known_at(SIZE)) is not None:  # elsewhere no mask can cover the body
            silhouettes, masks = silhouettes & known, masks & known
    return tuple(frames[i] for i in np.flatnonzero(masks_that_miss(masks, silhouettes)))


def small_mask(mask: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Return the person [size, size] bool of a stored mask [H, W] uint8."""
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA) > MASK_LEVEL * 255


def overlap(mask: np.ndarray, silhouette: np.ndarray) -> float:
    """Return intersection over union of two [S, S] bool pictures; 0 if both are empty."""
    return float((mask & silhouette).sum() / max(1, (mask | silhouette).sum()))


def masks_that_miss(masks: np.ndarray, silhouettes: np.ndarray | None) -> np.ndarray:
    """Return [T] bool: whether the mask is empty, suddenly small, or lacks much of the posed body.

    A frame is compared with the others of its video, so that what all frames have in common is not reported. A mask may
    be too large (the background then lacks nothing), and small when the body leaves the picture too.

    Args:
        masks: [T, SIZE, SIZE] bool.
        silhouettes: [T, SIZE, SIZE] bool, of the posed body; None: unknown, then only areas are compared.
    """
    area = masks.mean((1, 2))
    if not area.any():
        return np.zeros(len(masks), bool)  # no person in the video
    bad: np.ndarray = area < SMALL * np.median(area[area > 0])
    if silhouettes is None:
        return bad
    seen = silhouettes.sum((1, 2))
    in_picture = seen >= IN_PICTURE * silhouettes[0].size
    if not in_picture.any():
        return bad
    covered = np.where(in_picture, (masks & silhouettes).sum((1, 2)) / np.maximum(seen, 1), 1.0)
    best = float(np.quantile(covered[in_picture], BEST))
    alike = np.array([overlap(m, s) for m, s in zip(masks, silhouettes, strict=True)])[in_picture]
    if best < COMPARABLE or float(np.quantile(alike, BEST)) < ALIKE:
        return bad
    bad = (bad & (covered < best - 0.1)) | (covered < MISSED * best)
    deep = np.array([_deep_outside(m, s) for m, s in zip(masks, silhouettes, strict=True)]) / np.maximum(seen, 1)
    usual = np.median(deep[in_picture & ~bad]) if (in_picture & ~bad).any() else 0.0
    missed: np.ndarray = bad | (in_picture & (deep > usual + LIMB))
    return missed


def _deep_outside(mask: np.ndarray, silhouette: np.ndarray) -> int:
    """Return the number of silhouette pixels that lie far outside of the mask."""
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
    return int((silhouette & (outside > DEEP)).sum())


def in_words(frames: Sequence[int], frame_keys: Sequence[str]) -> str:
    """Return frames by number and key: "4 frames (90-93, from 'frame_000090' to 'frame_000093')"."""
    first, last = frame_keys[frames[0]], frame_keys[frames[-1]]
    keys = repr(first) if len(frames) == 1 else f"from {first!r} to {last!r}"
    return f"{pluralize(len(frames), 'frame')} ({ranges(frames)}, {keys})"


def ranges(frames: Sequence[int]) -> str:
    """Return ascending numbers in short form: "3,7-9"."""
    parts: list[list[int]] = []
    for i in frames:
        if parts and i == parts[-1][-1] + 1:
            parts[-1][1:] = [i]
        else:
            parts.append([i])
    return ",".join("-".join(str(i) for i in part) for part in parts)
