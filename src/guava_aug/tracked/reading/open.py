"""Opening of what a user calls a video."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from guava_aug.errors import InputError, UsageError
from guava_aug.runtime.files import is_folder, is_there
from guava_aug.runtime.frame_rate import Rate
from guava_aug.tracked.reading.picture_folder import PictureFolder
from guava_aug.tracked.reading.source import Source
from guava_aug.tracked.reading.video_file import VideoFile


def open_source(path: str | Path, *, picture_fps: Rate | None = None) -> Source:
    """Return a video file or a folder of pictures as upright RGB frames.

    Handled: display rotation, pixels that are not square, variable frame rate, interlacing, any bit depth, limited and
    full range, BT.601, BT.709 and BT.2020, PQ and HLG. What was done, and what is damaged, is in `Source.notes`.

    Args:
        path: A video file, or a folder of pictures.
        picture_fps: Frames per second of a folder of pictures; None: 25.

    Raises:
        InputError: It is not there, no video, without a video stream or frames, or nothing of it can be decoded.
    """
    path = Path(path)
    try:
        if not is_there(path):
            raise InputError(f"{path}: there is no such file or folder; check the path")
        folder = is_folder(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return PictureFolder(path, picture_fps) if folder else VideoFile(path)


def refuse_equal_stems(paths: Iterable[str | Path]) -> None:
    """Check that no two videos would be tracked under one name: the file's without its suffix.

    Names count as equal where a file system may take them for one: without regard to case and Unicode form.

    Raises:
        UsageError: Names the files.
    """
    groups: dict[str, list[Path]] = {}
    for path in dict.fromkeys(map(Path, paths)):
        name = path.stem if path.suffix and not path.is_dir() else path.name
        groups.setdefault(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()), []).append(path)
    clashes = [group for group in groups.values() if len(group) > 1]
    if clashes:
        listed = "; ".join(", ".join(map(str, group[:5])) for group in clashes[:5])
        raise UsageError(
            f"{len(clashes)} names of tracked videos would be given twice ({listed}): the name is that of the file "
            "without its suffix. Rename files, or track them into different folders (--tracked_root)"
        )
