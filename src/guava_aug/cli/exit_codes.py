"""What the exit code of `guava-aug` says."""

from __future__ import annotations

import signal
from types import FrameType

OK = 0
BUG = 1  # Python's own code of an uncaught exception
FAILED_TO_START = 2
SOME_FAILED = 3
CANCELLED = 128 + signal.SIGINT  # 130
TERMINATED = 128 + signal.SIGTERM  # 143

_MEANING = {
    OK: "all is done",
    BUG: "an error in guava-aug itself",
    FAILED_TO_START: "wrong usage, or a model, device or folder that cannot be used: nothing more was done",
    SOME_FAILED: "some videos or views failed (named in the summary); the others are done",
    CANCELLED: "interrupted by Ctrl-C; unfinished files are removed",
    TERMINATED: "ended by SIGTERM; unfinished files are removed",
}


def explain_codes() -> str:
    """The block of --help about exit codes."""
    return "exit codes:\n" + "".join(f"  {code:<3}  {meaning}\n" for code, meaning in _MEANING.items())


class Terminated(KeyboardInterrupt):
    """SIGTERM: cleaned up like Ctrl-C, told apart by its exit code."""

    code = TERMINATED


def catch_sigterm() -> None:
    """Makes SIGTERM raise `Terminated` in the main thread, so that unfinished files are removed on the way out."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
