"""Official checkpoints load strictly, whole, and give what the files beside them give."""

from dataclasses import fields

import pytest
import torch
import yaml

from guava_aug.avatar import ModelConfig, ReconstructionNetwork, StyleUNet
from guava_aug.avatar.checkpoint import REFINER_PREFIX, classify_key, read_checkpoint
from guava_aug.avatar.model import convert_checkpoint, load_model, open_model_files
from guava_aug.body import LinearModel, load_official_assets
from guava_aug.errors import AssetError
from official_checkpoint import official_state, read_tsv

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def assets(official_assets):
    return load_official_assets(official_assets)


@pytest.fixture(scope="module")
def model_dir(official_assets, assets, shared_golden, golden_weights):
    """The user's assets/GUAVA with a full-size checkpoint; the SMPL-X and FLAME files are NOT needed beside it."""
    folder = official_assets / "GUAVA"
    (folder / "checkpoints").mkdir(exist_ok=True)
    torch.save(official_state(shared_golden, golden_weights, assets), folder / "checkpoints" / "best_200000.pt")
    return folder


def test_every_key_of_the_official_state_is_accounted_for(shared_golden):
    recorded = read_tsv(shared_golden / "state_dict_model.tsv")
    with torch.device("meta"):
        network = ReconstructionNetwork(ModelConfig(), 10595)
    ours = {k: (tuple(v.shape), v.dtype) for k, v in network.state_dict().items()}
    kinds = {k: classify_key(k) for k in recorded}
    assert {k: recorded[k] for k in recorded if kinds[k] == "network"} == ours
    assert sum(kind == "body" for kind in kinds.values()) == 2 * 14 + 8 + 1  # smplx twice, flame, canonical template
    assert all(kind.startswith("unused: ") or kind in ("network", "body") for kind in kinds.values())

    recorded = read_tsv(shared_golden / "state_dict_render_model.tsv")
    refiner = StyleUNet(ModelConfig().refiner)
    ours = {REFINER_PREFIX + k: (tuple(v.shape), v.dtype) for k, v in refiner.state_dict().items()}
    assert recorded == ours


def test_body_inside_the_checkpoint_is_the_body_of_the_files(model_dir, assets):
    checkpoint, config = open_model_files(model_dir)
    assert config == ModelConfig()
    inside = checkpoint.assets
    assert inside is not None
    for f in fields(assets):
        a, b = getattr(inside, f.name), getattr(assets, f.name)
        if isinstance(a, LinearModel):
            for g in fields(a):
                torch.testing.assert_close(getattr(a, g.name), getattr(b, g.name), rtol=0, atol=0)
        else:
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_converted_file_is_the_same_model(model_dir, tmp_path):
    lean = convert_checkpoint(model_dir, tmp_path / "guava.safetensors")
    assert lean.stat().st_size < 0.75 * 1.30e9  # without the Laplacian, the duplicates and the landmarks
    a, b = load_model(model_dir), load_model(lean)
    for x, y in ((a.network, b.network), (a.refiner, b.refiner)):
        for (k, v), (k2, v2) in zip(x.state_dict().items(), y.state_dict().items(), strict=True):
            assert k == k2
            assert torch.equal(v, v2), k
    assert torch.equal(a.body.assets.body.posedirs, b.body.assets.body.posedirs)
    assert a.config == b.config


def _small(tmp_path, change):
    """A model directory with a checkpoint of the right keys but tiny content, changed by `change`."""
    state = {"model": {"uv_base_feature": torch.zeros(1)}, "render_model": {}, "global_iter": 0}
    change(state)
    (tmp_path / "checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "checkpoints" / "latest_1.pt")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"MODEL": {"refiner_type": "styleunet"}}))
    return tmp_path


def test_wrong_files_are_named(tmp_path, model_dir):
    with pytest.raises(AssetError, match="does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(AssetError, match="no checkpoint below"):
        load_model(tmp_path)
    broken = _small(tmp_path / "a", lambda s: s.pop("render_model"))
    with pytest.raises(AssetError, match=r"latest_1\.pt.*render_model"):
        load_model(broken)
    garbage = _small(tmp_path / "b", lambda s: None)
    file = garbage / "checkpoints/latest_1.pt"
    for content in (b"not a checkpoint", file.read_bytes()[:-1000]):
        file.write_bytes(content)
        with pytest.raises(AssetError, match=rf"cannot read the checkpoint .*{len(content)} bytes.*Download it again"):
            load_model(garbage)


@pytest.mark.parametrize("what", ["lacks", "has unknown", "has wrong shapes"])
def test_loading_is_strict(model_dir, tmp_path, what):
    checkpoint, config = open_model_files(model_dir)
    state = dict(checkpoint.network)
    key = "uv_style_mapping.0.bias"
    if what == "lacks":
        del state[key]
    elif what == "has unknown":
        state["surprise.weight"] = torch.zeros(3)
        key = "surprise.weight"
    else:
        state[key] = torch.zeros(7)
    from guava_aug.avatar.checkpoint import Checkpoint, load_weights

    changed = Checkpoint(checkpoint.path, state, checkpoint.refiner, None, config)
    with torch.device("meta"):
        network, refiner = ReconstructionNetwork(config, 10595), StyleUNet(config.refiner)
    with pytest.raises(AssetError, match=rf"network.*{what}.*{key}"):
        load_weights(changed, network, refiner)


def test_a_checkpoint_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("owned",))

    path = tmp_path / "best.pt"
    torch.save({"model": Evil(), "render_model": {}}, path)
    with pytest.raises(AssetError, match="cannot read the checkpoint"):
        read_checkpoint(path)
