"""Graceful shutdown of a run: work in progress may finish within a grace period, then the run is interrupted."""

from __future__ import annotations

import _thread
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
Check = Callable[[], None]  # raises ShutdownRequested when the run was asked to end


class ShutdownRequested(KeyboardInterrupt):
    """The run was asked to end. Not an `Exception`: no handler of a single video's errors may catch it."""

    def __init__(self, code: int = PREEMPTED) -> None:
        super().__init__("interrupted by Ctrl-C" if code == INTERRUPTED else "stopped by a signal")
        self.code = code


class GracefulShutdown:
    """Raise `ShutdownRequested` after a signal when called between pieces of work. A context manager sets the handlers.

    SIGTERM, SIGUSR1 and the first Ctrl-C only request the end: work in progress may finish (after SIGTERM within 20 s).
    After the grace period, or at the second Ctrl-C, `ShutdownRequested` is raised wherever the main thread is (except
    in `output.view_writer.deferred_signals`). If the process still runs after CLEANING more seconds, it exits
    immediately: unfinished files have temporary names.
    """

    def __init__(self, grace: float = GRACE, level: int = logging.WARNING) -> None:
        self.grace = grace  # seconds; 0: the first signal ends the run at once
        self.level = level  # of what is logged at the first signal
        self.code: int | None = None  # exit code of the first signal; None: no signal
        self._now = False  # do not wait any longer
        self._raised = False  # ShutdownRequested was raised in the main thread
        self._over = threading.Event()  # the block has ended
        self._before: dict[int, Any] = {}
        self._deadline = float("inf")  # time.monotonic(), seconds
        self._watch: threading.Thread | None = None

    @property
    def asked(self) -> bool:
        """Return whether the run was asked to end."""
        return self.code is not None

    def __call__(self) -> None:
        """Raise `ShutdownRequested` if the run was asked to end."""
        if self.code is not None:
            raise ShutdownRequested(self.code)

    def __enter__(self) -> GracefulShutdown:
        self.take_signals()
        return self

    def take_signals(self) -> None:
        """Set the handlers (again: some libraries set their own). Does nothing outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            number = getattr(signal, name, None)  # Windows has no SIGUSR1
            if number is not None:
                before = signal.signal(number, self._handle_signal)
                self._before.setdefault(number, before)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._over.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def ask(self, code: int = PREEMPTED, grace: float | None = None) -> None:
        """Request the end as a first signal does. May be called from any thread and several times.

        Args:
            code: Exit code of the run.
            grace: Another grace period, seconds; it can only shorten the remaining one.
        """
        self._deadline = min(self._deadline, time.monotonic() + (self.grace if grace is None else grace))
        if self.code is None:
            self.code = code
            self._watch = threading.Thread(target=self._interrupt_after_grace, name="grace", daemon=True)
            self._watch.start()

    def interrupt(self) -> None:
        """End the run now. May be called from any thread."""
        self._now = True
        if self.code is None:
            self.code = PREEMPTED
        if not self._over.is_set():
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            else:
                _thread.interrupt_main(signal.SIGTERM)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        if self._raised:  # it is cleaning up
            if number == signal.SIGINT:
                os._exit(INTERRUPTED)
            return
        if number == signal.SIGINT and self.asked:
            self._now = True
        self.ask(
            INTERRUPTED if number == signal.SIGINT else PREEMPTED,
            min(self.grace, GRACE) if number == signal.SIGTERM else self.grace,
        )
        if self._now and number in (signal.SIGINT, signal.SIGTERM):  # deferred in `deferred_signals`
            self._raised = True
            threading.Thread(target=self._exit_after_cleanup, name="cleaning", daemon=True).start()
            self()

    def _interrupt_after_grace(self) -> None:
        left = self._deadline - time.monotonic()
        if self.grace > 0 and not self._now:
            words = "shutdown requested: work in progress may finish within %.0f s; Ctrl-C (again) stops at once"
            log.log(self.level, words, left)
            while (left := self._deadline - time.monotonic()) > 0:
                if self._over.wait(min(left, 0.2)):  # SIGTERM may shorten it
                    return
        self.interrupt()

    def _exit_after_cleanup(self) -> None:
        if not self._over.wait(CLEANING):
            log.error("clean-up took more than %g s; exiting now, the next run removes temporary files", CLEANING)
            os._exit(self.code if self.code is not None else PREEMPTED)
