"""How many threads: processors this process is bound to, quotas of control groups, and what OMP_NUM_THREADS says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from guava_aug.runtime import cpus, device
from guava_aug.runtime.cpus import SPINS, same_threads, shorten_spin, usable_cpus


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that gives the quota where files below /sys/fs/cgroup have this content."""
    said = tmp_path / "self"

    def quota(own: str, files: dict[str, str]) -> float | None:
        said.write_text(own, encoding="utf-8")
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="ascii")
        monkeypatch.setattr(cpus, "_ROOT", tmp_path)
        monkeypatch.setattr(cpus, "_OWN", said)
        cpus._quota.cache_clear()
        return cpus._quota()

    yield quota
    cpus._quota.cache_clear()


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),
        ("0::/a\n", {"cpu.max": "200000 100000", "a/cpu.max": "400000 100000"}, 2),
        ("0::/of/the/host\n", {"cpu.max": "50000 100000"}, 0.5),  # inside a container
        ("0::/a\n", {"a/cpu.max": "max 100000"}, None),
        ("4:cpu,cpuacct:/j\n0::/\n", {"cpu/j/cpu.cfs_quota_us": "300000", "cpu/j/cpu.cfs_period_us": "100000"}, 3),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("0::/a\n", {"a/cpu.max": "nonsense"}, None),
        ("nonsense\n", {}, None),
    ],
)
def test_quotas(groups, own: str, files: dict[str, str], quota: float | None):
    assert groups(own, files) == quota


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_the_smaller_of_affinity_and_quota_counts(monkeypatch: pytest.MonkeyPatch):
    for bound, quota, count in ((8, None, 8), (8, 2.5, 3), (2, 16.0, 2), (4, 0.2, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, bound=bound: set(range(bound)))
        monkeypatch.setattr(cpus, "_quota", lambda quota=quota: quota)
        assert usable_cpus() == count


def test_no_pool_asks_for_the_processors_of_the_machine():
    """`os.cpu_count` counts those of the whole machine; only the record of a run names them."""
    package = Path(cpus.__file__).parents[1]
    asking = {
        p.relative_to(package).as_posix()
        for p in package.rglob("*.py")
        if "os.cpu_count" in p.read_text(encoding="utf-8")
    }
    assert asking == {"runtime/cpus.py", "batch/journal/run_record.py"}


@pytest.mark.parametrize(
    ("said", "threads"),
    [({"OMP_NUM_THREADS": "3"}, "3"), ({"OMP_NUM_THREADS": " 4,2"}, "4"), ({}, None),
     ({"OMP_NUM_THREADS": "many"}, None), ({"OMP_NUM_THREADS": "0"}, None),
     ({"OMP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "1"}, "1")],
)  # fmt: skip
def test_numba_follows_openmp(said: dict[str, str], threads: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", dict(said))
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    same_threads()
    assert os.environ.get("NUMBA_NUM_THREADS") == threads


def test_numba_keeps_the_threads_that_it_has(monkeypatch: pytest.MonkeyPatch):
    import numba  # noqa: F401

    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "3"})
    same_threads()
    assert "NUMBA_NUM_THREADS" not in os.environ


def test_it_is_said_before_numba_is_imported():
    program = """
import sys
from guava_aug import cli

def look(name, package):
    before = "numba" in sys.modules
    import numba
    print(before, numba.config.NUMBA_NUM_THREADS)
    raise SystemExit(0)

cli.import_module = look
cli.main(["run"])
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("NUMBA_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", env=environment, check=True
    )
    assert done.stdout.split() == ["False", "1"]


@pytest.mark.parametrize(("said", "usable", "threads"), [(None, 2, [2]), ("8", 2, []), (None, 16, [])])
def test_torch_keeps_to_the_quota(monkeypatch: pytest.MonkeyPatch, said: str | None, usable: int, threads: list[int]):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    asked: list[int] = []
    monkeypatch.setattr(device.torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(device.torch, "set_num_threads", asked.append)
    monkeypatch.setattr(device, "usable_cpus", lambda: usable)
    device.keep_threads_within_quota()
    assert asked == threads


@pytest.mark.parametrize(
    ("said", "expected"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None)],
    ids=["nothing", "spins", "policy"],
)
def test_the_user_goes_first(said: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", dict(said))
    shorten_spin()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_it_is_said_before_torch_is_imported():
    program = """
import os, sys
from guava_aug import cli

def look(name, package):
    print("torch" in sys.modules, os.environ.get("GOMP_SPINCOUNT"))
    raise SystemExit(0)

cli.import_module = look
cli.main(["run"])
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["False", SPINS]
