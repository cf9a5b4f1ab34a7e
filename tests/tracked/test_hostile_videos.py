"""Odd videos, each beside a good one: each becomes its own row, with a reason, and costs little."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_clip import encoded, put_images  # type: ignore[import-not-found]

import guava_aug.tracked.check
from guava_aug.apps.estimate import amounts
from guava_aug.batch.config import RunConfig
from guava_aug.errors import OutputError
from guava_aug.tracked import TrackedVideo, check_videos
from guava_aug.tracked.images import decode_image

IMAGE = "frame_000000/body_image"
HUGE = "1" + "0" * 400


def _json(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(clip: Path) -> None:
        info = json.loads((clip / "videos_info.json").read_text())
        change(info[clip.name])
        (clip / "videos_info.json").write_text(json.dumps(info))

    return damage


def _text(old: str, new: str) -> Callable[[Path], None]:
    def damage(clip: Path) -> None:
        path = clip / "videos_info.json"
        path.write_text(path.read_text().replace(old, new))

    return damage


def _saved(value: object, **more: bool) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **more)
    return out.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, extra: bytes = b"") -> bytes:
    """A header that says so, and next to no pixels."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", zlib.compress(bytes(100))) + _chunk(b"IEND", b"")


def _scans(count: int) -> bytes:
    """A JPEG whose scan comes again and again."""
    data = encoded(np.zeros((64, 64, 3), np.uint8))
    scan = data[data.index(b"\xff\xda") : -2]
    return data[:-2] + scan * (count - 1) + data[-2:]


def _images(**values: bytes) -> Callable[[Path], None]:
    return lambda clip: put_images(clip, {f"frame_000000/{name}": value for name, value in values.items()})


def _instead(file: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(clip: Path) -> None:
        (clip / file).unlink(missing_ok=True)
        make(clip / file)

    return damage


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**33)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _quantised(clip: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensor = torch.quantize_per_tensor(torch.zeros(3, 64, 64), 0.1, 0, torch.quint8)
        put_images(clip, {IMAGE: _saved(tensor)})


def _deflated(data: bytes) -> bytes:
    """The same archive, its members compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    return buffer.getvalue()


INFO, TRACKING, IDENTITY, DATA = (
    "videos_info.json",
    "optim_tracking_ehm.pkl",
    "id_share_params.pkl",
    "img_lmdb/data.mdb",
)

ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "fps": (_text('"frames_num"', f'"fps": {HUGE}, "frames_num"'), "fps between 0 and 1000, found .* 401 digits"),
    "fps nested": (_text('"frames_num"', f'"fps": {"[" * 900}{"]" * 900}, "frames_num"'), "found a list of 1"),
    "count": (_text('"frames_num": 3', f'"frames_num": {HUGE}, "fps": NaN'), "expected fps between .* found nan"),
    "digits": (_text('"frames_num": 3', f'"frames_num": {"9" * 9999}'), "is not valid JSON"),
    "source": (_json(lambda e: e.update(source_frames=[0, 1, 10**400])), "frame numbers"),
    "surrogate": (_json(lambda e: e["frames_keys"].append("\ud800")), r"'\\ud800' is not valid Unicode"),
    "long": (_json(lambda e: e["frames_keys"].append("x" * 10**6)), r"short frame names, .* \(1000000 characters\)"),
    "nested": (_instead(INFO, lambda p: p.write_text('{"a":' * 10**5)), "is not valid JSON"),
    "sparse info": (_instead(INFO, _sparse), "is not text: 8589934592 bytes"),
    "sparse tracking": (_instead(TRACKING, _sparse), "8589934592 bytes"),
    "sparse identity": (_instead(IDENTITY, _sparse), "8589934592 bytes"),
    "sparse images": (_instead(DATA, _sparse), "no LMDB header"),
    "sparse map": (_instead("frame_index_map.json", _sparse), "is not text"),
    "pipe info": (_instead(INFO, os.mkfifo), "is not a regular file"),
    "pipe tracking": (_instead(TRACKING, os.mkfifo), "is a pipe"),
    "pipe identity": (_instead(IDENTITY, os.mkfifo), "is a pipe"),
    "pipe images": (_instead(DATA, os.mkfifo), "is a pipe"),
    "pipe map": (_instead("frame_index_map.json", os.mkfifo), "is not a regular file"),
    "pipe skipped": (_instead("skipped.txt", os.mkfifo), "tracking of video .* failed"),
    "device info": (_instead(INFO, _zero), "is not a regular file"),
    "device images": (_instead(DATA, _zero), "is a device"),
    "device skipped": (_instead("skipped.txt", _zero), "tracking of video .* failed"),
    "folder": (_instead(TRACKING, os.mkdir), "is a folder; expected a regular file"),
    "loop": (_instead(IDENTITY, _loop), "Too many levels of symbolic links"),
    "loop info": (_instead(INFO, _loop), "Too many levels of symbolic links"),
    "link": (_instead(DATA, lambda p: p.symlink_to("/nowhere/data")), "a link to /nowhere/data, which is not there"),
    "quantised": (_quantised, "expected one of uint8 .*_rebuild_qtensor"),
    "expanded tensor": (_images(body_image=_saved(torch.ones(1, 1, 1).expand(3, 8192, 8192))), "pixels share places"),
    "old tensor": (_images(body_mask=_saved(torch.ones(64, 64), _use_new_zipfile_serialization=False)), "1.6 or later"),
    "deflated tensor": (_images(body_mask=_deflated(_saved(torch.ones(1, 64, 64)))), "compressed"),
    "sparse tensor": (_images(body_image=_saved(torch.zeros(3, 64, 64).to_sparse())), "expected|not load as a tensor"),
    "float tensor": (_images(body_image=_saved(torch.rand(3, 64, 64))), r"between 0 and 1, expected 0\.\.255"),
    "hwc tensor": (_images(body_image=_saved(torch.ones(64, 64, 3) * 9)), r"permute\(2, 0, 1\)"),
    "path": (_images(body_image=b"/data/clip/0001.png"), "text .*store the bytes of the file, not its path"),
    "webp": (_images(body_image=encoded(np.zeros((64, 64, 3), np.uint8), ".webp")), "a WebP picture"),
    "0/1 mask": (_images(body_mask=encoded(np.eye(64, dtype=np.uint8), ".png")), "values are 0 to 1.*by 255"),
    "empty": (_images(body_image=b""), "0 bytes"),
    "no pixels": (_images(body_image=_png(0, 0)), "an image of 0 x 0 pixels"),
    "bomb": (_images(body_image=_png(2**31 - 1, 2**31 - 1)), "an image of 2147483647 x 2147483647"),
    "wide": (_images(body_image=_png(8192, 1)), "expected a square image, found 8192 x 1"),
    "mask bomb": (_images(body_mask=_png(8192, 8192)), "expected 64 x 64 pixels.*found 8192 x 8192"),
    "chunk": (_images(body_image=_png(64, 64, struct.pack(">I", 2**31 - 1) + b"tEXt")), "its PNG chunks are broken"),
    "scans": (_images(body_image=_scans(1000)), "its JPEG data are broken"),
}  # fmt: skip


def test_each_is_its_own_row(write, tmp_path: Path) -> None:
    write("good", count=3)
    for name, (damage, _) in ODD.items():
        name = name.replace("/", " of ")
        write(name, count=3)
        damage(tmp_path / name)
    rows = {row.name: row for row in check_videos(tmp_path)}
    assert rows.pop("good").ok
    for name, (_, words) in ODD.items():
        problems = rows.pop(name.replace("/", " of ")).problems
        assert problems and re.search(f"(?s){words}", problems[0]), (name, problems)
        assert len(problems[0]) < 1000
    assert not rows
    found, bad = amounts(RunConfig(tmp_path, tmp_path / "out"))
    assert "good" in {amount.name for amount in found} and {"fps", "pipe info", "loop"} <= set(bad)


def test_texts_of_a_png_cost_nothing() -> None:
    """OpenCV inflates all of them: 3 MB of PNG took 46 s and 3.5 GB. The picture is the same without."""
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    plain = encoded(picture, ".png")
    text = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2_000_000)))
    first = plain.index(b"IDAT") - 4
    stuffed = plain[:first] + text * 900 + plain[first:]
    assert np.array_equal(decode_image(stuffed, 3), decode_image(plain, 3))
    assert np.array_equal(decode_image(plain, 3), picture[..., ::-1])


def test_whatever_goes_wrong_is_that_video_s(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of defence: exceptions that nobody thought of, while a video is opened or decoded."""
    for name in ("a", "b", "c"):
        write(name, count=2)
    real_open, real_read = TrackedVideo.open, TrackedVideo.read_frame
    unforeseen = MemoryError("x" * 5000)

    def open_video(root, name, **options):
        if name == "a":
            raise unforeseen
        return real_open(root, name, **options)

    def read_frame(video, index, **options):
        if video.name == "b" and index == 1:
            raise RecursionError
        return real_read(video, index, **options)

    monkeypatch.setattr(guava_aug.tracked.check.TrackedVideo, "open", open_video)
    monkeypatch.setattr(guava_aug.tracked.check.TrackedVideo, "read_frame", read_frame)
    a, b, c = check_videos(tmp_path)
    assert "'a' could not be checked: MemoryError: xxx" in a.problems[0] and len(a.problems[0]) < 300
    assert b.problems == ("video 'b', frame 'frame_000001': it could not be checked: RecursionError",)
    assert c.ok
    monkeypatch.setattr("guava_aug.tracked.layout.find_video", lambda root, name: 1 / (name != "b"))
    rows = check_videos(tmp_path, ["b"])
    assert rows[0].problems == ("it could not be checked: ZeroDivisionError: division by zero",)
    assert "b" in amounts(RunConfig(tmp_path, tmp_path / "out"))[1]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_outputs_that_cannot_be_looked_at(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Nothing is counted as missing only because a server does not answer."""
    write("a", count=1)
    real = os.lstat

    def lstat(path, **options):
        if str(path).startswith(str(tmp_path / "out")):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, **options)

    monkeypatch.setattr(os, "lstat", lstat)
    with pytest.raises(OutputError, match=f"cannot be looked at: {os.strerror(code)}; see to --output_root"):
        amounts(RunConfig(tmp_path, tmp_path / "out"))
