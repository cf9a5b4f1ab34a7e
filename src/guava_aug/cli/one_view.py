"""The child process of `--mode subprocess`: one view, told on stdin, answered on stdout. Not for users."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict

from guava_aug.cli.exit_codes import FAILED_TO_START, OK, SOME_FAILED, catch_sigterm
from guava_aug.runtime.allocator import keep_freed_memory
from guava_aug.runtime.printable import PrintableFormatter


def main(argv: list[str]) -> int:
    """0 when the view's file is complete. The last line on stdout is JSON: what was measured, or why it failed."""
    catch_sigterm()
    keep_freed_memory()
    from guava_aug.batch.config import RunConfig
    from guava_aug.batch.executors.in_process import InProcessExecutor, Made, explain
    from guava_aug.batch.journal.run_record import stage_rows
    from guava_aug.runtime.progress import NoProgress
    from guava_aug.runtime.timing import StageTimer
    from guava_aug.views import plan_views

    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[lines])
    if argv or sys.stdin.isatty():
        print("guava-aug: error: one-view is started by `guava-aug run --mode subprocess` only", file=sys.stderr)
        return FAILED_TO_START
    job = json.load(sys.stdin)
    config = RunConfig.from_json(job["config"])
    views = plan_views(job["video"], config.difficulties, config.base_seed, config.views_per_difficulty)
    view = next(v for v in views if v.label == job["view"])
    if view.seed != job["seed"]:  # it keeps the camera it has in the log
        view = view.with_seed(job["seed"])
    stages, made = StageTimer(), list[Made]()
    engine = InProcessExecutor(config, stages, NoProgress())
    try:
        engine.check()
        engine.prepare()
        engine.make(job["video"], [view], made.append)
    except Exception as error:
        logging.debug("failed", exc_info=True)
        print(json.dumps({"error": explain(error), "kind": type(error).__name__}))
        return SOME_FAILED
    answer = {"made": {**asdict(made[0]), "view": None}, "stages": stage_rows(stages.rows()), "used": engine.describe()}
    print(json.dumps(answer, default=str))
    return OK if made[0].error is None else SOME_FAILED
