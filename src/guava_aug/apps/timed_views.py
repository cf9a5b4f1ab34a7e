"""Views of one video made outside of a run, and how long they took; for programs that measure or try a machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from guava_aug.batch.executors.dispatch import run_alone
from guava_aug.batch.executors.in_process import InProcessExecutor
from guava_aug.batch.jobs import Clip, VideoJob
from guava_aug.batch.results import ViewRecord
from guava_aug.views import View


@dataclass(frozen=True)
class TimedViews:
    """The records of the views, in any order."""

    records: list[ViewRecord]
    seconds: float  # wall time

    @property
    def error(self) -> str | None:
        """Return why a view could not be made; None if all were."""
        return next((record.error for record in self.records if record.error is not None), None)


def make_views(executor: InProcessExecutor, name: str, views: Sequence[View]) -> TimedViews:
    """Make views of the video `name` with a started executor.

    Raises:
        GuavaAugError: No view of any video can be made, as `dispatch` says.
    """
    begun = time.perf_counter()
    records = run_alone(executor, VideoJob(name, tuple(views), Clip.of(name)))
    return TimedViews(records, time.perf_counter() - begun)
