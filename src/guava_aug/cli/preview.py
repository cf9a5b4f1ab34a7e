"""What `guava-aug run --dry_run` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guava_aug.cli.streams import say
from guava_aug.runtime.text import pluralize

if TYPE_CHECKING:
    from guava_aug.batch.dry_run import PlannedView, Preview

VIDEOS_SHOWN = 20
VIEWS_SHOWN = 12  # of a video
GIB = 2**30


def show_preview(found: Preview) -> None:
    """Show what would be made, from which cameras, and what it costs."""
    good = [video for video in found.videos if video.problem is None]
    for video in found.videos:
        if video.problem is not None:
            say(f"cannot be made: {video.name} ({pluralize(len(video.views), 'view')}): {video.problem}")
    for video in good[:VIDEOS_SHOWN]:
        say(f"{video.name}: {pluralize(video.frames or 0, 'frame', ',')}")
        width = max(len(view.view) for view in video.views)
        for view in video.views[:VIEWS_SHOWN]:
            say(f"  {view.view:<{width}}  {_camera(view)}")
        if len(video.views) > VIEWS_SHOWN:
            say(f"  ... and {pluralize(len(video.views) - VIEWS_SHOWN, 'more view', ',')}")
    if len(good) > VIDEOS_SHOWN:
        say(f"... and {pluralize(len(good) - VIDEOS_SHOWN, 'more video', ',')}; all are in --json")
    what = f"{pluralize(found.views, 'view', ',')} of {pluralize(len(good), 'video', ',')}"
    say(f"to make:  {what}, {pluralize(found.view_frames, 'frame', ',')}; complete already: {found.complete:,}")
    if found.not_retried:
        say(f"failed before and not tried again: {pluralize(found.not_retried, 'view', ',')} (see guava-aug retry)")
    free = f"{found.disk_free_bytes / GIB:.1f} GiB are free"
    if found.disk_bytes is None or found.seconds is None:
        say(f"disk:     {free}; `guava-aug estimate` with the same flags measures disk and time on this machine")
    else:
        as_before = f"as the {pluralize(found.measured, 'view', ',')} that are there"
        say(f"disk:     about {_size(found.disk_bytes)} of videos, {as_before}; {free}")
        say(f"time:     about {_time(found.seconds)} of one worker, {as_before}")
    say("nothing was rendered (--dry_run)")


def _camera(view: PlannedView) -> str:
    params = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in view.params.items()
    )
    if view.azimuth is None or view.elevation is None:
        return params
    angles = []
    for name, value in (("azimuth", view.azimuth), ("elevation", view.elevation)):
        if isinstance(value, list):
            angles.append(f"{name} {min(value):+.1f} to {max(value):+.1f}")
        else:
            angles.append(f"{name} {value:+.1f}")
    return f"{', '.join(angles)} degrees ({params})"


def _size(number: float) -> str:
    """Return `26.4 GiB`; below one GiB, MiB; below one MiB, KiB."""
    return next(
        (f"{number / unit:.1f} {name}" for unit, name in ((GIB, "GiB"), (2**20, "MiB")) if number >= unit),
        f"{number / 1024:.1f} KiB",
    )


def _time(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds:.0f} s"
