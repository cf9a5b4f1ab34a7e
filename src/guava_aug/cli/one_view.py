"""The child process of `--mode subprocess`, not for users: reads the job of one view, writes its record."""

from __future__ import annotations

import json
import logging
import sys

from guava_aug.cli.exit_codes import FAILED_TO_START, OK, SOME_FAILED, catch_sigterm
from guava_aug.runtime.cpus import keep_freed_memory
from guava_aug.runtime.text import PrintableFormatter, explain


def main(argv: list[str]) -> int:
    """Return 0 when the view is complete. The last line of stdout is JSON: measurements, or the error."""
    catch_sigterm()
    keep_freed_memory()
    from guava_aug.batch.config import RunConfig
    from guava_aug.batch.executors.dispatch import run_alone
    from guava_aug.batch.executors.in_process import InProcessExecutor
    from guava_aug.batch.jobs import VideoJob
    from guava_aug.runtime.timing import StageTimer, stage_rows

    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[lines])
    if argv or sys.stdin.isatty():
        print("guava-aug: error: one-view is started by `guava-aug run --mode subprocess` only", file=sys.stderr)
        return FAILED_TO_START
    request = json.load(sys.stdin)
    config, job = RunConfig.from_json(request["config"]), VideoJob.from_json(request["job"])
    stages, executor = StageTimer(), InProcessExecutor(config)
    try:
        executor.check()
        executor.start()
        (record,) = run_alone(executor, job, stages)
    except Exception as error:
        logging.debug("failed", exc_info=True)
        print(json.dumps({"error": explain(error), "kind": type(error).__name__}))
        return SOME_FAILED
    answer = {"record": record.to_json(), "stages": stage_rows(stages.rows()), "used": executor.describe()}
    print(json.dumps(answer, default=str))
    return OK if record.status == "success" else SOME_FAILED
