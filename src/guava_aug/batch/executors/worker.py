"""The inside of a worker process: one engine with its model, which is told what to make and says how it goes.

A worker of `--gpus` and `--workers` hears and speaks pickles over its standard input and output; one of `--engine ray`
is an actor. What a worker says, in this order, are these tuples:

    ("ready", None)                 the model is loaded; once, before all else
    ("stage", (name, seconds, count))   a stage of `timing` ended
    ("frames", (done, total))       frames of a view are rendered
    ("log", (level, text))          a line for the log
    ("view", Made)                  a view ended
    ("used", dict)                  what `Engine.describe` says, before `ready` and each `end`
    ("end", None or (kind, text))   the video is over; the name and the message of the exception that stopped it
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.in_process import InProcessExecutor, explain
from guava_aug.runtime.progress import NoProgress
from guava_aug.runtime.shutdown import Check, GracefulShutdown, ShutdownRequested
from guava_aug.runtime.timing import StageTimer

Event = tuple[str, Any]
Emit = Callable[[Event], None]


class Worker:
    """One engine. `say` is called from several threads, one at a time."""

    def __init__(self, config: RunConfig, say: Emit, stop: Check = lambda: None) -> None:
        lock = threading.Lock()

        def say_one_by_one(event: Event) -> None:
            with lock:
                say(event)

        self.say, self.config = say_one_by_one, config
        logger = logging.getLogger("guava_aug")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [_Spoken(self.say)]
        stages = _SpokenStages(self.say)
        self.engine = InProcessExecutor(config, stages, _SpokenProgress(self.say), stop=stop)

    def prepare(self) -> None:
        """Loads the model; what is wrong with it is said as the end of no video."""
        try:
            self.engine.check()
            self.engine.prepare()
        except Exception as error:
            self._end(error)
        else:
            self.say(("used", self.engine.describe()))
            self.say(("ready", None))

    def make(self, name: str, labels: Mapping[str, int]) -> None:
        """Makes views of one video, by labels and seeds: a view in the log may keep another one than the configuration
        gives. Says `end` in any case; raises nothing but `ShutdownRequested`."""
        from guava_aug.views import plan_views

        c = self.config
        try:
            views = {v.label: v for v in plan_views(name, c.difficulties, c.base_seed, c.views_per_difficulty)}
            asked = [
                v if v.seed == seed else v.with_seed(seed) for label, seed in labels.items() if (v := views[label])
            ]
            self.engine.make(name, asked, lambda made: self.say(("view", made)))
        except Exception as error:
            logging.getLogger(__name__).debug("video %s failed", name, exc_info=True)
            self._end(error)
        except KeyboardInterrupt as error:
            self._end(error)
            raise
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self.say(("used", self.engine.describe()))
        self.say(("end", None if error is None else (type(error).__name__, explain(error))))


def serve(stdin: BinaryIO, stdout: BinaryIO) -> None:
    """Works for the process that started this one: reads a RunConfig, then (name, labels) per video until None or EOF.

    A None asks it to end after the views in flight; the end of the input, or a signal twice, to drop them.
    """
    config: RunConfig = pickle.load(stdin)
    jobs: queue.Queue[tuple[str, Mapping[str, int]] | None] = queue.Queue()

    def say(event: Event) -> None:
        try:
            pickle.dump(event, stdout)
            stdout.flush()
        except (BrokenPipeError, ValueError):  # nobody listens any more: the reader below has seen it too
            pass

    with GracefulShutdown(config.grace, level=logging.DEBUG) as stop:  # the run itself tells it
        threading.Thread(target=_receive, args=(stdin, jobs, stop), name="hear", daemon=True).start()
        worker = Worker(config, say, stop)
        worker.prepare()
        try:
            while (job := jobs.get()) is not None:
                stop()
                worker.make(*job)
        except ShutdownRequested:
            pass


def _receive(stdin: BinaryIO, jobs: queue.Queue, stop: GracefulShutdown) -> None:
    """Puts what is to be made into the queue, also while something is being made."""
    while True:
        try:
            job = pickle.load(stdin)
        except (EOFError, OSError, pickle.UnpicklingError):  # the other process has gone, or wants no more
            jobs.put(None)
            stop.insist()
            return
        if job is None:
            stop.ask()
        jobs.put(job)


def private_streams() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for the conversation alone; what a library prints goes to standard error."""
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return stdin, stdout


class _SpokenStages(StageTimer):
    def __init__(self, say: Emit) -> None:
        super().__init__()
        self._say = say

    def add(self, name: str, seconds: float, count: int = 1) -> None:
        """Adds to a stage, and says so."""
        super().add(name, seconds, count)
        self._say(("stage", (name, seconds, count)))


class _SpokenProgress(NoProgress):
    def __init__(self, say: Emit) -> None:
        self._say = say

    def frames(self, done: int, total: int) -> None:
        """Says how many frames are rendered."""
        self._say(("frames", (done, total)))


class _Spoken(logging.Handler):
    def __init__(self, say: Emit) -> None:
        super().__init__(logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Says the line."""
        self._say(("log", (record.levelno, record.getMessage())))
