"""MakeHuman's assets in other trees than the one the bank was first packed from."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from guava_aug.apps.synthetic.bake.asset_list import PROXIES, TEXTURES, find_assets, texture_bytes
from guava_aug.errors import AssetError


def spread(root: Path) -> tuple[Path, Path]:
    """Two trees in which everything lies somewhere else than its key says; the eyes in the second."""
    first, second = root / "assets", root / "core"
    for kind, names in PROXIES.items():
        folder = (second if kind == "eyes" else first) / "deep" / kind
        folder.mkdir(parents=True)
        for name in (*names, "unwanted"):
            (folder / f"{name}.mhclo").touch()
    (first / "textures").mkdir()
    for texture in TEXTURES:
        (first / "textures" / f"{texture.rsplit('/')[-1]}.png").touch()
    return first, second


def test_files_are_found_by_name_wherever_they_lie(tmp_path: Path):
    first, second = spread(tmp_path)
    proxies, textures = find_assets([first, second])
    assert {kind: set(names) for kind, names in PROXIES.items()} == {kind: set(by) for kind, by in proxies.items()}
    assert proxies["eyes"]["high-poly"].is_relative_to(second)
    assert set(textures) == set(TEXTURES) and len(set(textures.values())) == len(TEXTURES)
    with pytest.raises(AssetError, match=r"no high-poly\.mhclo"):
        find_assets([first])
    with pytest.raises(AssetError, match="more"):
        find_assets([tmp_path / "nowhere"])


def test_textures_become_small_webp(tmp_path: Path):
    path = tmp_path / "a.png"
    picture = np.zeros((64, 2048, 4), np.uint8)
    picture[..., 2], picture[:, :1024, 3] = 250, 255
    cv2.imwrite(str(path), picture)
    data = texture_bytes(path)
    back = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert back.shape == (32, 1024, 4) and abs(int(back[16, 256, 2]) - 250) < 6
    assert back[16, 256, 3] > 250 and back[16, 900, 3] < 5
    (tmp_path / "b.webp").write_bytes(data)
    assert texture_bytes(tmp_path / "b.webp") == data
    cv2.imwrite(str(path), np.full((8, 8), 40000, np.uint16))
    grey = cv2.imdecode(np.frombuffer(texture_bytes(path), np.uint8), cv2.IMREAD_UNCHANGED)
    assert grey.shape == (8, 8, 3) and abs(int(grey[4, 4, 0]) - 156) < 4


@pytest.mark.parametrize(
    ("content", "word"), [(b"version https://git-lfs.github.com/spec/v1\n", "lfs pull"), (b"x", "decoded")]
)
def test_pictures_that_are_none_are_named(content: bytes, word: str, tmp_path: Path):
    path = tmp_path / "skin.png"
    path.write_bytes(content)
    with pytest.raises(AssetError, match=word):
        texture_bytes(path)
