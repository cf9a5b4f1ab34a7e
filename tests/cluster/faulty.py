"""The fake model with faults at chosen videos; see fake_model/sitecustomize.py."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from fakes import FakeModel


def faulty_model(faults: dict[str, Any]) -> FakeModel:
    """A model that does as it is told."""
    from guava_aug.tracked import TrackedVideo

    model, video = FakeModel(faults.get("seconds", 0.0)), [""]
    opened = TrackedVideo.open.__func__

    def open_and_note(cls, root, name, **options):
        video[0] = name
        return opened(cls, root, name, **options)

    def fault() -> None:
        name = video[0]
        once, mark = faults.get("die_once", ("", ""))
        if name == once and not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if name == faults.get("die"):
            print("a last word", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if name == faults.get("hang"):
            time.sleep(1000)
        if name == faults.get("cuda_error"):
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore words")

    TrackedVideo.open = classmethod(open_and_note)  # type: ignore[method-assign,assignment]
    model.on_render = fault
    if "full_after" in faults:
        _fill_disk_after(*faults["full_after"])
    return model


def _fill_disk_after(views: int, folder: str) -> None:
    """Makes the disk full once so many videos are below `folder`."""
    import guava_aug.output.video as video

    sync = video.sync_file

    def sync_or_full(path: Path) -> None:
        if len(list(Path(folder).glob("*/*/*/*/*_video.mp4"))) >= views:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(path)

    video.sync_file = sync_or_full
