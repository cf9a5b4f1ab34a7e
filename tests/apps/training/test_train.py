"""A run as a whole, very small: it learns, stops, resumes, and writes what the product loads."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from guava_aug.apps.training.config import LossWeights, TrainConfig
from guava_aug.apps.training.data import PersonViews, Pool
from guava_aug.apps.training.train import Run
from guava_aug.avatar.checkpoint import load_weights, read_checkpoint
from guava_aug.avatar.network import ReconstructionNetwork
from guava_aug.avatar.styleunet import StyleUNet
from guava_aug.errors import AssetError, InputError, UsageError


@pytest.fixture
def pool(person, tmp_path) -> Pool:
    folder = tmp_path / "pool"
    folder.mkdir()
    person.save(folder / "person_00000.npz")
    pool = Pool(folder, "cpu")
    assert pool.refresh() == 1
    return pool


def _run(tiny_config, body, out, steps=3) -> Run:
    config = TrainConfig(steps=steps, subjects_per_step=1, targets_per_person=1, lr=2e-3, warmup=1)
    return Run(tiny_config, config, body.assets, out, torch.device("cpu"))


def test_a_person_survives_the_file(person, pool):
    back = PersonViews.load(pool.folder / "person_00000.npz")
    for name, value in vars(person).items():
        assert torch.equal(getattr(back, name), value), name


def test_a_person_of_version_0_1_0_has_the_lens_of_the_format(person, pool):
    path = pool.folder / "person_00000.npz"
    with np.load(path) as z:
        old = {name: z[name] for name in z.files if name != "lenses"}
    np.savez(path, **old)
    back = PersonViews.load(path)
    for name, value in vars(person).items():
        assert torch.equal(getattr(back, name), value), name


def test_damaged_person_is_named(pool):
    path = pool.folder / "person_00001.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(AssetError, match="person_00001"):
        pool.refresh()


def test_empty_pool_says_what_to_do(tiny_config, body, tmp_path):
    with pytest.raises(InputError, match="--prepare_only"):
        _run(tiny_config, body, tmp_path / "run").train(Pool(tmp_path, "cpu"))


def test_only_what_is_named_is_trained(tiny_config, body, pool, tmp_path):
    config = replace(tiny_config, source_pixels=True, visibility="point")
    losses = LossWeights(coarse=1, texture=0.1)
    settings = TrainConfig(
        steps=1, subjects_per_step=1, targets_per_person=1, lr=1e-2, warmup=1, only=("network.source_blend",),
        losses=losses,
    )  # fmt: skip
    run = Run(config, settings, body.assets, tmp_path / "run", torch.device("cpu"))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.train(pool)
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("network.source_blend") for name in changed)
    with pytest.raises(UsageError, match=r"no weight's name begins with network\.nothing"):
        Run(config, replace(settings, only=("network.nothing",)), body.assets, tmp_path / "run", torch.device("cpu"))


@pytest.mark.thorough
def test_loss_falls_on_one_person(tiny_config, body, pool, tmp_path):
    run = _run(tiny_config, body, tmp_path / "run")
    batch = pool.sample(np.random.default_rng(0), 1, 2, tiny_config.feature_img_size)
    first = float(run._step(batch)["total"])
    for _ in range(12):
        last = float(run._step(batch)["total"])
    assert last < 0.97 * first


def test_resume_goes_on_from_the_same_weights_and_moments(tiny_config, body, pool, tmp_path):
    run = _run(tiny_config, body, tmp_path / "run", steps=2)
    run.train(pool)
    other = _run(tiny_config, body, tmp_path / "other", steps=4)
    other.resume(tmp_path / "run" / "state.pt")
    assert other.step == 2
    for a, b in zip(run.parameters, other.parameters, strict=True):
        assert torch.equal(a, b)
        moment = run.optimizer.state[a]["exp_avg_sq"]
        torch.testing.assert_close(other.optimizer.state[b]["exp_avg_sq"], moment, rtol=1e-2, atol=1e-12)
    other.train(pool)
    assert other.step == 4


def test_checkpoint_loads_strictly_into_the_inference_modules(tiny_config, body, pool, tmp_path):
    run = _run(tiny_config, body, tmp_path / "run", steps=1)
    run.train(pool)
    checkpoint = read_checkpoint(tmp_path / "run" / "model.safetensors")
    assert checkpoint.config == tiny_config
    network, refiner = (
        ReconstructionNetwork(tiny_config, len(body.assets.body.v_template)),
        StyleUNet(tiny_config.refiner),
    )
    load_weights(checkpoint, network, refiner)
    ours = dict(run.average.network.named_parameters())
    for name, value in network.named_parameters():
        torch.testing.assert_close(value, ours[name], atol=1e-3, rtol=1e-3)
