"""Opening of what a user calls a video."""

from __future__ import annotations

from pathlib import Path

from guava_aug.errors import InputError
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
