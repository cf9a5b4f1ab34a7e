"""K of a field of view, of EXIF, and of calibration files."""

from __future__ import annotations

import json
import math
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from guava_aug.errors import InputError, UsageError
from guava_aug.tracked.exif import read_focal_35mm
from guava_aug.tracked.lens import (
    Calibration,
    Undistortion,
    lens_of_crop,
    lens_of_focal_35mm,
    lens_of_fov,
    load_calibration,
)

SIZE = (720, 1280)  # height, width


@pytest.mark.parametrize("text, across", [("60", 1280), ("60h", 1280), ("60v", 720), (" 60D ", math.hypot(1280, 720))])
def test_field_of_view(text: str, across: float) -> None:
    K = lens_of_fov(text, SIZE)
    assert float(K[0, 0]) == pytest.approx(across / 2 / math.tan(math.radians(30)), rel=1e-6)
    assert K[0, 0] == K[1, 1] and K[:2, 2].tolist() == [639.5, 359.5] and K[2].tolist() == [0, 0, 1]


@pytest.mark.parametrize("text", ["0", "171", "wide", "60x", "-30", "nan", ""])
def test_impossible_fields_of_view(text: str) -> None:
    with pytest.raises(UsageError, match="--fov"):
        lens_of_fov(text, SIZE)


def test_focal_length_of_film() -> None:
    K = lens_of_focal_35mm(50, (2400, 3600))
    assert float(K[0, 0]) == pytest.approx(50 / 36 * 3600, rel=1e-6)
    with pytest.raises(UsageError, match="focal length"):
        lens_of_focal_35mm(0, SIZE)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
def test_exif(tmp_path: Path, order: str, kind: str) -> None:
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    first = struct.pack(order + "HHHII", 1, 0x8769, 4, 1, 26) + bytes(4)
    inner = struct.pack(order + "HHHIHH", 1, 0xA405, 3, 1, 28, 0) + bytes(4)
    tiff = head + first + inner
    good, data = cv2.imencode(f".{kind}" if kind != "tif" else ".png", np.zeros((8, 8, 3), np.uint8))
    assert good
    plain = data.tobytes()
    content = {
        "jpg": plain[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff + plain[2:],
        "png": plain[:33] + struct.pack(">I", len(tiff)) + b"eXIf" + tiff + bytes(4) + plain[33:],
        "tif": tiff,
    }[kind]
    (tmp_path / f"a.{kind}").write_bytes(content)
    assert read_focal_35mm(tmp_path / f"a.{kind}") == 28
    for length in range(0, len(content), 7):  # truncated anywhere: no answer, or the right one
        (tmp_path / "cut").write_bytes(content[:length])
        assert read_focal_35mm(tmp_path / "cut") in (None, 28)
    (tmp_path / "plain").write_bytes(plain)
    assert read_focal_35mm(tmp_path / "plain") is None


K = [[900.0, 0, 650], [0, 910, 350], [0, 0, 1]]
FILES = {
    "rows.json": json.dumps({"K": K, "size": [1280, 720]}),
    "numbers.yaml": "fx: 900\nfy: 910\ncx: 650\ncy: 350\nwidth: 1280\nheight: 720\n",
    "ros.yml": "image_width: 1280\nimage_height: 720\ncamera_matrix:\n  rows: 3\n  cols: 3\n"
               "  data: [900, 0, 650, 0, 910, 350, 0, 0, 1]\ndistortion_coefficients: {data: [0, 0, 0, 0, 0]}\n",
    "opencv.yaml": "%YAML:1.0\n---\nimage_width: 1280\nimage_height: 720\ncamera_matrix: !!opencv-matrix\n   rows: 3\n"
                   "   cols: 3\n   dt: d\n   data: [ 900., 0., 650., 0., 910., 350., 0., 0., 1. ]\n",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_calibration_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name])
    found = load_calibration(tmp_path / name)
    assert torch.equal(found.K, torch.tensor(K)) and found.size == SIZE and found.distortion == ()
    half = found.at((360, 640), "x")
    torch.testing.assert_close(half.K, torch.tensor([[450, 0, 324.75], [0, 455, 174.75], [0, 0, 1]]))
    with pytest.raises(InputError, match="another shape"):
        found.at((1280, 720), "calibration x")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no tomllib")
def test_a_file_of_several_cameras(tmp_path: Path) -> None:
    path = tmp_path / "camera_array.toml"
    one = "[cam_{}]\nsize = [1280, 720]\nmatrix = [[{}.0, 0.0, 650.0], [0.0, 910.0, 350.0], [0.0, 0.0, 1.0]]\n" \
          "distortions = [0.1, -0.2, 0.0, 0.0, 0.05]\n"  # fmt: skip
    path.write_text("fps = 20\n" + one.format(0, 800) + one.format(2, 900))
    found = load_calibration(path, "cam_2")
    assert float(found.K[0, 0]) == 900 and found.distortion == (0.1, -0.2, 0.0, 0.0, 0.05)
    with pytest.raises(InputError, match="2 cameras"):
        load_calibration(path)
    with pytest.raises(InputError, match="no camera 'cam_9'"):
        load_calibration(path, "cam_9")


@pytest.mark.parametrize("name, text, reason", [
    ("a.json", "{", "cannot be parsed"),
    ("a.json", "[]", "expected names and values"),
    ("a.txt", "fx: 1", "ends in .json"),
    ("a.yaml", "fx: 900\ncx: 1\n", "expected cy"),
    ("a.yaml", "fx: 900\ncx: 600\ncy: 300\n", "expected size"),
    ("a.yaml", "fx: -1\ncx: 600\ncy: 300\nsize: [1280, 720]\n", "fx, fy > 0"),
    ("a.yaml", "fx: 900\ncx: 600\ncy: 800\nsize: [1280, 720]\n", "outside of a picture"),
    ("a.yaml", "K: [1, 2, 3]\nsize: [1280, 720]\n", "nine numbers"),
    ("a.yaml", "fx: 900\ncx: 600\ncy: 300\nsize: [1280, 720]\nfisheye: true\n", "fisheye"),
])  # fmt: skip
def test_damaged_calibrations(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=reason) as caught:
        load_calibration(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_the_lens_of_a_crop_projects_to_the_crop() -> None:
    point = torch.tensor([0.2, -0.1, 1.3])
    whole = torch.tensor(K) @ point
    u, v = (whole[:2] / whole[2]).tolist()
    crop = lens_of_crop(torch.tensor(K), 300, -50, 600, 1024) @ point
    s = 1024 / 600
    torch.testing.assert_close(
        crop[:2] / crop[2], torch.tensor([(u + 0.5 - 300) * s - 0.5, (v + 0.5 + 50) * s - 0.5]), rtol=1e-5, atol=1e-3
    )


def test_undistortion() -> None:
    """Points that the distorted camera sees are where the pinhole camera sees them."""
    matrix = torch.tensor([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]])
    bent = (-0.25, 0.08, 0.001, -0.002, 0.0)
    undo = Undistortion(Calibration(matrix, (240, 320), bent))
    for x, y in ((-0.3, -0.2), (0.35, 0.1), (0.0, 0.25)):
        point = np.array([[[x, y, 1.0]]])
        seen, _ = cv2.projectPoints(point, np.zeros(3), np.zeros(3), matrix.double().numpy(), np.array(bent))
        picture = np.zeros((240, 320), np.uint8)
        cv2.circle(picture, tuple(round(16 * v) for v in seen.ravel()), 5 * 16, 255, -1, cv2.LINE_AA, shift=4)
        straight = undo.apply(picture).astype(float)
        rows, columns = np.mgrid[:240, :320]
        found = np.array([(straight * columns).sum(), (straight * rows).sum()]) / straight.sum()
        np.testing.assert_allclose(found, [300 * x + 159.5, 300 * y + 119.5], atol=0.5)
    assert undo.valid[120, 160] == 255
    straightened = Undistortion(Calibration(matrix, (240, 320), (0.3, 0.0, 0.0, 0.0)))
    assert straightened.valid.min() == 0 and straightened.valid[120, 160] == 255
