"""What is right and wrong with tracked videos: one row each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

from guava_aug.body.params import Identity
from guava_aug.cpus import usable_cpus
from guava_aug.errors import InputError
from guava_aug.frame_rate import Rate
from guava_aug.plural import counted
from guava_aug.tracked import layout
from guava_aug.tracked.timemap import Timing
from guava_aug.tracked.video import TrackedVideo

_MAX_PROBLEMS = 20  # listed per video
_MAX_THREADS = 8


@dataclass(frozen=True)
class CheckRow:
    """One tracked video. What could not be read is None."""

    name: str
    path: Path | None
    frames: int | None
    size: int | None  # pixels, side of the stored images
    fps: Rate | None
    identity: str | None  # short digest: equal for videos of equal identity parameters
    problems: tuple[str, ...]  # why the video cannot be used, with frame names
    warnings: tuple[str, ...]  # odd, but usable

    @property
    def ok(self) -> bool:
        return not self.problems


def check_videos(
    root: str | Path,
    names: Sequence[str] | None = None,
    *,
    decode: bool = True,
    time_map: dict[str, Timing] | None = None,
) -> list[CheckRow]:
    """One row for each of `names`, or for every video below `root`, also those whose tracking failed.

    `decode=False` looks at the images' presence only, not at what they hold.

    Raises:
        InputError: `root` is no directory. Everything else becomes a row's problem.
    """
    return list(iter_checks(root, names, decode=decode, time_map=time_map))


def iter_checks(
    root: str | Path,
    names: Sequence[str] | None = None,
    *,
    decode: bool = True,
    time_map: dict[str, Timing] | None = None,
) -> Iterator[CheckRow]:
    """The rows of `check_videos`, each as soon as it is known."""
    wanted = layout.list_videos(root, include_skipped=True) if names is None else names
    for name in wanted:
        yield _check(root, name, decode, (time_map or {}).get(name))


def identity_digest(identity: Identity) -> str:
    """Eight hex digits of the identity's numbers."""
    digest = hashlib.sha256()
    for field in fields(identity):
        digest.update(getattr(identity, field.name).contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def _check(root: str | Path, name: str, decode: bool, timing: Timing | None) -> CheckRow:
    try:
        files = layout.find_video(root, name)
    except InputError as e:
        return CheckRow(name, None, None, None, None, None, (str(e),), ())
    warnings = []
    if files.frames_num is not None and files.frames_num != len(files.frame_keys):
        warnings.append(f"{layout.INFO}: frames_num is {files.frames_num}, frames_keys has {len(files.frame_keys)}")
    try:
        video = TrackedVideo.open(root, name, timing=timing)
    except InputError as e:
        count = len(files.frame_keys)
        return CheckRow(name, files.path, count, None, files.fps, None, (str(e),), tuple(warnings))
    problems: list[str] = []
    if decode:
        problems, empty = _decode_all(video)
        if empty:
            more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
            warnings.append(f"frame {empty[0]!r}{more}: the mask is empty")
    return CheckRow(
        name=name,
        path=video.path,
        frames=video.num_frames,
        size=video.image_size,
        fps=video.fps,
        identity=identity_digest(video.identity),
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def _decode_all(video: TrackedVideo) -> tuple[list[str], list[str]]:
    """Problems of the images, and the frames without a person."""

    def look(index: int) -> tuple[str | None, bool]:
        try:
            return None, not (video.read_frame(index, strict=True)[1] > 127).any()
        except InputError as e:
            return str(e), False

    with ThreadPoolExecutor(min(_MAX_THREADS, usable_cpus())) as pool:
        found = list(pool.map(look, range(video.num_frames)))
    problems = [reason for reason, _ in found if reason]
    if len(problems) > _MAX_PROBLEMS:
        problems[_MAX_PROBLEMS:] = [f"and {counted(len(problems) - _MAX_PROBLEMS, 'more frame')}"]
    return problems, [video.frame_keys[i] for i, (_, empty) in enumerate(found) if empty]
