"""What the user sees while a run works: a bar with an ETA on a terminal, dated lines elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .plural import counted
from .printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichBars

log = logging.getLogger(__name__)
LINE_EVERY = 30.0  # seconds between the plain lines of one long video


class Progress(Protocol):
    """Called by the jobs. Work is counted in views; a frame of a view is its share of one view."""

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


class Silent:
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
    done: float = 0.0  # views, with fractions


class Clock:
    """How far a run is, and how long it will still take, counted in views.

    Several videos may be in work, each in a thread of its own; what a thread tells is about its video.
    """

    def __init__(self) -> None:
        self.videos = self.views = self._count = 0
        self._begun = time.monotonic()
        self._done_before = 0.0  # views of finished videos
        self._open: dict[int, _Open] = {}  # by thread

    def start(self, videos: int, views: int) -> None:
        self.videos, self.views, self._begun = videos, views, time.monotonic()

    def video(self, name: str, views: int) -> None:
        self._count += 1
        self._open[threading.get_ident()] = _Open(name, self._count, views)

    def frames(self, done: int, total: int) -> None:
        self._mine.done += done / max(total, 1)

    def finish_video(self) -> None:
        self._done_before += self._mine.views  # a failed video leaves nothing to wait for either
        self._mine.views, self._mine.done = 0, 0.0

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
    def done(self) -> float:
        """Views done, with the fraction of those in flight."""
        return self._done_before + sum(min(video.done, float(video.views)) for video in list(self._open.values()))

    def eta(self) -> str:
        """Time left as h:mm:ss, "?" before anything is known."""
        if self.done <= 0:
            return "?"
        left = (time.monotonic() - self._begun) / self.done * max(self.views - self.done, 0.0)
        return hms(left)


class PlainLines:
    """One line per video through `logging`, and one every half minute within a long video."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._last = 0.0

    def start(self, videos: int, views: int) -> None:
        self.clock.start(videos, views)
        log.info("%s, %s to make", counted(videos, "video"), counted(views, "view"))

    def video(self, name: str, views: int) -> None:
        self.clock.video(name, views)
        self._last = time.monotonic()

    def frames(self, done: int, total: int) -> None:
        self.clock.frames(done, total)
        if time.monotonic() - self._last >= LINE_EVERY:
            self._last = time.monotonic()
            c = self.clock
            log.info("[%d/%d] %s: view %.1f of %d, ETA %s", c.video_index, c.videos, c.name, c.done, c.views, c.eta())

    def finish_video(self, message: str) -> None:
        self.clock.finish_video()
        c = self.clock
        eta = f", ETA {c.eta()}" if c.done < c.views else ""
        log.info("[%d/%d] %s: %s%s", c.video_index, c.videos, c.name, message, eta)

    def close(self) -> None: ...


class Bars:
    """One bar over all views with an ETA, on a terminal."""

    def __init__(self, console: Console) -> None:
        self.clock = Clock()
        self.console = console
        self._bars: RichBars | None = None

    def start(self, videos: int, views: int) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.clock.start(videos, views)
        self._bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[views]}"),
            TimeElapsedColumn(), TextColumn("ETA {task.fields[eta]}"),
            console=self.console, transient=True,
        )  # fmt: skip
        self._bars.add_task(counted(videos, "video"), total=max(views, 1), views=f"0/{counted(views, 'view')}", eta="?")
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
        self._bars.update(
            self._bars.task_ids[0],
            description=description,  # None leaves it as it is
            completed=c.done,
            views=f"{c.done:.1f}/{counted(c.views, 'view')}",
            eta=c.eta(),
        )


def hms(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
