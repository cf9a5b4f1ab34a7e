"""Layout of tracked videos below a root: flat, nested or merged."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import logging
import math
import os
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from guava_aug.errors import InputError
from guava_aug.runtime.files import broken_link_target, is_file, is_folder, is_there, kind_of, read_text, status_of
from guava_aug.runtime.frame_rate import Rate, check_rate, parse_rate
from guava_aug.runtime.text import briefly

_log = logging.getLogger(__name__)

INFO = "videos_info.json"
TRACKING = "optim_tracking_ehm.pkl"
IDENTITY = "id_share_params.pkl"
IMAGES = Path("img_lmdb") / "data.mdb"
SOUND = "audio.m4a"  # optional; in a merged set audio/<video>.m4a
SKIPPED = "skipped.txt"
FRAME_INDEX_MAP = "frame_index_map.json"  # of a fork of the tracker
_PARTS = (TRACKING, IDENTITY, IMAGES.parent)
_NAMES_SHOWN = 3
_LONGEST_COMPARED = 255  # characters; no folder's name is longer
_LONGEST_KEY = 511  # characters; a key of LMDB has no more bytes
_DEEPER_SHOWN = 10
_INNER_LOOKED_AT = 1000  # entries of a folder that is no video: it may be anything, of any size
_FOLDERS_OF_SYSTEMS = ("lost+found", "System Volume Information", "$RECYCLE.BIN")
_REASON = 1024  # bytes of skipped.txt
_MOST_FRAMES = 2**31
_KEPT_FROM = 2**20  # bytes of a videos_info.json that is not read again for each of its videos


@dataclass(frozen=True)
class VideoFiles:
    """The files of one tracked video, as described by its directory and `videos_info.json`."""

    name: str  # the user's name for it; outputs have this name
    path: Path  # the directory with the pickles and `img_lmdb`
    video_id: str  # key in `videos_info.json`, and in a merged set's pickles and images
    frame_keys: tuple[str, ...]  # in playing order
    frames_num: int | None  # as listed in the JSON file; not used
    fps: Rate | None
    source_frames: tuple[int, ...] | None
    shared: bool  # the directory holds several videos
    lens: tuple[tuple[float, ...], ...] | None = None  # K, rows, pixels of the stored images
    times: FrameTimes | None = None


class FrameTimes(NamedTuple):
    """When every tracked frame is shown in the original video, where its frame rate is variable."""

    time_base: Fraction  # seconds per tick
    ticks: tuple[int, ...]  # ascending


class Found(NamedTuple):
    """The content of a tracked root: sorted names."""

    tracked: list[str]  # including unreadable ones; opening them gives the reason
    skipped: list[str]  # tracking failed (`skipped.txt`)
    incomplete: list[str]  # has files of a tracked video, or tracked videos, but no `videos_info.json`


def sound_of(path: Path, video_id: str, shared: bool) -> Path:
    """Return where the sound of a video is, if it has any."""
    return path / "audio" / f"{video_id}.m4a" if shared else path / SOUND


def check_name(name: str) -> str:
    """Return `name` if it can safely name a directory, as inputs are found and outputs are written by it.

    Raises:
        InputError: It cannot.
    """
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
    """Return the files of video `name` below `root`.

    The video is searched in the folders of `places`, then in `<root>/` itself if that is a merged set (or the video's
    own directory) whose `videos_info.json` has `name`. A folder whose name is the same text in another Unicode
    normalisation (NFC, NFD) counts as `name` if there is none of exactly that name.

    Raises:
        InputError: No such video, tracking failed (`skipped.txt`), or a directory that is damaged, incomplete or cannot
            be read.
    """
    root, name = Path(root), check_name(name)
    try:
        return _find(root, real_name(root, name))
    except OSError as e:
        raise InputError(f"video {name!r}: {_unreadable(e)}") from e


def _find(root: Path, name: str) -> VideoFiles:
    """See `find_video`.

    Raises:
        OSError: A file or folder cannot be read.
    """
    status_of(root / name)  # raises if the folder itself cannot be accessed
    candidates = [Path(path) for path in places(root, name)]
    for path in candidates:
        if _is_skipped(path):
            raise InputError(_skipped(name, path))
        if _has_info(path):
            info = read_info(path)
            # a set within a directory of another name: the original takes its first video
            video_id = key_of(info, name) or key_of(info, path.name) or next(iter(info))
            if len(info) > 1:
                _log.warning("%s holds %d videos; %r is used for %s", path / INFO, len(info), video_id, name)
            return _files(name, path, video_id, info)
    if _has_info(root):
        info = read_info(root)
        if (key := key_of(info, name)) is not None:
            return _files(key, root, key, info)
    _raise_not_found(root, name, candidates)


def _raise_not_found(root: Path, name: str, candidates: Sequence[Path]) -> NoReturn:
    """Raise InputError with the most likely reason why there is no video `name`; OSError as `_find`."""
    for path in candidates:
        if _has_parts(path):
            raise InputError(f"{path} is incomplete: {INFO} is missing. Copy it, or track the video again.")
    if (target := broken_link_target(root / name)) is not None:
        lost = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), target)
        raise InputError(
            f"{root / name} cannot be read: it is a link to {target}, which is not there. Repair or remove the link."
        ) from lost
    if is_folder(root / name):
        if inner := _inner_videos(root / name):
            raise InputError(
                f"{root / name} holds tracked videos one level deeper ({named(inner)}) but is not one itself. Give it "
                "as the tracked root, or move them up."
            )
        raise InputError(f"{root / name} is not a tracked video: it has no {INFO}. Track the video first.")
    there = list_videos(root)
    if near := get_close_matches(name[:_LONGEST_COMPARED], there, _NAMES_SHOWN):
        raise InputError(f"video {name!r} is not below {root}; did you mean {' or '.join(near)}?")
    raise InputError(
        f"video {name!r} is not below {root} (there: {named(there) or 'none'}). Check the name and the tracked root."
    )


def places(root: str | Path, name: str) -> list[str]:
    """Return the folders in which video `name` may be, in the order in which they are tried.

    `<root>/<name>/<name>/`, `<root>/<name>/`, then `<root>/<name>/<name given by the tracker>/`: the tracker cuts the
    names of MP4 files at the first dot, and removes leading `__`.
    """
    return _places(os.path.join(root, name), name)  # no Path: there may be ten thousands


def _places(folder: str, name: str) -> list[str]:
    if "." not in name and not name.startswith("__"):
        return [f"{folder}/{name}", folder]
    inner = dict.fromkeys(x for cut in (name, name.split(".")[0]) for x in (cut, cut.removeprefix("__")))
    return [f"{folder}/{name}", folder, *(f"{folder}/{x}" for x in inner if x not in ("", ".", "..", name))]


def real_name(root: str | Path, name: str) -> str:
    """Return the name of the folder (or of the video of a merged set) for `name`.

    That is `name` itself, or, if there is none, the only one whose name is the same text in another Unicode
    normalisation.

    Raises:
        OSError: `root` cannot be read.
    """
    return _real_names(Path(root), [name])[0]


def real_names(root: str | Path, names: Iterable[str]) -> list[str]:
    """Return `real_name` of each of `names`, without duplicates. Names in a root that cannot be read are unchanged."""
    names = list(names)
    with contextlib.suppress(OSError):
        names = _real_names(Path(root), names)
    return list(dict.fromkeys(names))


def _real_names(root: Path, names: Sequence[str]) -> list[str]:
    absent = {n for n in names if not n.isascii() and not os.path.lexists(os.path.join(root, n))}
    if not absent:
        return list(names)
    there = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, InputError):  # reported when they are read
        there += os.listdir(root)
        there += read_info(root) if INFO in there else ()
    same: dict[str, set[str]] = {}
    for other in there:
        same.setdefault(unicodedata.normalize("NFC", other), set()).add(other)
    meant = {name: same.get(unicodedata.normalize("NFC", name), set()) for name in absent}
    return [min(meant[n]) if n in absent and n not in meant[n] and len(meant[n]) == 1 else n for n in names]


def key_of(entries: Iterable[str], name: str) -> str | None:
    """Return the one of `entries` that equals `name` in any Unicode normalisation. Fast for a dictionary."""
    if name in entries:
        return name
    wanted = unicodedata.normalize("NFC", name)
    same = [] if name.isascii() else [key for key in entries if unicodedata.normalize("NFC", key) == wanted]
    return same[0] if len(same) == 1 else None


def folded_name(name: str) -> str:
    """Return a name without case and Unicode normalisation: equal where a file system may take two for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Return groups of names that differ only by case or Unicode normalisation."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(folded_name(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def named(names: Iterable[str]) -> str:
    """Return the first few of many names, and the number of the others, as text."""
    names = list(names)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def tracked_path(root: str | Path, name: str) -> Path:
    """Return the directory the original reads video `name` from: the nested one if it exists. Nothing is checked."""
    with contextlib.suppress(OSError):
        for path in map(Path, places(root, name)):
            if is_file(path / INFO):
                return path
    return Path(root) / name


def list_videos(root: str | Path, *, include_skipped: bool = False) -> list[str]:
    """Return the names of all tracked videos below `root`, sorted.

    With `include_skipped` also those that cannot be used, as tracking failed or `videos_info.json` is missing.
    """
    found = scan_videos(root)
    return sorted(set().union(*found)) if include_skipped else found.tracked


def scan_videos(root: str | Path) -> Found:
    """Return the tracked videos below `root`, and the folders that are incomplete videos.

    Raises:
        InputError: `root` is not a folder, or cannot be read.
    """
    root = Path(root)
    check_root(root)
    try:
        with os.scandir(root) as entries:
            folders = [entry.name for entry in entries if not _is_plain_file(entry)]
        merged = _has_info(root)
    except OSError as e:
        raise InputError(f"--tracked_root {root} cannot be read: {e.strerror or e}") from e
    tracked = set(read_info(root)) if merged else set()
    skipped, incomplete = set[str](), set[str]()
    for name in folders:
        kind = _kind_of_entry(root, name)
        if kind is not None:
            {"tracked": tracked, "skipped": skipped, "incomplete": incomplete}[kind].add(name)
    return Found(sorted(tracked), sorted(skipped - tracked), sorted(incomplete - tracked))


def check_root(root: Path) -> None:
    """Check that `root` is a folder.

    Raises:
        InputError: It is not, or cannot be read.
    """
    try:
        if is_folder(root):
            return
        target = broken_link_target(root)
    except OSError as e:
        raise InputError(f"--tracked_root {root} cannot be read: {e.strerror or e}") from e
    if target is not None:
        raise InputError(f"--tracked_root {root} is a link to {target}, which is not there; repair the link")
    raise InputError(f"--tracked_root {root} is not a folder; check the path")


def why_no_videos(root: str | Path) -> str:
    """Return why `root` has no tracked video for `scan_videos`; names folders that have some one level deeper."""
    deeper = []
    for name in scan_videos(root).incomplete:
        with contextlib.suppress(OSError):
            if inner := _inner_videos(Path(root) / name):
                deeper.append(f"{name} ({named(inner)})")
    if not deeper:
        return f"--tracked_root {root} holds no tracked video (folders with a videos_info.json)"
    more = f" and {len(deeper) - _DEEPER_SHOWN} more" if len(deeper) > _DEEPER_SHOWN else ""
    return (
        f"--tracked_root {root} holds no tracked video itself; there are some one level deeper, in "
        f"{'; '.join(deeper[:_DEEPER_SHOWN])}{more}: give one of these folders as --tracked_root"
    )


def read_info(path: Path) -> dict[str, dict[str, Any]]:
    """Return `videos_info.json` of a directory: video id -> its entry, at least one. Callers do not change it.

    That of a large set is kept, as it is read for each of its videos.

    Raises:
        InputError: The file is missing or damaged.
    """
    with contextlib.suppress(OSError):
        status = os.stat(path / INFO)
        if stat.S_ISREG(status.st_mode) and status.st_size >= _KEPT_FROM:
            return _read_large_info(path, status.st_mtime_ns, status.st_size)
    return _read_info(path)


@functools.lru_cache(maxsize=1)
def _read_large_info(path: Path, mtime_ns: int, size: int) -> dict[str, dict[str, Any]]:
    return _read_info(path)


def _read_info(path: Path) -> dict[str, dict[str, Any]]:
    text = read_text(path / INFO, str(path / INFO), regular=True)
    try:
        info = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path / INFO} is not valid JSON ({e}). Track the video again.") from e
    if not isinstance(info, dict) or not info or not all(isinstance(v, dict) for v in info.values()):
        found = "something else" if isinstance(info, dict) else f"something else ({briefly(info)})"
        raise InputError(f"{path / INFO}: expected {{video: {{frames_num, frames_keys}}}}, found {found}.")
    return info


def read_frame_index_map(path: Path, keys: Sequence[str]) -> tuple[int, ...] | None:
    """Return the source frame numbers of a fork's `frame_index_map.json`; None: there is no such file.

    Raises:
        InputError: It is damaged, or a frame is missing in it.
        OSError: It cannot be read.
    """
    file = path / FRAME_INDEX_MAP
    if not is_there(file):
        return None
    advice = "Repair the file, or remove it: then the source frames are not known."
    try:
        frames = json.loads(read_text(file, str(file), regular=True))
    except (ValueError, RecursionError) as e:
        raise InputError(f"{file} is not valid JSON ({e}). {advice}") from e
    frames = frames.get("frames") if isinstance(frames, dict) else None
    if not isinstance(frames, dict):
        raise InputError(f'{file}: expected {{"frames": {{frame name: source frame number}}}}. {advice}')
    missing = [key for key in keys if key not in frames]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{file}: frame {briefly(missing[0])}{more} of {INFO} is missing. {advice}")
    return check_source_frames([frames[key] for key in keys], len(keys), str(file))


def check_fps(fps: Any, where: str) -> Rate | None:
    """Return frames per second, or None for null; a fraction may be given as the text "30000/1001".

    Raises:
        InputError: The value is not a rate.
    """
    if fps is None:
        return None
    try:
        if isinstance(fps, str):
            return parse_rate(fps)
        if isinstance(fps, bool) or not isinstance(fps, (int, float, Fraction)):
            raise ValueError(f"found {briefly(fps)}")
        check_rate(fps)
    except ValueError as error:
        found = f"found {briefly(fps)} ({error})" if isinstance(fps, str) else f"found {briefly(fps)}"
        raise InputError(f"{where}: expected fps between 0 and 1000, {found}; such as 25 or 30000/1001.") from None
    return fps if isinstance(fps, Fraction) else float(fps)


def check_source_frames(frames: Any, num_frames: int, where: str) -> tuple[int, ...] | None:
    """Return the number of each frame in the original video, or None for null.

    Raises:
        InputError: The value is not a list of `num_frames` frame numbers.
    """
    if frames is None:
        return None
    if not isinstance(frames, (list, tuple)) or not all(type(f) is int and 0 <= f < _MOST_FRAMES for f in frames):
        raise InputError(f"{where}: expected source_frames to be a list of frame numbers >= 0.")
    if len(frames) != num_frames:
        raise InputError(f"{where}: expected {num_frames} source_frames, one per tracked frame, found {len(frames)}.")
    return tuple(frames)


def check_lens(rows: Any, where: str) -> tuple[tuple[float, ...], ...] | None:
    """Return the rows of K, or None for null: the format's own lens.

    Raises:
        InputError: It is not K of a pinhole camera without skew.
    """
    if rows is None:
        return None
    try:
        numbers = tuple(tuple(map(float, row)) for row in rows)
    except (TypeError, ValueError):
        numbers = ()
    fine = [len(row) for row in numbers] == [3, 3, 3] and all(map(math.isfinite, itertools.chain(*numbers)))
    if fine:
        (fx, skew, _), (zero, fy, _), last = numbers
        fine = fx > 0 and fy > 0 and skew == zero == 0 and last == (0.0, 0.0, 1.0)
    if not fine:
        raise InputError(
            f"{where}: expected K to be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels of the stored images, found "
            f"{briefly(rows)}. Remove it for the format's own lens, or track the video again."
        )
    return numbers


def check_times(times: Any, num_frames: int, where: str) -> FrameTimes | None:
    """Return when every tracked frame is shown, or None for null.

    Raises:
        InputError: It is not `{"time_base": "1/90000", "ticks": [one per frame, ascending]}`.
    """
    if times is None:
        return None
    advice = f'{where}: expected times as {{time_base: "1/90000", ticks: [...]}}'
    if not isinstance(times, dict) or not isinstance(times.get("ticks"), list):
        raise InputError(f"{advice}, found {briefly(times)}.")
    ticks = times["ticks"]
    if len(ticks) != num_frames or not all(type(t) is int and abs(t) < 2**62 for t in ticks):
        raise InputError(f"{advice} with {num_frames} whole numbers, one per tracked frame, found {len(ticks)}.")
    if any(b <= a for a, b in itertools.pairwise(ticks)):
        raise InputError(f"{advice} in ascending order.")
    try:
        base = Fraction(str(times.get("time_base"))[:40])
    except (ValueError, ZeroDivisionError):
        base = Fraction(0)
    if not 0 < base <= 10:
        raise InputError(f"{advice}, found the time base {briefly(times.get('time_base'))}.")
    return FrameTimes(base, tuple(ticks))


def _files(name: str, path: Path, video_id: str, info: dict[str, dict[str, Any]]) -> VideoFiles:
    entry, where = info[video_id], f"{path / INFO}, video {briefly(video_id)}"
    keys = entry.get("frames_keys")
    if not isinstance(keys, list) or not all(isinstance(k, str) and k for k in keys):
        raise InputError(f"{where}: expected frames_keys to be a list of frame names.")
    if not keys:
        raise InputError(f"{where}: it has 0 frames. Track the video again.")
    for text in (video_id, *keys):  # names of images in the LMDB file are UTF-8
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            raise InputError(f"{path / INFO}: the name {ascii(text)[:80]} is not valid Unicode. Track the video again.")
        if len(text) > _LONGEST_KEY:
            raise InputError(f"{where}: expected short frame names, found {briefly(text)}. Track the video again.")
    for file in (TRACKING, IDENTITY, IMAGES):
        found = status_of(path / file)
        if found is None:
            target = broken_link_target(path / file)
            what = "missing" if target is None else f"a link to {target}, which is not there"
            raise InputError(f"{path} is incomplete: {file} is {what}. Copy it, or track the video again.")
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path / file} is {kind_of(found)}; expected a regular file. Copy the video again.")
    source_frames = check_source_frames(entry.get("source_frames"), len(keys), where)
    if source_frames is None and len(info) == 1:  # videos of a set have frames of the same names
        source_frames = read_frame_index_map(path, keys)
    claimed = entry.get("frames_num")
    return VideoFiles(
        name=name,
        path=path,
        video_id=video_id,
        frame_keys=tuple(keys),
        frames_num=claimed if isinstance(claimed, int) else None,
        fps=check_fps(entry.get("fps"), where),
        source_frames=source_frames,
        shared=len(info) > 1,
        lens=check_lens(entry.get("K"), where),
        times=check_times(entry.get("times"), len(keys), where),
    )


def _skipped(name: str, path: Path) -> str:
    """Return the message for a video whose tracking failed, with the beginning of its `skipped.txt`."""
    reason = ""
    try:  # a link could expose a file of another user; opening a FIFO would wait
        with os.fdopen(os.open(path / SKIPPED, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            reason = (file.read(_REASON) or b"").decode("utf-8", "replace").strip()[:200]
    except OSError:
        pass
    return (
        f"tracking of video {name!r} failed: {path / SKIPPED} exists"
        + (f" with the reason {reason!r}" if reason else "")
    ) + ". Track it again; delete the file if the output beside it is good."


def _is_plain_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file(follow_symlinks=False)
    except OSError:  # its kind, or the reason, is determined again
        return False


def _kind_of_entry(root: Path, name: str) -> Literal["tracked", "skipped", "incomplete"] | None:
    """Return the kind of an entry of a tracked root. Unreadable ones count as tracked: opening gives the reason."""
    folder = os.path.join(root, name)  # no Path: there may be ten thousands
    try:
        if not is_folder(folder):
            # a hidden broken link is not a video: editors use such links as locks
            lost = not name.startswith(".") and broken_link_target(folder) is not None
            return "tracked" if lost else None
        candidates = _places(folder, name)
        for path in candidates:
            if _is_skipped(path):
                return "skipped"
            if _has_info(path):
                return "tracked"
        if name.startswith("."):
            return None
        return "incomplete" if any(map(_has_parts, candidates)) or _inner_videos(Path(folder)) else None
    except PermissionError:  # folders of file systems and desktops that only root may read
        return None if name.startswith(".") or name in _FOLDERS_OF_SYSTEMS else "tracked"
    except OSError:
        return "tracked"


def _inner_videos(folder: Path) -> list[str]:
    """Return sorted names of tracked videos among the first entries of a folder that is not one itself."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in itertools.islice(entries, _INNER_LOOKED_AT) if not _is_plain_file(entry)]
    found = []
    for name in sorted(names):
        with contextlib.suppress(OSError):
            if is_file(folder / name / INFO) or is_file(folder / name / name / INFO):
                found.append(name)
    return found


def _is_skipped(path: str | Path) -> bool:
    found = status_of(f"{path}/{SKIPPED}", follow=False)
    return found is not None and not stat.S_ISDIR(found.st_mode)


def _has_info(path: str | Path) -> bool:
    """Return whether `videos_info.json` exists, of any type; reading it refuses all but regular files."""
    return is_there(f"{path}/{INFO}")


def _has_parts(path: str | Path) -> bool:
    return any(is_there(f"{path}/{part}") for part in _PARTS)


def _unreadable(error: OSError) -> str:
    where = error.filename if isinstance(error.filename, str) else os.fspath(error.filename or "its folder")
    reason = error.strerror or error
    return f"{where} cannot be read: {reason}. Check its permissions, links and file system, then run again."
