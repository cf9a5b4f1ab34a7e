"""What EHM-Tracker wrote: find it, check it, read it safely, and write it.

`TrackedVideo.open` is the door. Tracked data are untrusted: no file read here can run code, and a damaged one raises
`InputError` with the video, the frame and the reason. What needs torch is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from guava_aug.tracked.layout import list_videos, scan_videos, tracked_path
from guava_aug.tracked.outline import BodyOutline
from guava_aug.tracked.plausibility import Plausibility, examine
from guava_aug.tracked.timemap import Timing, load_time_map, warn_of_strangers

if TYPE_CHECKING:
    from guava_aug.tracked.check import CheckRow, check_videos, iter_checks
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
    "warn_of_strangers",
    "write_tracked",
]

_WHERE = {
    "CheckRow": "check",
    "Chunk": "video",
    "Source": "video",
    "TrackedVideo": "video",
    "check_videos": "check",
    "iter_checks": "check",
    "write_tracked": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value
