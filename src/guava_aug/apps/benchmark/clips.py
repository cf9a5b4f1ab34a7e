"""A tracked video cut or repeated to a wanted length, its pictures byte for byte."""

from __future__ import annotations

from pathlib import Path

import lmdb
import numpy as np

from guava_aug.errors import UsageError
from guava_aug.tracked import TrackedVideo, layout, write_tracked
from guava_aug.tracked.images import IMAGE, MASK
from guava_aug.tracked.mdb import MdbFile

_BATCH = 256  # frames a transaction
_PAGE, _SLACK = 8192, 2**24  # bytes of the database around each picture, and in all


def clip_of_length(
    tracked_root: Path, name: str, frames: int, out_root: Path, new_name: str | None = None, first: int = 0
) -> Path:
    """Write a video with `frames` frames below `out_root`, and return its folder.

    They are the frames of `name` from number `first` on, from the front again after the last. Reading
    it takes as long per frame as reading `name`.

    Raises:
        InputError: the video cannot be used. UsageError: `frames` is below 1. OutputError: it exists, or no space.
    """
    if frames < 1:
        raise UsageError(f"--frames is {frames}; expected 1 or more")
    video = TrackedVideo.open(tracked_root, name, source_frame=first)
    chosen = [(first + i) % video.num_frames for i in range(frames)]
    keys = [f"frame_{i:06d}" for i in range(frames)]
    blank = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)  # the real ones take their place
    folder = write_tracked(
        out_root, new_name or name, video.identity, video.motion[chosen],
        video.viewmats[chosen], (blank for _ in keys), frame_keys=keys, fps=video.fps,
    )  # fmt: skip
    stored = _stored_pictures(layout.find_video(tracked_root, name))
    size = sum(sum(map(len, stored[i])) + 2 * _PAGE for i in chosen)
    env = lmdb.open(str(folder / layout.IMAGES.parent), map_size=2 * size + _SLACK)
    try:
        for start in range(0, frames, _BATCH):
            with env.begin(write=True) as transaction:
                for i in range(start, min(start + _BATCH, frames)):
                    for kind, data in zip((IMAGE, MASK), stored[chosen[i]], strict=True):
                        transaction.put(f"{keys[i]}/{kind}".encode(), data)
    finally:
        env.close()
    (folder / layout.IMAGES.parent / "lock.mdb").unlink(missing_ok=True)
    return folder


def _stored_pictures(files: layout.VideoFiles) -> list[tuple[bytes, bytes]]:
    """Return the stored bytes of image and mask of every frame."""
    file = MdbFile(files.path / layout.IMAGES)
    slots = dict(file.scan())
    prefix = "" if f"{files.frame_keys[0]}/{IMAGE}".encode() in slots else f"{files.video_id}/"
    pair = lambda key: tuple(file.read(slots[f"{prefix}{key}/{kind}".encode()]) for kind in (IMAGE, MASK))
    return [pair(key) for key in files.frame_keys]  # type: ignore[misc]  # two each
