"""The server of forks.py: a line of standard input starts a run; standard output says what has started and ended.

A line is a JSON list: seconds per frame, arguments, environment variables, and the files for what it prints. Answers
are `started PID` and `ended PID CODE`, where a negative code is a signal.
"""

import importlib
import json
import os
import select
import signal
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pyarrow.parquet  # noqa: F401

import guava_aug.avatar.model
import guava_aug.batch.executors.in_process
import guava_aug.batch.pipeline
import guava_aug.batch.run
import guava_aug.batch.validate
import guava_aug.cli.run
import guava_aug.cli.terminal
import guava_aug.render.rasterize
import guava_aug.tracked
from fakes import FakeModel
from guava_aug.cli import main
from guava_aug.runtime import processes


def _load(seconds: float, *args: object, **kwargs: object) -> FakeModel:
    return FakeModel(seconds)


def _run(seconds: float, arguments: list[str], environment: dict[str, str], said: list[str]) -> int:
    """What the fork does."""
    for stream, path in enumerate((os.devnull, *said)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), stream)
    os.environ.update(environment)
    importlib.reload(processes)  # reads the environment
    guava_aug.avatar.model.load_model = partial(_load, seconds)  # type: ignore[assignment]
    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _reap(running: set[int]) -> None:
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            running.remove(pid)
            os.write(answers, f"ended {pid} {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    guava_aug.batch.validate.cached_weights_digest = lambda *args: "fake"  # type: ignore[assignment]
    orders, answers = 0, os.dup(1)
    running: set[int] = set()
    unread = b""
    while True:
        if select.select([orders], [], [], 0.01 if running else None)[0]:
            piece = os.read(orders, 65536)
            if not piece:
                break
            *lines, unread = (unread + piece).split(b"\n")
            for line in lines:
                child = os.fork()
                if child == 0:
                    os._exit(_run(*json.loads(line)))
                running.add(child)
                os.write(answers, f"started {child}\n".encode())
        _reap(running)
    for child in running:
        os.kill(child, signal.SIGKILL)
