"""The report beside a clip that `guava-aug track` made: `tracking.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from guava_aug.errors import InputError
from guava_aug.runtime.plain_json import is_count, is_text, loads
from guava_aug.runtime.presence import is_there

REPORT = "tracking.json"
FORMAT = 1
_LARGEST = 1 << 28  # bytes; a day of video has less

Quality = Literal["good", "fair", "poor"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)  # best first


@dataclass(frozen=True)
class TrackingReport:
    """How well a clip was tracked, from what, and by which flags."""

    source_path: str  # as it was given, absolute
    source_signature: str  # of its content
    fingerprint: str  # of the flags that decide the result, and the tracker's version
    clip: int  # number of this clip, from 0
    num_clips: int  # of the video
    num_frames: int  # of this clip
    quality: Quality
    reasons: tuple[str, ...] = ()  # why the quality is not "good"
    notes: tuple[str, ...] = ()  # what was found out about the video: damage, interlacing, shots that were left out
    lens: Mapping[str, Any] = field(default_factory=dict)  # field of view in degrees, and where it is known from
    parts: Mapping[str, Any] = field(default_factory=dict)  # per part: confidence, reprojection in px, jitter
    frames: Mapping[str, Any] = field(default_factory=dict)  # per frame and part: confidence; frames without a person
    photometric: Mapping[str, Any] = field(default_factory=dict)  # how the fit to the pictures ended; empty: off

    def to_text(self) -> str:
        """Return the content of the file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def clip_names(name: str, num_clips: int) -> list[str]:
    """Return the folders of a video's clips: its name, with numbers from 1 where there are several."""
    digits = max(2, len(str(num_clips)))
    return [name] if num_clips == 1 else [f"{name}_{k:0{digits}d}" for k in range(1, num_clips + 1)]


def first_clip_names(name: str) -> tuple[str, ...]:
    """Return what the first folder of a video may be called, whatever the number of its clips."""
    return name, *(f"{name}_{1:0{digits}d}" for digits in (2, 3, 4))


def read_report(folder: Path) -> TrackingReport | None:
    """Return the report of a tracked folder; None: it has none, being of another tracker.

    Raises:
        InputError: it cannot be read, or is damaged.
    """
    path = folder / REPORT
    if not is_there(path):
        return None
    try:
        with path.open("rb") as file:
            values = loads(file.read(_LARGEST).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}). Track the video again with --overwrite.") from error
    texts = ("source_path", "source_signature", "fingerprint")
    counts = ("clip", "num_clips", "num_frames")
    if (
        not isinstance(values, dict)
        or not all(is_text(values.get(name)) for name in texts)
        or not all(is_count(values.get(name)) for name in counts)
        or not 1 <= values["num_clips"] <= 100_000
        or values.get("quality") not in QUALITIES
    ):
        raise InputError(f"{path} is damaged. Track the video again with --overwrite.")
    reasons, notes = (values.get(name) for name in ("reasons", "notes"))
    return TrackingReport(
        **{name: values[name] for name in (*texts, *counts, "quality")},
        reasons=tuple(map(str, reasons)) if isinstance(reasons, list) else (),
        notes=tuple(map(str, notes)) if isinstance(notes, list) else (),
        **{
            name: values[name]
            for name in ("lens", "parts", "frames", "photometric")
            if isinstance(values.get(name), dict)
        },
    )


def refuse_worse(folder: Path, least: Quality | None) -> None:
    """Refuse a clip whose tracking is worse than `least`, if its report says so.

    Raises:
        InputError: it is, or the report is damaged.
    """
    report = read_report(folder) if least is not None else None
    if report is not None and least is not None and QUALITIES.index(report.quality) > QUALITIES.index(least):
        why = f" ({'; '.join(report.reasons)})" if report.reasons else ""
        raise InputError(
            f"{folder}: the tracking is {report.quality}{why}, and --min_tracking asks for {least}. Leave the clip "
            "out, film it again, or lower --min_tracking."
        )
