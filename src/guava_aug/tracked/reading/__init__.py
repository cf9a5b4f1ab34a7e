"""Videos and folders of pictures as sources of frames: upright RGB pictures with exact times, whatever the file is.

`open_source` is the entry point. `find_shots` separates a source at its cuts, `choose_crop` frames the person, and
`extract_audio` keeps the sound of a part of it. Nothing here holds more than a few frames in memory.
"""

from __future__ import annotations

from guava_aug.tracked.reading.audio import extract_audio
from guava_aug.tracked.reading.crop import Crop, choose_crop
from guava_aug.tracked.reading.open import open_source
from guava_aug.tracked.reading.shots import Shot, Shots, find_shots
from guava_aug.tracked.reading.source import Frame, Source
from guava_aug.tracked.reading.time_axis import TimeAxis

__all__ = [
    "Crop",
    "Frame",
    "Shot",
    "Shots",
    "Source",
    "TimeAxis",
    "choose_crop",
    "extract_audio",
    "find_shots",
    "open_source",
]
