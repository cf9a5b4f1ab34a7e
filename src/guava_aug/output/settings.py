"""What a run says about its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PRESETS = (  # of x264
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip


@dataclass(frozen=True)
class OutputSettings:
    """Where the files of all views go, and how they are written."""

    root: Path  # of the output tree
    overwrite: bool = False  # remove an existing file of a view before it is made again
    png: bool = False  # also write every frame as a PNG
    crf: int = 10  # x264 quality, 0 (lossless) to 51
    preset: str = "veryfast"  # of x264
