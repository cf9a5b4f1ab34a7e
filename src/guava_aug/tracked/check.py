"""What is right and wrong with tracked videos: one row each."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

from guava_aug.body.params import Identity
from guava_aug.errors import InputError
from guava_aug.failure import in_short
from guava_aug.plural import counted
from guava_aug.textfile import briefly
from guava_aug.tracked import layout
from guava_aug.tracked.timemap import Timing
from guava_aug.tracked.video import TrackedVideo

_log = logging.getLogger(__name__)

_MAX_PROBLEMS = 20  # listed per video
_MAX_THREADS = 8


@dataclass(frozen=True)
class CheckRow:
    """One tracked video. What could not be read is None."""

    name: str
    path: Path | None
    frames: int | None
    size: int | None  # pixels, side of the stored images
    fps: float | None
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
    time_map: Mapping[str, Timing] | None = None,
    source_frame: int = 0,
) -> list[CheckRow]:
    """One row for each of `names`, or for every video below `root`, also those whose tracking failed.

    Args:
        decode: False looks at the images' presence only, not at what they hold.
        source_frame: number of the frame that avatars are to be made from.

    Raises:
        InputError: `root` is no directory. Everything else becomes a row's problem.
    """
    return list(iter_checks(root, names, decode=decode, time_map=time_map, source_frame=source_frame))


def iter_checks(
    root: str | Path,
    names: Sequence[str] | None = None,
    *,
    decode: bool = True,
    time_map: Mapping[str, Timing] | None = None,
    source_frame: int = 0,
) -> Iterator[CheckRow]:
    """The rows of `check_videos`, each as soon as it is known."""
    there: list[str] = []
    with contextlib.nullcontext() if names is None else contextlib.suppress(InputError):  # told of each of the names
        there = layout.list_videos(root, include_skipped=True)
    wanted = there if names is None else layout.real_names(root, names)
    twins = {name: group for group in layout.look_alikes({*there, *wanted}) for name in group}
    for name in wanted:
        try:
            row = _check(root, name, decode, (time_map or {}).get(name), source_frame)
        except Exception as e:  # whatever it is: the other videos are still to be looked at
            _log.debug("%s could not be checked", name, exc_info=True)
            row = CheckRow(name, None, None, None, None, None, (f"it cannot be looked at: {in_short(e)}",), ())
        if name in twins:
            others = [other for other in twins[name] if other != name]
            odd = f"its name differs only by case or Unicode form from {layout.named(sorted(others))}"
            row = replace(row, warnings=(*row.warnings, f"{odd}: on macOS and Windows their outputs are one file"))
        yield row


def identity_digest(identity: Identity) -> str:
    """Eight hex digits of the identity's numbers."""
    digest = hashlib.sha256()
    for field in fields(identity):
        digest.update(getattr(identity, field.name).contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def _check(root: str | Path, name: str, decode: bool, timing: Timing | None, source_frame: int) -> CheckRow:
    try:
        files = layout.find_video(root, name)
    except InputError as e:
        return CheckRow(name, None, None, None, None, None, (str(e),), ())
    warnings = []
    if files.frames_num is not None and files.frames_num != len(files.frame_keys):
        claimed = briefly(files.frames_num)
        warnings.append(f"{layout.INFO}: frames_num is {claimed}, frames_keys has {len(files.frame_keys)}")
    if twice := [key for key, count in Counter(files.frame_keys).items() if count > 1]:
        warnings.append(f"{layout.INFO}: frames_keys has more than once: {layout.named(map(briefly, twice))}")
    try:
        video = TrackedVideo.open(root, name, timing=timing, source_frame=source_frame)
    except Exception as e:
        _log.debug("%s cannot be opened", name, exc_info=True)
        reason = str(e) if isinstance(e, InputError) else f"video {name!r} cannot be looked at: {in_short(e)}"
        count = len(files.frame_keys)
        return CheckRow(name, files.path, count, None, files.fps, None, (reason,), tuple(warnings))
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
        except Exception as e:
            _log.debug("%s, frame %d", video.name, index, exc_info=True)
            frame = video.frame_keys[index]
            return f"video {video.name!r}, frame {frame!r}: it cannot be looked at: {in_short(e)}", False

    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        found = list(pool.map(look, range(video.num_frames)))
    problems = [reason for reason, _ in found if reason]
    if len(problems) > _MAX_PROBLEMS:
        problems[_MAX_PROBLEMS:] = [f"and {counted(len(problems) - _MAX_PROBLEMS, 'more frame')}"]
    return problems, [video.frame_keys[i] for i, (_, empty) in enumerate(found) if empty]
