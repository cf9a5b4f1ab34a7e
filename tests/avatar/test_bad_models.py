"""Models that are damaged, hostile or of something else: an AssetError that names file and entry, at once."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from guava_aug.avatar.checkpoint import write_safetensors
from guava_aug.avatar.model import EMBEDDED_DIR, load_model, open_model_files
from guava_aug.errors import AssetError

WEIGHT = "model.uv_style_mapping.0.bias"


@pytest.fixture(scope="module")
def embedded() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(EMBEDDED_DIR / "model.safetensors", framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def _model(folder: Path, embedded, change: Callable[[dict, dict], Any]) -> Path:
    tensors, metadata = dict(embedded[0]), dict(embedded[1])
    change(tensors, metadata)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", metadata)
    shutil.copyfile(EMBEDDED_DIR / "body.npz", folder / "body.npz")
    return folder


def _config(**changes: Any) -> Callable[[dict, dict], None]:
    def change(tensors: dict, metadata: dict) -> None:
        config = json.loads(metadata["config"])
        for name, value in changes.items():
            part, _, entry = name.rpartition("__")
            (config[part] if part else config)[entry] = value
        metadata["config"] = json.dumps(config)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, m: m.pop("config"), "no entry 'config'"),
        (lambda t, m: m.update(config="[" * 5000), "config"),
        (lambda t, m: m.update(config="null"), "configuration in its header is a NoneType"),
        (lambda t, m: m.update(config="{}"), "no entry 'vit'"),
        (_config(uvmap_size=10**9), "uvmap_size is 1000000000"),
        (_config(image_size=-1), "image_size is -1"),
        (_config(vit__depth=10**9), r"vit\.depth is 1000000000"),
        (_config(refiner__num_mlp="8"), r"refiner\.num_mlp is '8'"),
        (_config(refiner__out_size=300), r"refiner\.out_size is 300"),
        (_config(invtanfov=float("inf")), "invtanfov is inf"),
        (_config(projects=[1, 2]), "projects"),
        (_config(surprise=1), "surprise"),
        (lambda t, m: t.update({WEIGHT: t[WEIGHT] * float("nan")}), f"not finite in {WEIGHT[6:]}"),
        (lambda t, m: t.update({WEIGHT: t[WEIGHT].int()}), f"wrong types {WEIGHT[6:]}: torch.int32"),
        (lambda t, m: t.update({WEIGHT: t[WEIGHT][None]}), f"wrong shapes {WEIGHT[6:]}"),
        (lambda t, m: t.update({"body.faces": t.pop(WEIGHT)}), r"lacks 'body\."),
    ],
)
def test_safetensors(tmp_path: Path, embedded, change, words: str) -> None:
    with pytest.raises(AssetError, match=rf"model\.safetensors.*{words}"):
        load_model(_model(tmp_path, embedded, change))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("MODEL: [1]", "MODEL is a list"),
        ("MODEL:", "MODEL is a NoneType"),
        ("- 1", "expected YAML"),
        ("MODEL: " + "[" * 5000, "Recursion"),
        ("MODEL: !!python/object/apply:os.system ['touch ran']", "python/object"),
        ("a: &a [x, x]\nMODEL: [*a]", "alias"),
        ("a: &a {x: 1}\nMODEL:\n  <<: *a", "alias|merge"),
        ("MODEL: {uvmap_size: 1000000000}", "uvmap_size is 1000000000"),
        ("MODEL: {dino_out_dim: many}", "dino_out_dim is 'many'"),
        ("MODEL: {styleunet: {num_mlp: 1000000000}}", "num_mlp is 1000000000"),
        ("MODEL: {vit: 3}", "vit is a int"),
        ("MODEL: {projects: 7}", "projects is 7"),
        ("MODEL: {visibility: [face]}", "visibility is a list"),
        ("# " + "x" * 2**20 + "\nMODEL: {}", "more than 1048576"),
    ],
    ids=range(14),
)  # fmt: skip
def test_config_yaml(tmp_path: Path, text: str, words: str) -> None:
    torch.save({"model": {}, "render_model": {}}, tmp_path / "best.pt")
    (tmp_path / "config.yaml").write_text(text + "\n")
    with pytest.raises(AssetError, match=rf"(?s)config\.yaml.*{words}"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ([1], "holds a list"),
        ({"model": {}}, "no entry 'render_model'"),
        ({"model": [1], "render_model": {}}, "model is a list"),
        ({"model": {1: torch.ones(2)}, "render_model": {}}, r"key 1 \(int\)"),
        ({"model": {"a": "b"}, "render_model": {}}, "a is a str, expected a tensor"),
        ({"model": {}, "render_model": {"x": torch.ones(1)}}, "unknown x"),
        ({"model": {"a": torch.ones(1).expand(2**25)}, "render_model": {}}, "a claims the shape"),
        ({"model": {"a": torch.eye(2).to_sparse()}, "render_model": {}}, "_rebuild_sparse_tensor"),
    ],
)
def test_official_checkpoints(tmp_path: Path, saved, words: str) -> None:
    torch.save(saved, tmp_path / "best.pt")
    (tmp_path / "config.yaml").write_text("MODEL: {}\n")
    with pytest.raises(AssetError, match=rf"best\.pt.*{words}"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("body_parents", lambda a: np.arange(len(a)), r"body\.parents"),
        ("faces", lambda a: a + 10**6, "faces goes from 1000000"),
        ("faces", lambda a: a.astype(str), "faces is <U"),
        ("faces_uv", lambda a: a - 10, "faces_uv goes from -10"),
        ("body_J_regressor", lambda a: a.T, "body_J_regressor"),
        ("head_v_template", lambda a: a * np.nan, r"head\.v_template has values that are not finite"),
        ("body_v_template", lambda a: a[:, :2], r"body\.v_template|does not fit together"),
        ("body_weights", lambda a: a[0, 0], "body_weights is .* dimensions"),
        ("texcoords", lambda a: a * 1e9, "texcoords go beyond"),
        ("left_hand", lambda a: a[:0], "left_hand|left_hand_center"),
        ("left_eyelid", None, "left_eyelid"),
    ],
)
def test_body_files(tmp_path: Path, embedded, key: str, change, words: str) -> None:
    folder = _model(tmp_path, embedded, lambda t, m: None)
    with np.load(EMBEDDED_DIR / "body.npz") as arrays:
        changed = dict(arrays)
    value = changed.pop(key)
    if change is not None:
        changed[key] = change(value)
    np.savez(folder / "body.npz", **changed)
    with pytest.raises(AssetError, match=rf"body\.npz.*({words})"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\5\6" + bytes(18)])
def test_files_that_are_no_body(tmp_path: Path, embedded, content: bytes) -> None:
    folder = _model(tmp_path, embedded, lambda t, m: None)
    (folder / "body.npz").write_bytes(content)
    with pytest.raises(AssetError, match=r"body\.npz"):
        load_model(folder)


def test_a_model_is_written_past_the_links_of_others(tmp_path: Path) -> None:
    """Names that others can guess, in a folder that they can write to, may be links to files of ours."""
    checkpoint, config = open_model_files(EMBEDDED_DIR)
    ours, out = tmp_path / "ours", tmp_path / "out.safetensors"
    ours.write_text("kept")
    for name in (".out.safetensors.part", "out.safetensors"):
        (tmp_path / name).symlink_to(ours)
    write_safetensors(out, config, checkpoint.network, checkpoint.refiner, None)
    assert ours.read_text() == "kept"
    assert not out.is_symlink() and stat.S_ISREG(out.lstat().st_mode)
    ours.unlink()
    ours.touch()
    assert out.stat().st_mode == ours.stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.safetensors.part", "ours", "out.safetensors"]
