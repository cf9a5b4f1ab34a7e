"""Every kind of video gives upright RGB frames with exact times, again and again."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from made_videos import is_upright, number_of, picture, write_video  # type: ignore[import-not-found]

from guava_aug.errors import InputError, UsageError
from guava_aug.tracked.reading import open_source


def test_a_plain_video_twice(tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "a.b.mp4", map(picture, range(12)), rate=Fraction(30000, 1001)))
    assert (source.name, source.size, len(source), source.fps) == ("a.b", (48, 64), 12, Fraction(30000, 1001))
    assert source.axis.constant and not source.audio and not source.notes
    for _ in range(2):
        frames = list(source)
        assert [f.number for f in frames] == list(range(12))
        assert [round(number_of(f.rgb)) for f in frames] == list(range(12))
        assert [f.time for f in frames] == [i * Fraction(1001, 30000) for i in range(12)]
    assert frames[3].rgb.dtype == np.uint8 and frames[3].rgb.flags.c_contiguous and is_upright(frames[3].rgb)


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_rotation"), reason="PyAV writes a rotation from 18 on")
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_display_rotation(tmp_path: Path, rotation: int) -> None:
    # the camera was held so that its pictures have to be turned counterclockwise by `rotation`
    stored = [np.rot90(picture(i), -rotation // 90) for i in range(3)]
    source = open_source(write_video(tmp_path / "turned.mp4", stored, rotation=rotation))
    frames = list(source)
    assert source.size == (48, 64) and frames[0].rgb.shape == (48, 64, 3)
    assert all(is_upright(f.rgb) for f in frames)


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_variable_frame_rate(tmp_path: Path, name: str) -> None:
    pts = [0, 1, 2, 5, 6, 9, 10, 11, 20, 21]
    source = open_source(write_video(tmp_path / name, map(picture, range(10)), pts=pts))
    frames = list(source)
    assert [f.time for f in frames] == [Fraction(p, 25) for p in pts] == list(source.times)
    assert [round(number_of(f.rgb)) for f in frames] == list(range(10))
    assert not source.axis.constant and float(source.fps) == pytest.approx(9 / (21 / 25), rel=1e-5)
    assert any("variable frame rate" in note for note in source.notes)
    part = source.axis.of([0, 1, 2])
    assert part.constant and part.fps == 25


def test_a_clock_of_milliseconds_does_not_make_a_rate_variable(tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "ms.mkv", map(picture, range(40)), rate=Fraction(30000, 1001)))
    assert source.axis.time_base == Fraction(1, 1000)
    assert source.axis.constant and source.fps == Fraction(30000, 1001)


def test_a_part_is_the_same_as_in_the_whole(tmp_path: Path) -> None:
    options = {"g": "20", "bf": "3", "x264-params": "open-gop=1:b-pyramid=2", "preset": "medium"}
    source = open_source(write_video(tmp_path / "gop.mp4", (picture(i % 50) for i in range(150)), options=options))
    whole = {f.number: f for f in source}
    assert len(whole) == 150
    for start, stop in ((0, 3), (61, 64), (119, 121), (149, None), (60, 60)):
        part = list(source.frames(start, stop))
        assert [f.number for f in part] == list(range(start, 150 if stop is None else stop))
        assert all(f.time == whole[f.number].time and np.array_equal(f.rgb, whole[f.number].rgb) for f in part)


def test_interlaced(tmp_path: Path) -> None:
    """A bar that moves by 8 pixels a field: combed as it is stored, whole when it is deinterlaced."""

    def field(t: int) -> np.ndarray:
        out = np.full((96, 256, 3), 60, np.uint8)
        out[:, 8 * t : 8 * t + 24] = 220
        return out

    def woven(i: int) -> np.ndarray:
        out = field(2 * i + 1)
        out[1::2] = field(2 * i)[1::2]  # the bottom field is the first one, as frames without a flag are encoded
        return out

    options = {"x264-params": "bff=1"}
    source = open_source(write_video(tmp_path / "i.mp4", map(woven, range(12)), options=options))
    frames = list(source)
    assert [f.number for f in frames] == list(range(12)) and [f.time for f in frames] == list(source.times)
    assert any("deinterlaced" in note for note in source.notes)

    def combed(rgb: np.ndarray) -> float:
        rows = rgb[..., 1].astype(float)
        return float(np.abs(rows[2:-2:2] - (rows[1:-3:2] + rows[3:-1:2]) / 2).mean())

    assert np.mean([combed(f.rgb) for f in frames[2:-2]]) < 0.15 * np.mean([combed(woven(i)) for i in range(2, 10)])
    for f in frames[2:-2]:  # the first field's place
        assert abs(np.argmax(f.rgb[48, :, 1] > 140) - 16 * f.number) <= 2


def _yuv(y: int, u: int, v: int, fmt: str = "yuv420p") -> av.VideoFrame:
    frame = av.VideoFrame(64, 48, fmt)
    wide = "10" in fmt
    for plane, value in zip(frame.planes, (y, u, v), strict=True):
        numbers = np.full(plane.buffer_size // (2 if wide else 1), value, np.uint16 if wide else np.uint8)
        plane.update(numbers.tobytes())
    return frame


@pytest.mark.parametrize("tags, kr, kb, full", [
    ({"colorspace": 1, "color_range": 1}, 0.2126, 0.0722, False),
    ({"colorspace": 1, "color_range": 2}, 0.2126, 0.0722, True),
    ({"colorspace": 5, "color_range": 1}, 0.299, 0.114, False),
    ({"colorspace": 6, "color_range": 2}, 0.299, 0.114, True),
    ({}, 0.299, 0.114, False),
])  # fmt: skip
@pytest.mark.parametrize("fmt", ["yuv420p", "yuv422p10le"])
def test_matrix_and_range(tmp_path: Path, tags: dict, kr: float, kb: float, full: bool, fmt: str) -> None:
    y, u, v = 140, 100, 170
    scale = 4 if "10" in fmt else 1
    frames = [_yuv(y * scale, u * scale, v * scale, fmt) for _ in range(2)]
    source = open_source(write_video(tmp_path / "c.mkv", frames, codec="ffv1", pix_fmt=fmt, tags=tags))
    luma, blue, red = (y / 255, (u - 128) / 255, (v - 128) / 255) if full else (
        (y - 16) / 219, (u - 128) / 224, (v - 128) / 224)  # fmt: skip
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    expected = 255 * np.array([r, (luma - kr * r - kb * b) / (1 - kr - kb), b])
    np.testing.assert_allclose(next(iter(source)).rgb[20, 30], expected, atol=1.0)


def test_large_pictures_without_tags_are_bt709(tmp_path: Path) -> None:
    big = av.VideoFrame(1280, 720, "yuv420p")
    for plane, value in zip(big.planes, (140, 100, 170), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    source = open_source(write_video(tmp_path / "hd.mkv", [big], codec="ffv1"))
    np.testing.assert_allclose(next(iter(source)).rgb[20, 30], [220, 128, 85], atol=3)


def test_odd_size_portrait_and_other_pixel_formats(tmp_path: Path) -> None:
    odd = open_source(write_video(tmp_path / "odd.mkv", (picture(i, 97, 53) for i in range(3)), codec="ffv1",
                                  pix_fmt="yuv444p"))  # fmt: skip
    assert odd.size == (97, 53) and all(is_upright(f.rgb) for f in odd)
    chroma = open_source(write_video(tmp_path / "odd420.webm", (picture(i, 97, 53) for i in range(3)),
                                     codec="libvpx-vp9"))  # fmt: skip
    assert chroma.size == (97, 53) and all(is_upright(f.rgb) for f in chroma)
    rgb = open_source(write_video(tmp_path / "rgb.mkv", (picture(i) for i in range(3)), codec="ffv1", pix_fmt="bgr0"))
    assert np.array_equal(next(iter(rgb)).rgb, picture(0))


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "dv.mp4", map(picture, range(3)), ratio=Fraction(4, 3)))
    frame = next(iter(source))
    assert source.size == (48, 85) and frame.rgb.shape == (48, 85, 3) and is_upright(frame.rgb)
    assert any("not square" in note for note in source.notes)


def test_sound_is_no_video_and_text_is_none(tmp_path: Path) -> None:
    song = tmp_path / "song.m4a"
    write_video(tmp_path / "with.mp4", map(picture, range(5)), sound=True)
    with av.open(str(tmp_path / "with.mp4")) as a, av.open(str(song), "w", format="mp4") as b:
        sink = b.add_stream_from_template(a.streams.audio[0])
        for packet in a.demux(a.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = sink
                b.mux(packet)
    text, empty, still = tmp_path / "x.txt", tmp_path / "empty.mp4", tmp_path / "still.png"
    text.write_text("no video\n" * 100)
    renamed = tmp_path / "text.mp4"
    renamed.write_text("no video\n" * 100)
    empty.write_bytes(b"")
    cv2.imwrite(str(still), picture(0))
    for path, reason in (
        (song, "has no video stream (there: audio)"), (text, "found text"), (empty, "is empty; copy"),
        (renamed, "can be read (Invalid data found when processing input). If it is one, convert it"),
        (still, "a single picture"), (tmp_path / "none.mp4", "no such file"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=reason.replace("(", r"\(").replace(")", r"\)")) as caught:
            open_source(path)
        assert str(path) in str(caught.value)


def test_a_playlist_opens_nothing(tmp_path: Path) -> None:
    write_video(tmp_path / "a.ts", map(picture, range(30)), container="mpegts")
    listing = tmp_path / "list.m3u8"
    listing.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\na.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(InputError, match="expected a video"):
        open_source(listing)


@pytest.mark.parametrize("name", ["cut.mkv", "cut.mp4", "cut.ts"])
def test_a_truncated_file_keeps_what_can_be_read(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0)
    pictures = [
        np.clip(picture(i % 40) + noise.integers(-30, 30, (48, 64, 3)), 0, 255).astype(np.uint8) for i in range(99)
    ]
    faststart = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = tmp_path / name
    _write_with(path, pictures, faststart)
    whole = [f.rgb for f in open_source(path)]
    assert len(whole) == 99
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    source = open_source(path)
    frames = list(source)
    assert 40 <= len(frames) <= 75
    for f in frames:
        assert np.array_equal(f.rgb, whole[f.number])
    if name != "cut.ts":  # a transport stream has no end that could be missing
        assert source.notes


def _write_with(path: Path, pictures: list[np.ndarray], options: dict[str, str]) -> None:
    with av.open(str(path), "w", options=options) as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "18", "preset": "ultrafast", "g": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i, shown in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def test_an_mp4_without_its_index_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "noindex.mp4", (picture(i) for i in range(30)))
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(InputError, match="without its index"):
        open_source(path)


def test_damage_within_is_left_out_and_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "d.mkv", (picture(i) for i in range(30)), codec="mjpeg", pix_fmt="yuvj420p")
    whole = {f.number: f.rgb for f in open_source(path)}
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        where = [(p.pos, p.size) for p in file.demux(video=0) if p.size][12]
    at = data.index(b"\xff\xd8", where[0])
    data[at : at + where[1]] = bytes(where[1])
    path.write_bytes(data)
    source = open_source(path)
    frames = list(source)
    assert [f.number for f in frames] == [i for i in range(30) if i != 12]
    assert all(np.array_equal(f.rgb, whole[f.number]) for f in frames)
    assert any("12" in note for note in source.notes)


def test_raw_streams_have_the_assumed_rate(tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "raw.h264", map(picture, range(9)), container="h264"))
    assert [f.number for f in source] == list(range(9)) and source.fps == 25
    assert any("time stamps" in note for note in source.notes)


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "take.1"
    folder.mkdir()
    for i in (0, 2, 10, 9, 1):
        cv2.imwrite(str(folder / f"im{i}.png"), picture(i)[..., ::-1])
    (folder / "notes.txt").write_text("x")
    source = open_source(folder, picture_fps=Fraction(30000, 1001))
    assert (source.name, source.size, source.fps, len(source)) == ("take.1", (48, 64), Fraction(30000, 1001), 5)
    assert [round(number_of(f.rgb)) for f in source] == [0, 1, 2, 9, 10]
    assert np.array_equal(next(source.frames(3)).rgb, picture(9))
    cv2.imwrite(str(folder / "im3.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"im3\.png: expected 64 x 48"):
        list(open_source(folder))
    with pytest.raises(InputError, match="holds no pictures"):
        open_source(_empty(tmp_path))
    with pytest.raises(UsageError, match="frames per second"):
        open_source(folder, picture_fps=-1.0)


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"
