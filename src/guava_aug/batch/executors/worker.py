"""The inside of a worker process: one executor with its model that receives jobs and sends messages.

A worker of `--gpus` and `--workers` reads and writes pickles over its standard input and output; one of `--engine ray`
is an actor. It sends the events of its executor (`ViewDone`, `FramesDone`, `StageTimed`), a `LogLine` for every line of
its log, and the messages below.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from guava_aug.batch.executors.base import Event, LogLine
from guava_aug.batch.executors.work import WorkConfig, in_process
from guava_aug.batch.jobs import Job
from guava_aug.runtime.shutdown import Check, GracefulShutdown, ShutdownRequested
from guava_aug.runtime.text import explain


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded; once, before any job."""


@dataclass(frozen=True, slots=True)
class Used:
    """What `Executor.describe` returns; before `Ready` and each `Ended`."""

    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """The job is over, or the model could not be loaded."""

    error: tuple[str, str] | None  # name and message of the exception that stopped it


Message = Event | Ready | Used | Ended
Emit = Callable[[Message], None]


class Worker:
    """One executor.

    Args:
        emit: takes the messages; called from several threads, one at a time.
        stop: called before each view is begun; ends the work by raising.
    """

    def __init__(self, config: WorkConfig, emit: Emit, stop: Check = lambda: None) -> None:
        lock = threading.Lock()

        def emit_one_by_one(message: Message) -> None:
            with lock:
                emit(message)

        self.emit, self.config = emit_one_by_one, config
        logger = logging.getLogger("guava_aug")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [_EmitHandler(self.emit)]
        # Stages are sent as they end: the watch of --timeout must see that a slow step has ended.
        self.executor = in_process(config, stop, self.emit)

    def start(self) -> None:
        """Load the model and send `Ready`, or `Ended` with what is wrong."""
        try:
            self.executor.check()
            self.executor.start(1)
        except Exception as error:
            self._end(error)
        else:
            self.emit(Used(self.executor.describe()))
            self.emit(Ready())

    def execute(self, job: Job) -> None:
        """Make the parts of one job. Sends `Ended` in any case; raises nothing but `ShutdownRequested`."""
        try:
            with contextlib.closing(self.executor.execute(job)) as events:  # files are removed before `Ended` is sent
                for event in events:
                    self.emit(event)
        except Exception as error:
            logging.getLogger(__name__).debug("video %s failed", job.name, exc_info=True)
            self._end(error)
        except KeyboardInterrupt as error:
            self._end(error)
            raise
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self.emit(Used(self.executor.describe()))
        self.emit(Ended(None if error is None else (type(error).__name__, explain(error))))


def serve(stdin: BinaryIO, stdout: BinaryIO) -> None:
    """Work for the process that started this one: read a configuration, then a job at a time until None or EOF.

    A None requests the end after the views in flight; the end of the input, or two signals, end them at once.
    """
    config: WorkConfig = pickle.load(stdin)
    jobs: queue.Queue[Job | None] = queue.Queue()

    def emit(message: Message) -> None:
        try:
            pickle.dump(message, stdout)
            stdout.flush()
        except (BrokenPipeError, ValueError):  # the other process has gone: `_receive` sees it too and ends this one
            pass

    with GracefulShutdown(config.grace, level=logging.DEBUG) as stop:  # the run itself logs it
        threading.Thread(target=_receive, args=(stdin, jobs, stop), name="receive", daemon=True).start()
        worker = Worker(config, emit, stop)
        worker.start()
        try:
            while (job := jobs.get()) is not None:
                stop()
                worker.execute(job)
        except ShutdownRequested:
            pass


def _receive(stdin: BinaryIO, jobs: queue.Queue[Job | None], stop: GracefulShutdown) -> None:
    """Put what is to be made into the queue, also while something is being made."""
    while True:
        try:
            job = pickle.load(stdin)
        except (EOFError, OSError, pickle.UnpicklingError):  # the other process has gone, or closed the stream
            jobs.put(None)
            stop.interrupt()
            return
        if job is None:
            stop.ask()
        jobs.put(job)


def private_streams() -> tuple[BinaryIO, BinaryIO]:
    """Return standard input and output for the messages alone; what a library prints goes to standard error."""
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return stdin, stdout


class _EmitHandler(logging.Handler):
    def __init__(self, emit: Emit) -> None:
        super().__init__(logging.INFO)
        self._emit = emit

    def emit(self, record: logging.LogRecord) -> None:
        """Send the line."""
        self._emit(LogLine(record.levelno, record.getMessage()))
