"""`guava-aug train`, whole and very small; its configurations; and what goes wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from guava_aug.apps.synthetic import demo_root
from guava_aug.apps.training.config import TrainConfig, config_names, find_config
from guava_aug.apps.training.data import PersonViews
from guava_aug.apps.training.distributed import DistributedContext
from guava_aug.apps.training.generate import Realism
from guava_aug.apps.training.prepare import add_videos, load_body, read_encoder
from guava_aug.apps.training.train import Run
from guava_aug.avatar.config import ModelConfig
from guava_aug.avatar.model import load_model
from guava_aug.avatar.network import ReconstructionNetwork
from guava_aug.avatar.styleunet import StyleUNet
from guava_aug.cli import main
from guava_aug.cli.train import training_device
from guava_aug.errors import AssetError, DeviceError, UsageError
from guava_aug.tracked import TrackedVideo, write_tracked

SIZE = 32
UNET = {"in_size": SIZE, "out_size": SIZE, "channel_scale": 16, "num_style_feat": 8, "num_mlp": 1}
TINY = {
    "MODEL": {
        "color_dim": 16, "uvmap_size": SIZE, "feature_img_size": 28, "image_size": SIZE, "dino_out_dim": 8,
        "uv_out_dim": 8, "uv_base_dim": 4, "smplx_fea_dim": 8, "prj_out_dim": 8, "global_vertex_dim": 8,
        "projects": [8, 8, 8, 8], "vit": {"embed_dim": 16, "depth": 5, "num_heads": 2},
        "uv_decoder": UNET, "styleunet": {**UNET, "in_dim": 16},
    },
    "TRAIN": {"steps": 2, "subjects_per_step": 1, "targets_per_person": 1, "warmup": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return str(path)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracked root with the first three frames of a bundled clip, and a folder that is no video."""
    root, clip = tmp_path_factory.mktemp("tracked"), TrackedVideo.open(demo_root(), "signer_a")
    frames = [clip.read_frame(i) for i in range(3)]
    write_tracked(root, "short", clip.identity, clip.motion[:3], clip.viewmats[:3], frames)
    return root


def train(*argv: object) -> int:
    return main(["train", "--device", "cpu", "--quiet", *map(str, argv)])


def test_tracked_videos_to_a_model_and_on(tiny: str, tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "run"
    assert train("--config", tiny, "--tracked_root", tracked, "--out", out) == 0
    assert f"--model_path {out}" in capsys.readouterr().out
    assert [p.name for p in (out / "pool").iterdir()] == ["person_short.npz"]
    record = json.loads((out / "run.json").read_text())
    assert record["train"]["steps"] == 2 and record["model"]["image_size"] == SIZE and record["people_at_start"] == 1
    assert load_model(out).config == TrainConfig.from_yaml(tiny)[0]
    before = torch.load(out / "state.pt", weights_only=True)
    assert before["step"] == 2

    assert train("--config", tiny, "--pool", out / "pool", "--out", out, "--steps", 4) == 2
    assert "--resume" in capsys.readouterr().err
    assert train("--config", tiny, "--pool", out / "pool", "--out", out, "--steps", 4, "--resume") == 0
    after = torch.load(out / "state.pt", weights_only=True)
    assert after["step"] == 4
    assert any(not torch.equal(a, after["model"][k]) for k, a in before["model"].items())

    other = tmp_path / "other"
    start = out / "model.safetensors"
    assert train("--config", tiny, "--pool", out / "pool", "--out", other, "--init", start, "--minutes", 1e-9) == 0
    first = load_model(start).network.state_dict()
    for name, weights in load_model(other).network.state_dict().items():
        assert torch.equal(weights, first[name]), name


def test_an_interrupted_run_is_saved(tiny: str, person: PersonViews, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    person.save(tmp_path / "person_a.npz")
    step = Run._step

    def interrupted(run: Run, batch):
        if run.step == 1:
            raise KeyboardInterrupt
        return step(run, batch)

    monkeypatch.setattr(Run, "_step", interrupted)
    assert train("--config", tiny, "--pool", tmp_path, "--out", tmp_path / "run") == 130
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 1


def test_a_gpu_without_triton_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("guava_aug.runtime.device.choose_device", lambda asked: f"cuda:{asked}")
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)
    monkeypatch.setattr("guava_aug.cli.train.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r"guava-aug\[train\]"):
        training_device("0", DistributedContext(), prepare_only=False)
    assert training_device("1", DistributedContext(), prepare_only=True) == torch.device("cuda:1")


def test_a_video_of_another_body_is_left_out(tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    clip = TrackedVideo.open(demo_root(), "signer_a")
    betas = torch.zeros(300)
    betas[40] = 1.0
    frames = [clip.read_frame(i) for i in range(2)]
    write_tracked(tmp_path, "smplx", replace(clip.identity, betas=betas), clip.motion[:2], clip.viewmats[:2], frames)
    left_out = add_videos(tmp_path / "pool", tmp_path, [], load_body(None, SIZE), 2, SIZE)
    assert left_out == ["smplx"] and "give that one: --body" in caplog.text
    assert not list((tmp_path / "pool").iterdir())


def test_a_video_that_cannot_be_used_is_left_out(tiny: str, tracked: Path, tmp_path: Path, capsys):
    argv = ("--config", tiny, "--tracked_root", tracked, "--pool", tmp_path / "pool", "--prepare_only")
    assert train(*argv, "--video_list", "short", "nobody") == 3
    assert "left out: nobody" in capsys.readouterr().out
    views = PersonViews.load(tmp_path / "pool" / "person_short.npz")
    assert views.images.shape == (3, 4, SIZE, SIZE)


def test_synthetic_subjects_and_those_to_validate_on(tiny: str, tmp_path: Path):
    pool, held_out = tmp_path / "pool", tmp_path / "held_out"
    made: list[tuple[Path, list[int], Realism | None]] = []
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**TINY, "TRAIN": {**TINY["TRAIN"], "lenses": 0.25, "tracker_errors": 1}}))

    def generate(bank, out, subjects, device, *, tracked, others, workers, variety, realism):
        assert (tracked, others, workers, variety) == (1, 2, 0, "mixed")
        made.append((out, list(subjects), realism))
        return iter(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("guava_aug.apps.training.generate.generate", generate)
        argv = ("--config", config, "--subjects", 2, "--pictures", 1, 2, "--prepare_only")
        assert train(*argv, "--pool", pool, "--held_out", held_out) == 0
    assert made == [(held_out, [*range(9001, 9009), *range(9101, 9109)], None), (pool, [0, 1], Realism(0.25, 1))]


def test_a_share_above_one_is_refused(tmp_path: Path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**TINY, "TRAIN": {"degraded": 67}}))
    assert train("--config", config, "--subjects", 2, "--pool", tmp_path, "--prepare_only") == 2
    assert "TRAIN.degraded is 67; expected a share of the subjects, 0 to 1" in capsys.readouterr().err


def test_a_name_of_weights_that_is_no_list_is_refused(tmp_path: Path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**TINY, "TRAIN": {"only": "network.source_blend"}}))
    assert train("--config", config, "--subjects", 2, "--pool", tmp_path, "--prepare_only") == 2
    assert "TRAIN.only is 'network.source_blend'; expected a list of names" in capsys.readouterr().err


def test_subjects_of_another_size_are_refused(tiny: str, person: PersonViews, tmp_path: Path, capsys):
    person.save(tmp_path / "person_a.npz")
    config = tmp_path / "larger.yaml"
    refiner = {**TINY["MODEL"]["styleunet"], "in_size": 2 * SIZE, "out_size": 2 * SIZE}
    model = {**TINY["MODEL"], "image_size": 2 * SIZE, "styleunet": refiner}
    config.write_text(yaml.safe_dump({**TINY, "MODEL": model}))
    assert train("--config", config, "--pool", tmp_path, "--out", tmp_path / "run") == 2
    assert "pictures of 32 pixels" in capsys.readouterr().err
    assert train("--config", tiny, "--pool", tmp_path, "--out", tmp_path / "run", "--targets", 4) == 2
    assert "4 pictures; expected one source and 4 others" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        ([], "holds no training subjects"),
        (["--config", "offical", "--subjects", "1"], "did you mean 'official'"),
        (["--tracked_root", "a", "--subjects", "1"], "exclude each other"),
        (["--subjects", "1", "--body", "assets"], "free body"),
        (["--video_list", "a"], "--tracked_root"),
        (["--prepare_only"], "fills a pool"),
        (["--subjects", "1", "--init", "a.safetensors", "--encoder", "b"], "exclude each other"),
        (["--subjects", "1", "--init", "best.pt"], "guava-aug convert"),
        (["--subjects", "1", "--steps", "0"], "at least 1"),
        (["--subjects", "1", "--minutes", "0"], "more than 0"),
        (["--subjects", "9001"], "1 to 9000"),
        (["--people=9001"], "1 to 9000"),  # names of 0.1.0
        (["--wait-people", "0", "--people", "1"], "--wait_subjects"),
        (["--tracked_root", "nowhere"], "nowhere"),
        (["--subjects", "1", "--bank", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_wrong_flags_are_named(argv: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert train("--out", tmp_path / "run", *argv) == 2
    assert word in capsys.readouterr().err


def test_help_names_the_ways_to_subjects(capsys: pytest.CaptureFixture):
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("--tracked_root", "--subjects", "--pool", "--resume", "official", "torchrun"))


def test_the_official_configuration_is_the_official_network(tmp_path: Path):
    model, recipe = TrainConfig.from_yaml(find_config("official"))
    assert model == ModelConfig()  # whose defaults the parity tests hold to the official checkpoint
    old = tmp_path / "old.yaml"
    old.write_text(find_config("official").read_text().replace("subjects_per_step", "people_per_step"))
    assert TrainConfig.from_yaml(old)[1] == recipe  # the entry's name in 0.1.0
    assert (recipe.steps, recipe.subjects_per_step, recipe.lr, recipe.betas) == (200_000, 6, 1e-4, (0.0, 0.99))
    with torch.device("meta"):
        network, refiner = ReconstructionNetwork(model, 10_475 + 120), StyleUNet(model.refiner)
    count = lambda m: sum(p.numel() for p in m.parameters())
    encoder = network.dino_encoder.dino_model
    assert count(encoder) == 86_580_480  # DINOv2's ViT-B/14
    assert count(network) > 1.4 * count(encoder) and count(refiner) > 5e6


def test_every_configuration_that_ships_can_be_read():
    assert config_names() == ["official", "small"]
    for name in config_names():
        TrainConfig.from_yaml(find_config(name))


def test_unknown_entries_of_a_configuration_are_named(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("MODEL: {}\nTRAIN: {stepz: 1}")
    with pytest.raises(AssetError, match="stepz"):
        TrainConfig.from_yaml(path)
    path.write_text("MODEL: {}\nTRAIN: 5")
    with pytest.raises(AssetError, match="TRAIN section is 5"):
        TrainConfig.from_yaml(path)
    with pytest.raises(UsageError, match="official, small"):
        find_config("large")


def test_an_encoder_goes_in_whole_or_not_at_all(tmp_path: Path):
    expected = {"cls_token": torch.zeros(1, 1, 4), "norm.weight": torch.zeros(4)}
    good = {"cls_token": torch.rand(1, 1, 4), "norm.weight": torch.rand(4, dtype=torch.float64)}
    torch.save(good, tmp_path / "vit.pth")
    assert read_encoder(tmp_path / "vit.pth", expected)["norm.weight"].dtype == torch.float32
    for bad in ({**good, "register_tokens": torch.zeros(1)}, {"cls_token": good["cls_token"]}, [1]):
        torch.save(bad, tmp_path / "vit.pth")
        with pytest.raises(AssetError, match="encoder"):
            read_encoder(tmp_path / "vit.pth", expected)
