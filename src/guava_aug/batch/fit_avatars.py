"""Avatars of many videos without their views: a bad video does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from guava_aug.batch.avatars import AvatarResult, on_gpu
from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.base import FATAL
from guava_aug.batch.failures import raise_if_fatal
from guava_aug.batch.plan import refused_name, unique_names
from guava_aug.batch.validate import make_writable
from guava_aug.errors import InputError, UsageError
from guava_aug.runtime.cpus import same_threads
from guava_aug.runtime.shutdown import Check
from guava_aug.runtime.text import explain
from guava_aug.tracked.layout import check_root, real_names, scan_videos, why_no_videos

log = logging.getLogger(__name__)


def fit_avatars(
    config: RunConfig,
    names: Sequence[str] = (),
    *,
    again: bool = False,
    stop: Check = lambda: None,
    on_result: Callable[[AvatarResult], None] = lambda result: None,
) -> list[AvatarResult]:
    """Return what became of the avatar of each video, in this process, one after the other.

    Args:
        config: which model, device and folder of avatars; `personalize` auto is full on a GPU and fast on a CPU.
        names: of the videos; none: all.
        again: fit avatars again that are there.
        stop: called at every step; ends the work by raising.
        on_result: told of each as it is known, so that those before an interruption are not lost.

    Raises:
        UsageError, AssetError, DeviceError, OutputError: nothing (more) can be done.
    """
    from guava_aug.batch.executors.in_process import InProcessExecutor  # noqa: PLC0415 - imports torch, which is slow

    same_threads()
    root = config.tracked_root
    try:
        check_root(root)
    except InputError as error:
        raise UsageError(str(error)) from None
    videos = real_names(root, unique_names(names)) if names else list(scan_videos(root).tracked)
    if not videos:
        raise UsageError(why_no_videos(root))
    make_writable(config.avatars, "--avatar_root")
    if config.personalize == "auto":
        chosen = "full" if on_gpu(config) else "fast"
        log.info("--personalize auto: %s", chosen)
        config = replace(config, personalize=chosen)  # type: ignore[arg-type]
    executor = InProcessExecutor(config, stop=stop)
    executor.check()
    executor.start(len(videos))
    results: list[AvatarResult] = []
    for number, name in enumerate(videos, 1):
        stop()
        log.info("[%d/%d] %s", number, len(videos), name)
        try:
            if (why := refused_name(name)) is not None:
                raise InputError(why)
            result = AvatarResult(name, executor.fit_avatar(name, again=again).facts())
        except FATAL:
            raise
        except Exception as error:
            log.debug("video %s failed", name, exc_info=True)
            raise_if_fatal(error)
            log.error("%s failed: %s", name, explain(error))
            result = AvatarResult(name, error=explain(error))
        results.append(result)
        on_result(result)
    return results
