"""Who wrote a file: machines, containers and starts of a machine are told apart; only own dead processes are dead."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from guava_aug.runtime import processes
from guava_aug.runtime.processes import host_id, process_lives


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A function that gives the identity of a machine with this name, process namespace and start."""
    boot = tmp_path / "boot_id"
    monkeypatch.setattr(processes, "BOOT_ID", boot)
    readlink = os.readlink

    def of(name: str = "node", namespace: str = "pid:[4026531836]", start: str | None = "1b4e28ba") -> str:
        boot.unlink(missing_ok=True)
        if start is not None:
            boot.write_text(start + "\n")
        monkeypatch.setattr(socket, "gethostname", lambda: name)
        monkeypatch.setattr(os, "readlink", lambda path: namespace if "ns/pid" in str(path) else readlink(path))
        host_id.cache_clear()
        return host_id()

    yield of
    host_id.cache_clear()


def test_machines_are_told_apart(identity):
    here = identity()
    assert identity() == here and len(here) == 8 and int(here, 16) >= 0
    others = [identity(name="node2"), identity(namespace="pid:[4026532000]"), identity(start="7c9e6679")]
    assert len({here, *others}) == 4  # the last has the same host name, and another kernel runs there
    assert identity(start=None) not in {here, *others}  # no Linux


def test_a_host_name_that_is_not_unicode(identity):
    assert len(identity(name="n\udcff")) == 8


def test_only_processes_of_here_are_looked_up():
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert process_lives(host_id(), os.getpid()) is True
    assert process_lives(host_id(), dead.pid) is False
    here = host_id()
    for identity, pid in (("0" * 8, dead.pid), (None, dead.pid), (here, None), (here, "1"), (here, True), (here, -1)):
        assert process_lives(identity, pid) is None
    assert process_lives(host_id(), 10**30) is True  # no number of a process: nothing may be concluded
