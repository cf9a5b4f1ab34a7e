"""Opening and reading videos: what is accepted, and what is refused with which words."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_clip import edit_pickle, encoded, put_images, small_frames  # type: ignore[import-not-found]

from guava_aug.errors import InputError, UsageError
from guava_aug.tracked import Timing, TrackedVideo
from guava_aug.tracked import video as implementation

TRACKING, IDENTITY, INFO = "optim_tracking_ehm.pkl", "id_share_params.pkl", "videos_info.json"
WHITE = np.full((64, 64), 255, np.uint8)


def _refused(root: Path, match: str, name: str = "clip") -> None:
    with pytest.raises(InputError, match=match) as caught:
        TrackedVideo.open(root, name)
    assert name in str(caught.value)


# --- what is accepted


def test_extra_leading_dimensions(write, tmp_path: Path) -> None:
    path = write()
    plain = TrackedVideo.open(tmp_path, "clip")

    def lead(tracking: dict) -> None:
        for frame in tracking.values():
            for group in ("smplx_coeffs", "flame_coeffs"):
                frame[group] = {k: v[None] for k, v in frame[group].items()}
        first = tracking["frame_000001"]["smplx_coeffs"]  # one frame unlike the others
        first["body_pose"] = first["body_pose"].reshape(1, 63)
        first["camera_RT_params"] = first["camera_RT_params"][0].astype(np.float64)

    edit_pickle(path / TRACKING, lead)
    found = TrackedVideo.open(tmp_path, "clip")
    for field in plain.motion.__dataclass_fields__:
        assert torch.equal(getattr(found.motion, field), getattr(plain.motion, field))
    assert torch.equal(found.viewmats, plain.viewmats)


def test_a_single_tracked_image(write, tmp_path: Path) -> None:
    write(count=1)
    video = TrackedVideo.open(tmp_path, "clip")
    assert video.num_frames == 1 and len(video.motion) == 1 and video.source.image.shape == (3, 518, 518)
    (chunk,) = video.chunks(16, image_size=32)
    assert chunk.images.shape == (1, 3, 32, 32)


def test_frame_order_is_that_of_the_json(write, tmp_path: Path) -> None:
    path = write(count=3)
    plain = TrackedVideo.open(tmp_path, "clip")
    info = json.loads((path / INFO).read_text())
    info["clip"]["frames_keys"] = ["frame_000002", "frame_000000"]
    (path / INFO).write_text(json.dumps(info))
    video = TrackedVideo.open(tmp_path, "clip")
    assert torch.equal(video.motion.body_pose, plain.motion.body_pose[[2, 0]])
    np.testing.assert_array_equal(video.read_frame(0)[0], plain.read_frame(2)[0])


def test_png_and_saved_tensors(write, tmp_path: Path) -> None:
    path = write(count=3)
    rgb, mask = small_frames(3)[2]
    blob, other = io.BytesIO(), io.BytesIO()
    torch.save(torch.from_numpy(rgb).permute(2, 0, 1), blob)
    torch.save(torch.from_numpy(mask).float()[None].expand(3, -1, -1), other)
    put_images(
        path,
        {
            "frame_000001/body_image": encoded(rgb[..., ::-1], ".png"),
            "frame_000001/body_mask": encoded(cv2.merge([mask] * 3), ".png"),
            "frame_000002/body_image": blob.getvalue(),
            "frame_000002/body_mask": other.getvalue(),
        },
    )
    video = TrackedVideo.open(tmp_path, "clip")
    for i in (1, 2):
        np.testing.assert_array_equal(video.read_frame(i)[0], rgb)
        np.testing.assert_array_equal(video.read_frame(i)[1], mask)


def test_the_source_is_cut_out_before_it_is_resized(write, tmp_path: Path) -> None:
    write()
    video = TrackedVideo.open(tmp_path, "clip")
    rgb, mask = video.read_frame(0)
    full = torch.from_numpy(rgb).permute(2, 0, 1).float() / 255 * (torch.from_numpy(mask).float() / 255)
    assert torch.equal(video.source_at(64).image, full)
    half = torch.nn.functional.interpolate(full[None], (32, 32), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(video.source_at(32).image, half, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [16, 200])
def test_any_square_size(write, tmp_path: Path, size: int) -> None:
    write(size=size)
    video = TrackedVideo.open(tmp_path, "clip")
    assert video.image_size == size
    boxes = video.part_boxes(0)  # in 512 pixels whatever is stored
    assert {part: box.tolist() for part, box in boxes.items()} == {part: [0, 511, 0, 511] for part in boxes}


def test_an_empty_head_box_is_the_whole_image_an_empty_hand_box_is_not(write, tmp_path: Path) -> None:
    away = np.array([[0.2, 0, 4000], [0, 0.2, 100], [0, 0, 1]], np.float32)
    write(count=2, part_crops={"head": np.stack([away] * 2), "left_hand": np.stack([away] * 2)})
    boxes = TrackedVideo.open(tmp_path, "clip").part_boxes(1)
    assert boxes["head"].tolist() == [0, 511, 0, 511] and boxes["left_hand"].tolist() == [511, 511, 50, 101]


def test_crops_are_needed_for_boxes_only(write, tmp_path: Path) -> None:
    path = write()
    edit_pickle(path / TRACKING, lambda t: t["frame_000002"].pop("head_crop"))
    video = TrackedVideo.open(tmp_path, "clip")
    with pytest.raises(InputError, match=r"frame_000002.*head_crop/M_c2o is missing"):
        video.part_boxes(0)


def test_time_of_frames(write, tmp_path: Path) -> None:
    write(fps=25, source_frames=[0, 2, 3, 4, 9])
    video = TrackedVideo.open(tmp_path, "clip")
    assert video.fps == 25.0 and video.source_frames == [0, 2, 3, 4, 9]
    video = TrackedVideo.open(tmp_path, "clip", timing=Timing(50.0, None))
    assert video.fps == 50.0 and video.source_frames == [0, 2, 3, 4, 9]
    with pytest.raises(InputError, match=r"clip.*expected 5 source_frames.*found 2"):
        TrackedVideo.open(tmp_path, "clip", timing=Timing(None, (0, 1)))


def test_a_video_can_be_sent_to_another_process(write, tmp_path: Path) -> None:
    write()
    video = TrackedVideo.open(tmp_path, "clip")
    copy = pickle.loads(pickle.dumps(video))
    assert torch.equal(copy.source.image, video.source.image)


# --- what is refused


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_no_numbers(write, tmp_path: Path, value: float) -> None:
    path = write()

    def spoil(tracking: dict) -> None:
        for i in (2, 4):
            coeffs = tracking[f"frame_00000{i}"]["flame_coeffs"]
            coeffs["jaw_params"] = np.array([0, value, 0])

    edit_pickle(path / TRACKING, spoil)
    _refused(tmp_path, r"'clip'.*'frame_000002', flame_coeffs/jaw_params: NaN or infinite values \(2 such frames\)")


def test_wrong_shapes_and_missing_entries(write, tmp_path: Path) -> None:
    path = write()
    good = (path / TRACKING).read_bytes()
    smplx = lambda t: t["frame_000003"]["smplx_coeffs"]
    cases = [
        (lambda t: smplx(t).update(exp=np.zeros(49)), r"frame_000003.*exp: .*\(50,\).*\(49,\)"),
        (lambda t: smplx(t).update(body_pose=np.zeros((3, 21))), r"frame_000003.*body_pose"),
        (lambda t: smplx(t).update(exp="none"), "frame_000003.*exp.*found str"),
        (lambda t: smplx(t).update(exp=np.full(50, None)), r"frame_000003.*exp.*ndarray"),
        (lambda t: smplx(t).pop("body_pose"), "frame_000003.*smplx_coeffs/body_pose is missing"),
        (lambda t: t["frame_000003"].pop("flame_coeffs"), "frame_000003.*flame_coeffs/expression_params is missing"),
        (lambda t: t.update(frame_000003=None), "frame_000003.*is missing"),
        (lambda t: t.pop("frame_000003"), "frame 'frame_000003' of videos_info.json is missing"),
        (lambda t: smplx(t).update(camera_RT_params=np.zeros((3, 4))), "frame_000003.*singular"),
    ]  # fmt: skip
    for change, match in cases:
        (path / TRACKING).write_bytes(good)
        edit_pickle(path / TRACKING, change)
        _refused(tmp_path, match)
    (path / TRACKING).write_bytes(pickle.dumps([1]))
    _refused(tmp_path, "expected a dictionary of frames")


def test_wrong_identities(write, tmp_path: Path) -> None:
    path = write()
    good = (path / IDENTITY).read_bytes()
    cases = [
        (lambda t: t.pop("joints_offset"), "'joints_offset' is missing"),
        (lambda t: t.update(head_scale=np.full((1, 3), np.nan)), "head_scale: NaN"),
        (lambda t: t.update(hand_scale=np.ones((1, 2))), "hand_scale: expected shape"),
        (lambda t: t.update(smplx_shape=np.zeros((1, 301))), "at most 300.*found 301"),
        (lambda t: t.update(flame_shape={}), "flame_shape: expected an array"),
    ]
    for change, match in cases:
        (path / IDENTITY).write_bytes(good)
        edit_pickle(path / IDENTITY, change)
        _refused(tmp_path, match)
    (path / IDENTITY).write_bytes(pickle.dumps([1]))
    _refused(tmp_path, "'smplx_shape' is missing")


def test_missing_images(write, tmp_path: Path) -> None:
    put_images(write(), {"frame_000003/body_mask": None, "frame_000004/body_image": None})
    _refused(tmp_path, "has no image 'frame_000003/body_mask' and 1 more")


def test_an_empty_source_mask(write, tmp_path: Path) -> None:
    frames = small_frames(5)
    frames[0] = (frames[0][0], np.zeros_like(frames[0][1]))
    write(frames=frames)
    _refused(tmp_path, r"'clip', frame 'frame_000000', body_mask: the mask is empty")


def _bomb_png() -> bytes:
    """100 bytes that say 60000 x 60000 pixels."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _bomb_tensor() -> bytes:
    blob = io.BytesIO()
    torch.save(torch.zeros(1).expand(3, 60000, 60000), blob)
    return blob.getvalue()


def _evil_tensor() -> bytes:
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    blob = io.BytesIO()
    torch.save(Evil(), blob)
    return blob.getvalue()


BAD_IMAGES = {
    "empty": (b"", "neither JPEG nor PNG"),
    "text": (b"not an image", "neither JPEG nor PNG"),
    "truncated JPEG": (encoded(small_frames(1)[0][0])[:-300], "truncated"),
    "truncated PNG": (encoded(small_frames(1)[0][0], ".png")[:-300], "truncated"),
    "damaged JPEG": (b"\xff\xd8" + b"\0" * 500 + b"\xff\xd9", "damaged"),
    "huge PNG": (_bomb_png(), "60000 x 60000"),
    "huge tensor": (_bomb_tensor(), "10800000000 elements in a storage of 1 numbers"),
    "evil tensor": (_evil_tensor(), "does not load"),
    "damaged pickle": (b"\x80\x02garbage", "does not load"),
    "not square": (encoded(np.zeros((64, 48, 3), np.uint8)), "square image, found 48 x 64"),
    "another size": (encoded(np.zeros((32, 32, 3), np.uint8)), "expected 64 x 64 pixels.*found 32 x 32"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images_are_named(write, tmp_path: Path, case: str, capfd) -> None:
    data, reason = BAD_IMAGES[case]
    put_images(write(), {"frame_000003/body_image": data})
    video = TrackedVideo.open(tmp_path, "clip")
    with pytest.raises(InputError, match=rf"(?s)'clip', frame 'frame_000003', body_image.*{reason}"):
        list(video.chunks(2))
    assert "ran" not in capfd.readouterr().out


def test_a_bad_source_image_is_found_at_opening(write, tmp_path: Path) -> None:
    path = write()
    put_images(path, {"frame_000000/body_mask": encoded(WHITE)[:-50]})
    _refused(tmp_path, "frame_000000', body_mask.*truncated")
    put_images(path, {"frame_000000/body_mask": encoded(WHITE[:32, :32])})
    _refused(tmp_path, "frame_000000', body_mask: expected 64 x 64")


def test_a_truncated_image_file(write, tmp_path: Path) -> None:
    path = write(count=30, size=128) / "img_lmdb" / "data.mdb"
    data = path.read_bytes()
    for part in (0.3, 0.6, 0.95):
        path.write_bytes(data[: int(len(data) * part)])
        _refused(tmp_path, "truncated: expected at least")
    path.write_bytes(b"")
    _refused(tmp_path, "empty")


def test_hostile_and_damaged_pickles(write, tmp_path: Path) -> None:
    path = write()
    for file in (TRACKING, IDENTITY):
        good = (path / file).read_bytes()
        (path / file).write_bytes(good[: len(good) // 2])
        _refused(tmp_path, f"{file} is truncated")
        (path / file).write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
        _refused(tmp_path, rf"{file} is refused: it names os\.system")
        (path / file).write_bytes(good)


# --- chunks


def _threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("decode")}


@pytest.mark.parametrize("per_chunk", [1, 3, 7, 100])
def test_chunks_are_the_frames_in_order(write, tmp_path: Path, per_chunk: int) -> None:
    write(count=7)
    video = TrackedVideo.open(tmp_path, "clip")
    chunks = list(video.chunks(per_chunk, image_size=64))
    assert [c.start for c in chunks] == list(range(0, 7, per_chunk)) and chunks[-1].stop == 7
    images, masks = torch.cat([c.images for c in chunks]), torch.cat([c.masks for c in chunks])
    for i in range(7):
        rgb, mask = video.read_frame(i)
        assert torch.equal(images[i], torch.from_numpy(rgb).permute(2, 0, 1).float() / 255)
        assert torch.equal(masks[i, 0], torch.from_numpy(mask).float() / 255)
    assert torch.equal(torch.cat([c.viewmats for c in chunks]), video.viewmats)
    assert torch.equal(torch.cat([c.motion.jaw_pose for c in chunks]), video.motion.jaw_pose)
    assert not _threads()


def test_threads_end_with_the_consumer(write, tmp_path: Path) -> None:
    write(count=20)
    video = TrackedVideo.open(tmp_path, "clip")
    for _ in video.chunks(2):
        assert _threads()
        break
    assert not _threads()
    with pytest.raises(ZeroDivisionError):
        for _ in video.chunks(2):
            raise ZeroDivisionError
    assert not _threads()
    chunks = video.chunks(2)
    next(chunks)
    chunks.close()
    assert not _threads()


def test_threads_end_with_a_bad_image(write, tmp_path: Path) -> None:
    put_images(write(count=20), {"frame_000005/body_mask": b"x"})
    chunks = TrackedVideo.open(tmp_path, "clip").chunks(2)
    assert [next(chunks).start, next(chunks).start] == [0, 2]  # the good ones come first
    with pytest.raises(InputError, match="frame_000005"):
        next(chunks)
    assert not _threads()


def test_at_most_one_chunk_is_decoded_ahead(write, tmp_path: Path, monkeypatch) -> None:
    write(count=20)
    video = TrackedVideo.open(tmp_path, "clip")
    asked: list[int] = []
    read = TrackedVideo.read_frame
    monkeypatch.setattr(TrackedVideo, "read_frame", lambda self, i: asked.append(i) or read(self, i))
    for chunk in video.chunks(4, image_size=16):
        assert max(asked, default=0) < chunk.stop + 4
    assert sorted(asked) == list(range(20))


def test_chunks_of_no_frames(write, tmp_path: Path) -> None:
    write()
    with pytest.raises(UsageError, match="at least 1"):
        TrackedVideo.open(tmp_path, "clip").chunks(0)


# --- merged sets


def test_the_pickles_of_a_merged_set_are_read_once(write, tmp_path: Path, monkeypatch) -> None:
    for name in ("a", "b", "c"):
        write(name, layout_kind="merged")
    read: list[str] = []
    load = implementation.load_pickle
    monkeypatch.setattr(implementation, "load_pickle", lambda path: read.append(path.name) or load(path))
    for name in ("a", "b", "c"):
        TrackedVideo.open(tmp_path, name)
    assert sorted(read) == [IDENTITY, TRACKING]
    edit_pickle(tmp_path / TRACKING, lambda t: t["b"].pop("frame_000001"))
    _refused(tmp_path, "frame_000001", "b")


def test_the_set_files_of_a_merged_set_are_no_hindrance(write, tmp_path: Path) -> None:
    write("a", layout_kind="merged")
    write("b", layout_kind="merged", count=2)
    (tmp_path / "dataset_frames.json").write_text(json.dumps({"train": ["a/frame_000000"], "valid": []}))
    (tmp_path / "testing_split.json").write_text(json.dumps({"a": 2}))
    assert TrackedVideo.open(tmp_path, "b").num_frames == 2


def test_a_set_in_a_directory_of_another_name_gives_its_first_video(write, tmp_path: Path) -> None:
    write("first", layout_kind="merged", count=3)
    write("second", layout_kind="merged", count=2)
    inner = tmp_path / "named"
    inner.mkdir()
    for file in (TRACKING, IDENTITY, INFO, "img_lmdb"):
        shutil.move(tmp_path / file, inner / file)
    video = TrackedVideo.open(tmp_path, "named")
    assert video.name == "named" and video.num_frames == 3
