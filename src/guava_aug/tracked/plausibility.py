"""Plausibility of tracked data: cameras, rotations, and the posed body against the masks.

`guava-aug check` and a run use the same function, so they agree.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor

from guava_aug.body.params import Motion
from guava_aug.errors import InputError
from guava_aug.tracked.masks import in_words, overlap, small_mask
from guava_aug.tracked.outline import SIZE, BodyOutline, spread_frames
from guava_aug.tracked.video import TrackedVideo

log = logging.getLogger(__name__)

FRAMES = 3  # whose masks are compared with the posed body
NO_OVERLAP = 0.1  # intersection over union; in all FRAMES below it, masks and tracking are not of one person
LOW_OVERLAP = 0.4  # correct ones have 0.7 and more, with any clothes
FULL_MASK = 0.97  # of the picture
NOT_ROTATION = 0.05  # largest entry of R R^T - I: no rounding, no interpolation of cameras
INEXACT_ROTATION = 1e-3
TURN = 2 * math.pi  # radians; a longer rotation vector is rarely intended
BODY_JOINTS = 22  # of the 55: without hands, jaw and eyes
WINDOW = 5  # frames of the median that an outlier is far from: at most two of them may be wrong
FAR_OFF = 15.0  # pixels of a 512 picture, the mean of the body's joints
FAR_OFF_TIMES = 6.0  # times what is usual in the video
JITTER = 4.0  # pixels of a 512 picture
DARKEST_SOURCE = 0.02  # an empty mask still holds JPEG ringing of a few levels of 255

ACCEPT = "track the video again, or give --accept_tracking to render it anyway"


@dataclass(frozen=True)
class Plausibility:
    """The result of `examine`. Frames are numbered from 0."""

    overlap: float | None = None  # intersection over union of posed body and mask, median of FRAMES frames
    jitter: float | None = None  # pixels of a 512 picture: see `jitter_and_far_off`
    far_off: tuple[int, ...] = ()  # frames that are far from those before and after them
    impossible: tuple[str, ...] = ()  # why the video is refused, unless the tracking is accepted
    odd: tuple[str, ...] = ()


def examine(video: TrackedVideo, outline: BodyOutline | None, *, images: bool = True) -> Plausibility:
    """Return what the parameters of a video and, with `images`, three of its frames show.

    Args:
        video: The video.
        outline: Outline of the body model in use; None: only checks that need no body.
        images: Read images and masks.

    Raises:
        InputError: An image cannot be read, or the identity belongs to another body model.
    """
    keys = video.frame_keys
    impossible, odd = camera_faults(video.viewmats, keys)
    odd += _rotations_beyond_a_turn(video.motion)
    iou = jitter = None
    far_off: tuple[int, ...] = ()
    masks = _masks(video) if images else {}
    if masks and all(mask.mean() >= FULL_MASK for mask in masks.values()):
        odd.append("the mask covers the whole picture: nothing of the background is known; expected the person alone")
    if outline is not None:
        rest = outline.rest(video.identity)
        jitter, far_off = jitter_and_far_off(outline.joints(rest, video.motion, video.viewmats, K=video.lens_at(512)))
        if jitter > JITTER:
            odd.append(f"the tracking jitters: joints deviate from smooth motion by {jitter:.1f} pixels of 512")
        if far_off:
            odd.append(f"far off from the frames before and after: {in_words(far_off, keys)}")
        if masks:
            chosen = list(masks)
            silhouettes = outline.silhouettes(rest, video.motion[chosen], video.viewmats[chosen], K=video.lens_at(SIZE))
            if (known := video.known_at(SIZE)) is not None:
                silhouettes &= known
            found = [overlap(mask, s) for mask, s in zip(masks.values(), silhouettes, strict=True)]
            iou = float(np.median(found))
            iou_text = (
                f"the mask and the posed body overlap by {iou:.2f} (intersection over union of {len(found)} frames)"
            )
            if max(found) < NO_OVERLAP:
                impossible.append(
                    f"{iou_text}; expected {LOW_OVERLAP} or more: the mask may be inverted or of another person, or "
                    f"the camera of another frame or format. Check these, and {ACCEPT}"
                )
            elif iou < LOW_OVERLAP:
                odd.append(
                    f"{iou_text}; expected {LOW_OVERLAP} or more: check the masks and a rendered view; it may be "
                    "tracked with another body model (--model_path)"
                )
    return Plausibility(iou, jitter, far_off, tuple(impossible), tuple(odd))


def refuse_impossible(video: TrackedVideo, outline: BodyOutline | None, *, accept: bool) -> None:
    """Log what is unusual about a video's tracking.

    Raises:
        InputError: The tracking cannot be right, and is not accepted; or as `examine`.
    """
    found = examine(video, outline)
    if found.impossible and not accept:
        raise InputError(f"video {video.name!r}: " + "; ".join(found.impossible))
    for reason in (*found.impossible, *found.odd):
        log.warning("%s: %s", video.name, reason)


def source_fault(
    image: Tensor,  # [3, S, S] 0..1, the person on black
    name: str,
) -> str | None:
    """Return why no avatar can be made of a source image; None: it can."""
    if float(image.max()) >= DARKEST_SOURCE:
        return None
    return (
        f"{name}: the source frame (0 unless --source_frame says another) shows no person: its image under the mask is "
        f"black; expected a mask that covers the person; check it with `guava-aug check`, take another frame "
        f"(--source_frame), or track the video again"
    )


def camera_faults(viewmats: Tensor, frame_keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (impossible, odd) descriptions of world-to-camera matrices [T, 4, 4] (OpenCV axes), with the frames."""
    matrices = viewmats.double().numpy()
    R = matrices[:, :3, :3]
    error = np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    mirrored = np.linalg.det(R) < 0
    no_rotation = ~mirrored & ~(error <= NOT_ROTATION)
    behind = ~(matrices[:, 2, 3] > 0)  # the body stands at the world's origin
    impossible = []
    for bad, fault in (
        (mirrored, "the camera is mirrored (its rotation has determinant -1; expected 1)"),
        (no_rotation, "the camera's rotation is scaled or skewed (expected an orthonormal matrix)"),
        (behind, "the person is behind the camera (expected a positive depth, camera_RT_params[2, 3])"),
    ):
        if bad.any():
            impossible.append(f"{fault}: {in_words(np.flatnonzero(bad).tolist(), frame_keys)}; {ACCEPT}")
    inexact = ~mirrored & (error > INEXACT_ROTATION) & (error <= NOT_ROTATION)
    odd = []
    if inexact.any():
        frames = in_words(np.flatnonzero(inexact).tolist(), frame_keys)
        odd.append(f"the camera's rotation is orthonormal to {error[inexact].max():.3f} only: {frames}")
    return impossible, odd


def jitter_and_far_off(joints: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """Return jitter in pixels, and the outlier frames, of joints [T, J, 2 or more] (pixel x, y of a 512 picture).

    Jitter is the median distance of a body joint in one frame from the middle between the frames before and after it. A
    frame is an outlier if its joints are far from their median over five frames.
    """
    xy = np.nan_to_num(joints[:, :BODY_JOINTS, :2].astype(np.float64), posinf=0.0, neginf=0.0).clip(-1e6, 1e6)
    if len(xy) < 3:
        return 0.0, ()
    jitter = float(np.median(np.linalg.norm(xy[1:-1] - (xy[:-2] + xy[2:]) / 2, axis=-1)))
    half = WINDOW // 2
    padded = np.pad(xy, ((half, half), (0, 0), (0, 0)), constant_values=np.nan)
    middle = np.nanmedian(np.stack([padded[i : i + len(xy)] for i in range(WINDOW)]), axis=0)
    away = np.linalg.norm(xy - middle, axis=-1).mean(1)  # [T]
    limit = max(FAR_OFF, FAR_OFF_TIMES * float(np.median(away)))
    return jitter, tuple(np.flatnonzero(away > limit).tolist())


def _rotations_beyond_a_turn(motion: Motion) -> list[str]:
    """Return descriptions of rotations that are longer than a full turn in most frames, as if in degrees."""
    found = []
    for field in fields(motion):
        if not field.name.endswith(("_pose", "_orient")):
            continue
        longest = getattr(motion, field.name).flatten(1).unflatten(1, (-1, 3)).norm(dim=-1).amax(1)  # [T]
        if float(longest.median()) > TURN:
            found.append(
                f"{field.name} has rotations of {float(longest.max()):.0f} radians, more than a full turn, in most "
                "frames: probably degrees; expected radians"
            )
    return found


def _masks(video: TrackedVideo) -> dict[int, np.ndarray]:
    """Return the small masks of the first, the middle and the last frame, by number."""
    chosen = spread_frames(video.num_frames, FRAMES)
    with ThreadPoolExecutor(FRAMES) as pool:
        return dict(zip(chosen, pool.map(lambda i: small_mask(video.read_frame(i)[1]), chosen), strict=True))
