"""Executors and checks by the kind of work: views of tracked videos, or the tracking of videos."""

from __future__ import annotations

from collections.abc import Callable

from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.base import Executor, StageTimed
from guava_aug.batch.jobs import Job
from guava_aug.batch.tracking.config import TrackConfig
from guava_aug.runtime.atomic import remove_stale_files
from guava_aug.runtime.shutdown import Check

WorkConfig = RunConfig | TrackConfig


def check_config(config: WorkConfig) -> None:
    """Refuse values that would fail with every job.

    Raises:
        UsageError, InputError, AssetError: names the flag.
    """
    if isinstance(config, TrackConfig):
        from guava_aug.batch.tracking.validate import check_track_flags  # noqa: PLC0415 - only for this work

        check_track_flags(config)
    else:
        from guava_aug.batch.validate import check_flags  # noqa: PLC0415 - loads the model's code, which is slow

        check_flags(config)


def in_process(config: WorkConfig, stop: Check, on_stage: Callable[[StageTimed], None] | None = None) -> Executor:
    """Return the executor that does the work in this process.

    Args:
        config: what is to be done.
        stop: called between pieces of work; ends it by raising.
        on_stage: gets the time of every stage as it ends; None: `execute` gives them as events.
    """
    if isinstance(config, TrackConfig):
        from guava_aug.batch.executors.track_in_process import TrackExecutor  # noqa: PLC0415 - imports torch, which is slow

        return TrackExecutor(config, stop=stop, on_stage=on_stage)
    from guava_aug.batch.executors.in_process import InProcessExecutor  # noqa: PLC0415 - imports torch, which is slow

    return InProcessExecutor(config, stop=stop, on_stage=on_stage)


def remove_unfinished(config: WorkConfig, job: Job, label: str) -> None:
    """Remove the unfinished files of a part of a job whose process died."""
    if isinstance(config, TrackConfig):
        remove_stale_files(config.tracked_root)
    else:
        from guava_aug.output.tree import remove_unfinished_files  # noqa: PLC0415 - loads the encoders

        remove_unfinished_files(config.output_root, label, job.name)
