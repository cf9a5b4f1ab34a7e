"""`--engine ray` on a real cluster of two nodes on this machine; nodes and workers die in the middle of the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.conftest import NAMES, ended, fake_environment, start, wait_until
from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.ray_workers import portable, share_out
from guava_aug.errors import DeviceError
from run_outputs import logged, tree


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch):
    """A head with one core and room for one more node; processes below have the fake model."""
    utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed (pip install 'guava-aug[ray]')")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")

    def start_nodes(**faults):
        for name, value in fake_environment(**faults).items():
            monkeypatch.setenv(name, value)
        nonlocal found
        found = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        return found, found.add_node(num_cpus=1)

    found = None
    yield start_nodes
    if found is not None:
        found.shutdown()


def command(tracked: Path, out: Path, cluster, *more: str) -> list[str]:
    paths = ["--tracked_root", os.path.relpath(tracked), "--output_root", str(out)]
    ray = ["--engine", "ray", "--ray_address", cluster.address, "--cpus_per_worker", "1"]
    return ["run", *paths, *ray, *more]


@pytest.mark.cluster
def test_a_node_and_a_worker_die(tracked: Path, whole: Path, tmp_path: Path, cluster):
    out, mark = tmp_path / "out", tmp_path / "mark"
    faults = {"die_once": ["a", str(mark)], "seconds": 0.7}
    nodes, second = cluster(**faults)
    process = start(*command(tracked, out, nodes, "--frames_per_chunk", "1"), **faults)
    wait_until(lambda: len({p.parent.name for p in out.rglob("*.mp4.tmp-*")} - {"a"}) >= 2, process)
    nodes.remove_node(second, allow_graceful=False)
    code, said = ended(process, 240)
    assert code == 0, said
    assert mark.exists()
    assert said.count("another one takes its place") >= 2, said
    assert "2 nodes; 2 workers" in said
    assert tree(out) == tree(whole)
    assert {v: {e["status"] for e in views.values()} for v, views in logged(out).items()} == {
        name: {"success"} for name in NAMES
    }


@pytest.mark.cluster
def test_asked_to_end(tracked: Path, whole: Path, tmp_path: Path, cluster):
    import signal

    out = tmp_path / "out"
    nodes, _ = cluster(seconds=0.2)
    process = start(*command(tracked, out, nodes), seconds=0.2)
    wait_until(lambda: len(list(out.rglob("*.mp4.tmp-*"))) >= 3, process)
    process.send_signal(signal.SIGTERM)
    code, said = ended(process)
    assert code == 75, said
    made = tree(out)
    assert 0 < len(made) < len(tree(whole))
    assert made.items() <= tree(whole).items()
    process = start(*command(tracked, out, nodes, "--grace", "0"), seconds=3)
    wait_until(lambda: len(list(out.rglob("*.mp4.tmp-*"))) >= 3, process)
    process.send_signal(signal.SIGTERM)
    code, said = ended(process)
    assert code == 75, said
    wait_until(lambda: not list(out.rglob("*.mp4.tmp-*")))
    assert tree(out) == made


def test_share_out(tmp_path: Path):
    config = lambda **more: RunConfig(tmp_path, tmp_path, **{"engine": "ray", **more})
    gpu, cpu = {"CPU": 32.0, "GPU": 4.0}, {"CPU": 10.0}
    assert share_out([gpu, gpu], config()) == (8, {"num_gpus": 1.0, "num_cpus": 8})
    assert share_out([gpu, cpu], config(workers=2)) == (8, {"num_gpus": 0.5, "num_cpus": 4})
    assert share_out([gpu], config(device="cpu", cpus_per_worker=10)) == (3, {"num_cpus": 10})
    assert share_out([cpu, cpu], config()) == (4, {"num_cpus": 4})
    assert share_out([cpu, cpu], config(workers=3)) == (3, {"num_cpus": 4})
    assert share_out([{"CPU": 2.0}], config()) == (1, {"num_cpus": 2})
    with pytest.raises(DeviceError, match="16 cores"):
        share_out([cpu], config(cpus_per_worker=16))


def test_paths_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = RunConfig(Path("in"), Path("out"), engine="ray", workers=2, timeout=9.0, cpus_per_worker=1)
    found = portable(config, {"num_gpus": 1})
    assert (found.tracked_root, found.output_root) == (tmp_path / "in", tmp_path / "out")
    assert (str(found.model_path), found.device, found.has_workers) == ("embedded", "0", False)
