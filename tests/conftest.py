"""Paths and shared synthetic assets of the tests."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from forks import ForkServer
from places import REPO, SHARED

if "PYTEST_XDIST_WORKER" in os.environ:  # one such process per core; the programs that tests start inherit it
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")  # the same for all tests: numba refuses a change once it has begun


@pytest.fixture(scope="session")
def golden() -> Path:
    """The reference data that ships with the tests."""
    return REPO / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_golden() -> Path:
    """The whole reference data; it carries SMPL-X indices and is not part of the repository."""
    path = SHARED / "golden"
    if not (path / "infer.npz").exists():
        pytest.skip("the golden data with SMPL-X indices (../shared/golden) is not here")
    return path


@pytest.fixture(scope="session")
def golden_weights(shared_golden: Path):
    """The module `weights` of the golden data: seeded weights and inputs."""
    sys.path.insert(0, str(shared_golden))
    try:
        import weights  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(shared_golden))
    return weights


@pytest.fixture(scope="session")
def official_assets(shared_golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete assets root in the official layout with a synthetic body model (about 160 MB)."""
    out = tmp_path_factory.mktemp("official") / "assets"
    subprocess.run(
        [sys.executable, "-B", str(shared_golden / "make_body_assets.py"), "--assets",
         str(SHARED / "guava_assets"), "--out", str(out), "--copy-assets"],
        check=True, capture_output=True,
    )  # fmt: skip
    _settle_ties(out / "FLAME/FLAME2020/generic_model.pkl")
    return out


# On the middle line of the head both eyes are equally near, and the generator of the synthetic assets keeps the four
# nearest joints of a vertex: which eye it keeps falls by the last bit of a float64, so by machine. These are the
# eight vertices that kept the right eye where the golden data was recorded; the other 28 ties kept the left one.
RIGHT_EYE_TIES = [3222, 3223, 3276, 3278, 3281, 3284, 3285, 3463]


def _settle_ties(flame: Path) -> None:
    with flame.open("rb") as f:
        model = pickle.load(f)  # our own file, written a moment ago
    weights = model["weights"]
    tied = (model["v_template"][:, 0] == 0) & (weights[:, 3] != weights[:, 4])
    kept = weights[tied, 3] + weights[tied, 4]
    right = np.isin(np.flatnonzero(tied), RIGHT_EYE_TIES)
    assert (tied.sum(), right.sum()) == (36, 8), "the generator of the assets has other ties"
    weights[tied, 3], weights[tied, 4] = np.where(right, 0, kept), np.where(right, kept, 0)
    with flame.open("wb") as f:
        pickle.dump(model, f, protocol=2)


@pytest.fixture(scope="session")
def guava_assets(official_assets: Path, shared_golden: Path, golden_weights) -> Path:
    """The assets folder of a GUAVA user, a checkpoint with seeded weights included."""
    import torch

    from guava_aug.body import load_official_assets
    from official_checkpoint import official_state

    folder = official_assets / "GUAVA" / "checkpoints"
    folder.mkdir(exist_ok=True)
    if not list(folder.iterdir()):
        state = official_state(shared_golden, golden_weights, load_official_assets(official_assets))
        torch.save(state, folder / "best_200000.pt")
    return official_assets


@pytest.fixture(autouse=True, scope="session")
def _deterministic_torch():
    import torch

    torch.manual_seed(0)
    yield


def _records(smplx: dict, flame: dict):
    """Identity and Motion of the golden data's coefficient dictionaries (batch of T)."""
    import torch

    from guava_aug.body import Identity, Motion

    t = lambda a: torch.from_numpy(a.copy()).float()
    identity = Identity(
        betas=t(smplx["shape"][0]),
        flame_betas=t(flame["shape_params"][0]),
        head_scale=t(smplx["head_scale"][0]),
        hand_scale=t(smplx["hand_scale"][0]),
        joints_offset=t(smplx["joints_offset"][0]),
    )
    motion = Motion(
        global_orient=t(smplx["global_pose"]),
        body_pose=t(smplx["body_pose"]),
        left_hand_pose=t(smplx["left_hand_pose"]),
        right_hand_pose=t(smplx["right_hand_pose"]),
        expression=t(smplx["exp"]),
        flame_expression=t(flame["expression_params"]),
        jaw_pose=t(flame["jaw_params"]),
        eye_pose=t(flame["eye_pose_params"]).unflatten(-1, (2, 3)),
        eyelids=t(flame["eyelid_params"]),
    )
    return identity, motion


@pytest.fixture(scope="session")
def golden_pose(golden_weights):
    """Function of a seed -> (identity, motion of one frame, world-to-camera matrix)."""
    import torch

    def make(seed: int):
        smplx, flame, rt = golden_weights.make_coeffs(seed)
        return *_records(smplx, flame), torch.from_numpy(golden_weights.w2c_from_rt(rt))

    return make


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    """`guava-aug` with the fake model, as processes that start at once."""
    server = ForkServer()
    yield server
    server.close()


def pytest_configure(config: pytest.Config) -> None:
    """Give all machines the same settings, before any test is imported."""
    settings.register_profile("suite", deadline=None)  # a busy machine is no fault
    settings.load_profile("suite")
    if (
        signal.getsignal(signal.SIGINT) != signal.default_int_handler
    ):  # ignored by what a script starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput") and getattr(config.option, "dist", "no") != "no":
        return  # this process only hands out tests to others, and needs no torch
    import torch

    if not torch.cuda.is_available():  # tests that leave --device out are for the CPU, also beside a GPU or in a job
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "GPU_DEVICE_ORDINAL"):
            os.environ.pop(name, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--forbid-skips", action="store_true", help="a skipped parity test fails the run")


# What `make test-fast` runs: the rules of the source, and the small parts that all others rest on.
FAST = (
    "test_architecture.py", "views/", "batch/executors/", "batch/journal/test_params_log.py",
    "batch/journal/test_run_record.py",
    "batch/test_sharding.py",
    "runtime/test_text.py", "runtime/test_timing.py", "runtime/test_cpus.py", "runtime/test_device.py",
    "runtime/test_progress.py", "runtime/test_imports.py", "runtime/test_processes.py",
    "output/test_mp4_probe.py",
    "render/test_inpaint.py", "tracked/test_mdb.py", "tracked/test_timemap.py", "tracked/test_layout.py",
)  # fmt: skip


# Files that take longest; begun first, so that no process is left alone with one of them at the end.
LONG = ("test_docs.py", "avatar/test_official.py", "apps/benchmark/test_bench.py", "cli/test_cli.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.relative_to(REPO / "tests").as_posix().startswith(LONG))
    for item in items:
        place = item.path.relative_to(REPO / "tests").as_posix()
        if place.startswith(FAST) and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.fast)
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_terminal_summary(terminalreporter) -> None:
    ran = _parity(terminalreporter, "passed") + _parity(terminalreporter, "failed")
    skipped = _parity(terminalreporter, "skipped")
    if ran or skipped:
        terminalreporter.write_line(f"parity: {ran} ran, {skipped} skipped")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = _parity(reporter, "skipped") if reporter else 0
    if session.config.getoption("--forbid-skips") and skipped and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"{skipped} parity tests are skipped, and --forbid-skips is given", red=True)


def _parity(reporter, status: str) -> int:
    """How many parity tests ended so. (A whole module that is skipped has no keywords; parity modules never are.)"""
    return sum("parity" in getattr(report, "keywords", ()) for report in reporter.stats.get(status, []))
