"""What the user sees while a run works: a bar with an ETA on a terminal, dated lines elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from guava_aug.runtime.printable import printable
from guava_aug.runtime.text import pluralize

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichBars

log = logging.getLogger(__name__)
LINE_EVERY = 30.0  # seconds between the plain lines of one long video
ETA_SECONDS, ETA_SHARE = 2.0, 0.05  # of the work that must be done before its end is guessed


class Progress(Protocol):
    """Called by the jobs. Work is counted in frames of views: a view of a long video is more than one of a short."""

    def start(self, videos: int, views: int) -> None:
        """The run begins: so many videos, and views to make in all."""

    def video(self, name: str, views: int) -> None:
        """The next video begins, with so many views to make; none are left for a video that is done."""

    def frames(self, done: int, total: int) -> None:
        """`done` more frames of one view are rendered, of `total` frames in that view."""

    def finish_video(self, message: str) -> None:
        """The video is over, well or not; `message` says how, in one line."""

    def close(self) -> None:
        """The run is over (also after an interruption)."""


class NoProgress:
    """Shows nothing: `--quiet`, and the default of the Python API."""

    def start(self, videos: int, views: int) -> None: ...

    def video(self, name: str, views: int) -> None: ...

    def frames(self, done: int, total: int) -> None: ...

    def finish_video(self, message: str) -> None: ...

    def close(self) -> None: ...


@dataclass
class _Open:
    """A video in work."""

    name: str
    index: int  # from 1, in the order in which they began
    views: int
    length: int | None = None  # frames of each view, once the first of them are rendered
    frames: int = 0  # done, of all its views together

    @property
    def all_frames(self) -> int:
        """Frames of all its views; 0 before the length is known."""
        return self.views * (self.length or 0)


class ProgressEstimate:
    """How far a run is, and how long it will still take, counted in frames of views.

    How long a video is, is known when its first frames are rendered; those to come count as long as those seen so far.
    Several videos may be in work, each in a thread of its own; what a thread tells is about its video.
    """

    def __init__(self) -> None:
        self.videos = self.views = self._count = 0
        self._done_before = 0  # views of finished videos
        self._frames_before = 0  # of finished videos
        self._seen_views = self._seen_frames = 0  # of all videos whose length is known
        self._open: dict[int, _Open] = {}  # by thread
        self._first: float | None = None  # when the first frames were done
        self._since = 0  # frames done after these

    def start(self, videos: int, views: int) -> None:
        self.videos, self.views = videos, views

    def video(self, name: str, views: int) -> None:
        self._count += 1
        self._open[threading.get_ident()] = _Open(name, self._count, views)

    def frames(self, done: int, total: int) -> None:
        mine = self._mine
        if mine.length is None:
            mine.length = max(total, 1)
            self._seen_views += mine.views
            self._seen_frames += mine.all_frames
        mine.frames = min(mine.frames + done, mine.all_frames)  # views that are tried again count once
        if self._first is None:
            self._first = time.monotonic()
        else:
            self._since += done

    def finish_video(self) -> None:
        mine = self._mine
        self._done_before += mine.views  # a failed video leaves nothing to wait for either
        self._frames_before += mine.all_frames
        mine.views, mine.frames = 0, 0

    @property
    def _mine(self) -> _Open:
        return self._open.get(threading.get_ident()) or _Open("", 0, 0)

    @property
    def name(self) -> str:
        """The video of this thread."""
        return self._mine.name

    @property
    def video_index(self) -> int:
        """Its number, from 1."""
        return self._mine.index

    @property
    def video_frames(self) -> tuple[int, int]:
        """Frames done of the video of this thread, and frames of all its views."""
        return self._mine.frames, self._mine.all_frames

    @property
    def done(self) -> float:
        """Views done, with the fraction of those in flight."""
        in_work = (video.frames / video.length for video in list(self._open.values()) if video.length)
        return self._done_before + sum(in_work)

    @property
    def frames_done(self) -> int:
        """Frames done, with those of failed videos."""
        return self._frames_before + sum(video.frames for video in list(self._open.values()))

    @property
    def frames_left(self) -> int:
        """Frames still to do, as far as the lengths of the videos are known."""
        left = sum(video.all_frames - video.frames for video in list(self._open.values()))
        return left + (round(self._unseen * self._seen_frames / self._seen_views) if self._seen_views else 0)

    @property
    def is_exact(self) -> bool:
        """Whether the lengths of all videos are known."""
        return self._unseen == 0

    @property
    def _unseen(self) -> int:
        """Views to make of videos whose length is not known yet."""
        known = sum(video.views for video in list(self._open.values()) if video.length is not None)
        return max(self.views - self._done_before - known, 0)

    def eta(self) -> str:
        """Time left as h:mm:ss, "?" while less than 5 % and less than two seconds of the work are known.

        Time counts from the first frames on: what comes before them (compiling, a model's first picture) comes once.
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

    def start(self, videos: int, views: int) -> None:
        self.clock.start(videos, views)
        log.info("%s, %s to make", pluralize(videos, "video"), pluralize(views, "view"))

    def video(self, name: str, views: int) -> None:
        self.clock.video(name, views)
        self._last = time.monotonic()

    def frames(self, done: int, total: int) -> None:
        self.clock.frames(done, total)
        if time.monotonic() - self._last >= LINE_EVERY:
            self._last = time.monotonic()
            c = self.clock
            done, total = c.video_frames
            log.info(
                "[%d/%d] %s: frame %d of %d; in all view %.1f of %d, ETA %s",
                c.video_index, c.videos, c.name, done, total, c.done, c.views, c.eta(),
            )  # fmt: skip

    def finish_video(self, message: str) -> None:
        self.clock.finish_video()
        c = self.clock
        eta = f", ETA {c.eta()}" if c.done < c.views else ""
        log.info("[%d/%d] %s: %s%s", c.video_index, c.videos, c.name, message, eta)

    def close(self) -> None: ...


class Bars:
    """One bar over all frames with an ETA, on a terminal."""

    def __init__(self, console: Console) -> None:
        self.clock = ProgressEstimate()
        self.console = console
        self._bars: RichBars | None = None

    def start(self, videos: int, views: int) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.clock.start(videos, views)
        self._bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[frames]}"),
            TimeElapsedColumn(), TextColumn("ETA {task.fields[eta]}"),
            console=self.console, transient=True,
        )  # fmt: skip
        self._bars.add_task(pluralize(videos, "video"), total=None, frames=pluralize(views, "view"), eta="?")
        self._bars.start()

    def video(self, name: str, views: int) -> None:
        from rich.markup import escape

        self.clock.video(name, views)
        self._show(escape(f"[{self.clock.video_index}/{self.clock.videos}] {printable(name)[:40]}"))

    def frames(self, done: int, total: int) -> None:
        self.clock.frames(done, total)
        self._show()

    def finish_video(self, message: str) -> None:
        self.clock.finish_video()
        c = self.clock
        log.info("[%d/%d] %s: %s", c.video_index, c.videos, c.name, message)
        self._show()

    def close(self) -> None:
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
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
