"""Whether the files of a finished view are whole: damage of every kind is damage, and never another error."""

from __future__ import annotations

import json
import random
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from guava_aug.errors import OutputError
from guava_aug.output.metadata import FORMAT, read_sidecar, tag_of_file, time_axis, write_sidecar
from guava_aug.output.mp4_probe import probe_frame_count
from guava_aug.output.pngs import write_png
from guava_aug.output.tree import png_dir, sidecar_path, video_path
from guava_aug.output.verify import verify_pngs, verify_sidecar, verify_view
from guava_aug.output.video import VideoWriter, open_video, verify_video
from guava_aug.runtime.files import file_digest

FRAMES, SIDE, FPS = 5, 32, 25
CAMERA = {"seed": 1, "yaw": 0.5, "pitch": 0.25, "zoom": 1.0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output root with one view: MP4, sidecar, PNGs."""
    root = tmp_path_factory.mktemp("whole")
    cells = np.random.default_rng(0).integers(0, 255, (FRAMES, 8, 8, 3), np.uint8)
    pictures = cells.repeat(SIDE // 8, 1).repeat(SIDE // 8, 2)
    comment = json.dumps({**CAMERA, "fingerprint": "ab", "made_with": {"fps": FPS}})
    with VideoWriter(video_path(root, "easy", "v"), SIDE, SIDE, FPS, comment=comment) as writer:
        writer.write(pictures)
    size = {"frames": FRAMES, "width": SIDE, "height": SIDE}
    write_sidecar(sidecar_path(root, "easy", "v"), {**CAMERA, **size, **time_axis(FPS, range(FRAMES))})
    for i, picture in enumerate(pictures):
        write_png(png_dir(root, "easy", "v") / f"{i:05d}.png", picture)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def check(root: Path) -> None:
    verify_view(root, "easy", "v", frames=FRAMES, fps=FPS, has_sidecar=True, has_pngs=True)


def test_whole_files_are_good(root: Path):
    check(root)
    verify_view(root, "easy", "v")  # nothing is known of it
    verify_view(root, "easy", "v", fps=Fraction(25))


def unknown_codec(data: bytearray) -> None:
    at = data.index(b"avc1", 40)
    data[at : at + 4] = b"xxx1"


def too_many_codecs(data: bytearray) -> None:
    at = data.index(b"stsd") + 8
    data[at : at + 4] = (0x7FFFFFFF).to_bytes(4, "big")


def long_sample_entry(data: bytearray) -> None:
    at = data.index(b"stsd") + 12
    data[at : at + 4] = (0x7FFFFFFF).to_bytes(4, "big")


def no_parameters(data: bytearray) -> None:
    at = data.index(b"avcC")
    data[at : at + 4] = b"free"


def another_handler(data: bytearray) -> None:
    at = data.index(b"vide")
    data[at : at + 4] = b"soun"


def slower(data: bytearray) -> None:
    at = data.index(b"stts") + 16  # version, count, then (frames, ticks of each)
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") * 2).to_bytes(4, "big")


def no_ticks(data: bytearray) -> None:
    at = data.index(b"stts") + 16
    data[at : at + 4] = bytes(4)


def zeros(data: bytearray) -> None:
    data[:1024] = bytes(1024)


DAMAGE = (
    unknown_codec, too_many_codecs, long_sample_entry, no_parameters, another_handler, slower, no_ticks, zeros,
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_of_the_index_is_damage(root: Path, damage):
    path = video_path(root, "easy", "v")
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    with pytest.raises(OutputError, match=r"v_fixed_viewpoint_video\.mp4: "):
        check(root)


def test_any_changed_byte_is_good_or_damage(root: Path):
    """No error of FFmpeg, PyAV or Python comes through, wherever the byte is."""
    path, rng = video_path(root, "easy", "v"), random.Random(0)
    data, found = path.read_bytes(), 0
    for at in range(0, len(data), 13):
        changed = bytearray(data)
        changed[at] ^= rng.choice([1, 0x80, 0xFF, rng.randrange(1, 256)])
        path.write_bytes(changed)
        try:
            probe_frame_count(path)
            tag_of_file(path)
            check(root)
        except (OutputError, ValueError) as error:  # ValueError: of count_frames, told as damage by the work list
            found += 1
            assert type(error) in (OutputError, ValueError)
    assert found > 20  # the index is a quarter of the file; most of the rest decodes to other pictures


def test_with_the_digest_any_changed_byte_is_damage(root: Path):
    path = video_path(root, "easy", "v")
    data, digest = path.read_bytes(), file_digest(path)
    verify_view(root, "easy", "v", digest=digest)
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(OutputError, match="damaged"):
            verify_view(root, "easy", "v", frames=FRAMES, digest=digest)


def test_what_a_video_says_of_its_camera_may_be_damaged(root: Path):
    path = video_path(root, "easy", "v")
    tag = tag_of_file(path)
    assert tag is not None and tag.camera == CAMERA and tag.fingerprint == "ab"
    path.write_bytes(path.read_bytes().replace(b'"yaw"', b'"\xff\x00w"'))
    with pytest.raises(OutputError, match="damaged"):
        tag_of_file(path)
    with VideoWriter(path, SIDE, SIDE, comment="not of us") as writer:
        writer.write(np.zeros((1, SIDE, SIDE, 3), np.uint8))
    assert tag_of_file(path) is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 1}', '{"format": 2}', "[" * 100_000, '{"a":' * 100_000, "\xff", "9" * 10_000, "null"],
    ids=lambda text: text[:12] or "empty",
)
def test_damaged_sidecars(root: Path, text: str):
    path = sidecar_path(root, "easy", "v")
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(OutputError, match=r"video\.json: is damaged"):
        check(root)
    assert read_sidecar(path).get("frames") is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("frames", 4), ("frames", "5"), ("yaw", None), ("yaw", 1e999), ("fps", 30.0), ("fps", 0), ("fps", True),
     ("source_frames", [0, 1]), ("format", 7)],
)  # fmt: skip
def test_sidecars_that_speak_of_another_video(root: Path, key: str, value: object):
    path = sidecar_path(root, "easy", "v")
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), key: value}), encoding="utf-8")
    with pytest.raises(OutputError, match=r"video\.json: is damaged"):
        check(root)


def test_a_missing_sidecar_is_damage_where_there_must_be_one(root: Path):
    path = sidecar_path(root, "easy", "v")
    path.unlink()
    verify_view(root, "easy", "v", frames=FRAMES)  # the original's
    with pytest.raises(OutputError, match="is not there"):
        check(root)
    path.write_text(json.dumps({"format": FORMAT, **CAMERA, "frames": FRAMES, "fps": 25}), encoding="utf-8")
    verify_sidecar(path, FRAMES)  # of version 0.1.0, without a frame_rate


def test_any_changed_byte_of_a_png_is_damage(root: Path):
    folder = png_dir(root, "easy", "v")
    path = folder / "00003.png"
    data = path.read_bytes()
    for at in range(0, len(data), max(1, len(data) // 200)):
        changed = bytearray(data)
        changed[at] ^= 0x20
        path.write_bytes(changed)
        with pytest.raises(OutputError, match=r"00003\.png"):
            verify_pngs(folder, FRAMES)
    for cut in (0, 8, 20, len(data) - 12, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(OutputError, match=r"00003\.png"):
            verify_pngs(folder, FRAMES)
    path.unlink()
    with pytest.raises(OutputError, match="not there"):
        check(root)


@pytest.mark.parametrize(
    "folder",
    ["2026-11-27T13:30", "pipe:", "pipe:1", "-", "http:", "http:/example", "concat:a|b", "file:", "data:,x", "%05d",
     "subfile,,start,0,end,9,,:", "a\nb", "-i", "~", "[x]*?", "f\udcff"],
)  # fmt: skip
def test_folders_and_names_that_mean_something_to_ffmpeg(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = Path(folder) / f"{Path(folder).name}_%d.mp4"
    with VideoWriter(path, SIDE, SIDE) as writer:
        writer.write(np.full((2, SIDE, SIDE, 3), 99, np.uint8))
    verify_video(path, 2, (SIDE, SIDE), rate=30)
    assert [p.name for p in (tmp_path / folder).iterdir()] == [path.name]


def test_a_file_is_read_as_an_mp4_only(whole: Path, tmp_path: Path):
    """A playlist would have FFmpeg open other files, or addresses, that it names."""
    path = tmp_path / "list.mp4"
    path.write_text(f"ffconcat version 1.0\nfile '{video_path(whole, 'easy', 'v')}'\n", encoding="utf-8")
    with pytest.raises(OutputError), open_video(path):
        pass


def test_a_wrong_rate_is_found(whole: Path):
    path = video_path(whole, "easy", "v")
    for rate in (24.975, 50, Fraction(25000, 1001)):
        with pytest.raises(OutputError, match=r"is shown at|frames per second"):
            verify_video(path, FRAMES, rate=rate)
