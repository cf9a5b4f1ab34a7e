"""`--mode subprocess`: a fresh interpreter per view that loads everything, as the original without --batch."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.in_process import Content, Made, check_flags
from guava_aug.errors import AssetError, DeviceError, UsageError
from guava_aug.runtime.plain_json import loads
from guava_aug.runtime.processes import child_environment
from guava_aug.runtime.progress import Progress
from guava_aug.runtime.shutdown import Check
from guava_aug.runtime.timing import StageTimer

if TYPE_CHECKING:
    from guava_aug.views import View

log = logging.getLogger(__name__)

TAIL = 2000  # characters of a failed child's stderr that are kept
_STOPS = {kind.__name__: kind for kind in (UsageError, AssetError, DeviceError)}  # would stop every view
GRACE = 20.0  # seconds a child has to remove its unfinished file when the run is interrupted


class ProcessPerViewExecutor:
    """Runs `python -m guava_aug one-view` once per view. The parent keeps the log; it never loads the model."""

    def __init__(self, config: RunConfig, stages: StageTimer, progress: Progress, stop: Check = lambda: None) -> None:
        self.config, self.stages, self.progress, self.stop = config, stages, progress, stop
        self._described: dict[str, Any] = {}
        self._backgrounds: Counter[str] = Counter()
        self._said: set[str] = set()

    def check(self) -> None:
        """Raises UsageError, InputError or AssetError for flags that cannot work with any video."""
        check_flags(self.config)
        if self.config.time_map is not None:
            from guava_aug.tracked import load_time_map

            load_time_map(self.config.time_map)

    def prepare(self) -> None:
        """Looks at the device only: every child loads the model itself. Raises DeviceError."""
        from guava_aug.runtime.device import choose_device

        choose_device(self.config.device, required=self.config.require_gpu)

    def make(self, name: str, views: Sequence[View], on_view: Callable[[Made], None]) -> None:
        """See `Engine`. Never raises for a video: each of its views fails for itself.

        Raises:
            UsageError, AssetError, DeviceError: a child says that no video can be made.
        """
        for view in views:
            self.stop()
            begun = time.perf_counter()
            job = {"config": self.config.to_json(), "video": name, "view": view.label, "seed": view.seed}
            code, out, err = _run_child(job)
            seconds = time.perf_counter() - begun
            answer = _answer(out)
            if answer is None:  # killed, or it could not even start
                reason = " ".join(err.split())[-TAIL:] or "it said nothing"
                on_view(Made(view, f"the process of this view ended with code {code}: {reason}", seconds))
                continue
            for line in err.splitlines():  # its warnings; the same from every child is said once
                log.log(logging.DEBUG if line in self._said else logging.WARNING, "%s", line)
                self._said.add(line)
            if "made" in answer:
                made = _made(view, answer["made"])
                if made.frames:
                    self.progress.frames(made.frames, made.frames)
                if made.error is None:
                    self._add(answer)
                on_view(made)
            elif answer["kind"] in _STOPS:
                raise _STOPS[answer["kind"]](answer["error"])
            else:
                on_view(Made(view, answer["error"], seconds))

    def describe(self) -> dict[str, Any]:
        """What the last child said it used."""
        return {**self._described, "backgrounds": dict(self._backgrounds)}

    def _add(self, answer: dict[str, Any]) -> None:
        """Adds up what a child measured."""
        for row in answer["stages"]:
            self.stages.add(row["stage"], row["seconds"], row["count"])
        self._backgrounds.update(answer["used"].pop("backgrounds", {}))
        self._described = answer["used"]


def _made(view: View, said: dict[str, Any]) -> Made:
    """What a child said of its view, as the record it was."""
    content = said["content"]
    if content is not None:
        content = Content(**{**content, "input": tuple(content["input"])})
    return Made(**{**said, "view": view, "content": content})


def _answer(out: str) -> dict[str, Any] | None:
    """The last line of a child's stdout, if it is what `one-view` answers."""
    try:
        answer = loads(out.splitlines()[-1])
        return answer if isinstance(answer, dict) else None
    except (ValueError, IndexError):
        return None


def _run_child(job: dict[str, Any]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a fresh interpreter that makes one view."""
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
