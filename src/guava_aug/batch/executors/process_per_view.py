"""`--mode subprocess`: a fresh interpreter per view that loads everything, as the original without --batch."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.base import FATAL, Events, FramesDone, LogLine, StageTimed, ViewDone
from guava_aug.batch.failures import failed_record
from guava_aug.batch.jobs import VideoJob
from guava_aug.batch.results import ViewRecord
from guava_aug.batch.validate import check_flags
from guava_aug.errors import GuavaAugError, OutputError
from guava_aug.runtime.plain_json import loads
from guava_aug.runtime.processes import child_environment
from guava_aug.runtime.shutdown import Check

log = logging.getLogger(__name__)

TAIL = 2000  # characters of a failed child's stderr that are kept
_FATAL: dict[str, type[GuavaAugError]] = {kind.__name__: kind for kind in FATAL}
GRACE = 20.0  # seconds a child has to remove its unfinished file when the run is interrupted


class ProcessPerViewExecutor:
    """Runs `python -m guava_aug one-view` once per view. The parent keeps the log; it never loads the model."""

    capacity = 1
    in_main_thread = True

    def __init__(self, config: RunConfig, stop: Check = lambda: None) -> None:
        self.config, self._check_stop = config, stop
        self._described: dict[str, Any] = {}
        self._backgrounds: Counter[str] = Counter()
        self._logged: set[str] = set()

    def check(self) -> None:
        """Raise UsageError, InputError or AssetError for flags that cannot work with any video."""
        check_flags(self.config)

    def start(self, num_jobs: int = 1) -> None:
        """Check the device only: every child loads the model itself. Raises DeviceError."""
        from guava_aug.runtime.device import choose_device  # noqa: PLC0415 - imports torch, which is slow

        choose_device(self.config.device, required=self.config.require_gpu)

    def execute(self, job: VideoJob) -> Events:
        """See `Executor`. Never raises for a video: each of its views fails for itself.

        Raises:
            UsageError, AssetError, DeviceError, DiskFullError: a child reports that no video can be made.
        """
        for view in job.views:
            self._check_stop()
            begun = time.perf_counter()
            request = {"config": self.config.to_json(), "job": replace(job, views=(view,)).to_json()}
            code, out, err = _run_child(request)
            seconds = time.perf_counter() - begun
            answer = _answer(out)
            if answer is None:  # killed, or it could not even start
                reason = " ".join(err.split())[-TAIL:] or "it wrote no message"
                error = OutputError(f"the process of this view ended with code {code}: {reason}")
                yield ViewDone(failed_record(job, view, error, seconds))
                continue
            for line in err.splitlines():  # its warnings; the same one of several children is logged once
                yield LogLine(logging.DEBUG if line in self._logged else logging.WARNING, line)
                self._logged.add(line)
            if "record" in answer:
                record = ViewRecord.from_json(answer["record"])
                if record.frames:
                    yield FramesDone(record.frames, record.frames)
                if record.status == "success":
                    yield from self._used(answer)
                yield ViewDone(record)
            elif answer["kind"] in _FATAL:
                raise _FATAL[answer["kind"]](answer["error"])
            else:
                yield ViewDone(replace(failed_record(job, view, Exception(), seconds), error=answer["error"]))

    def request_stop(self) -> None:
        """See `Executor`: `stop` of the constructor ends it."""

    def stop(self) -> None:
        """See `Executor`: a child is ended when the reader of `execute` is interrupted."""

    def describe(self) -> dict[str, Any]:
        """Return what the last child reported to have used."""
        return {**self._described, "backgrounds": dict(self._backgrounds)}

    def _used(self, answer: dict[str, Any]) -> Iterator[StageTimed]:
        """Add up what a child measured."""
        for row in answer["stages"]:
            yield StageTimed(row["stage"], row["seconds"], row["count"])
        self._backgrounds.update(answer["used"].pop("backgrounds", {}))
        self._described = answer["used"]


def _answer(out: str) -> dict[str, Any] | None:
    """Return the last line of a child's stdout, if it is what `one-view` answers."""
    try:
        answer = loads(out.splitlines()[-1])
        return answer if isinstance(answer, dict) else None
    except (ValueError, IndexError):
        return None


def _run_child(job: dict[str, Any]) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a fresh interpreter that makes one view."""
    child = subprocess.Popen(  # Ctrl-C reaches it through `terminate` alone
        [sys.executable, "-m", "guava_aug", "one-view"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding="utf-8", errors="replace", env=child_environment(), start_new_session=True,
    )  # fmt: skip
    try:
        out, err = child.communicate(json.dumps(job))
    except BaseException:
        child.terminate()
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise
    return child.returncode, out, err
