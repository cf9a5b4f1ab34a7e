"""The optional parts of a tracked clip: lens, what is known of the square, exact times, sound. Absent: as ever."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from small_clip import put_images, small_frames, small_motion, small_viewmats  # type: ignore[import-not-found]

from fakes import FakeModel
from guava_aug import augment
from guava_aug.apps.synthetic import demo_root
from guava_aug.assets import embedded_path
from guava_aug.batch.fingerprint import input_digest
from guava_aug.body import EhmModel, load_body_file
from guava_aug.errors import InputError, UsageError
from guava_aug.output.tree import sidecar_path, video_path
from guava_aug.render.background import background_for
from guava_aug.tracked import BodyOutline, TrackedVideo
from guava_aug.tracked.layout import FrameTimes

K = torch.tensor([[90.0, 0, 30.5], [0, 91.0, 33.25], [0, 0, 1]])


def _known(size: int = 64) -> np.ndarray:
    plane = np.full((size, size), 255, np.uint8)
    plane[:, : size // 4] = 0
    return plane


@pytest.mark.parametrize("kind", ["flat", "nested", "merged"])
def test_round_trip(write, tmp_path: Path, kind: str) -> None:
    sound = tmp_path / "sound.m4a"
    sound.write_bytes(b"sound")
    times = FrameTimes(Fraction(1, 12800), (5, 517, 1029, 3077, 3589))
    write("other", layout_kind=kind)
    write(layout_kind=kind, K=K, known=_known(), times=times, sound=sound)
    video, other = TrackedVideo.open(tmp_path, "clip"), TrackedVideo.open(tmp_path, "other")
    assert video.K is not None and torch.equal(video.K, K) and video.times == times
    assert video.known is not None and np.array_equal(video.known, _known())
    assert video.sound is not None and video.sound.read_bytes() == b"sound"
    assert (other.K, other.known, other.times, other.sound) == (None, None, None, None)
    lens = video.lens_at(32)
    assert lens is not None and lens.tolist() == [[45, 0, 15], [0, 45.5, 16.375], [0, 0, 1]]
    small = video.known_at(32)
    assert small is not None and np.array_equal(small, _known(32) > 0)


def test_each_of_them_changes_the_digest_and_their_absence_does_not(write, tmp_path: Path) -> None:
    write("plain")
    write("lens", K=K)
    write("part", known=_known())
    digests = [input_digest(TrackedVideo.open(tmp_path, name)) for name in ("plain", "lens", "part")]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("field, value, reason", [
    ("K", [[1, 0, 0], [0, 1, 0]], "expected K"),
    ("K", [[90, 1, 30], [0, 90, 30], [0, 0, 1]], "expected K"),
    ("K", [[90, 0, float("nan")], [0, 90, 30], [0, 0, 1]], "expected K"),
    ("K", "wide", "expected K"),
    ("times", {"time_base": "1/25", "ticks": [0, 1]}, "5 whole numbers"),
    ("times", {"time_base": "0/25", "ticks": [0, 1, 2, 3, 4]}, "time base"),
    ("times", {"time_base": "1/25", "ticks": [0, 1, 1, 3, 4]}, "ascending"),
    ("times", [0, 1, 2, 3, 4], "expected times"),
])  # fmt: skip
def test_damaged_fields_are_named(write, tmp_path: Path, field: str, value: object, reason: str) -> None:
    info = write() / "videos_info.json"
    content = json.loads(info.read_text())
    content["clip"][field] = value
    info.write_text(json.dumps(content))
    with pytest.raises(InputError, match=reason) as caught:
        TrackedVideo.open(tmp_path, "clip")
    assert "videos_info.json" in str(caught.value)


def test_a_damaged_plane_is_named(write, tmp_path: Path) -> None:
    put_images(write(), {"body_known": b"\x89PNG no picture"})
    with pytest.raises(InputError, match="body_known"):
        TrackedVideo.open(tmp_path, "clip")
    with pytest.raises(UsageError, match="known"):
        write("wrong", known=_known(32))


def test_the_plate_takes_nothing_from_where_the_video_ends(write, tmp_path: Path) -> None:
    frames = [(rgb.copy(), mask) for rgb, mask in small_frames(12)]
    for rgb, _ in frames:
        rgb[:] = 80
        rgb[:, :16] = 255  # no pixel of the video
    for name, known in (("part", _known()), ("all", None)):
        write(name, motion=small_motion(12), viewmats=small_viewmats(12), frames=iter(frames), known=known)
    part, whole = (background_for(TrackedVideo.open(tmp_path, n), "plate", 64).plate for n in ("part", "all"))
    assert part is not None and whole is not None
    assert float(part.max()) < 100 / 255 and float(whole.max()) > 240 / 255
    torch.testing.assert_close(part[..., 58:], whole[..., 58:], atol=0.01, rtol=0)


def test_silhouette_and_joints_go_through_the_lens() -> None:
    outline = BodyOutline(EhmModel(load_body_file(embedded_path("body.npz"), 64)))
    still = small_motion(1)[:1]
    zero = type(still)(**{f: torch.zeros_like(getattr(still, f)) for f in still.__dataclass_fields__})
    zero.global_orient[0, 0] = np.pi
    identity = TrackedVideo.open(demo_root(), "signer_a").identity
    rest = outline.rest(identity)
    viewmat = torch.eye(4)[None].clone()
    viewmat[0, 1, 3], viewmat[0, 2, 3] = 0.3, 2.5
    lens = torch.tensor([[150.0, 0, 50], [0, 140.0, 70], [0, 0, 1]])
    joints = outline.joints(rest, zero, viewmat, 128, lens)[0]
    posed, _ = outline.body.pose_joints(rest[1], zero)
    seen = posed[0] + viewmat[0, :3, 3]
    expected = (seen / seen[:, 2:]) @ lens.T
    np.testing.assert_allclose(joints[:, :2], expected[:, :2], atol=1e-3)
    shape = outline.silhouettes(rest, zero, viewmat, 128, lens)[0]
    xy = joints[:22, :2].round().astype(int)
    inside = ((xy >= 0) & (xy < 128)).all(1)
    assert inside.sum() > 8 and shape[xy[inside, 1], xy[inside, 0]].mean() > 0.9


def _tone(path: Path) -> Path:
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=48000, layout="mono")
        for start in range(0, 48000, 1024):
            wave = 0.5 * np.sin(np.arange(start, start + 1024) * 0.06)
            frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize("options, has_sound, is_variable", [
    ({}, True, True), ({"audio": "none"}, False, True), ({"fps": 10}, False, False),
])  # fmt: skip
def test_views_have_sound_and_times_of_their_clip(
    write, tmp_path: Path, options: dict, has_sound: bool, is_variable: bool
) -> None:
    ticks = (100, 140, 180, 400, 440)
    write(
        fps=Fraction(4000, 340), times=FrameTimes(Fraction(1, 1000), ticks), sound=_tone(tmp_path / "tone.m4a"),
        viewmats=small_viewmats(5),
    )  # fmt: skip
    out = tmp_path / "out"
    result = augment(tmp_path, out, ["clip"], ["easy"], model=FakeModel(), background="black", **options)
    assert result.ok
    with av.open(str(video_path(out, "easy", "clip"))) as file:
        assert bool(file.streams.audio) == has_sound
        times = [float(f.time) for f in file.decode(video=0)]
    beside = json.loads(sidecar_path(out, "easy", "clip").read_text())
    if is_variable:
        np.testing.assert_allclose(times, [(t - 100) / 1000 for t in ticks], atol=2e-5)
        np.testing.assert_allclose(beside["times"], times, atol=2e-5)
    else:
        np.testing.assert_allclose(times, np.arange(5) / 10, atol=2e-5)
        assert "times" not in beside
    again = augment(tmp_path, out, ["clip"], ["easy"], model=FakeModel(), background="black", verify=True, **options)
    assert again.ok and again.views[0].status == "skipped"
