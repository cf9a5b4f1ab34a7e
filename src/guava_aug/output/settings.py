"""The settings of a run's output files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PRESETS = (  # of x264
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip


@dataclass(frozen=True)
class OutputSettings:
    """Location and format of the files of all views."""

    root: Path  # of the output tree
    overwrite: bool = False  # remove an existing file of a view before it is made again
    sinks: tuple[str, ...] = ("mp4",)  # names of sinks; see `output.sinks`
    crf: int = 10  # x264 quality, 0 (lossless) to 51
    preset: str = "veryfast"  # of x264
