"""Every frame of a view as a PNG."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from guava_aug.output.sinks import FrameBatch, Need, OutputSettings, ViewTarget
from guava_aug.output.tree import png_dir
from guava_aug.runtime.atomic import remove_stale_files


class PngSink:
    """Write in a separate thread, one batch at a time. Each picture is written atomically."""

    help: ClassVar[str] = "every frame as render/00000.png"
    needs: ClassVar[frozenset[Need]] = frozenset({"rgb8"})

    def __init__(self, target: ViewTarget) -> None:
        from guava_aug.output.pngs import PngWriter  # noqa: PLC0415 - OpenCV is slow, and `is_complete` needs none

        folder = png_dir(target.settings.root, target.label, target.video)
        remove_stale_files(folder)
        for old in folder.glob("[0-9]*.png"):  # of another run; it may have had more frames
            old.unlink()
        self._pngs = PngWriter(folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"png {target.label}")
        self._waiting: Future[None] | None = None

    def write(self, batch: FrameBatch) -> None:
        """See `Sink`. At most one batch is queued."""
        assert batch.rgb8 is not None, "required by `needs`"
        self.flush()
        self._waiting = self._thread.submit(self._pngs.write, batch.rgb8)

    def flush(self) -> None:
        """See `Sink`."""
        if self._waiting is not None:
            self._waiting.result()
            self._waiting = None

    def close(self) -> None:
        """See `Sink`."""
        self.flush()
        self._thread.shutdown()

    def abort(self) -> None:
        """See `Sink`. Complete pictures stay; the next run overwrites them."""
        self._thread.shutdown(cancel_futures=True)

    @classmethod
    def is_complete(cls, settings: OutputSettings, video: str, label: str, num_frames: int | None) -> bool:
        """See `Sink`: there are as many pictures as frames."""
        return _count(png_dir(settings.root, label, video)) == num_frames


def _count(folder: Path) -> int:
    try:
        return sum(name.endswith(".png") and not name.startswith(".") for name in os.listdir(folder))
    except OSError:
        return 0


SINK = PngSink
