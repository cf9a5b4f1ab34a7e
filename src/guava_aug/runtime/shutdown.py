"""Ends a run politely: asked once it finishes what is in flight, within a grace time; then it lets go."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

log = logging.getLogger(__name__)

GRACE = 20.0  # seconds; also the most after SIGTERM, for then SIGKILL follows (SLURM: after 30 s)
CLEANING = 15.0  # seconds that removing unfinished files may take before the process ends as it is
INTERRUPTED = 128 + signal.SIGINT  # 130
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run it again
Check = Callable[[], None]  # raises Stopped when the run was asked to end


class ShutdownRequested(KeyboardInterrupt):
    """The run was asked to end. Not an `Exception`: nothing that is wrong with one video may swallow it."""

    def __init__(self, code: int = PREEMPTED) -> None:
        super().__init__("interrupted by Ctrl-C" if code == INTERRUPTED else "asked to end by a signal")
        self.code = code


class GracefulShutdown:
    """Called between pieces of work; raises `ShutdownRequested` after a signal. As a context manager it takes the signals.

    SIGTERM, SIGUSR1 and the first Ctrl-C only ask: what is in flight may end (after SIGTERM within 20 s). When the
    grace time is over, or at the second Ctrl-C, `ShutdownRequested` is raised wherever the main thread is (but for
    `viewfiles.interruptions_wait`). If the process is still there after CLEANING more seconds, it ends as it is:
    unfinished files have temporary names.
    """

    def __init__(self, grace: float = GRACE, level: int = logging.WARNING) -> None:
        self.grace = grace  # seconds; 0: the first signal ends the run at once
        self.level = level  # of what is logged at the first signal
        self.code: int | None = None  # exit code of the first signal; None: nobody asked
        self._now = False  # do not wait for anything any more
        self._raised = False  # and the main thread knows
        self._over = threading.Event()  # the block was left
        self._before: dict[int, Any] = {}
        self._deadline = float("inf")  # time.monotonic(), seconds
        self._watch: threading.Thread | None = None

    @property
    def asked(self) -> bool:
        """Whether the run was asked to end."""
        return self.code is not None

    def __call__(self) -> None:
        if self.code is not None:
            raise ShutdownRequested(self.code)

    def __enter__(self) -> GracefulShutdown:
        self.take_signals()
        return self

    def take_signals(self) -> None:
        """Sets the handlers (again: some libraries set their own). Does nothing outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            number = getattr(signal, name, None)  # Windows has no SIGUSR1
            if number is not None:
                before = signal.signal(number, self._came)
                self._before.setdefault(number, before)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._over.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def ask(self, code: int = PREEMPTED, grace: float | None = None) -> None:
        """As a first signal does: what is in flight may end. From any thread, any number of times.

        grace: another grace time, seconds; it can only shorten what is left of one that runs.
        """
        self._deadline = min(self._deadline, time.monotonic() + (self.grace if grace is None else grace))
        if self.code is None:
            self.code = code
            self._watch = threading.Thread(target=self._wait_then_insist, name="grace", daemon=True)
            self._watch.start()

    def insist(self) -> None:
        """Ends the run now. From any thread."""
        self._now = True
        if self.code is None:
            self.code = PREEMPTED
        if not self._over.is_set():
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            else:
                import _thread

                _thread.interrupt_main(signal.SIGTERM)

    def _came(self, number: int, frame: FrameType | None) -> None:
        if self._raised:  # it is clearing up
            if number == signal.SIGINT:
                os._exit(INTERRUPTED)
            return
        if number == signal.SIGINT and self.asked:
            self._now = True
        self.ask(
            INTERRUPTED if number == signal.SIGINT else PREEMPTED,
            min(self.grace, GRACE) if number == signal.SIGTERM else self.grace,
        )
        if self._now and number in (signal.SIGINT, signal.SIGTERM):  # these wait for what must not be torn apart
            self._raised = True
            threading.Thread(target=self._wait_then_leave, name="cleaning", daemon=True).start()
            self()

    def _wait_then_insist(self) -> None:
        left = self._deadline - time.monotonic()
        if self.grace > 0 and not self._now:
            words = "asked to end: what is in flight may finish within %.0f s; Ctrl-C (again) ends it at once"
            log.log(self.level, words, left)
            while (left := self._deadline - time.monotonic()) > 0:
                if self._over.wait(min(left, 0.2)):  # SIGTERM may shorten it
                    return
        self.insist()

    def _wait_then_leave(self) -> None:
        if not self._over.wait(CLEANING):
            log.error("it did not end within %g s; leaving as it is, the next run clears up", CLEANING)
            os._exit(self.code if self.code is not None else PREEMPTED)
