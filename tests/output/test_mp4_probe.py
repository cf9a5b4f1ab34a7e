"""The header check against files of the real writer, whole and damaged."""

from pathlib import Path

import numpy as np
import pytest

from guava_aug.output import VideoWriter
from guava_aug.output.mp4_probe import probe_frame_count


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mp4") / "v.mp4"
    with VideoWriter(path, 64, 64) as writer:
        writer.write(np.random.default_rng(0).integers(0, 255, (7, 64, 64, 3), np.uint8))
    return path


def test_frames_are_counted(mp4: Path):
    assert probe_frame_count(mp4) == 7


@pytest.mark.parametrize("keep", [0, 1, 7, 30, 500, -1])
def test_any_cut_is_found(mp4: Path, tmp_path: Path, keep: int):
    (tmp_path / "cut.mp4").write_bytes(mp4.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"empty|cut off|no frames"):
        probe_frame_count(tmp_path / "cut.mp4")


def test_other_files_are_refused(tmp_path: Path):
    (tmp_path / "text.mp4").write_text("this is no video at all, but long enough")
    with pytest.raises(ValueError, match="not an MP4"):
        probe_frame_count(tmp_path / "text.mp4")
    with pytest.raises(FileNotFoundError):
        probe_frame_count(tmp_path / "nothing.mp4")
