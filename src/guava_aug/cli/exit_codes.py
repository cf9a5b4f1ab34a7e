"""Exit codes of `guava-aug`."""

from __future__ import annotations

import signal
from types import FrameType

from guava_aug.runtime.shutdown import INTERRUPTED, PREEMPTED, ShutdownRequested

OK = 0
BUG = 1  # Python's own code of an uncaught exception
FAILED_TO_START = 2
SOME_FAILED = 3
CANCELLED = INTERRUPTED  # 130

_MEANING = {
    OK: "success",
    BUG: "an error in guava-aug itself",
    FAILED_TO_START: "wrong usage, or a model, device, folder or full disk stops the run",
    SOME_FAILED: "some views failed (named in the summary); the others are done",
    PREEMPTED: "stopped by SIGTERM or SIGUSR1, no unfinished files; run it again",
    CANCELLED: "interrupted by Ctrl-C, no unfinished files; run it again to continue",
}


WHERE_EXPLAINED = "exit codes: 0 for success; guava-aug --help explains the others"


def explain_codes() -> str:
    """Return the block about exit codes in the overview of all commands."""
    return "exit codes:\n" + "".join(f"  {code:<3}  {meaning}\n" for code, meaning in _MEANING.items())


def catch_sigterm() -> None:
    """Make SIGTERM raise `ShutdownRequested` in the main thread, so that unfinished files are removed on the way out.

    For commands without a list of work; `guava-aug run` has `runtime.shutdown.GracefulShutdown`.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        raise ShutdownRequested(PREEMPTED)

    signal.signal(signal.SIGTERM, stop)
