"""What the flags of `guava-aug track` mean before any video is looked at."""

from __future__ import annotations

import re
from pathlib import Path

from guava_aug.batch.tracking.config import TrackConfig
from guava_aug.errors import UsageError


def check_track_flags(config: TrackConfig) -> None:
    """Refuse values that would fail with every video.

    Raises:
        UsageError: names the flag.
        InputError: the calibration file cannot be read.
    """
    chosen_person(config.person)
    if config.fov is not None and config.calibration is not None:
        raise UsageError("--fov and --calibration exclude each other; leave one out")
    if config.fov not in (None, "auto"):
        from guava_aug.tracked.lens import lens_of_fov  # noqa: PLC0415 - imports torch, which is slow

        lens_of_fov(config.fov, (1080, 1920))
    if config.calibration is not None:
        from guava_aug.tracked.lens import load_calibration  # noqa: PLC0415 - imports torch, which is slow

        load_calibration(*calibration_of(config.calibration))


def chosen_person(text: str | None) -> int | tuple[float, float] | None:
    """Return the value of --person: a number, or a point x, y in pixels of the first frame; None: the largest person.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,3}", text.strip()):
        return int(text)
    if found := re.fullmatch(r"\s*([0-9]{1,6}(?:\.[0-9]+)?)\s*,\s*([0-9]{1,6}(?:\.[0-9]+)?)\s*", text):
        return float(found[1]), float(found[2])
    raise UsageError(f"--person is {text!r}; expected a number, from the left and from 0, or X,Y in pixels: 640,360")


def calibration_of(path: Path) -> tuple[Path, str | None]:
    """Return file and camera that --calibration FILE or FILE:CAMERA means; a file of the whole name comes first."""
    file, colon, camera = str(path).rpartition(":")
    if not colon or path.exists():
        return path, None
    return Path(file), camera
