"""The H.264 video of a view."""

from __future__ import annotations

from typing import ClassVar

from guava_aug.errors import OutputError, annotate
from guava_aug.output.mp4_probe import probe_frame_count
from guava_aug.output.sinks import FrameBatch, Need, OutputSettings, ViewTarget
from guava_aug.output.tree import video_path
from guava_aug.output.video import VideoWriter
from guava_aug.runtime import timing
from guava_aug.runtime.processes import fault_point
from guava_aug.runtime.text import pluralize


class Mp4Sink:
    """Encode in a separate thread; the file is renamed after it was decoded for verification."""

    help: ClassVar[str] = "one MP4 per view"
    needs: ClassVar[frozenset[Need]] = frozenset({"video"})

    def __init__(self, target: ViewTarget) -> None:
        settings = target.settings
        path = video_path(settings.root, target.label, target.video)
        self._video = VideoWriter(
            path, target.size, target.size, target.fps, crf=settings.crf, preset=settings.preset,
            comment=target.comment, times=target.times, sound=target.sound,
        )  # fmt: skip

    def write(self, batch: FrameBatch) -> None:
        """See `Sink`."""
        self._video.write(batch.video)
        fault_point("mid-encode")

    def flush(self) -> None:
        """See `Sink`. A completely black video is an OutputError, too."""
        if not self._video.flush():
            error = OutputError(
                f"{self._video.path}: all is black ({pluralize(self._video.frames, 'frame')}); expected a person. Look "
                "at the tracked video with `guava-aug check`, and at this machine with `guava-aug doctor`"
            )
            raise annotate(error, stage=timing.RENDER)

    def close(self) -> None:
        """See `Sink`."""
        fault_point("before-video")
        self._video.close()

    def abort(self) -> None:
        """See `Sink`."""
        self._video.abort()

    @classmethod
    def is_complete(cls, settings: OutputSettings, video: str, label: str, num_frames: int | None) -> bool:
        """See `Sink`: the file's boxes are complete and list the expected number of frames."""
        try:
            found = probe_frame_count(video_path(settings.root, label, video))
        except (OSError, ValueError):
            return False
        return num_frames in (None, found)


SINK = Mp4Sink
