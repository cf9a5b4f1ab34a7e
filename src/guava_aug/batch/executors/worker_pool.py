"""Several processes that make videos at the same time, as one engine: a bad one is replaced, its video done again."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Protocol

from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.in_process import Made, check_flags
from guava_aug.errors import (
    AssetError,
    DeviceError,
    DeviceLostError,
    DiskFullError,
    InputError,
    OutputError,
    UsageError,
)
from guava_aug.output.tree import video_path
from guava_aug.runtime.progress import Progress
from guava_aug.runtime.shutdown import Check, ShutdownRequested
from guava_aug.runtime.stale_files import remove_stale_files
from guava_aug.runtime.text import pluralize
from guava_aug.runtime.timing import StageTimer

if TYPE_CHECKING:
    from guava_aug.batch.executors.worker import Event
    from guava_aug.views import View

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # seconds between two looks whether the run is to end
MAX_ATTEMPTS = 2  # workers that may die on one video before the video is given up
STARTS = 3  # times in a row that a worker may die while it starts before the others go on without it
LEAST_PATIENCE = 600.0  # seconds that a worker may be silent while it makes a video, if --timeout says nothing
PATIENCE = 20.0  # and how many times as long as the longest silence that ended well
_KINDS = {kind.__name__: kind for kind in (InputError, OutputError, UsageError, AssetError, DeviceError, DiskFullError)}


class Engine(Protocol):
    """What `dispatch` needs of a crew."""

    parallel: int
    lock: threading.Lock

    def ask_to_end(self) -> None: ...

    def close(self) -> None: ...


def dispatch(crew: Engine, work: Callable[[Any], None], items: Sequence[Any], stop: Check) -> None:
    """Calls work(item) for every item, in threads, `crew.parallel` at a time; returns when all have ended.

    Only one thread runs at a time, but for `crew.make`, which lets go of the lock: what is around it need not know of
    threads.

    stop: called now and then; when it raises, nothing more is begun, and its exception is raised in the end. An
    exception of `work` closes the crew and is raised.
    """

    def work_alone(item: Any) -> None:
        with crew.lock:
            work(item)

    waiting, running = deque(items), set[Future[None]]()
    asked: BaseException | None = None
    pool = ThreadPoolExecutor(crew.parallel, thread_name_prefix="crew")
    try:
        while waiting or running:
            try:
                stop()
            except ShutdownRequested as error:
                if waiting and asked is None:
                    asked = error
                waiting.clear()
                crew.ask_to_end()
            while waiting and len(running) < crew.parallel:
                running.add(pool.submit(work_alone, waiting.popleft()))
            done, running = wait(running, POLL_SECONDS, FIRST_COMPLETED)
            for future in done:
                future.result()
    finally:
        crew.close()
        pool.shutdown(cancel_futures=True)
    if asked is not None:
        raise asked


class WorkerDied(Exception):
    """A worker process is gone, hangs or cannot go on; the message says how it ended."""


class WorkerTimeout(WorkerDied):
    """A worker process said nothing for the time of --timeout, and was ended."""


class Patience:
    """How long a worker may say nothing while it makes a video: --timeout, or by what was seen in this run."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout, self._longest = timeout, 0.0

    @property
    def seconds(self) -> float:
        """After so much silence it hangs."""
        return max(LEAST_PATIENCE, PATIENCE * self._longest) if self._timeout is None else self._timeout

    def seen(self, silence: float) -> None:
        """A silence, in seconds, that a sign of life has ended. From any thread."""
        self._longest = max(self._longest, silence)

    def __str__(self) -> str:
        return f"{self.seconds:g} s (--timeout{' auto' if self._timeout is None else ''})"


class WorkerHandle(Protocol):
    """One worker process, wherever it is."""

    name: str  # for the log: "worker 3 (GPU 3)"

    def ready(self) -> Iterator[Event]:
        """What it says until it is ready. Raises MemberDied."""

    def make(self, video: str, labels: Mapping[str, int]) -> Iterator[Event]:
        """What it says until the video is over. labels: of the views, with their seeds. Raises MemberDied."""

    def ask_to_end(self) -> None:
        """Lets it finish the views in flight and no more. From any thread."""

    def end(self) -> None:
        """Ends it now; it removes its unfinished files if it still can. From any thread, any number of times."""


class WorkerPool:
    """Makes as many videos at a time as it has members; `make` is called from as many threads.

    new_member: starts the member with this number, which comes again when a member is replaced.
    """

    def __init__(
        self,
        config: RunConfig,
        stages: StageTimer,
        progress: Progress,
        size: int,
        new_member: Callable[[int], WorkerHandle],
    ) -> None:
        self.config, self.stages, self.progress, self.parallel = config, stages, progress, size
        self._new_member = new_member
        self.patience = Patience(config.timeout)
        self._free: queue.Queue[tuple[int, WorkerHandle] | Exception] = queue.Queue()
        self._members: dict[int, WorkerHandle] = {}
        self.lock = threading.Lock()  # held but for waiting: one thread at a time logs, notes and shows
        self._ending = False
        self._described: dict[str, Any] = {}
        self._backgrounds: dict[WorkerHandle, Counter[str]] = {}  # also of members that were replaced
        self._said: set[str] = set()

    def check(self) -> None:
        """Raises UsageError, InputError or AssetError for flags that cannot work with any video."""
        check_flags(self.config)
        if self.config.time_map is not None:
            from guava_aug.tracked import load_time_map

            load_time_map(self.config.time_map)

    def at_most(self, videos: int) -> None:
        """Before `prepare`: so many videos are to be made, and no more members are of use."""
        if videos < self.parallel:
            log.info(
                "%s for %s, not %d", pluralize(max(videos, 1), "worker"), pluralize(videos, "video"), self.parallel
            )
            self.parallel = max(videos, 1)

    def prepare(self) -> None:
        """Starts all members; one that dies on the way is started again, and left out when it dies `STARTS` times.

        Raises:
            AssetError, DeviceError: no member can be started.
        """
        begun, reason = time.monotonic(), ""
        try:
            for number in range(self.parallel):
                with contextlib.suppress(OSError):  # no memory for a process, no free handle: tried again below
                    self._members[number] = self._new_member(number)
            for number in range(self.parallel):
                try:
                    self._free.put((number, self._bring_up(number, self._members.get(number))))
                except (WorkerDied, OSError) as death:
                    reason = str(death)
                    self._members.pop(number, None)
                    log.error("worker %d cannot be started: %s; the others go on without it", number, reason)
            if not self._members:
                raise DeviceError(f"no worker could be started: {reason}")
        except BaseException:
            self.close()
            raise
        self.parallel = len(self._members)
        log.info("%s ready after %.1f s", pluralize(self.parallel, "worker"), time.monotonic() - begun)

    def make(self, name: str, views: Sequence[View], on_view: Callable[[Made], None]) -> None:
        """See `Engine`; from the threads of `dispatch`. A video whose worker dies is given to another one, once.

        Raises:
            Stopped: the crew was closed.
        """
        self.lock.release()
        try:
            self._make(name, views, on_view)
        finally:
            self.lock.acquire()

    def _make(self, name: str, views: Sequence[View], on_view: Callable[[Made], None]) -> None:
        left = {view.label: view for view in views}
        reason = ""
        for _ in range(MAX_ATTEMPTS):
            number, member = self._take()
            try:
                error = self._listen(
                    member, member.make(name, {label: view.seed for label, view in left.items()}), left, on_view
                )
            except WorkerDied as death:
                reason = str(death)
                self._replace_later(number, member, f"{name}: {reason}")
                for label in left:  # it could not remove its unfinished files itself
                    remove_stale_files(video_path(self.config.output_root, label, name).parent)
                if not left:
                    return
                if isinstance(death, WorkerTimeout):  # it would again: `--retries` decides
                    raise InputError(f"{name}: {reason}") from None
                continue
            except BaseException:  # of the log: this member still speaks of a video that nobody listens to
                self._replace_later(number, member, f"{name}: it was interrupted")
                raise
            self._free.put((number, member))
            if error is not None:
                raise error
            return
        raise InputError(f"{name}: {MAX_ATTEMPTS} workers in a row ended while they made it: {reason}")

    def ask_to_end(self) -> None:
        """Lets every member finish the views in flight and no more; then `make` raises `ShutdownRequested`."""
        self._ending = True
        for member in list(self._members.values()):
            member.ask_to_end()

    def close(self) -> None:
        """Ends all members; videos in work end with `ShutdownRequested` in their threads."""
        self._ending = True
        ending = [threading.Thread(target=member.end) for member in list(self._members.values())]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join()
        self._free.put(WorkerDied("the crew is closed"))

    def describe(self) -> dict[str, Any]:
        """What the members said they used."""
        backgrounds: Counter[str] = Counter()
        for counts in self._backgrounds.values():
            backgrounds.update(counts)
        return {**self._described, "backgrounds": dict(backgrounds), "workers": self.parallel}

    def _take(self) -> tuple[int, WorkerHandle]:
        found = self._free.get()
        if isinstance(found, Exception):
            self._free.put(found)  # for the other threads
            if self._ending:
                raise ShutdownRequested
            raise found
        return found

    def _replace_later(self, number: int, member: WorkerHandle, why: str) -> None:
        """Puts a new member in the place of one that is no good; meanwhile another one can take over its video."""
        member.end()
        if self._ending:
            raise ShutdownRequested
        log.warning("%s ended (%s); another one takes its place", member.name, why)
        threading.Thread(target=self._replace, args=(number, member), name="replace", daemon=True).start()

    def _bring_up(self, number: int, member: WorkerHandle | None) -> WorkerHandle:
        """A member that is ready: `member`, a new one if it dies on the way, and so on.

        Raises:
            MemberDied, OSError: `STARTS` in a row died, or could not be made. Stopped: the crew is to end.
        """
        for start in range(1, STARTS + 1):
            try:
                if member is None:
                    member = self._members[number] = self._new_member(number)
                if self._ending:
                    member.end()
                self._wait_until_ready(member)
                return member
            except (WorkerDied, OSError) as death:
                if member is not None:
                    member.end()
                if self._ending:
                    raise ShutdownRequested from None
                if start == STARTS:
                    raise
                log.warning("worker %d ended while it started (%s); it is started again", number, death)
                member = None
        raise AssertionError  # the loop has returned or raised

    def _replace(self, number: int, member: WorkerHandle) -> None:
        try:
            self._free.put((number, self._bring_up(number, None)))
        except (Exception, ShutdownRequested) as error:  # also the system's: no memory for a process, no free handle
            if self._ending:
                return
            log.error("%s cannot be started again: %s", member.name, error)
            self._members.pop(number, None)
            if not self._members:  # the last place is lost: whoever waits for one must know
                self._free.put(DeviceError(f"no worker is left, and none can be started: {error}"))

    def _wait_until_ready(self, member: WorkerHandle) -> None:
        error = self._listen(member, member.ready(), {}, lambda made: None)
        if error is not None:
            raise error

    def _listen(
        self,
        member: WorkerHandle,
        events: Iterator[Event],
        left: dict[str, View],
        on_view: Callable[[Made], None],
    ) -> Exception | None:
        """The error that ended a video, after everything was noted that a member said about it.

        Raises MemberDied.
        """
        with contextlib.closing(events):  # type: ignore[type-var]  # generators
            for kind, content in events:
                if kind == "view":
                    del left[content.view.label]
                    with self.lock:
                        on_view(content)
                elif kind == "frames":
                    with self.lock:
                        self.progress.frames(*content)
                elif kind == "stage":
                    self.stages.add(*content)
                elif kind == "log":
                    self._log(member, *content)
                elif kind == "used":
                    self._describe(member, content)
                elif kind == "ready":
                    return None
                elif kind == "end":
                    return None if content is None else self._error(*content)
        raise WorkerDied("it fell silent")

    def _error(self, kind: str, text: str) -> Exception:
        if kind == "Stopped":  # by a signal to the worker alone, or because all are asked to end
            if self._ending:
                raise ShutdownRequested
            raise WorkerDied("it was asked to end by a signal")
        if kind == DeviceLostError.__name__:  # another process can go on
            raise WorkerDied(text)
        return _KINDS.get(kind, InputError)(text)

    def _log(self, member: WorkerHandle, level: int, text: str) -> None:
        with self.lock:
            fresh = text not in self._said
            self._said.add(text)
        log.log(level if fresh else logging.DEBUG, "%s: %s", member.name, text)

    def _describe(self, member: WorkerHandle, used: dict[str, Any]) -> None:
        with self.lock:
            self._backgrounds[member] = Counter(used.pop("backgrounds", {}))
            self._described = used
