"""The detection nets against what LiteRT computes, and what `load_net` promises."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from guava_aug.assets import embedded_path
from guava_aug.errors import AssetError
from guava_aug.tracked.detect.nets import NETS, Net, load_net, read_net

TOLERANCE = 1e-4  # of the range of an output
# The mask's logits reach 2000 and lie behind a chain of large cancelling sums: LiteRT and torch, both in float32, are
# equally far from float64. As a probability it agrees to 0.005, and 99 % of its values to 0.001.
LOGITS = {("pose_landmark_full", "mask")}


@pytest.fixture(scope="module")
def recording(golden: Path) -> ModuleType:
    """The program that made the reference data; it makes the inputs."""
    spec = importlib.util.spec_from_file_location("record_nets", golden / "record_nets.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, np.ndarray]:
    """The reference data."""
    with np.load(golden / "nets.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", NETS)
def test_outputs_are_those_of_litert(name: str, recording: ModuleType, recorded: dict[str, np.ndarray]) -> None:
    net = load_net(name)
    x = recording.inputs(name, net.size, net.input_range, recorded["picture"])
    outputs = net(torch.from_numpy(x))
    assert set(outputs) == {key.split("/")[1] for key in recorded if key.startswith(f"{name}/")}
    for key, found in outputs.items():
        assert found.shape == (3, *net.output_shapes[key])
        assert found.dtype == torch.float32
        wanted, (low, high) = recorded[f"{name}/{key}"], recorded[f"{name}/{key}/range"]
        values = recording.kept(found.numpy())
        if (name, key) in LOGITS:
            difference = np.abs(_sigmoid(values) - _sigmoid(wanted))
            assert difference.max() < 0.005
            assert np.quantile(difference, 0.99) < 0.001
        else:
            np.testing.assert_allclose(values, wanted, rtol=0, atol=TOLERANCE * (high - low))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64).clip(-50, 50)))


def test_a_person_is_found(recording: ModuleType, recorded: dict[str, np.ndarray]) -> None:
    """The numbers mean something: the clip's signer is found, noise is nobody."""
    for name, key in (("pose_landmark_full", "presence"), ("hand_landmark_full", "presence")):
        net = load_net(name)
        noise, picture, _ = recording.inputs(name, net.size, net.input_range, recorded["picture"])
        out = net(torch.from_numpy(np.stack([noise, picture])))[key].flatten().tolist()
        assert out[0] < 0.1 < 0.8 < out[1]


@pytest.mark.parametrize("name", ["face_landmark", "selfie_segmentation"])
def test_a_batch_gives_what_single_pictures_give(name: str) -> None:
    net = load_net(name)
    x = torch.rand(3, *net.size, 3, generator=torch.Generator().manual_seed(0))
    together = net(x)
    for i in range(3):
        for key, values in net(x[i : i + 1]).items():
            torch.testing.assert_close(values[0], together[key][i], rtol=1e-4, atol=1e-4)


def test_inputs_are_left_alone() -> None:
    net = load_net("iris_landmark")
    x = torch.rand(2, 64, 64, 3)
    before = x.clone()
    first = net(x)
    assert torch.equal(x, before)
    assert all(torch.equal(values, first[key]) for key, values in net(x).items())


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETS)
def test_a_gpu_gives_what_the_cpu_gives(
    name: str, recording: ModuleType, recorded: dict[str, np.ndarray]
) -> None:  # pragma: no cover
    net = load_net(name, "cuda")
    x = torch.from_numpy(recording.inputs(name, net.size, net.input_range, recorded["picture"]))
    for key, found in net(x.cuda()).items():
        low, high = recorded[f"{name}/{key}/range"]
        values, wanted = recording.kept(found.cpu().numpy()), recorded[f"{name}/{key}"]
        if (name, key) in LOGITS:
            assert np.abs(_sigmoid(values) - _sigmoid(wanted)).max() < 0.005
        else:
            np.testing.assert_allclose(values, wanted, rtol=0, atol=TOLERANCE * (high - low))


def test_files_say_where_they_come_from() -> None:
    notice = embedded_path("nets", "NOTICE").read_text(encoding="utf-8")
    for name in NETS:
        with safe_open(embedded_path("nets", f"{name}.safetensors"), "np") as file:
            origin = json.loads(file.metadata()["origin"])
        assert origin["license"].startswith("Apache-2.0")
        assert origin["file"] in notice
        assert origin["sha256"] in notice
        assert origin["wheel"] in notice
    assert {p.stem for p in embedded_path("nets").glob("*.safetensors")} == set(NETS)


def test_other_sizes_and_types_are_refused() -> None:
    net = load_net("iris_landmark")
    with pytest.raises(ValueError, match=r"takes \[N, 64, 64, 3\] float32 in \(0, 1\); got \[1, 3, 64, 64\]"):
        net(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"got \[1, 64, 64, 3\] torch\.uint8"):
        net(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AssetError, match="no net face; expected one of face_detection_short_range, "):
        load_net("face")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(AssetError, match="cannot read the net"):
        read_net(path)
    path.write_bytes(embedded_path("nets", "hand_recrop.safetensors").read_bytes()[:-100])
    with pytest.raises(AssetError, match="cannot read the net"):
        read_net(path)
    save_file({"a": torch.zeros(1)}, path, {"format": "something"})
    with pytest.raises(AssetError, match="format is 'something', expected 'guava-aug-net-1'"):
        read_net(path)


def test_a_net_without_one_of_its_weights_is_refused() -> None:
    step = {"op": "linear", "inputs": ["x"], "output": "y", "activation": "none", "weights": {"weight": [2, 3]}}
    graph = {"input": {"name": "x", "shape": [1, 1, 3], "range": [0, 1]},
             "outputs": {"y": {"value": "y", "shape": [2]}}, "steps": [step]}  # fmt: skip
    with pytest.raises(KeyError, match=r"y\.weight"):
        Net("n", graph, {})
    with pytest.raises(ValueError, match=r"y\.weight has shape \[3, 2\], expected \[2, 3\]"):
        Net("n", graph, {"y.weight": torch.zeros(3, 2)})
