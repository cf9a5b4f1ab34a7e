"""The files of the views in flight: each ends complete, or is not there."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from guava_aug.errors import OutputError
from guava_aug.output.gpu_frames import PendingFrames
from guava_aug.output.pngs import PngWriter
from guava_aug.output.quantize import NotFiniteError
from guava_aug.output.settings import OutputSettings
from guava_aug.output.sidecar import write_sidecar
from guava_aug.output.tree import png_dir, sidecar_path, video_path
from guava_aug.output.video import VideoWriter
from guava_aug.runtime import fault_points, timing
from guava_aug.runtime.cpus import usable_cpus
from guava_aug.runtime.failures import annotate
from guava_aug.runtime.frame_rate import Rate
from guava_aug.runtime.stale_files import remove_stale_files
from guava_aug.runtime.text import pluralize
from guava_aug.runtime.timing import StageTimer

if TYPE_CHECKING:
    from guava_aug.views import View

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameBatch:
    """Rendered frames on their way to a file; the original truncates in the video and rounds in the PNGs."""

    video: np.ndarray | PendingFrames  # [T, H, W, 3] uint8, truncated; or planes on their way
    png: np.ndarray | None  # [T, H, W, 3] uint8, rounded; None: no PNGs wanted


@dataclass(frozen=True)
class Outcome:
    """How a view ended."""

    view: View
    error: Exception | None  # None: its file is complete
    seconds: float  # render time, without what all views of the video share


class ViewWriter:
    """The MP4 of one view, its sidecar, and its PNGs if they are wanted: those are there before the MP4 gets its name.

    size: pixels, of both sides. comment: for the MP4's metadata. sidecar: what is written beside it.
    """

    def __init__(
        self,
        settings: OutputSettings,
        name: str,
        view: View,
        size: int,
        fps: Rate,
        comment: str,
        sidecar: Mapping[str, Any],
    ) -> None:
        path = video_path(settings.root, view.label, name)
        remove_stale_files(path.parent)
        self._sidecar = sidecar_path(settings.root, view.label, name)
        self._beside = sidecar
        if settings.overwrite:  # an old file must not outlive a failure under the new camera
            path.unlink(missing_ok=True)
            self._sidecar.unlink(missing_ok=True)
        self._pngs: PngWriter | None = None
        self._png_thread: ThreadPoolExecutor | None = None
        self._png_waiting: Future[None] | None = None
        if settings.png:
            folder = png_dir(settings.root, view.label, name)
            remove_stale_files(folder)
            for old in folder.glob("[0-9]*.png"):  # of another run; it may have had more frames
                old.unlink()
            self._pngs = PngWriter(folder)
            self._png_thread = ThreadPoolExecutor(1, thread_name_prefix=f"png {view.label}")
        # last, for nobody would end its thread and remove its file if anything after it failed
        self._video = VideoWriter(path, size, size, fps, crf=settings.crf, preset=settings.preset, comment=comment)

    def write(self, batch: FrameBatch) -> None:
        """Takes the next frames. Raises OutputError with whatever stopped the files."""
        self._video.write(batch.video)
        fault_points.fault_point("mid-encode")
        if self._pngs is not None and self._png_thread is not None and batch.png is not None:
            self._wait_for_pngs()  # so at most one chunk waits
            self._png_waiting = self._png_thread.submit(self._pngs.write, batch.png)

    def close(self) -> None:
        """Completes the files. Raises OutputError; then the MP4 is not there."""
        if not self._video.flush():
            error = OutputError(
                f"{self._video.path}: all is black ({pluralize(self._video.frames, 'frame')}); nobody wants such a "
                "video. Look at the tracked video with `guava-aug check`, and at this machine with `guava-aug doctor`"
            )
            annotate(error, stage=timing.RENDER)
            raise error
        self._wait_for_pngs()
        if self._png_thread is not None:
            self._png_thread.shutdown()
        try:
            write_sidecar(self._sidecar, self._beside)
            fault_points.fault_point("before-video")
            self._video.close()
        except Exception as error:
            annotate(error, stage=timing.VERIFY)
            with contextlib.suppress(OSError):
                self._sidecar.unlink(missing_ok=True)
            raise

    def abort(self) -> None:
        """Leaves no MP4 and no temporary file; PNGs that are complete stay, the next run writes them again."""
        if self._png_thread is not None:
            self._png_thread.shutdown(cancel_futures=True)
        self._video.abort()

    def _wait_for_pngs(self) -> None:
        if self._png_waiting is not None:
            self._png_waiting.result()
            self._png_waiting = None


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM take effect at the end of the block: between making a file and noting it, it would be lost."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets them
        yield
        return
    came: list[int] = []
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


class ViewWriters:
    """The files of a group of views. Leaving the block well completes them, leaving it by an exception removes them."""

    def __init__(
        self,
        group: Sequence[View],
        open_file: Callable[[View], ViewWriter],
        on_view: Callable[[Outcome], None],
        stages: StageTimer,
    ) -> None:
        self._group, self._open_file, self._on_view, self._stages = group, open_file, on_view, stages
        self._files: dict[View, ViewWriter] = {}  # those that are open and well
        self._seconds = dict.fromkeys(group, 0.0)
        self._frames = dict.fromkeys(group, 0)  # written

    def __enter__(self) -> ViewWriters:
        try:
            for view in self._group:
                with self.rendering(view), deferred_signals():
                    self._files[view] = self._open_file(view)
        except BaseException:
            self._abort()
            raise
        return self

    def well(self) -> list[View]:
        """The views whose file has not failed."""
        return list(self._files)

    @contextmanager
    def rendering(self, view: View) -> Iterator[None]:
        """A step of one view: its time is counted, and if it fails, only this view has failed."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            if isinstance(error, NotFiniteError):
                error.after(self._frames[view])
            annotate(error, stage=timing.RENDER, frame=self._frames[view])
            self._fail(view, error)
        finally:
            end = time.perf_counter()
            timing.record(timing.RENDER, start, end)
            self._seconds[view] += end - start

    def write(self, view: View, batch: FrameBatch) -> None:
        """Hands frames to the view's encoder, which works in a thread; waits while it is far behind."""
        start = time.perf_counter()
        try:
            self._files[view].write(batch)
        except Exception as error:
            annotate(error, stage=timing.ENCODE)
            raise
        self._frames[view] += len(batch.video)
        end = time.perf_counter()
        timing.record(timing.ENCODE_WAIT, start, end)
        waited = end - start
        self._seconds[view] -= waited
        self._stages.add(timing.ENCODE_WAIT, waited, count=0)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._complete()
            else:
                annotate(error, frame=max(self._frames.values()))
        finally:
            self._abort()

    def _abort(self) -> None:
        for file in self._files.values():
            file.abort()

    def _complete(self) -> None:
        """Closing decodes the whole file back, so all files are closed at the same time."""
        with ThreadPoolExecutor(usable_cpus()) as pool:
            closing = {view: pool.submit(file.close) for view, file in self._files.items()}
            for view, closed in closing.items():
                try:
                    with self._stages(timing.ENCODE_WAIT):
                        closed.result()
                except Exception as error:
                    annotate(error, frame=self._frames[view])
                    self._fail(view, error)
                else:
                    del self._files[view]
                    self._end(view, None)

    def _fail(self, view: View, error: Exception) -> None:
        log.debug("view %s failed", view.label, exc_info=error)
        file = self._files.pop(view, None)
        if file is not None:
            file.abort()
        self._end(view, error)

    def _end(self, view: View, error: Exception | None) -> None:
        self._stages.add(timing.RENDER, self._seconds[view])
        self._on_view(Outcome(view, error, self._seconds[view]))
