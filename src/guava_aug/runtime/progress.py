"""Display of progress: a bar with an ETA on a terminal, dated lines elsewhere."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from guava_aug.errors import printable
from guava_aug.runtime.text import pluralize

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichBars

log = logging.getLogger(__name__)
LINE_EVERY = 30.0  # seconds between the plain lines of one long video
ETA_SECONDS, ETA_SHARE = 2.0, 0.05  # of the work that must be done before its end is estimated


class Progress(Protocol):
    """Receiver of a run's progress, from one thread; several videos may be in progress at the same time.

    Work is counted in frames of views: a view of a long video is more than one of a short. The tracking of a video
    counts as one view.
    """

    def start(self, videos: int, views: int, *, tracking: bool = False) -> None:
        """Start a run: number of videos, and views to make in all; or videos to track. May be called again."""

    def video(self, name: str, views: int) -> None:
        """Start the next video with the number of views to make; 0 for a video that is complete."""

    def frames(self, name: str, done: int, total: int) -> None:
        """Count `done` more rendered frames of one view of a video, of `total` frames in that view."""

    def finish_video(self, name: str, message: str) -> None:
        """Finish a video, also after an error; `message` is the result in one line."""

    def close(self) -> None:
        """Finish the run (also after an interruption)."""


class NoProgress:
    """No display: `--quiet`, and the default of the Python API."""

    def start(self, videos: int, views: int, *, tracking: bool = False) -> None:
        """See `Progress`."""

    def video(self, name: str, views: int) -> None:
        """See `Progress`."""

    def frames(self, name: str, done: int, total: int) -> None:
        """See `Progress`."""

    def finish_video(self, name: str, message: str) -> None:
        """See `Progress`."""

    def close(self) -> None:
        """See `Progress`."""


@dataclass
class _Open:
    """A video in progress."""

    name: str
    index: int  # from 1, in the order in which they began
    views: int
    length: int | None = None  # frames of each view, once the first of them are rendered
    frames: int = 0  # done, of all its views together

    @property
    def all_frames(self) -> int:
        """Return the frames of all its views; 0 before the length is known."""
        return self.views * (self.length or 0)


class ProgressEstimate:
    """Progress and remaining time of a run, counted in frames of views.

    How long a video is, is known when its first frames are rendered; those to come count as long as those seen so far.
    Several videos may be in work; `name`, `video_index` and `video_frames` are of the one that was told of last.
    """

    def __init__(self) -> None:
        self.videos = self.views = self._count = 0
        self._done_before = 0  # views of finished videos
        self._frames_before = 0  # of finished videos
        self._seen_views = self._seen_frames = 0  # of all videos whose length is known
        self._open: dict[str, _Open] = {}  # videos in work, by name
        self._latest = _Open("", 0, 0)  # the one that was told of last
        self._first: float | None = None  # when the first frames were done
        self._since = 0  # frames done after these

    def start(self, videos: int, views: int) -> None:
        """See `Progress`."""
        self.__init__()  # type: ignore[misc]  # of an earlier run nothing counts
        self.videos, self.views = videos, views

    def video(self, name: str, views: int) -> None:
        """See `Progress`."""
        self._count += 1
        self._latest = self._open[name] = _Open(name, self._count, views)

    def frames(self, name: str, done: int, total: int) -> None:
        """See `Progress`."""
        mine = self._told_of(name)
        if mine.length is None:
            mine.length = max(total, 1)
            self._seen_views += mine.views
            self._seen_frames += mine.all_frames
        mine.frames = min(mine.frames + done, mine.all_frames)  # views that are tried again count once
        if self._first is None:
            self._first = time.monotonic()
        else:
            self._since += done

    def finish_video(self, name: str) -> None:
        """See `Progress`."""
        video = self._told_of(name)
        self._open.pop(name, None)
        self._done_before += video.views  # a failed video leaves nothing to wait for either
        self._frames_before += video.all_frames

    def _told_of(self, name: str) -> _Open:
        self._latest = self._open.get(name) or _Open(name, 0, 0)
        return self._latest

    @property
    def name(self) -> str:
        """Return the name of the video of the latest call."""
        return self._latest.name

    @property
    def video_index(self) -> int:
        """Return its number, from 1, in the order in which videos began."""
        return self._latest.index

    @property
    def video_frames(self) -> tuple[int, int]:
        """Return its finished frames, and the frames of all its views."""
        return self._latest.frames, self._latest.all_frames

    @property
    def done(self) -> float:
        """Return the number of finished views, with the fraction of those in progress."""
        in_work = (video.frames / video.length for video in self._open.values() if video.length)
        return self._done_before + sum(in_work)

    @property
    def frames_done(self) -> int:
        """Return the number of finished frames, including those of failed videos."""
        return self._frames_before + sum(video.frames for video in self._open.values())

    @property
    def frames_left(self) -> int:
        """Return the number of remaining frames, as far as the lengths of the videos are known."""
        left = sum(video.all_frames - video.frames for video in self._open.values())
        return left + (round(self._unseen * self._seen_frames / self._seen_views) if self._seen_views else 0)

    @property
    def is_exact(self) -> bool:
        """Return whether the lengths of all videos are known."""
        return self._unseen == 0

    @property
    def _unseen(self) -> int:
        """Return the number of views of videos whose length is not known yet."""
        known = sum(video.views for video in self._open.values() if video.length is not None)
        return max(self.views - self._done_before - known, 0)

    def eta(self) -> str:
        """Return the remaining time as h:mm:ss; "?" before 5 % or two seconds of the work are done.

        The time starts with the first frames: the work before them (compilation, warm-up) happens only once.
        """
        if self._first is None or self._since == 0:
            return "?"
        spent, done, left = time.monotonic() - self._first, self.frames_done, self.frames_left
        if spent < ETA_SECONDS and done < ETA_SHARE * (done + left):
            return "?"
        return hms(spent / self._since * left)


class PlainLines:
    """One line per video through `logging`, and one every half minute within a long video."""

    def __init__(self) -> None:
        self.clock = ProgressEstimate()
        self._last = 0.0
        self._unit = "view"

    def start(self, videos: int, views: int, *, tracking: bool = False) -> None:
        """See `Progress`."""
        self.clock.start(videos, views)
        self._unit = "video" if tracking else "view"
        if tracking:
            log.info("%s to track", pluralize(videos, "video"))
        else:
            log.info("%s, %s to make", pluralize(videos, "video"), pluralize(views, "view"))

    def video(self, name: str, views: int) -> None:
        """See `Progress`."""
        self.clock.video(name, views)
        self._last = time.monotonic()

    def frames(self, name: str, done: int, total: int) -> None:
        """See `Progress`."""
        self.clock.frames(name, done, total)
        if time.monotonic() - self._last >= LINE_EVERY:
            self._last = time.monotonic()
            c = self.clock
            done, total = c.video_frames
            log.info(
                "[%d/%d] %s: frame %d of %d; in all %s %.1f of %d, ETA %s",
                c.video_index, c.videos, c.name, done, total, self._unit, c.done, c.views, c.eta(),
            )  # fmt: skip

    def finish_video(self, name: str, message: str) -> None:
        """See `Progress`."""
        self.clock.finish_video(name)
        c = self.clock
        eta = f", ETA {c.eta()}" if c.done < c.views else ""
        log.info("[%d/%d] %s: %s%s", c.video_index, c.videos, c.name, message, eta)

    def close(self) -> None:
        """See `Progress`."""


class Bars:
    """One bar over all frames with an ETA, on a terminal."""

    def __init__(self, console: Console) -> None:
        self.clock = ProgressEstimate()
        self.console = console
        self._bars: RichBars | None = None

    def start(self, videos: int, views: int, *, tracking: bool = False) -> None:
        """See `Progress`."""
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - slow

        self.clock.start(videos, views)
        self._bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[frames]}"),
            TimeElapsedColumn(), TextColumn("ETA {task.fields[eta]}"),
            console=self.console, transient=True,
        )  # fmt: skip
        words = "tracking" if tracking else pluralize(views, "view")
        self._bars.add_task(pluralize(videos, "video"), total=None, frames=words, eta="?")
        self._bars.start()

    def video(self, name: str, views: int) -> None:
        """See `Progress`."""
        from rich.markup import escape  # noqa: PLC0415 - slow

        self.clock.video(name, views)
        self._show(escape(f"[{self.clock.video_index}/{self.clock.videos}] {printable(name)[:40]}"))

    def frames(self, name: str, done: int, total: int) -> None:
        """See `Progress`."""
        self.clock.frames(name, done, total)
        self._show()

    def finish_video(self, name: str, message: str) -> None:
        """See `Progress`."""
        self.clock.finish_video(name)
        c = self.clock
        log.info("[%d/%d] %s: %s", c.video_index, c.videos, c.name, message)
        self._show()

    def close(self) -> None:
        """See `Progress`."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _show(self, description: str | None = None) -> None:
        if self._bars is None:
            return
        c = self.clock
        done, left = c.frames_done, c.frames_left
        about, total = "" if c.is_exact else "about ", done + left
        words = f"{done:,}/{about}{pluralize(total, 'frame', ',')}" if total else pluralize(c.views, "view")
        self._bars.update(
            self._bars.task_ids[0],
            description=description,  # None leaves it as it is
            completed=done,
            total=total or None,  # None: not known yet
            frames=words,
            eta=c.eta(),
        )


def hms(seconds: float) -> str:
    """Return seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
