"""PNGs, the contact sheet, rounding and the output tree."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from guava_aug.errors import OutputError, UsageError, location
from guava_aug.output import PngWriter, params_log_path, png_dir, to_png_bytes, to_video_bytes, video_path
from guava_aug.output.contact_sheet import Block, contact_sheet


def read(path):
    return cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_the_tree_is_the_originals():
    base = "out/easy_001/clip.a/render_fixed_viewpoint/clip.a"
    assert video_path("out", "easy_001", "clip.a") == Path(f"{base}/clip.a_fixed_viewpoint_video.mp4")
    assert png_dir("out", "easy_001", "clip.a") == Path(f"{base}/render")
    assert params_log_path("out") == Path("out/augmentation_params.json")
    assert params_log_path("out", 7) == Path("out/augmentation_params_part_7.json")


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\\b", "a\0"])
def test_names_do_not_lead_out_of_the_tree(name):
    with pytest.raises(UsageError, match="plain folder name"):
        video_path("out", "easy", name)
    with pytest.raises(UsageError, match="plain folder name"):
        params_log_path("out", name)


def test_video_bytes_are_truncated_and_png_bytes_rounded():
    values = torch.tensor([-1.0, 0.0, 0.999 / 255, 1.5 / 255, 1.49 / 255, 254.6 / 255, 1.0, 2.0])
    rgb = values.expand(2, 3, 4, 8)
    assert to_video_bytes(rgb).shape == (2, 4, 8, 3)
    assert to_video_bytes(rgb)[1, 0, :, 2].tolist() == [0, 0, 0, 1, 1, 254, 255, 255]
    assert to_png_bytes(rgb)[1, 0, :, 2].tolist() == [0, 0, 1, 2, 1, 255, 255, 255]


def test_nan_pixels_are_refused_with_their_frame():
    rgb = torch.zeros(3, 3, 4, 4)
    rgb[2, 1, 0, 0] = float("nan")
    with pytest.raises(OutputError, match=r"^frame 2 has pixels that are not finite") as caught:
        to_video_bytes(rgb)
    assert str(caught.value.after(10)).startswith("frame 12 has")
    assert caught.value.after(10) is caught.value and location(caught.value) == (None, 12)  # it is known by then
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_pngs_are_numbered_and_exact(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 255, (5, 8, 6, 3), dtype=np.uint8)
    writer = PngWriter(tmp_path / "render")
    writer.write(pictures[:2])
    writer.write(pictures[2:])
    assert sorted(p.name for p in (tmp_path / "render").iterdir()) == [f"{i:05d}.png" for i in range(5)]
    for i, picture in enumerate(pictures):
        assert np.array_equal(read(tmp_path / "render" / f"{i:05d}.png"), picture)


def test_pngs_that_cannot_be_written_are_reported(tmp_path):
    (tmp_path / "render").write_bytes(b"")
    with pytest.raises(OutputError, match=r"00000\.png"):
        PngWriter(tmp_path / "render").write(np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(OutputError, match="uint8"):
        PngWriter(tmp_path).write(np.zeros((1, 4, 4, 3), np.float32))


def test_contact_sheet_shows_every_picture(tmp_path):
    red = np.full((64, 64, 3), (250, 0, 0), np.uint8)
    blue = np.full((64, 64, 3), (0, 0, 250), np.uint8)
    tall = np.full((80, 40, 3), (0, 250, 0), np.uint8)
    path = tmp_path / "sheets" / "contact_sheet.png"
    first = Block("clip für", ["one"], [("source", [red]), ("easy_001\nyaw", [red, blue, tall]), ("a label alone", [])])
    contact_sheet([first, Block("", [], [("", [blue])])], path, cell=64)
    sheet = read(path)
    area = {
        name: (sheet == colour).all(axis=-1).sum()
        for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250)), ("green", (0, 250, 0)))
    }
    assert area == {"red": 2 * 64 * 64, "blue": 2 * 64 * 64, "green": 64 * 32}
    rows, columns = np.where((sheet == (250, 0, 0)).all(axis=-1))
    assert (sheet[rows[0] : rows[0] + 64, : columns.min()].min(axis=-1) < 100).any()  # the label, left of its row
    assert (sheet[: rows[0], columns.min() :].min(axis=-1) < 100).any()  # title and column, above


def test_blocks_stand_side_by_side(tmp_path):
    block = Block("b", [], [("row", [np.zeros((32, 32, 3), np.uint8)])])
    contact_sheet([block] * 3, tmp_path / "tall.png", cell=32)
    contact_sheet([block] * 3, tmp_path / "wide.png", cell=32, abreast=2)
    (tall, width, _), (less, wide, _) = read(tmp_path / "tall.png").shape, read(tmp_path / "wide.png").shape
    assert (less, wide) == (tall * 2 // 3, 2 * width)


def test_a_sheet_shrinks_until_it_fits(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    blocks = [Block("noise", [], [("row", [noise] * 2)])]
    contact_sheet(blocks, tmp_path / "free.jpg")
    for limit in (100_000, 20_000):
        path = tmp_path / f"{limit}.jpg"
        contact_sheet(blocks, path, max_bytes=limit)
        assert 0.3 * limit < path.stat().st_size <= limit < (tmp_path / "free.jpg").stat().st_size
    with pytest.raises(OutputError, match="show fewer"):
        contact_sheet(blocks, tmp_path / "a.png", max_bytes=100)


def test_an_empty_contact_sheet_is_refused(tmp_path):
    with pytest.raises(OutputError, match="at least one picture"):
        contact_sheet([Block("easy", [], [("row", [])])], tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"\.png or \.jpg"):
        contact_sheet([], tmp_path / "a.gif")
