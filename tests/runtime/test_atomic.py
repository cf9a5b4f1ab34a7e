"""Waiting for the disk on file systems that refuse it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from guava_aug.batch.journal.journal import Journal
from guava_aug.errors import OutputError
from guava_aug.output.metadata import read_sidecar, write_sidecar
from guava_aug.output.video import VideoWriter, verify_video
from guava_aug.runtime import atomic


def write_all(folder: Path) -> None:
    """A video, a sidecar and a line of a journal."""
    with VideoWriter(folder / "a.mp4", 32, 32) as writer:
        writer.write(np.full((2, 32, 32, 3), 99, np.uint8))
    write_sidecar(folder / "a.json", {"frames": 2})
    Journal(folder, {}).append("used", {"machine": {}})
    verify_video(folder / "a.mp4", 2)
    assert read_sidecar(folder / "a.json")["frames"] == 2


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch):
    """A function that makes fsync of files fail with an error number."""
    monkeypatch.setattr(atomic, "_warned", False)

    def with_error(number: int) -> None:
        def fsync(descriptor: int) -> None:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)

    return with_error


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_cannot_is_warned_of_once(
    tmp_path: Path, answer, number: int, caplog: pytest.LogCaptureFixture
):
    answer(number)
    with caplog.at_level(logging.WARNING, "guava_aug"):
        write_all(tmp_path / "one")
        write_all(tmp_path / "two")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "fsync" in said[0] and "--verify" in said[0] and str(tmp_path / "one") in said[0]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_what_is_not_on_the_disk_is_an_error(tmp_path: Path, answer, number: int):
    answer(number)
    with pytest.raises(OutputError), VideoWriter(tmp_path / "a.mp4", 32, 32) as writer:
        writer.write(np.full((2, 32, 32, 3), 99, np.uint8))
    with pytest.raises(OutputError):
        write_sidecar(tmp_path / "a.json", {})
    with pytest.raises(OutputError):
        Journal(tmp_path, {}).append("used", {})
    assert [p.name for p in tmp_path.iterdir()] == [".guava-aug"]


def test_files_are_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As an SMB server asks for: it answers EACCES to what was opened for reading."""

    def fsync(descriptor: int) -> None:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if is_file and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "fsync", fsync)
    write_all(tmp_path)
