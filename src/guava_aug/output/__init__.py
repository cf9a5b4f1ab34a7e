"""The output of a run: videos and images, and their paths.

Modules that need torch or an image library are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guava_aug.output.sinks import OutputSettings as OutputSettings
from guava_aug.output.tree import params_log_path as params_log_path
from guava_aug.output.tree import png_dir as png_dir
from guava_aug.output.tree import video_path as video_path
from guava_aug.output.tree import view_dir as view_dir
from guava_aug.runtime.imports import lazy_attributes

if TYPE_CHECKING:
    from guava_aug.output.frames import to_png_bytes as to_png_bytes
    from guava_aug.output.frames import to_video_bytes as to_video_bytes
    from guava_aug.output.pngs import PngWriter as PngWriter
    from guava_aug.output.video import VideoWriter as VideoWriter
    from guava_aug.output.video import verify_video as verify_video

_WHERE = {
    "PngWriter": "pngs",
    "VideoWriter": "video",
    "to_png_bytes": "frames",
    "to_video_bytes": "frames",
    "verify_video": "video",
}

__getattr__ = lazy_attributes(__name__, _WHERE)
