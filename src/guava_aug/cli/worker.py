"""The process that makes videos for `guava-aug run --gpus` and `--workers`. Not for users."""

from __future__ import annotations

import sys

from guava_aug.cli.exit_codes import FAILED_TO_START, OK
from guava_aug.runtime.cpus import keep_freed_memory


def main(argv: list[str]) -> int:
    """Return 0 when no more jobs are sent."""
    if argv or sys.stdin.isatty():
        print("guava-aug: error: worker is started by `guava-aug run --gpus` only", file=sys.stderr)
        return FAILED_TO_START
    keep_freed_memory()
    from guava_aug.batch.executors.worker import private_streams, serve

    serve(*private_streams())
    return OK
