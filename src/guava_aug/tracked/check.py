"""Check of tracked videos for problems, one row each."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from guava_aug.body.params import Identity
from guava_aug.errors import InputError
from guava_aug.runtime.cpus import usable_cpus
from guava_aug.runtime.frame_rate import Rate
from guava_aug.runtime.text import briefly, in_short, pluralize
from guava_aug.tracked import layout
from guava_aug.tracked.masks import in_words, plate_frames, small_mask
from guava_aug.tracked.masks import left_out as frames_left_out
from guava_aug.tracked.outline import BodyOutline
from guava_aug.tracked.plausibility import Plausibility, examine, source_fault
from guava_aug.tracked.report import QUALITIES, read_report
from guava_aug.tracked.timemap import Timing
from guava_aug.tracked.video import TrackedVideo

_log = logging.getLogger(__name__)

_MAX_PROBLEMS = 20  # listed per video
_MAX_THREADS = 8


@dataclass(frozen=True)
class CheckRow:
    """The result for one tracked video. Values that could not be read are None."""

    name: str
    path: Path | None
    frames: int | None
    size: int | None  # pixels, side of the stored images
    fps: Rate | None
    identity: str | None  # short digest: equal for videos of equal identity parameters
    problems: tuple[str, ...]  # why the video cannot be used, with frame names
    warnings: tuple[str, ...]  # unusual, but usable
    overlap: float | None = None  # intersection over union of posed body and mask
    jitter: float | None = None  # pixels of a 512 picture: deviation of the joints from smooth motion
    left_out: tuple[int, ...] = ()  # frames, from 0, that are not used for the clean plate
    far_off: tuple[int, ...] = ()  # frames, from 0, far off from those before and after them

    @property
    def ok(self) -> bool:
        """Return whether the video has no problems."""
        return not self.problems


def check_videos(
    root: str | Path,
    names: Sequence[str] | None = None,
    *,
    decode: bool = True,
    time_map: Mapping[str, Timing] | None = None,
    source_frame: int = 0,
    outline: BodyOutline | None = None,
    accept_tracking: bool = False,
) -> list[CheckRow]:
    """Return one row for each of `names`, or for every video below `root`, including those whose tracking failed.

    Args:
        root: Tracked root.
        names: Names of videos; None: all.
        decode: False checks only the presence of images, not their content.
        source_frame: Number of the frame that avatars are made from.
        time_map: Frame rates and source frames by name of video.
        outline: Outline of the run's body model: with it the posed body is compared with the masks and over time.
        accept_tracking: Report what a run with that flag would render as a warning, not as a problem.

    Raises:
        InputError: `root` is not a directory. Any other error becomes a problem of its row.
    """
    return list(
        iter_checks(
            root, names, decode=decode, time_map=time_map, source_frame=source_frame, outline=outline,
            accept_tracking=accept_tracking,
        )
    )  # fmt: skip


def iter_checks(
    root: str | Path,
    names: Sequence[str] | None = None,
    *,
    decode: bool = True,
    time_map: Mapping[str, Timing] | None = None,
    source_frame: int = 0,
    outline: BodyOutline | None = None,
    accept_tracking: bool = False,
) -> Iterator[CheckRow]:
    """Yield the rows of `check_videos`, each as soon as it is known."""
    there: list[str] = []
    with (
        contextlib.nullcontext() if names is None else contextlib.suppress(InputError)
    ):  # reported for each of the names
        there = layout.list_videos(root, include_skipped=True)
    wanted = there if names is None else layout.real_names(root, names)
    twins = {name: group for group in layout.look_alikes({*there, *wanted}) for name in group}
    for name in wanted:
        try:
            row = _check(root, name, decode, (time_map or {}).get(name), source_frame, outline, accept_tracking)
        except Exception as e:  # of any kind: the other videos are still to be checked
            _log.debug("%s could not be checked", name, exc_info=True)
            row = CheckRow(name, None, None, None, None, None, (f"it could not be checked: {in_short(e)}",), ())
        if name in twins:
            others = [other for other in twins[name] if other != name]
            odd = f"its name differs only by case or Unicode form from {layout.named(sorted(others))}"
            row = replace(row, warnings=(*row.warnings, f"{odd}: on macOS and Windows their outputs are one file"))
        yield row


def identity_digest(identity: Identity) -> str:
    """Return eight hex digits of the identity's numbers."""
    digest = hashlib.sha256()
    for field in fields(identity):
        digest.update(getattr(identity, field.name).contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def _check(  # noqa: C901 - one case per kind of fault
    root: str | Path,
    name: str,
    decode: bool,
    timing: Timing | None,
    source_frame: int,
    outline: BodyOutline | None,
    accept_tracking: bool,
) -> CheckRow:
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
        reason = str(e) if isinstance(e, InputError) else f"video {name!r} could not be checked: {in_short(e)}"
        count = len(files.frame_keys)
        return CheckRow(name, files.path, count, None, files.fps, None, (reason,), tuple(warnings))
    problems: list[str] = []
    left_out: tuple[int, ...] = ()
    small: dict[int, np.ndarray] = {}
    if decode:
        problems, empty, small = _decode_all(video)
        if empty:
            more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
            warnings.append(f"frame {empty[0]!r}{more}: the mask is empty")
    found = Plausibility()
    try:
        found = examine(video, outline, images=decode)
        if decode:
            black = source_fault(video.source.image, f"video {name!r}")
            problems += [black] if black else []
        if len(small) == len(plate_frames(video.num_frames)):
            left_out = frames_left_out(video, list(small), np.stack(list(small.values())), outline)
    except InputError as e:
        reason = str(e) if name in str(e) else f"video {name!r}: {e}"
        problems += [reason] if reason not in problems else []
    except Exception as e:
        if not problems:  # else a frame was named already
            raise
        _log.debug("%s could not be examined: %s", name, e)
    if left_out:
        warnings.append(
            f"the mask is empty, suddenly small or far from the posed body, and nothing of the clean plate is taken "
            f"from it: {in_words(left_out, video.frame_keys)}"
        )
    (warnings if accept_tracking else problems).extend(found.impossible)
    warnings.extend(found.odd)
    warnings.extend(_reported(video.path))
    return CheckRow(
        name=name,
        path=video.path,
        frames=video.num_frames,
        size=video.image_size,
        fps=video.fps,
        identity=identity_digest(video.identity),
        problems=tuple(problems),
        warnings=tuple(warnings),
        overlap=found.overlap,
        jitter=found.jitter,
        left_out=left_out,
        far_off=found.far_off,
    )


def _reported(folder: Path) -> list[str]:
    """Return the reasons in the report of `guava-aug track` for a clip whose tracking is not good."""
    try:
        report = read_report(folder)
    except InputError as e:
        return [str(e)]
    if report is None or report.quality == QUALITIES[0]:
        return []
    why = f": {'; '.join(report.reasons)}" if report.reasons else ""
    return [f"the tracking is {report.quality}{why}"]


def _decode_all(video: TrackedVideo) -> tuple[list[str], list[str], dict[int, np.ndarray]]:
    """Return problems of the images, the frames without a person, and the small masks of a plate's frames."""
    of_plate = plate_frames(video.num_frames)
    small: dict[int, np.ndarray | None] = dict.fromkeys(of_plate)

    def look(index: int) -> tuple[str | None, bool]:
        try:
            mask = video.read_frame(index, strict=True)[1]
        except InputError as e:
            return str(e), False
        except Exception as e:
            _log.debug("%s, frame %d", video.name, index, exc_info=True)
            frame = video.frame_keys[index]
            return f"video {video.name!r}, frame {frame!r}: it could not be checked: {in_short(e)}", False
        if index in small:
            small[index] = small_mask(mask)
        return None, not (mask > 127).any()

    with ThreadPoolExecutor(min(_MAX_THREADS, usable_cpus())) as pool:
        found = list(pool.map(look, range(video.num_frames)))
    problems = [reason for reason, _ in found if reason]
    if len(problems) > _MAX_PROBLEMS:
        problems[_MAX_PROBLEMS:] = [f"and {pluralize(len(problems) - _MAX_PROBLEMS, 'more frame')}"]
    empty_frames = [video.frame_keys[i] for i, (_, empty) in enumerate(found) if empty]
    return problems, empty_frames, {i: mask for i, mask in small.items() if mask is not None}
