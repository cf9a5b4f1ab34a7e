"""The files of a view when they cannot even be begun."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from guava_aug.output.sinks import OutputSettings, ViewTarget
from guava_aug.output.tree import png_dir, video_path
from guava_aug.output.view_writer import ViewWriter
from guava_aug.views import plan_views


def test_files_that_cannot_be_begun_leave_nothing(tmp_path: Path):
    root = tmp_path / "out"
    view = plan_views("clip", ["easy"])[0]
    in_the_way = png_dir(root, view.label, "clip") / "00000.png"
    in_the_way.mkdir(parents=True)
    before = set(threading.enumerate())
    with pytest.raises(OSError, match="00000"):
        ViewWriter(ViewTarget(OutputSettings(root, sinks=("mp4", "png")), "clip", view.label, 64, 30.0, 5))
    assert set(threading.enumerate()) == before  # no encoder waits for frames that never come
    folder = video_path(root, view.label, "clip").parent
    assert [p for p in folder.iterdir() if p.is_file()] == []
