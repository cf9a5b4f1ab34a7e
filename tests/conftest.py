"""Paths and shared synthetic assets of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("GUAVA_AUG_SHARED", REPO.parent / "shared"))


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
    return out


@pytest.fixture(autouse=True, scope="session")
def _deterministic_torch():
    torch.manual_seed(0)
    yield


def _records(smplx: dict, flame: dict):
    """Identity and Motion of the golden data's coefficient dictionaries (batch of T)."""
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

    def make(seed: int):
        smplx, flame, rt = golden_weights.make_coeffs(seed)
        return *_records(smplx, flame), torch.from_numpy(golden_weights.w2c_from_rt(rt))

    return make
