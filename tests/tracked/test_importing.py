"""A tracked folder from SMPL-X parameters of other tools: names, shapes, axes, lens, and what is refused."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch

from guava_aug.assets import embedded_path
from guava_aug.avatar.model import load_body
from guava_aug.body import EhmModel
from guava_aug.body.ehm import axis_angle_to_matrix
from guava_aug.cli import main
from guava_aug.errors import InputError, OutputError
from guava_aug.tracked import BodyOutline, TrackedVideo
from guava_aug.tracked.detect import Landmarks
from guava_aug.tracked.importing import body_kind, import_video
from guava_aug.tracked.smplx_file import read_smplx
from guava_aug.views.cameras import tracked_cameras

COUNT = 4
WIDTH, HEIGHT = 640, 400  # the clip's pictures of 512 are reduced to 320 and put at LEFT, TOP
SIDE, LEFT, TOP = 320, 200, 60
Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def body() -> EhmModel:
    return load_body("embedded")


@pytest.fixture(scope="module")
def clip() -> TrackedVideo:
    return TrackedVideo.open(embedded_path("clips"), "signer_a")


@pytest.fixture(scope="module")
def K(clip: TrackedVideo) -> torch.Tensor:
    """The lens of the whole picture that the clip's pictures are a part of."""
    lens = tracked_cameras(torch.eye(4), 512).K.double()
    K = lens * (SIDE / 512)
    K[:2, 2] = (lens[:2, 2] + 0.5) * SIDE / 512 - 0.5 + torch.tensor([LEFT, TOP])
    K[2, 2] = 1
    return K


@pytest.fixture(scope="module")
def arrays(clip: TrackedVideo, K: torch.Tensor) -> Arrays:
    """What another tool would have found in the clip, if it had our body."""
    motion = clip.motion[:COUNT]
    return {
        "body_model": "embedded", "betas": clip.identity.betas[:20].numpy(), "K": K.numpy(),
        "transl": clip.viewmats[:COUNT, :3, 3].numpy(),
        "leye_pose": motion.eye_pose[:, 0].numpy(), "reye_pose": motion.eye_pose[:, 1].numpy(),
        **{name: getattr(motion, name).numpy() for name in (
            "global_orient", "body_pose", "left_hand_pose", "right_hand_pose", "jaw_pose", "expression")},
    }  # fmt: skip


@pytest.fixture(scope="module")
def pictures(clip: TrackedVideo, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The clip as a folder of pictures and one of masks."""
    root = tmp_path_factory.mktemp("pictures")
    folders = root / "talk", root / "masks"
    for folder in folders:
        folder.mkdir()
    for i in range(COUNT):
        for folder, picture in zip(folders, clip.read_frame(i), strict=True):
            whole = np.full((HEIGHT, WIDTH, *picture.shape[2:]), 90 if folder.name == "talk" else 0, np.uint8)
            small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            whole[TOP : TOP + SIDE, LEFT : LEFT + SIDE] = small
            cv2.imwrite(str(folder / f"{i}.png"), whole[..., ::-1] if whole.ndim == 3 else whole)
    return folders


@pytest.fixture
def load(tmp_path: Path, pictures: tuple[Path, Path], body: EhmModel) -> Callable[..., TrackedVideo]:
    """Imports arrays; returns the tracked video."""

    def run(arrays: Arrays, masks: Path | None = pictures[1], video: Path = pictures[0], **more: Any) -> TrackedVideo:
        np.savez(tmp_path / "p.npz", **arrays)
        made = import_video(video, tmp_path / "p.npz", tmp_path / "tracked", body, masks=masks, **more)
        return TrackedVideo.open(made.path.parent, made.path.name)

    return run


def in_picture(video: TrackedVideo, outline: BodyOutline) -> np.ndarray:
    return outline.joints(outline.rest(video.identity), video.motion, video.viewmats, video.image_size, video.K)


def test_joints_are_where_they_were(
    load: Callable[..., TrackedVideo], arrays: Arrays, clip: TrackedVideo, body: EhmModel, K: torch.Tensor
) -> None:
    made, outline = load(arrays), BodyOutline(body)
    head = replace(clip.identity, flame_betas=clip.identity.flame_betas[:20])  # more of it is in no such file
    expected = outline.joints(outline.rest(head), clip.motion[:COUNT], clip.viewmats[:COUNT], 512)
    found = in_picture(made, outline)
    np.testing.assert_allclose(found[..., 2], expected[..., 2], atol=1e-5)
    # from the stored square to the picture: the two squares differ by a scale and a place
    assert made.K is not None
    scale = float(made.K[0, 0] / K[0, 0])
    place = made.K[:2, 2].double() + 0.5 - scale * (K[:2, 2] + 0.5)
    in_whole = (found[..., :2] + 0.5 - place.numpy()) / scale
    in_clip = (in_whole - (LEFT, TOP)) * 512 / SIDE - 0.5
    np.testing.assert_allclose(in_clip, expected[..., :2], rtol=0, atol=1e-4)
    for name in ("body_pose", "left_hand_pose", "right_hand_pose", "jaw_pose", "eye_pose", "flame_expression"):
        assert torch.equal(getattr(made.motion, name), getattr(clip.motion[:COUNT], name)), name
    assert not made.motion.eyelids.any() and made.source_frames == list(range(COUNT)) and made.fps == 25


def test_pictures_and_masks_are_those_of_the_joints(load: Callable[..., TrackedVideo], arrays: Arrays, body: EhmModel):
    """The stored picture shows the person where the parameters say: the silhouette covers the mask."""
    made, outline = load(arrays), BodyOutline(body)
    rest = outline.rest(made.identity)
    silhouettes = outline.silhouettes(rest, made.motion, made.viewmats, 128, made.lens_at(128))
    for i in range(COUNT):
        mask = cv2.resize(made.read_frame(i)[1], (128, 128), interpolation=cv2.INTER_AREA) > 127
        assert (mask & silhouettes[i]).sum() / (mask | silhouettes[i]).sum() > 0.7
    assert (made.path / "tracking.png").exists()
    assert made.known_at(128) is None or made.known_at(128)[:, 60:70].any()  # type: ignore[index]


def test_a_turned_body_far_away_projects_as_smplx_has_it(
    load: Callable[..., TrackedVideo], arrays: Arrays, clip: TrackedVideo, body: EhmModel
) -> None:
    """x = R (rest - pelvis) + pelvis + transl, computed here without the tracked format; a near lens, `focal`."""
    turn = torch.tensor([[0.3, -0.4, 0.2]]).expand(COUNT, 3)
    R = axis_angle_to_matrix(turn) @ axis_angle_to_matrix(torch.tensor([[3.1, 0.05, 0.0]]))
    head = replace(clip.identity, flame_betas=clip.identity.flame_betas[:20])
    rest = BodyOutline(body).rest(head)[1]
    unturned, _ = body.pose_joints(
        rest, type(clip.motion)(**{**vars(clip.motion[:COUNT]), "global_orient": torch.zeros(COUNT, 3)})
    )
    transl = torch.tensor([[0.1, 0.55, 1.4]]).repeat(COUNT, 1)
    seen = (unturned - rest[0]) @ R.transpose(1, 2) + rest[0] + transl[:, None]
    focal, center = 420.0, np.array([330.0, 190.0])
    expected = focal * (seen[..., :2] / seen[..., 2:]).numpy() + center
    plain = {key: value for key, value in arrays.items() if key not in ("K", "transl")}
    made = load({**plain, "global_orient": R.numpy(), "transl": transl.numpy(), "focal": focal, "princpt": center})
    found = in_picture(made, BodyOutline(body))
    assert made.K is not None
    scale = float(made.K[0, 0]) / focal
    place = made.K[:2, 2].numpy() + 0.5 - scale * (center + 0.5)
    np.testing.assert_allclose((found[..., :2] + 0.5 - place) / scale - 0.5, expected, rtol=0, atol=5e-4)
    # the same by where the pelvis is
    again = load({**plain, "global_orient": R.numpy(), "transl_pelvis": (rest[0] + transl).numpy(), "focal": focal,
                  "princpt": center}, overwrite=True)  # fmt: skip
    torch.testing.assert_close(again.viewmats, made.viewmats)


def test_other_names_and_matrices_mean_the_same(tmp_path: Path, arrays: Arrays) -> None:
    np.savez(tmp_path / "plain.npz", **arrays)
    other = {
        "root_pose": axis_angle_to_matrix(torch.from_numpy(arrays["global_orient"])).numpy(),
        "smplx_body_pose": arrays["body_pose"].reshape(COUNT, 63),
        "lhand_pose": axis_angle_to_matrix(torch.from_numpy(arrays["left_hand_pose"]).double()).numpy(),
        "rhand_pose": arrays["right_hand_pose"].reshape(COUNT, 45),
        "shape": np.tile(arrays["betas"], (COUNT, 1)), "expr": arrays["expression"][:, :30],
        "jaw_pose": arrays["jaw_pose"], "leye_pose": arrays["leye_pose"][:, None], "reye_pose": arrays["reye_pose"],
        "cam_trans": arrays["transl"], "focal_length": arrays["K"].diagonal()[:2], "center": arrays["K"][:2, 2],
        "body_model": "embedded", "unknown": np.zeros(3), "image_size": [WIDTH, HEIGHT],
    }  # fmt: skip
    np.savez(tmp_path / "other.npz", **other)
    one, two = read_smplx(tmp_path / "plain.npz"), read_smplx(tmp_path / "other.npz")
    for name in one.motion.__dataclass_fields__:
        a, b = (getattr(p.motion, name) for p in (one, two))
        if name in ("expression", "flame_expression"):
            a = torch.nn.functional.pad(a[:, :30], (0, 20))
        if a.shape[-1] == 3:  # a rotation by more than half a turn has another vector
            a, b = axis_angle_to_matrix(a), axis_angle_to_matrix(b)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.betas, two.betas)
    torch.testing.assert_close(one.K, two.K)
    assert torch.equal(one.translation, two.translation)
    assert (one.image_size, two.image_size) == (None, (HEIGHT, WIDTH))


def test_what_is_missing_is_at_rest(tmp_path: Path, arrays: Arrays) -> None:
    np.savez(tmp_path / "p.npz", **{key: arrays[key] for key in ("global_orient", "body_pose", "transl", "K")})
    found = read_smplx(tmp_path / "p.npz")
    assert found.body == "smplx" and not found.betas.any() and found.frames is None
    for name in ("left_hand_pose", "right_hand_pose", "jaw_pose", "eye_pose", "expression", "eyelids"):
        assert not getattr(found.motion, name).any()


def test_hands_relative_to_the_mean_need_it(tmp_path: Path, arrays: Arrays) -> None:
    np.savez(tmp_path / "p.npz", **arrays, flat_hand_mean=False)
    with pytest.raises(InputError, match="hands_meanl"):
        read_smplx(tmp_path / "p.npz")
    left, right = np.linspace(-1, 1, 45), np.full(45, 0.25)
    np.savez(tmp_path / "p.npz", **arrays, flat_hand_mean=False, hands_meanl=left, hands_meanr=right)
    found = read_smplx(tmp_path / "p.npz").motion
    np.testing.assert_allclose(found.left_hand_pose, arrays["left_hand_pose"] + left.reshape(15, 3), atol=1e-6)
    np.testing.assert_allclose(found.right_hand_pose, arrays["right_hand_pose"] + 0.25, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"global_orient": None}, "global_orient, root_pose"),
        ({"body_pose": None}, "body_pose"),
        ({"transl": None}, "transl, cam_trans"),
        ({"K": None}, "K [3, 3], or focal and princpt"),
        ({"body_pose": np.zeros((COUNT, 69))}, "SMPL's body pose"),
        ({"body_pose": np.zeros((COUNT + 1, 63))}, f"global_orient has {COUNT} frames"),
        ({"body_pose": np.zeros((COUNT, 126))}, "rotations of six numbers"),
        ({"left_hand_pose": np.zeros((COUNT, 12))}, "principal components"),
        ({"global_orient": np.full((COUNT, 3, 3), 0.3)}, "no rotations"),
        ({"global_orient": np.tile(np.diag([1.0, 1, -1]), (COUNT, 1, 1))}, "no rotations"),
        ({"transl": np.zeros((COUNT, 2))}, f"expected [{COUNT}, 3]"),
        ({"transl": np.tile([0.0, 0, -3], (COUNT, 1))}, "behind the camera"),
        ({"transl": np.full((COUNT, 3), np.nan)}, "NaN"),
        ({"K": np.stack([np.diag([900.0 + 100 * i, 900, 1]) for i in range(COUNT)])}, "differs between frames"),
        ({"K": np.eye(4)}, "expected [3, 3]"),
        ({"betas": np.zeros(301)}, "at most 300"),
        ({"expression": np.zeros(10)}, f"[{COUNT}, E]"),
        ({"frames": np.array([0, 2, 1, 3])}, "ascending"),
        ({"frames": np.arange(COUNT + 1)}, f"expected [{COUNT}]"),
        ({"root_pose": np.zeros((COUNT, 3))}, "are the same"),
        ({"body_model": "smplh"}, "expected smplx, found 'smplh'"),
        ({"jaw_pose": np.array(["open"] * COUNT)}, "expected numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(tmp_path: Path, arrays: Arrays, change: Arrays, said: str) -> None:
    np.savez(tmp_path / "p.npz", **{key: value for key, value in {**arrays, **change}.items() if value is not None})
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        read_smplx(tmp_path / "p.npz")
    assert str(tmp_path / "p.npz") in str(caught.value)


def test_files_that_are_none(tmp_path: Path, arrays: Arrays) -> None:
    path = tmp_path / "p.npz"
    with pytest.raises(InputError, match="No such file"):
        read_smplx(path)
    np.savez(path, **{**arrays, "betas": np.array([{"a": 1}], object)})
    with pytest.raises(InputError, match="without objects"):
        read_smplx(path)
    path.write_bytes(pickle.dumps(arrays))
    with pytest.raises(InputError, match="cannot be read"):
        read_smplx(path)
    np.savez(path, **arrays)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="cannot be read"):
        read_smplx(path)


def test_frames_have_to_fit(
    load: Callable[..., TrackedVideo], arrays: Arrays, clip: TrackedVideo, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    per_frame = {key for key, value in arrays.items() if np.ndim(value) and len(value) == COUNT and key != "betas"}
    some = {key: value[[0, 2]] if key in per_frame else value for key, value in arrays.items()}
    with pytest.raises(InputError, match=f"has 2 frames, .*talk has {COUNT}"):
        load(some)
    with pytest.raises(InputError, match="has frame 4, and the last one"):
        load({**some, "frames": [0, 4]})
    made = load({**some, "frames": [0, 2]})
    assert made.source_frames == [0, 2] and made.fps == 12.5
    assert torch.equal(made.motion.body_pose, clip.motion.body_pose[[0, 2]])
    few = tmp_path / "few"
    few.mkdir()
    for i in range(3):
        (few / f"{i}.png").write_bytes((pictures[1] / f"{i}.png").read_bytes())
    with pytest.raises(InputError, match="expected 4, one for each frame, found 3"):
        load(arrays, masks=few, name="other")
    assert not (tmp_path / "tracked" / "other").exists()


def test_masks_that_are_none(load: Callable[..., TrackedVideo], arrays: Arrays, tmp_path: Path) -> None:
    black, small = tmp_path / "black", tmp_path / "small"
    for folder, size in ((black, (HEIGHT, WIDTH)), (small, (HEIGHT // 2, WIDTH // 2))):
        folder.mkdir()
        for i in range(COUNT):
            cv2.imwrite(str(folder / f"{i}.png"), np.ones(size, np.uint8))
    with pytest.raises(InputError, match="none shows the person"):
        load(arrays, masks=black)
    with pytest.raises(InputError, match="expected 640 x 400 pixels"):
        load(arrays, masks=small)
    assert list((tmp_path / "tracked").iterdir()) == []  # no half folder, nothing temporary


@pytest.fixture
def nets(monkeypatch: pytest.MonkeyPatch, pictures: tuple[Path, Path]) -> list[Any]:
    """In place of the nets: the true masks at their size. Gives the person that was asked for."""
    asked: list[Any] = []

    def detect(frames: Iterable[np.ndarray], *, person: Any, **_: Any) -> Landmarks:
        count = sum(1 for _ in frames)
        asked.append(person)
        masks = [cv2.imread(str(pictures[1] / f"{i}.png"), 0) for i in range(count)]
        small = np.stack([cv2.resize(mask, (256, 256), interpolation=cv2.INTER_AREA) for mask in masks])
        zeros = np.zeros
        return Landmarks(
            pose=zeros((count, 33, 3)), pose_score=np.ones((count, 33)), pose_world=zeros((count, 33, 3)),
            hands=zeros((count, 2, 21, 3)), hand_score=zeros((count, 2)), hands_world=zeros((count, 2, 21, 3)),
            face=zeros((count, 468, 3)), face_score=zeros(count), iris=zeros((count, 2, 5, 2)), person_mask=small,
            mask_region=np.tile([WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT, 0.0], (count, 1)), size=(HEIGHT, WIDTH),
        )  # fmt: skip

    monkeypatch.setattr("guava_aug.tracked.importing.detect", detect)
    return asked


def test_masks_of_the_nets(
    load: Callable[..., TrackedVideo], arrays: Arrays, pictures: tuple[Path, Path], nets: list[Any]
) -> None:
    truth = load(arrays, name="given")
    made = load(arrays, masks=None)
    ((x, y),) = nets
    assert cv2.imread(str(pictures[1] / "0.png"), 0)[round(y), round(x)] > 127  # the person that the parameters are of
    for i in range(COUNT):
        (picture, mask), (expected_picture, expected) = made.read_frame(i), truth.read_frame(i)
        assert np.array_equal(picture, expected_picture)
        assert ((mask > 127) & (expected > 127)).sum() / ((mask > 127) | (expected > 127)).sum() > 0.95


def test_nobody_for_a_mask(
    load: Callable[..., TrackedVideo], arrays: Arrays, nets: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Landmarks, "found", np.zeros(COUNT, bool))
    with pytest.raises(InputError, match=r"nobody is found .* --masks"):
        load(arrays, masks=None)


def test_a_body_outside_of_the_picture(load: Callable[..., TrackedVideo], arrays: Arrays) -> None:
    with pytest.raises(InputError, match="outside of the picture"):
        load({**arrays, "transl": arrays["transl"] + np.array([5.0, 0, 0], np.float32)})


def test_shape_of_another_body_is_left_out(
    load: Callable[..., TrackedVideo], arrays: Arrays, caplog: pytest.LogCaptureFixture
) -> None:
    made = load({**arrays, "body_model": "smplx"})
    assert not made.identity.betas.any() and not made.motion.expression.any() and made.motion.jaw_pose.any()
    assert "shape and expression are left out" in caplog.text


@pytest.mark.parametrize(("vertices", "kind"), [(10475, "smplx"), (10595, "smplx"), (13854, "embedded")])
def test_bodies_are_told_by_their_mesh(body: EhmModel, vertices: int, kind: str) -> None:
    """The official body is SMPL-X with 120 vertices of teeth."""
    mesh = replace(body.assets.body, v_template=torch.zeros(vertices, 3))
    assert body_kind(EhmModel(replace(body.assets, body=mesh))) == kind


def test_a_folder_that_is_there_stays(load: Callable[..., TrackedVideo], arrays: Arrays) -> None:
    first = load(arrays)
    (first.path / "mine").touch()
    with pytest.raises(OutputError, match="there already"):
        load(arrays)
    assert (first.path / "mine").exists()
    assert not (load(arrays, overwrite=True).path / "mine").exists()


def test_command_with_video_masks_and_sound(
    arrays: Arrays, pictures: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in pictures:
        with av.open(str(tmp_path / f"{folder.name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            sound = container.add_stream("aac", rate=48000, layout="mono") if folder.name == "talk" else None
            for i in range(COUNT):
                picture = cv2.imread(str(folder / f"{i}.png"))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
            container.mux(stream.encode())
            if sound is not None:
                wave = (np.sin(np.arange(1024 * 8) / 20) * 0.3).astype(np.float32)
                for i in range(8):
                    frame = av.AudioFrame.from_ndarray(wave[None, i * 1024 : (i + 1) * 1024], "fltp", "mono")
                    frame.sample_rate, frame.pts = 48000, i * 1024
                    container.mux(sound.encode(frame))
                container.mux(sound.encode())
    np.savez(tmp_path / "p.npz", **arrays)
    words = ["import", str(tmp_path / "talk.mp4"), str(tmp_path / "p.npz"), "--masks", str(tmp_path / "masks.mp4"),
             "--tracked_root", str(tmp_path / "out"), "--model_path", "embedded"]  # fmt: skip
    assert main(words) == 0
    assert "4 frames of 512 x 512 pixels, 25 frames per second" in capsys.readouterr().out
    made = TrackedVideo.open(tmp_path / "out", "talk")
    assert made.sound is not None and made.fps == 25 and (made.read_frame(0)[1] > 127).mean() > 0.05
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--name", "quiet", "--audio", "none"]) == 0
    assert TrackedVideo.open(tmp_path / "out", "quiet").sound is None


def test_lens_of_a_picture_of_another_size(load: Callable[..., TrackedVideo], arrays: Arrays) -> None:
    made = load(arrays)
    double = 2 * arrays["K"]
    double[:2, 2] += 0.5  # pixel centres are integers
    double[2, 2] = 1
    again = load({**arrays, "K": double, "image_size": [2 * WIDTH, 2 * HEIGHT]}, overwrite=True)
    assert made.K is not None and again.K is not None
    torch.testing.assert_close(again.K, made.K, rtol=1e-5, atol=1e-3)


def test_command_with_files_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guava_aug.avatar.model.load_body", lambda *a, **k: pytest.fail("nothing is loaded for these"))
    (tmp_path / "a.mp4").write_bytes(b"")
    for words in (["b.mp4", "a.mp4"], ["a.mp4", "b.npz"], ["a.mp4", "a.mp4", "--masks", "b"]):
        assert main(["import", *(w if w.startswith("--") else str(tmp_path / w) for w in words)]) == 2
        assert re.search(r"/b(\.\w+)? is not there; check the path", capsys.readouterr().err)
