"""Where the tracked videos lie below a root: flat, nested or merged."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from guava_aug.errors import InputError

_log = logging.getLogger(__name__)

INFO = "videos_info.json"
TRACKING = "optim_tracking_ehm.pkl"
IDENTITY = "id_share_params.pkl"
IMAGES = Path("img_lmdb") / "data.mdb"
SKIPPED = "skipped.txt"
_PARTS = (TRACKING, IDENTITY, IMAGES.parent)
_NAMES_SHOWN = 3
_LONGEST_COMPARED = 255  # characters; no folder's name is longer


@dataclass(frozen=True)
class VideoFiles:
    """One tracked video as its directory and `videos_info.json` describe it."""

    name: str  # what the user calls it; outputs carry this name
    path: Path  # the directory with the pickles and `img_lmdb`
    video_id: str  # key in `videos_info.json`, and in a merged set's pickles and images
    frame_keys: tuple[str, ...]  # in playing order
    frames_num: int | None  # what the json claims; not used
    fps: float | None
    source_frames: tuple[int, ...] | None
    shared: bool  # the directory holds several videos


class Found(NamedTuple):
    """What is below a tracked root: names, sorted."""

    tracked: list[str]
    skipped: list[str]  # tracking failed (`skipped.txt`)
    incomplete: list[str]  # has files of a tracked video, but no `videos_info.json`


def check_name(name: str) -> str:
    """`name`, if it can safely name a directory: videos are found by it and outputs are written under it."""
    if not name or name in (".", "..") or any(c in name for c in "/\\\0"):
        raise InputError(
            f"video name {name!r} is refused: expected one directory name, without path separators, '..' or NUL. "
            "Give the directory above it as the tracked root."
        )
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as e:
        raise InputError(f"video name {name!r} is refused: it is not valid Unicode. Rename the directory.") from e
    return name


def find_video(root: str | Path, name: str) -> VideoFiles:
    """The files of video `name` below `root`.

    Looked for in this order: `<root>/<name>/<name>/`, `<root>/<name>/`, then `<root>/` itself when it is a merged set
    (or the video's own directory) whose `videos_info.json` has `name`.

    Raises:
        InputError: no such video, tracking failed (`skipped.txt`), or a damaged or incomplete directory.
    """
    root, name = Path(root), check_name(name)
    for path in (root / name / name, root / name):
        if _is_file(path / SKIPPED):
            raise InputError(_skipped(name, path))
        if _is_file(path / INFO):
            info = read_info(path)
            # a set within a directory of another name: the original takes its first video
            video_id = name if name in info else next(iter(info))
            if len(info) > 1:
                _log.warning("%s holds %d videos; %r is used for %s", path / INFO, len(info), video_id, name)
            return _files(name, path, video_id, info)
    if _is_file(root / INFO):
        info = read_info(root)
        if name in info:
            return _files(name, root, name, info)
    for path in (root / name / name, root / name):
        if _has_parts(path):
            raise InputError(f"{path} is incomplete: {INFO} is missing. Copy it, or track the video again.")
    if _exists_as(root / name, Path.is_dir):
        raise InputError(f"{root / name} is not a tracked video: it has no {INFO}. Track the video first.")
    there = list_videos(root)
    if near := get_close_matches(name[:_LONGEST_COMPARED], there, _NAMES_SHOWN):
        raise InputError(f"video {name!r} is not below {root}; did you mean {' or '.join(near)}?")
    raise InputError(
        f"video {name!r} is not below {root} (there: {named(there) or 'none'}). Check the name and the tracked root."
    )


def named(names: Iterable[str]) -> str:
    """The first few of many names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def tracked_path(root: str | Path, name: str) -> Path:
    """The directory the original reads video `name` from: the nested one where it exists. Nothing is checked."""
    nested = Path(root) / name / name
    return nested if _is_file(nested / INFO) else Path(root) / name


def list_videos(root: str | Path, *, include_skipped: bool = False) -> list[str]:
    """Names of all tracked videos below `root`, sorted; with `include_skipped` also those that cannot be used, as
    tracking failed or `videos_info.json` is missing."""
    found = scan_videos(root)
    return sorted(set().union(*found)) if include_skipped else found.tracked


def scan_videos(root: str | Path) -> Found:
    """The tracked videos below `root`, and the folders that should be some.

    Raises:
        InputError: `root` is no folder, or cannot be read.
    """
    root = Path(root)
    try:
        if not os.path.isdir(root):  # of a folder of somebody else, Path would raise
            raise InputError(f"--tracked_root {root} is not a folder; check the path")
        entries = list(root.iterdir())
    except OSError as e:
        raise InputError(f"--tracked_root {root} cannot be read: {e.strerror or e}") from e
    tracked = set(read_info(root)) if _is_file(root / INFO) else set()
    skipped, incomplete = set(), set()
    for entry in entries:
        places = (entry / entry.name, entry)
        if any(_is_file(p / SKIPPED) for p in places):
            skipped.add(entry.name)
        elif any(_is_file(p / INFO) for p in places):
            tracked.add(entry.name)
        elif not entry.name.startswith(".") and any(map(_has_parts, places)):
            incomplete.add(entry.name)
    return Found(sorted(tracked), sorted(skipped - tracked), sorted(incomplete - tracked))


def read_info(path: Path) -> dict[str, dict[str, Any]]:
    """`videos_info.json` of a directory: video id -> its entry, at least one."""
    try:
        info = json.loads((path / INFO).read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"{path / INFO} cannot be read: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path / INFO} is not valid JSON ({e}). Track the video again.") from e
    if not isinstance(info, dict) or not info or not all(isinstance(v, dict) for v in info.values()):
        raise InputError(f"{path / INFO}: expected {{video: {{frames_num, frames_keys}}}}, found something else.")
    return info


def check_fps(fps: Any, where: str) -> float | None:
    """Frames per second, or None for null."""
    if fps is None:
        return None
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not (math.isfinite(fps) and 0 < fps <= 1000):
        raise InputError(f"{where}: expected fps between 0 and 1000, found {fps!r}.")
    return float(fps)


def check_source_frames(frames: Any, num_frames: int, where: str) -> tuple[int, ...] | None:
    """The number each frame had in the original video, or None for null."""
    if frames is None:
        return None
    if not isinstance(frames, (list, tuple)) or not all(type(f) is int and f >= 0 for f in frames):
        raise InputError(f"{where}: expected source_frames to be a list of frame numbers >= 0.")
    if len(frames) != num_frames:
        raise InputError(f"{where}: expected {num_frames} source_frames, one per tracked frame, found {len(frames)}.")
    return tuple(frames)


def _files(name: str, path: Path, video_id: str, info: dict[str, dict[str, Any]]) -> VideoFiles:
    entry, where = info[video_id], f"{path / INFO}, video {video_id!r}"
    keys = entry.get("frames_keys")
    if not isinstance(keys, list) or not all(isinstance(k, str) and k for k in keys):
        raise InputError(f"{where}: expected frames_keys to be a list of frame names.")
    if not keys:
        raise InputError(f"{where}: it has 0 frames. Track the video again.")
    for file in (TRACKING, IDENTITY, IMAGES):
        if not _is_file(path / file):
            raise InputError(f"{path} is incomplete: {file} is missing. Copy it, or track the video again.")
    claimed = entry.get("frames_num")
    return VideoFiles(
        name=name,
        path=path,
        video_id=video_id,
        frame_keys=tuple(keys),
        frames_num=claimed if isinstance(claimed, int) else None,
        fps=check_fps(entry.get("fps"), where),
        source_frames=check_source_frames(entry.get("source_frames"), len(keys), where),
        shared=len(info) > 1,
    )


def _skipped(name: str, path: Path) -> str:
    reason = ""
    with contextlib.suppress(OSError):
        if not (path / SKIPPED).is_symlink():  # a link could show the text of any other file
            with (path / SKIPPED).open(encoding="utf-8", errors="replace") as file:
                reason = file.read(400).strip()[:200]
    return (
        f"tracking of video {name!r} failed: {path / SKIPPED} exists" + (f" and says {reason!r}" if reason else "")
    ) + ". Track it again; delete the file if the output beside it is good."


def _has_parts(path: Path) -> bool:
    return any(_exists_as(path / part, Path.exists) for part in _PARTS)


def _exists_as(path: Path, kind: Callable[[Path], bool]) -> bool:
    try:
        return kind(path)
    except (OSError, ValueError):  # a name too long for the file system
        return False


def _is_file(path: Path) -> bool:
    return _exists_as(path, Path.is_file)
