"""Writing of the files of the views in flight: those of a view are complete, or do not exist."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guava_aug.errors import annotate
from guava_aug.output.frames import NotFiniteError
from guava_aug.output.metadata import write_sidecar
from guava_aug.output.sinks import FrameBatch, Sink, ViewTarget, find_sinks
from guava_aug.output.tree import sidecar_path, video_path
from guava_aug.runtime import timing
from guava_aug.runtime.cpus import usable_cpus
from guava_aug.runtime.timing import StageTimer

if TYPE_CHECKING:
    from guava_aug.views import View

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ViewEnd:
    """The outcome of writing a view."""

    view: View
    error: Exception | None  # None: its files are complete
    seconds: float  # render time, without what all views of the video share


class ViewWriter:
    """The files of one view: its sinks, and its sidecar, which is there before the MP4 gets its name.

    Raises:
        OutputError, OSError: a file cannot be begun; then none of them is there.
    """

    def __init__(self, target: ViewTarget) -> None:
        settings = target.settings
        path = video_path(settings.root, target.label, target.video)
        self._target = target
        self._sidecar = sidecar_path(settings.root, target.label, target.video)
        if settings.overwrite:  # after a failure no file of the old camera may remain
            path.unlink(missing_ok=True)
            self._sidecar.unlink(missing_ok=True)
        self._sinks: list[Sink] = []
        try:
            for sink in find_sinks(settings.sinks):
                self._sinks.append(sink(target))
        except BaseException:
            self.abort()
            raise

    def write(self, batch: FrameBatch) -> None:
        """Write the next frames.

        Raises:
            OutputError: Writing failed, now or for earlier frames.
        """
        for sink in self._sinks:
            sink.write(batch)

    def close(self) -> None:
        """Complete the files.

        Raises:
            OutputError: A file cannot be completed; then the MP4 does not exist.
        """
        for sink in self._sinks:
            sink.flush()
        *others, last = self._sinks
        for sink in others:
            sink.close()
        try:
            write_sidecar(self._sidecar, self._target.sidecar)
            last.close()
        except Exception as error:
            annotate(error, stage=timing.VERIFY)
            with contextlib.suppress(OSError):
                self._sidecar.unlink(missing_ok=True)
            raise

    def abort(self) -> None:
        """Leave no MP4 and no temporary file. Any number of times; nothing happens after `close`."""
        for sink in self._sinks:
            try:
                sink.abort()
            except Exception:  # the other files of the view must go, too
                log.debug("view %s: a file cannot be ended", self._target.label, exc_info=True)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM take effect at the end of the block: a file that is made but not noted would be lost."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets them
        yield
        return
    came: list[int] = []
    try:
        with contextlib.ExitStack() as restore:
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if handler is not None:  # None: not set from Python, and cannot be set back
                    restore.callback(signal.signal, number, handler)
                    signal.signal(number, lambda number, frame: came.append(number))
            yield
    finally:
        for received in came:  # all of them: a second Ctrl-C means something else than the first
            signal.raise_signal(received)


class ViewWriters:
    """The writers of a group of views. Leaving the block removes what `complete` has not completed."""

    def __init__(self, group: Sequence[View], open_writer: Callable[[View], ViewWriter], stages: StageTimer) -> None:
        self._group, self._open_writer, self._stages = group, open_writer, stages
        self._writers: dict[View, ViewWriter] = {}  # those that are open and have not failed
        self._seconds = dict.fromkeys(group, 0.0)
        self._frames = dict.fromkeys(group, 0)  # written
        self._ended: deque[ViewEnd] = deque()

    def __enter__(self) -> ViewWriters:
        try:
            for view in self._group:
                with self.guard(view), deferred_signals():
                    self._writers[view] = self._open_writer(view)
        except BaseException:
            self._abort()
            raise
        return self

    def active(self) -> list[View]:
        """Return the views that have not failed."""
        return list(self._writers)

    def is_active(self, view: View) -> bool:
        """Return whether a view has not failed."""
        return view in self._writers

    def ended(self) -> Iterator[ViewEnd]:
        """Yield every view that has ended since the last call, once."""
        while self._ended:
            yield self._ended.popleft()

    @contextmanager
    def guard(self, view: View) -> Iterator[None]:
        """Measure the time of a step of one view, and limit a failure to this view."""
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
        """Pass frames to the view's sinks, which work in threads; wait if one of them is far behind."""
        start = time.perf_counter()
        try:
            self._writers[view].write(batch)
        except Exception as error:
            annotate(error, stage=timing.ENCODE)
            raise
        self._frames[view] += len(batch)
        end = time.perf_counter()
        timing.record(timing.ENCODE_WAIT, start, end)
        waited = end - start
        self._seconds[view] -= waited
        self._stages.add(timing.ENCODE_WAIT, waited, count=0)

    def complete(self) -> Iterator[ViewEnd]:
        """Complete the files of all active views, and give each view when its files are complete or have failed.

        Closing decodes the whole file back, so several files are closed at the same time. Views are given in their
        order.
        """
        yield from self.ended()
        pool = ThreadPoolExecutor(usable_cpus())
        try:
            closing = {view: pool.submit(writer.close) for view, writer in self._writers.items()}
            for view, closed in closing.items():
                try:
                    with self._stages(timing.ENCODE_WAIT):
                        closed.result()
                except Exception as error:
                    annotate(error, frame=self._frames[view])
                    self._fail(view, error)
                else:
                    del self._writers[view]
                    self._end(view, None)
                yield from self.ended()
        finally:
            pool.shutdown(cancel_futures=True)  # those that are being closed end first: `abort` is no rival of `close`

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            annotate(error, frame=max(self._frames.values()))
        self._abort()

    def _abort(self) -> None:
        for writer in self._writers.values():
            writer.abort()

    def _fail(self, view: View, error: Exception) -> None:
        log.debug("view %s failed", view.label, exc_info=error)
        writer = self._writers.pop(view, None)
        if writer is not None:
            writer.abort()
        self._end(view, error)

    def _end(self, view: View, error: Exception | None) -> None:
        self._stages.add(timing.RENDER, self._seconds[view])
        self._ended.append(ViewEnd(view, error, self._seconds[view]))
