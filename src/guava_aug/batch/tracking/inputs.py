"""The videos that `guava-aug track` is given: paths of the command line, and the name of each video."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from guava_aug.errors import InputError, UsageError
from guava_aug.runtime.text import pluralize
from guava_aug.tracked.layout import check_name, folded_name, named

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp",
    ".ogv", ".mxf", ".vob", ".gif", ".y4m",
))
PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"))
# fmt: on
_ENDS = 1 << 16  # bytes at the beginning and the end of a file that its signature is made of


def find_sources(words: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Return the videos at these paths by their names, in the order of the paths.

    A path is that of a video, of a folder of pictures, which are the frames of one video, or a folder of videos.

    Args:
        words: Paths.

    Raises:
        UsageError: there is no such path, a folder holds neither pictures nor videos, or two videos would get one name.
    """
    if not words:
        raise UsageError("no video is named; give files, folders of pictures, or folders of videos")
    sources: list[Path] = []
    for word in words:
        sources += _sources_of(Path(word))
    groups: dict[str, list[Path]] = {}  # of different files, by what their names have in common
    for path in sources:
        group = groups.setdefault(folded_name(name_of(path)), [])
        if not any(_is_same(path, other) for other in group):
            group.append(path)
    clashes = [group for group in groups.values() if len(group) > 1]
    if clashes:
        name, paths = name_of(clashes[0][0]), named(map(str, clashes[0]))
        more = f"; and so are {pluralize(len(clashes) - 1, 'other name')}" if len(clashes) > 1 else ""
        raise UsageError(
            f"the name {name!r} is that of {paths}: their clips would lie in one folder, also where names differ in "
            f"case or Unicode form only{more}; rename them, or track them into different --tracked_root folders"
        )
    return {name_of(path): path for (path,) in groups.values()}


def name_of(path: Path) -> str:
    """Return the name of a video's tracked folder: the file's without its suffix.

    Raises:
        UsageError: no folder can have it.
    """
    path = Path(os.path.abspath(path))
    name = path.stem if path.suffix.lower() in VIDEO_SUFFIXES | PICTURE_SUFFIXES else path.name
    try:
        return check_name(name)
    except (InputError, UsageError) as error:
        raise UsageError(f"{path}: {error}; rename the video") from None


def source_signature(path: Path) -> str:
    """Return what is compared to find out whether a video is still the same: its length and its ends, or its pictures.

    Not its date, which a copy changes.

    Raises:
        InputError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            for name in sorted(os.listdir(path)):
                digest.update(f"{name}\0{os.path.getsize(path / name)}\0".encode("utf-8", "surrogateescape"))
        else:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(f"{size}\0".encode() + file.read(_ENDS))
                if size > _ENDS:
                    file.seek(-min(_ENDS, size - _ENDS), os.SEEK_END)
                    digest.update(file.read(_ENDS))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()[:32]


def _sources_of(path: Path) -> list[Path]:
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            what = "is not there" if not os.path.lexists(path) else "is no regular file and no folder"
            raise UsageError(f"{path} {what}; expected a video, a folder of pictures, or a folder of videos")
        entries = sorted(entry.name for entry in os.scandir(path) if not entry.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    videos = _with_suffix(entries, VIDEO_SUFFIXES)
    if videos:
        return [path / name for name in videos]
    if _with_suffix(entries, PICTURE_SUFFIXES):
        return [path]
    raise UsageError(
        f"{path} holds neither videos (.mp4, .mov, .mkv, .webm, .avi, ...) nor pictures (.png, .jpg, ...); give "
        "files, or the folder that they are in"
    )


def _with_suffix(names: Iterable[str], suffixes: frozenset[str]) -> list[str]:
    return [name for name in names if os.path.splitext(name)[1].lower() in suffixes]


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
