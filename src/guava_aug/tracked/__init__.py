"""Tracked videos, the output of EHM-Tracker: finding, checking, safe reading, and writing.

`TrackedVideo.open` is the entry point. Tracked data are untrusted: no file read here can run code, and a damaged one
raises `InputError` with the video, the frame and the reason. Modules that need torch are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guava_aug.runtime.imports import lazy_attributes
from guava_aug.tracked.layout import list_videos, scan_videos, tracked_path
from guava_aug.tracked.timemap import Timing, load_time_map, warn_unknown_videos

if TYPE_CHECKING:
    from guava_aug.tracked.check import CheckRow, check_videos, iter_checks
    from guava_aug.tracked.outline import BodyOutline
    from guava_aug.tracked.plausibility import Plausibility, examine
    from guava_aug.tracked.video import Chunk, Source, TrackedVideo
    from guava_aug.tracked.write import write_tracked

__all__ = [
    "BodyOutline",
    "CheckRow",
    "Chunk",
    "Plausibility",
    "Source",
    "Timing",
    "TrackedVideo",
    "check_videos",
    "examine",
    "iter_checks",
    "list_videos",
    "load_time_map",
    "scan_videos",
    "tracked_path",
    "warn_unknown_videos",
    "write_tracked",
]

_WHERE = {
    "BodyOutline": "outline",
    "CheckRow": "check",
    "Chunk": "video",
    "Plausibility": "plausibility",
    "Source": "video",
    "TrackedVideo": "video",
    "check_videos": "check",
    "examine": "plausibility",
    "iter_checks": "check",
    "write_tracked": "write",
}

__getattr__ = lazy_attributes(__name__, _WHERE)
