"""Sessions of calibrated cameras: what their files say, and a whole one, of a generated person, with distortion."""

import json
import math

import cv2
import numpy as np
import pytest
import torch

from guava_aug.apps.evaluation.real import CalibratedPack
from guava_aug.apps.evaluation.session import (
    UprightVideo,
    choose_moments,
    find_videos,
    moments,
    rate,
    read_cameras,
)
from guava_aug.apps.evaluation.session_pack import _make_empty, _Seen, pack_of_session, scale_of_fit
from guava_aug.apps.synthetic.bank import Bank
from guava_aug.apps.synthetic.render import render_vertices
from guava_aug.apps.synthetic.scene import make_scene
from guava_aug.errors import InputError, UsageError
from guava_aug.output.video import VideoWriter
from guava_aug.views.cameras import Cameras

W, H = 320, 240
K = [[260.0, 0, 158.0], [0, 262.0, 121.0], [0, 0, 1]]
BENT = [-0.2, 0.05, 0.001, -0.002, 0.0]


def camera_text(name, rotation, translation, **more):
    values = {"cam_id": int(name), "rotation_count": 0, "error": 0.3, "size": [W, H], "matrix": K, "distortions": BENT,
              "rotation": rotation, "translation": translation, **more}  # fmt: skip
    as_toml = lambda v: str(v).lower() if isinstance(v, bool) else json.dumps(v)
    return f"[cameras.{name}]\n" + "\n".join(f"{k} = {as_toml(v)}" for k, v in values.items()) + "\n"


def turned(yaw):
    c, s = math.cos(yaw), math.sin(yaw)
    return [[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]]


def write_video(path, pictures, fps=5):
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, pictures[0].shape[1], pictures[0].shape[0], fps, crf=1) as writer:
        for picture in pictures:
            writer.write(np.ascontiguousarray(picture)[None])


def plain(value, count=6):
    return [np.full((H, W, 3), value + 10 * i, np.uint8) for i in range(count)]


@pytest.fixture
def session(tmp_path):
    vector = cv2.Rodrigues(np.array(turned(0.5)))[0][:, 0].tolist()  # the other spelling of a rotation
    (tmp_path / "camera_array.toml").write_text(
        camera_text("0", turned(0.0), [0, 0, 1.0])
        + camera_text("1", vector, [0.1, 0, 1.1], rotation_count=1)
        + camera_text("2", turned(0.1), [0, 0, 1.0], ignore=True)
        + "[cameras.3]\nsize = [320, 240]\n"  # not calibrated
    )
    for name in (0, 1):
        write_video(tmp_path / "calibration/extrinsic" / f"cam_{name}.mp4", plain(20))
    return tmp_path


def test_cameras_are_read_in_both_spellings_and_those_without_a_place_are_left_out(session):
    cameras = read_cameras(session / "camera_array.toml")
    assert list(cameras) == ["0", "1"] and cameras["1"].turns == 1
    assert torch.allclose(cameras["1"].viewmat[:3, :3], torch.tensor(turned(0.5), dtype=torch.float64), atol=1e-9)
    assert cameras["0"].calibration.size == (H, W)
    assert cameras["0"].calibration.distortion == tuple(BENT)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[cameras", "cannot be parsed"),
        ("a = 1", "expected a table"),
        (camera_text("0", turned(0), [0, 0, 1]), "two or more calibrated cameras, found 0"),
        (camera_text("0", [[2, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 1]), "camera 0: .*is no rotation"),
        (camera_text("0", turned(0), [0, 1]), "camera 0: its place cannot be used"),
        (camera_text("0", turned(0), [0, 0, 1], fisheye=True), "camera 0: fisheye"),
        (camera_text("0", turned(0), [0, 0, 1], rotation_count="left"), "camera 0: .*quarter turns"),
    ],
)
def test_what_is_wrong_with_a_camera_is_said(tmp_path, text, word):
    (tmp_path / "camera_array.toml").write_text(text)
    with pytest.raises(InputError, match=word):
        read_cameras(tmp_path / "camera_array.toml")


def test_the_only_recording_is_found_and_of_several_one_must_be_named(session):
    names = ["0", "1"]
    assert find_videos(session, names)["1"].name == "cam_1.mp4"
    for name in names:
        (session / "recordings/walk").mkdir(parents=True, exist_ok=True)
        (session / "recordings/walk" / f"port_{name}.mp4").write_bytes(b"")
    with pytest.raises(UsageError, match=r"recordings.walk, calibration.extrinsic\).*--recording"):
        find_videos(session, names)
    assert find_videos(session, names, "recordings/walk")["0"].name == "port_0.mp4"
    with pytest.raises(InputError, match="no videos"):
        find_videos(session, names, "nowhere")


@pytest.mark.parametrize("synced", [True, False])
def test_moments_are_those_that_all_cameras_saw(session, synced):
    folder = session / "calibration/extrinsic"
    videos = find_videos(session, ["0", "1"])
    lengths = {"0": 6, "1": 5}
    assert moments(videos, lengths, "0")[0] == [{"0": i, "1": i} for i in range(5)]
    # camera 1 missed the moment 12; the numbers of frames count from before the videos begin
    rows = [(10 + k, 0, 10 + k, 7.0 + 0.2 * k) for k in range(6)]
    rows += [(10 + k, 1, 10 + n, 7.01 + 0.2 * k) for n, k in enumerate((0, 1, 3, 4, 5))]
    head = ("sync_index,cam_id,frame_index,frame_time", "cam_id,frame_time")[not synced]
    (folder / "timestamps.csv").write_text(
        "\n".join([head, *(",".join(map(str, r if synced else (r[1], r[3]))) for r in rows[::-1])]) + "\n"
    )
    found, per_second = moments(videos, lengths, "0")
    assert found == [{"0": a, "1": b} for a, b in ((0, 0), (1, 1), (3, 2), (4, 3), (5, 4))]
    assert per_second == pytest.approx(5.0, rel=0.01)
    (folder / "timestamps.csv").write_text("cam_id,frame_time\n0,x\n1,1\n")
    with pytest.raises(InputError, match=r"timestamps.csv: expected numbers"):
        moments(videos, lengths, "0")


def test_moments_are_chosen_as_slices(session):
    assert list(choose_moments(10, None)) == list(range(10))
    assert list(choose_moments(10, "2:9:3")) == [2, 5, 8] and list(choose_moments(10, ":2")) == [0, 1]
    for text in ("3", "a:b", "0:5:0", "20:30"):
        with pytest.raises(UsageError, match="--session_frames"):
            choose_moments(10, text)
    source = UprightVideo(
        read_cameras(session / "camera_array.toml")["0"], find_videos(session, ["0", "1"])["0"]
    ).source
    assert rate(6.0, 3, source) == 2 and rate(0.0, 5, source) == 1  # without times: as the video says


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_pictures_are_straight_and_upright_where_the_camera_says(session, turns):
    """A white dot where OpenCV sees a point through lens and distortion is where K and viewmat then say it is."""
    point = np.array([0.13, -0.09, 0.4])
    text = camera_text("0", turned(0.2), [0, 0, 1.0], rotation_count=turns) + camera_text("1", turned(0), [0, 0, 1.0])
    (session / "camera_array.toml").write_text(text)
    rotation = cv2.Rodrigues(np.array(turned(0.2)))[0]
    at = cv2.projectPoints(point[None], rotation, np.array([0, 0, 1.0]), np.array(K), np.array(BENT))[0][0, 0]
    y, x = np.mgrid[:H, :W]
    dot = (255 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 18)).astype(np.uint8)
    write_video(session / "calibration/extrinsic/cam_0.mp4", [np.repeat(dot[..., None], 3, 2)] * 2)
    video = UprightVideo(read_cameras(session / "camera_array.toml")["0"], find_videos(session, ["0", "1"])["0"])
    (picture,) = video.pictures([1])
    assert picture.shape[:2] == video.size == ((H, W) if turns % 2 == 0 else (W, H)) == video.valid.shape
    seen = video.viewmat[:3, :3] @ torch.from_numpy(point) + video.viewmat[:3, 3]
    there = (video.K @ seen)[:2] / seen[2]
    weight = picture[..., 0].astype(float) ** 2
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    found = [(weight * v).sum() / weight.sum() for v in (x, y)]
    assert np.allclose(found, there.numpy(), atol=0.3)
    with pytest.raises(InputError, match="frame 7 cannot be decoded"):
        list(video.pictures([0, 7]))


def test_a_folder_of_somebody_else_is_not_emptied(tmp_path):
    views = tmp_path / "views"
    _make_empty(views)
    (views / "old.png").touch()
    _make_empty(views)  # made by this program
    assert not (views / "old.png").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious.txt").touch()
    with pytest.raises(UsageError, match="holds other files; choose another --output"):
        _make_empty(other)
    assert (other / "precious.txt").exists()


def test_of_many_moments_every_nth_is_taken():
    assert choose_moments(100, None) == range(100)
    assert len(choose_moments(3600, None)) == 120


def near_scene(frames):
    """A generated person, and cameras 2.2 m away: the scene, its vertices, and looks of two cameras at it."""
    bank = Bank.bare()
    scene = make_scene(bank, 9001, frames)
    vertices = scene.person.skin.vertices(bank.model(scene.person.identity, scene.motion))
    joints = bank.model(scene.person.identity, scene.motion).joints
    middle = joints[:, [16, 17]].mean((0, 1))  # between the shoulders; the tracked world is y down
    views = []
    for yaw in (0.0, 0.55):
        c, s = math.cos(yaw), math.sin(yaw)
        R = torch.tensor([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
        view = torch.eye(4)
        view[:3, :3] = R
        view[:3, 3] = torch.tensor([0.0, -0.05, 2.2]) - R @ middle
        views.append(view)
    return bank, scene, vertices, views


class _Clip:
    def __init__(self, scene, viewmats):
        self.identity, self.motion, self.viewmats = scene.person.identity, scene.motion, viewmats


class _Found:
    def __init__(self, pose):
        self.pose, self.pose_score = pose, np.ones(pose.shape[:2], np.float32)


def test_the_scale_of_a_fit_is_found_by_the_other_cameras():
    """A body that was fitted 1.25 times too large: its units have 0.8 m, whatever single points say."""
    bank, scene, _, views = near_scene(3)
    ids = [23, 24, 18, 19, 20, 21]  # eyes, elbows, wrists
    joints = bank.model(scene.person.identity, scene.motion).joints[:, ids].double()
    other = views[1].double()
    lens = torch.tensor([[600.0, 0, 320], [0, 600.0, 240], [0, 0, 1]], dtype=torch.float64)
    seen = joints @ other[:3, :3].T + other[:3, 3]
    pixels = (seen @ lens.T)[..., :2] / seen[..., 2:] + 0.5
    pose = np.zeros((3, 33, 3), np.float32)
    pose[:, [2, 5, 13, 14, 15, 16], :2] = pixels.numpy()
    pose[1, 15, :2] += 150  # a wrist that was taken for another's
    grown = views[0]
    body = bank.model

    class Grown:
        def to(self, device):
            return self

        def __call__(self, identity, motion):
            class Posed:
                joints = 1.25 * (body(identity, motion).joints @ grown[:3, :3].T + grown[:3, 3])

            return Posed

    class Video:
        K, viewmat = lens, other

    clip = _Clip(scene, torch.eye(4).repeat(3, 1, 1))
    metres, apart = scale_of_fit(Grown(), clip, views[0].double(), {"1": _Seen(Video, _Found(pose))})
    assert metres == pytest.approx(0.8, abs=0.003) and apart["1"] < 1.5


@pytest.mark.thorough
def test_a_session_of_a_generated_person_becomes_calibrated_views(tmp_path):
    frames, size, width, height = 8, 256, 640, 480
    bank, scene, vertices, views = near_scene(frames)
    lens = np.array([[620.0, 0, 318.0], [0, 622.0, 243.0], [0, 0, 1]])
    bent = np.array([-0.15, 0.04, 0.001, -0.001, 0.0])
    # an ideal picture is drawn through a wider lens, then bent as OpenCV's model bends it
    wide = lens.copy()
    wide[:2, :2] *= 0.8
    points = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 1, 2).astype(np.float64)
    straight = cv2.undistortPoints(points, lens, bent, P=wide).reshape(height, width, 2).astype(np.float32)
    for name, view in enumerate(views):
        camera = Cameras(view.expand(frames, 4, 4), torch.from_numpy(wide).float(), width, height)
        rgb, alpha = render_vertices(vertices, scene.person.skin, scene.light, camera)
        pictures = (rgb + (1 - alpha) * torch.tensor([0.55, 0.6, 0.65])[:, None, None]).clamp(0, 1)
        pictures = (pictures * 255).byte().permute(0, 2, 3, 1).numpy()
        bent_ones = [cv2.remap(p, straight, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for p in pictures]
        write_video(tmp_path / "session/recordings/one" / f"cam_{name}.mp4", bent_ones, 10)
    text = "".join(
        camera_text(str(i), v[:3, :3].tolist(), v[:3, 3].tolist(), size=[width, height], matrix=lens.tolist(),
                    distortions=bent.tolist())
        for i, v in enumerate(views)
    )  # fmt: skip
    (tmp_path / "session/camera_array.toml").write_text(text)
    device = torch.device("cpu")
    folder = pack_of_session(tmp_path / "session", tmp_path / "views", "0", bank.model, device, size=size)
    pack = CalibratedPack(folder)
    fit = pack.fit("tracked")
    assert pack.num_frames == frames and set(pack.cameras) == {"0", "1"} and pack.scored
    # real metres: the truth is 2.2 m before the camera, whatever the units of the fit are
    shoulders = bank.model(fit.identity, fit.motion).joints[:, [16, 17]].mean(1)
    depth = (shoulders @ fit.viewmats[0, :3, :3].T + fit.viewmats[:, :3, 3])[:, 2] * fit.metres
    assert float(depth.mean()) == pytest.approx(2.2, abs=0.15)
    # where masks and cameras of both views are right, the true body covers the masks
    for i, name in enumerate(("0", "1")):
        camera = pack.cameras[name]
        truth = Cameras(views[i].expand(frames, 4, 4), camera.K.float(), size, size)
        _, alpha = render_vertices(vertices, scene.person.skin, scene.light, truth)
        for k in pack.scored:
            mask, valid = pack.picture(name, k)[1][0] > 0.5, pack.valid(name)
            body = (alpha[k, 0] > 0.5) & valid
            assert float((mask & body).sum() / (mask | body).sum()) > 0.85, (name, k)
    before = (folder / "pack.json").stat().st_mtime_ns
    pack_of_session(tmp_path / "session", tmp_path / "views", "0", bank.model, device, size=size)
    assert (folder / "pack.json").stat().st_mtime_ns == before  # made before
    with pytest.raises(UsageError, match=r"--source_camera 9: .*0, 1"):
        pack_of_session(tmp_path / "session", tmp_path / "views", "9", bank.model, device, size=size)
