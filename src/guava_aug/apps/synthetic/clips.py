"""The bundled clips as a tracked root to demonstrate on: the first whole, of each other one second.

A second of a clip is a tracked video of its own, with a name of its own, so that frame i stays frame i.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from guava_aug.errors import InputError, OutputError
from guava_aug.tracked import TrackedVideo, write_tracked

_SAME = 6.0  # grey levels between two encodings of one picture, on average


def short_demo(clips: Path, names: Sequence[str], out: Path, seconds: float = 1.0) -> list[str]:
    """Write names[0] whole and the beginning of each other clip below the tracked root `out`; return their names.

    What is there already is kept. Raises OutputError when it is something else.
    """
    first, *others = names
    whole = TrackedVideo.open(clips, first)
    if not _is_there(whole, out, first, whole.num_frames):
        _copy(clips / first, out / first)
    found = [first]
    for name in others:
        clip = TrackedVideo.open(clips, name)
        count = min(clip.num_frames, round(seconds * (clip.fps or 25)))
        short = f"{name}_{seconds:g}s"
        if not _is_there(clip, out, short, count):
            write_tracked(
                out, short, clip.identity, clip.motion[:count], clip.viewmats[:count],
                (clip.read_frame(i) for i in range(count)), fps=clip.fps,
            )  # fmt: skip
        found.append(short)
    return found


def _copy(source: Path, target: Path) -> None:
    """Write the folder atomically."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".guava-aug-", dir=target.parent, ignore_cleanup_errors=True) as folder:
            part = Path(folder) / target.name
            shutil.copytree(source, part)
            part.rename(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error}); check the disk and run again") from error


def _is_there(clip: TrackedVideo, root: Path, name: str, count: int) -> bool:
    """Return whether the first `count` frames of the clip are below `root` under this name."""
    if not (root / name).exists():
        return False
    try:
        there = TrackedVideo.open(root, name)
        same = there.num_frames == count and torch.equal(there.viewmats, clip.viewmats[:count])
        same = same and torch.equal(there.motion.body_pose, clip.motion.body_pose[:count])
        same = same and there.image_size == clip.image_size
        ours, theirs = (v.read_frame(count - 1)[0].astype(np.float32) for v in (clip, there)) if same else (0, _SAME)
        same = same and float(np.abs(ours - theirs).mean()) < _SAME
    except InputError:
        same = False
    if not same:
        raise OutputError(
            f"{root / name} is there, but is not the bundled clip; remove {root} or choose another folder"
        )
    return True
