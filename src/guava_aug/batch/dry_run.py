"""What a run would make, without making it: `guava-aug run --dry_run`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from guava_aug.batch.config import RunConfig
from guava_aug.batch.journal.history import History
from guava_aug.batch.plan import PlannedVideo
from guava_aug.batch.run import plan_only
from guava_aug.errors import InputError
from guava_aug.runtime.files import nearest_existing
from guava_aug.views.view import View


@dataclass(frozen=True)
class PlannedView:
    """A view that would be made."""

    view: str  # label
    sampler: str
    params: dict[str, Any]
    azimuth: float | list[float] | None = None  # true angles, degrees; a list of one per frame where the camera moves
    elevation: float | list[float] | None = None  # None: the video was not read


@dataclass(frozen=True)
class PreviewVideo:
    """A video of which something would be made."""

    name: str
    views: Sequence[PlannedView]
    frames: int | None = None  # None: it cannot be read
    problem: str | None = None  # why nothing can be made of it


@dataclass(frozen=True)
class Preview:
    """What a run would make. Disk and time are of what has been made below the output root; None: nothing has."""

    videos: Sequence[PreviewVideo] = field(default_factory=tuple)
    complete: int = 0  # views that are there
    not_retried: int = 0  # views that failed before and are left alone
    measured: int = 0  # views that disk and time are estimated from
    disk_bytes: int | None = None
    seconds: float | None = None  # of one worker, without its start
    disk_free_bytes: int = 0

    @property
    def ok(self) -> bool:
        """Return whether all of it can be made, as far as that is known."""
        return all(video.problem is None for video in self.videos)

    @property
    def views(self) -> int:
        """Return how many views can be made."""
        return sum(len(video.views) for video in self.videos if video.problem is None)

    @property
    def view_frames(self) -> int:
        """Return how many frames their videos would have together."""
        return sum(len(video.views) * (video.frames or 0) for video in self.videos if video.problem is None)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "ok": self.ok, "to_make": self.views, "view_frames": self.view_frames}


def preview(config: RunConfig, cameras_of: int | None = None) -> Preview:  # noqa: D417 - the types say it
    """Return what a run would make. Nothing is written.

    Args:
        cameras_of: read so many videos for the true angles of their cameras; None: all that something is made of.

    Raises:
        UsageError, AssetError, InputError, OutputError: the run could not be started.
    """
    jobs, history = plan_only(config)
    todo = [job for job in jobs if job.todo]
    videos: list[PreviewVideo] = []
    with_cameras = 0  # those that cannot be made do not count
    for job in todo:
        videos.append(_look(config, job, cameras_of is None or with_cameras < cameras_of))
        with_cameras += videos[-1].problem is None
    measured, per_bytes, per_seconds = _measured(history)
    found = Preview(
        videos,
        complete=sum(len(job.done) for job in jobs),
        not_retried=sum(len(job.not_retried) for job in jobs),
        measured=measured,
        disk_free_bytes=shutil.disk_usage(nearest_existing(config.output_root)).free,
    )
    if not measured:
        return found
    more = {"disk_bytes": round(per_bytes * found.view_frames), "seconds": round(per_seconds * found.view_frames, 3)}
    return Preview(**{**vars(found), **more})


def _look(config: RunConfig, job: PlannedVideo, with_cameras: bool) -> PreviewVideo:
    """Return what would be made of one video."""
    from guava_aug.tracked.layout import find_video  # late, like all that a run with nothing to make does not need  # noqa: PLC0415 - slow to load, and not always needed

    views = [PlannedView(view.label, view.sampler, view.params) for view in job.todo]
    if job.refused is not None:
        return PreviewVideo(job.name, views, None, job.refused)
    try:
        frames = len(find_video(config.tracked_root, job.name).frame_keys)
        if with_cameras:
            views = list(_with_angles(config, job.name, job.todo))
    except InputError as error:
        return PreviewVideo(job.name, views, None, str(error))
    return PreviewVideo(job.name, views, frames)


def _with_angles(config: RunConfig, name: str, views: Sequence[View]) -> Iterator[PlannedView]:
    from guava_aug.tracked import TrackedVideo  # late: these need torch  # noqa: PLC0415 - slow to load, and not always needed
    from guava_aug.views.cameras import camera_facts  # noqa: PLC0415 - slow to load, and not always needed

    video = TrackedVideo.open(config.tracked_root, name, source_frame=config.source_frame)
    for view in views:
        facts = camera_facts(view.cameras(video.viewmats[video.source_frame], video.num_frames))
        yield PlannedView(view.label, view.sampler, view.params, facts["azimuth"], facts["elevation"])


def _measured(history: History) -> tuple[int, float, float]:
    """Return the number of measured views, and bytes and seconds per frame of one view."""
    count, frames, size, seconds = 0, 0, 0, 0.0
    for _, _, view in history.items():
        told = None if view.made is None else view.made.fields
        stages = (told or {}).get("stages")
        if told is None or not stages or not told.get("frames") or not told.get("bytes"):
            continue
        count, frames, size = count + 1, frames + told["frames"], size + told["bytes"]
        seconds += sum(stages.values())
    return count, size / max(frames, 1), seconds / max(frames, 1)
