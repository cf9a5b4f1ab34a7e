"""The video writer: colours, counts, and that a file at its final name is complete."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from guava_aug.errors import OutputError, UsageError, location
from guava_aug.output import video as video_module
from guava_aug.output.frames import NotFiniteError, PendingFrames
from guava_aug.output.mp4_probe import probe_frame_count
from guava_aug.output.video import VideoWriter, open_video, verify_video
from guava_aug.runtime.atomic import STALE_AFTER
from guava_aug.runtime.processes import host_id

BARS = np.array(
    [[255, 255, 255], [255, 255, 0], [0, 255, 255], [0, 255, 0], [255, 0, 255], [255, 0, 0], [0, 0, 255], [0, 0, 0],
     [200, 120, 40], [90, 60, 50]], np.uint8,
)  # fmt: skip
CELL = 32


def frames(count, width=64, height=48, seed=0):
    """Smooth pictures that differ from frame to frame: grey level of the left half is 3 x the frame number."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.random((height, width, 3), dtype=np.float32), (0, 0), 4)
    out = np.repeat((noise * 255).astype(np.uint8)[None], count, axis=0)
    out[:, :, : width // 2] = (3 * np.arange(count) % 256).astype(np.uint8)[:, None, None, None]
    return out


def decoded(path):
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def bars():
    return np.repeat(np.repeat(BARS[None], CELL, axis=0), CELL, axis=1)


def only(folder):
    return sorted(p.name for p in folder.iterdir())


def test_colours_are_bt601_limited_and_tagged(tmp_path):
    path = tmp_path / "bars.mp4"
    with VideoWriter(path, CELL * len(BARS), CELL, crf=1) as writer:
        writer.write(np.repeat(bars()[None], 3, axis=0))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        picture = next(container.decode(stream))
        assert context.name == "h264"
        assert context.pix_fmt == "yuv420p"
        # 1: limited range; 6: smpte170m (BT.601) matrix, primaries and transfer
        assert (context.color_range, context.colorspace, context.color_primaries, context.color_trc) == (1, 6, 6, 6)
    planes = picture.to_ndarray()
    width = CELL * len(BARS)
    luma = planes[:CELL]
    blue, red = planes[CELL:].reshape(2, CELL // 2, width // 2)
    for k, (r, g, b) in enumerate(BARS / 255.0):
        y = 0.299 * r + 0.587 * g + 0.114 * b
        assert luma[CELL // 2, CELL * k + CELL // 2] == pytest.approx(16 + 219 * y, abs=1.5)
        middle = CELL // 4, CELL // 2 * k + CELL // 4
        assert blue[middle] == pytest.approx(128 + 224 * (b - y) / 1.772, abs=1.5)
        assert red[middle] == pytest.approx(128 + 224 * (r - y) / 1.402, abs=1.5)


def test_colour_bars_come_back(tmp_path):
    with VideoWriter(tmp_path / "bars.mp4", CELL * len(BARS), CELL) as writer:
        writer.write(bars()[None])
    centres = decoded(tmp_path / "bars.mp4")[0, CELL // 2, CELL // 2 :: CELL].astype(int)
    assert np.abs(centres - BARS).max() <= 4  # 8-bit limited range and the codec


@pytest.mark.parametrize("pieces", [[1], [1] * 7, [37], [8, 8, 1], [0, 5, 0, 4]])
def test_every_frame_comes_back_in_order(tmp_path, pieces):
    pictures = frames(sum(pieces))
    with VideoWriter(tmp_path / "a.mp4", 64, 48) as writer:
        start = 0
        for count in pieces:
            writer.write(pictures[start : start + count])
            start += count
    assert writer.frames == len(pictures)
    back = decoded(tmp_path / "a.mp4")
    assert back.shape == pictures.shape
    level = back[:, 8:-8, 8:24].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(level, 3 * np.arange(len(pictures)), atol=1.4)  # half a step: no frame is elsewhere
    assert only(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(
    ("fps", "expected"),
    [(30, Fraction(30)), (25.0, Fraction(25)), (29.97, Fraction(2997, 100)),
     (Fraction(30000, 1001), Fraction(30000, 1001)), (12.5, Fraction(25, 2)), (23.976023976, Fraction(24000, 1001))],
)  # fmt: skip
def test_frame_rates(tmp_path, fps, expected):
    with VideoWriter(tmp_path / "a.mp4", 64, 48, fps) as writer:
        writer.write(frames(20))
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == expected
        times = sorted(p.pts * p.time_base for p in container.demux(stream) if p.pts is not None)
        assert times[-1] - times[0] == pytest.approx(float(19 / expected), rel=1e-3)


def test_equal_frames_give_equal_files(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(tmp_path / name, 64, 48) as writer:
            writer.write(frames(30))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


class Planes(PendingFrames):
    """Planes that are here already: no GPU is needed."""

    def __init__(self, array):
        self.array = array

    @property
    def shape(self):
        return self.array.shape

    def __getitem__(self, index):
        return type(self)(self.array[index])

    def planes(self):
        return self.array


def test_planes_from_a_gpu_give_the_same_file(tmp_path):
    pictures = frames(20, 128, 128)
    planes = np.stack([video_module._to_yuv(p, i).to_ndarray() for i, p in enumerate(pictures)])
    for name, pieces in (("rgb", [pictures]), ("planes", [Planes(planes[:13]), Planes(planes[13:])])):
        with VideoWriter(tmp_path / f"{name}.mp4", 128, 128) as writer:
            for piece in pieces:
                writer.write(piece)
        assert writer.frames == 20
    assert np.array_equal(decoded(tmp_path / "rgb.mp4"), decoded(tmp_path / "planes.mp4"))


def test_planes_that_never_come(tmp_path):
    said = OutputError("pixels that are not finite")

    class Broken(Planes):
        def planes(self):
            raise said

    pictures = frames(5, 128, 128)
    planes = np.stack([video_module._to_yuv(p, i).to_ndarray() for i, p in enumerate(pictures)])
    with pytest.raises(OutputError) as caught, VideoWriter(tmp_path / "a.mp4", 128, 128) as writer:
        writer.write(Planes(planes))
        writer.write(Broken(planes))
        writer.flush()
    assert caught.value is said
    assert said.__cause__ is None  # no circle: the causes of a failure are followed to their end
    assert location(said) == (None, 5)  # the first frame of what did not come, whatever was handed over since
    assert only(tmp_path) == []


def test_planes_that_are_not_finite_are_named_by_their_frame(tmp_path):
    class Broken(Planes):
        def planes(self):
            raise NotFiniteError(1, "look at it")

    pictures = frames(13, 128, 128)
    planes = np.stack([video_module._to_yuv(p, i).to_ndarray() for i, p in enumerate(pictures)])
    with pytest.raises(OutputError, match=r"^frame 14 has"), VideoWriter(tmp_path / "a.mp4", 128, 128) as writer:
        writer.write(Planes(planes))
        writer.write(Broken(planes[:5]))
        writer.flush()


def test_planes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(OutputError, match="planes of 128x128"), VideoWriter(tmp_path / "a.mp4", 128, 128) as writer:
        writer.write(Planes(np.zeros((2, 128, 128), np.uint8)))


@pytest.mark.parametrize(("level", "seen"), [(16, False), (17, True)])
def test_flush_tells_whether_anything_is_to_be_seen(tmp_path, level, seen):
    dark = np.full((2, 72, 64), 128, np.uint8)
    dark[:, :48] = level  # 16 is black
    with VideoWriter(tmp_path / "dark.mp4", 64, 48) as writer:
        writer.write(Planes(dark))
        assert writer.flush() is seen
        with pytest.raises(OutputError, match="closed"):
            writer.write(Planes(dark))


def test_lower_crf_is_closer(tmp_path):
    pictures = np.random.default_rng(1).integers(0, 255, (4, 48, 64, 3), dtype=np.uint8)
    errors = []
    for crf in (2, 40):
        with VideoWriter(tmp_path / f"{crf}.mp4", 64, 48, crf=crf, preset="ultrafast") as writer:
            writer.write(pictures)
        errors.append(np.abs(decoded(tmp_path / f"{crf}.mp4").astype(int) - pictures).mean())
    assert errors[0] < errors[1]


@pytest.mark.parametrize("size", [(63, 48), (64, 47), (0, 48), (1, 1)])
def test_odd_sizes_are_refused(tmp_path, size):
    with pytest.raises(UsageError, match="even width and height"):
        VideoWriter(tmp_path / "a.mp4", *size)
    assert only(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crf": 52}, "--crf"),
        ({"preset": "veryfst"}, "--preset"),
        ({"fps": 0}, "--fps"),
        ({"fps": float("nan")}, "--fps"),
    ],
)
def test_impossible_options_are_refused(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        VideoWriter(tmp_path / "a.mp4", 64, 48, **options)
    assert only(tmp_path) == []


@pytest.mark.parametrize(
    "bad", [np.zeros((1, 48, 62, 3), np.uint8), np.zeros((1, 48, 64, 3), np.float32), np.zeros((48, 64, 3), np.uint8)]
)
def test_frames_that_do_not_fit_are_refused(tmp_path, bad):
    with pytest.raises(OutputError, match="uint8"), VideoWriter(tmp_path / "a.mp4", 64, 48) as writer:
        writer.write(frames(2))
        writer.write(bad)
    assert only(tmp_path) == []


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), VideoWriter(tmp_path / "a.mp4", 64, 48) as writer:
        writer.write(frames(20))
        raise KeyError
    assert only(tmp_path) == []


def test_the_name_appears_only_at_the_end_and_replaces_an_older_file(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    writer = VideoWriter(path, 64, 48)
    writer.write(frames(40))
    assert path.read_bytes() == b"old"
    temporary = next(p for p in tmp_path.iterdir() if p != path)
    assert temporary.name.startswith(f".a.mp4.tmp-{host_id()}-{os.getpid()}-")
    writer.close()
    verify_video(path, 40, (64, 48))
    writer.close()  # again: nothing
    writer.abort()
    verify_video(path, 40, (64, 48))


def test_a_closed_writer_takes_no_more(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", 64, 48)
    writer.write(frames(1))
    writer.close()
    with pytest.raises(OutputError, match="closed"):
        writer.write(frames(1))


def test_no_frames_is_an_error(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", 64, 48)
    with pytest.raises(OutputError):
        writer.close()
    assert only(tmp_path) == []


@pytest.mark.parametrize("size", [8, 512])
def test_a_dead_encoder_does_not_block_the_caller(tmp_path, monkeypatch, size):
    def broken(picture, index):
        raise RuntimeError("encoder gone")

    monkeypatch.setattr(video_module, "_to_yuv", broken)
    writer = VideoWriter(tmp_path / "a.mp4", size, size)
    with pytest.raises(OutputError, match="encoder gone"):
        for _ in range(100):  # many more than the queue holds
            writer.write(np.zeros((8, size, size, 3), np.uint8))
        writer.close()
    with pytest.raises(OutputError):
        writer.write(np.zeros((1, size, size, 3), np.uint8))
    assert only(tmp_path) == []


def test_an_encoder_error_at_the_end_surfaces_in_close(tmp_path, monkeypatch):
    writer = VideoWriter(tmp_path / "a.mp4", 64, 48)
    writer.write(frames(3))

    def broken(path):
        raise OSError(5, "I/O error")

    monkeypatch.setattr(video_module, "sync_file", broken)
    with pytest.raises(OutputError, match="I/O error"):
        writer.close()
    assert only(tmp_path) == []


def test_a_full_disk_says_how_much_is_needed(tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video_module, "sync_file", full)
    with (
        pytest.raises(OutputError, match=r"no space.* MiB were written.* MiB are free.* needed"),
        VideoWriter(tmp_path / "a.mp4", 64, 48) as writer,
    ):
        writer.write(frames(3))
    assert only(tmp_path) == []


def run(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="needs file size limits")
@pytest.mark.parametrize("limit", [0, 30_000, 200_000])
def test_a_real_write_error_leaves_nothing(tmp_path, limit):
    child = run(
        """
        import resource, sys
        import numpy as np
        from guava_aug.errors import OutputError
        from guava_aug.output.video import VideoWriter
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
        noise = np.random.default_rng(0).integers(0, 255, (8, 128, 128, 3), dtype=np.uint8)
        try:
            with VideoWriter(sys.argv[1], 128, 128) as writer:
                for _ in range(10):
                    writer.write(noise)
        except OutputError as error:
            print(error)
        """,
        tmp_path / "a.mp4",
        limit,
    )
    out, err = child.communicate(timeout=300)
    assert "no space" in out, (out, err)
    assert only(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_kill_in_the_middle_leaves_no_final_file_and_the_next_run_works(tmp_path):
    path = tmp_path / "a.mp4"
    child = run(
        """
        import sys, time
        import numpy as np
        from guava_aug.output.video import VideoWriter
        writer = VideoWriter(sys.argv[1], 128, 128)
        noise = np.random.default_rng(0).integers(0, 255, (8, 128, 128, 3), dtype=np.uint8)
        for i in range(10_000):
            writer.write(noise)
            if i == 20:
                print("writing", flush=True)
        """,
        path,
    )
    assert child.stdout.readline() == "writing\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    left = list(tmp_path.iterdir())
    assert not path.exists()
    assert len(left) == 1
    elsewhere = tmp_path / left[0].name.replace(host_id(), "0" * 8)
    elsewhere.write_bytes(b"")
    with VideoWriter(path, 64, 48) as writer:
        writer.write(frames(5))
    assert only(tmp_path) == [elsewhere.name, "a.mp4"]  # it might belong to a live run on another machine
    os.utime(elsewhere, (time.time() - STALE_AFTER - 60,) * 2)
    with VideoWriter(path, 64, 48) as writer:
        writer.write(frames(5))
    assert only(tmp_path) == ["a.mp4"]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "a.mp4"
    with VideoWriter(path, 64, 48) as writer:
        writer.write(np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), dtype=np.uint8))
    return path


@pytest.mark.parametrize("decode", [True, False])
def test_verify_accepts_the_right_numbers_only(good, decode):
    verify_video(good, 30, (64, 48), decode=decode)
    for count, size in ((29, (64, 48)), (31, (64, 48)), (30, (48, 64))):
        with pytest.raises(OutputError, match="expected"):
            verify_video(good, count, size, decode=decode)


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.98])
def test_verify_finds_truncation(good, tmp_path, keep, decode):
    path = tmp_path / "cut.mp4"
    data = good.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(OutputError, match=r"cut\.mp4"):
        verify_video(path, 30, (64, 48), decode=decode)


def test_verify_finds_damage_in_the_pictures(good, tmp_path):
    path = tmp_path / "damaged.mp4"
    data = bytearray(good.read_bytes())
    middle = len(data) * 2 // 3
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(OutputError, match=r"damaged\.mp4"):
        verify_video(path, 30, (64, 48))


def test_verify_of_a_missing_file():
    with pytest.raises(OutputError, match=r"nowhere\.mp4"):
        verify_video("nowhere.mp4", 1, (2, 2))


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be created"):
        VideoWriter(tmp_path / "file" / "a.mp4", 64, 48)


def test_names_with_pattern_characters(tmp_path):
    path = tmp_path / "[a*]?ü.mp4"
    with VideoWriter(path, 64, 48) as writer:
        writer.write(frames(2))
    verify_video(path, 2, (64, 48))


def _pictures(count: int) -> np.ndarray:
    return np.stack([np.full((32, 48, 3), 20 + 9 * i, np.uint8) for i in range(count)])


def test_frames_at_their_own_times(tmp_path: Path) -> None:
    times = [Fraction(t, 30) + 7 for t in (0, 1, 2, 5, 6, 30, 31, 33)]
    with VideoWriter(tmp_path / "v.mp4", 48, 32, Fraction(7 * 30, 33), times=times) as writer:
        writer.write(_pictures(8))
    with open_video(tmp_path / "v.mp4") as (container, stream):
        found = [Fraction(f.pts) * f.time_base for f in container.decode(stream)]
    assert all(abs(a - (b - times[0])) < Fraction(1, 50000) for a, b in zip(found, times, strict=True))
    assert probe_frame_count(tmp_path / "v.mp4") == 8
    with pytest.raises(OutputError, match="frame 1 is shown at"):
        verify_video(tmp_path / "v.mp4", 8, rate=25, times=[Fraction(i, 25) for i in range(8)])


def _sound(path: Path, seconds: float, rate: int = 48000) -> Path:
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=rate, layout="mono")
        wave = (0.5 * np.sin(np.arange(int(seconds * rate)) * 0.06)).astype(np.float32)
        for start in range(0, len(wave), 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def test_sound_is_copied_up_to_the_last_frame(tmp_path: Path) -> None:
    source = _sound(tmp_path / "a.m4a", 3.0)
    for name, sound in (("with.mp4", source), ("without.mp4", None)):
        with VideoWriter(tmp_path / name, 48, 32, 25, sound=sound) as writer:
            writer.write(_pictures(25))
    with av.open(str(source)) as a, av.open(str(tmp_path / "with.mp4")) as b:
        whole = [bytes(p) for p in a.demux(audio=0) if p.size]
        copied = [(bytes(p), float(p.pts * p.time_base)) for p in b.demux(audio=0) if p.size]
    assert [data for data, _ in copied] == whole[: len(copied)] and 45 <= len(copied) <= 49
    assert copied[-1][1] < 1.0
    with open_video(tmp_path / "with.mp4") as (a, s), open_video(tmp_path / "without.mp4") as (b, t):
        pairs = list(zip(a.decode(s), b.decode(t), strict=True))
    assert len(pairs) == 25 and all(np.array_equal(p.to_ndarray(), q.to_ndarray()) for p, q in pairs)
    assert probe_frame_count(tmp_path / "with.mp4") == 25


def test_damaged_sound_does_not_cost_the_video(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damaged = tmp_path / "a.m4a"
    damaged.write_bytes(b"no sound")
    with VideoWriter(tmp_path / "v.mp4", 48, 32, 25, sound=damaged) as writer:
        writer.write(_pictures(3))
    assert probe_frame_count(tmp_path / "v.mp4") == 3 and "without" in caplog.text
