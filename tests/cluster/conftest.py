"""The real command, with the fake model in every process that it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes import write_clip

HERE = Path(__file__).resolve().parent
NAMES = ("a", "b", "c", "d", "e")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "cluster" not in (config.option.markexpr or ""):
        for item in items:
            if item.get_closest_marker("cluster"):
                item.add_marker(pytest.mark.skip(reason="not part of make test: make test-cluster"))


@pytest.fixture(scope="session")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small clips; tests do not change them."""
    root = tmp_path_factory.mktemp("cluster_tracked")
    for name in NAMES:
        write_clip(root, name, frames=3)
    return root


@pytest.fixture(scope="session")
def whole(tracked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of them."""
    root = tmp_path_factory.mktemp("cluster_whole")
    code, said = ended(start("run", "--tracked_root", str(tracked), "--output_root", str(root), "--device", "cpu"))
    assert code == 0, said
    return root


def fake_environment(**faults) -> dict[str, str]:
    """Environment of a process that has the fake model."""
    path = os.pathsep.join([str(HERE / "fake_model"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "GUAVA_AUG_FAKE": json.dumps(faults), "CUDA_VISIBLE_DEVICES": ""}


def start(*argv: str, **faults) -> subprocess.Popen[str]:
    """`guava-aug` with the fake model."""
    return subprocess.Popen(
        [sys.executable, "-m", "guava_aug", *argv], env=fake_environment(**faults),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str]:
    """Exit code and everything it said."""
    out, err = process.communicate(timeout=timeout)
    assert "Traceback" not in err, err
    return process.returncode, out + err


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None, seconds: float = 300):
    """Waits until the condition holds, while the process lives."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come so far"
        time.sleep(0.05)
    return found
