"""The detector on pictures of the embedded synthetic people, against landmarks recorded from mediapipe 0.10.21."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from guava_aug.assets import embedded_path
from guava_aug.errors import InputError
from guava_aug.tracked.detect import Landmarks, detect
from guava_aug.tracked.detect.landmarks import LEFT, RIGHT
from guava_aug.tracked.detect.regions import from_picture
from guava_aug.tracked.mdb import MdbFile

CLIPS = ("signer_a", "signer_b", "signer_c")
SIDES = ((LEFT, "left_hand"), (RIGHT, "right_hand"))
# Medians over the landmarks, in pixels of a net's region of 256. Measured 0.01, 0.13 and 0.03; the nets in torch agree
# with LiteRT to 1e-4, and each region depends on the landmarks before it.
POSE_TOLERANCE, HAND_TOLERANCE, FACE_TOLERANCE = 0.1, 0.5, 0.2


def frames_of(clip: str, numbers: list[int]) -> list[np.ndarray]:
    file = MdbFile(embedded_path("clips", clip, "img_lmdb", "data.mdb"))
    slots = [slot for key, slot in sorted(dict(file.scan(b"")).items()) if key.endswith(b"/body_image")]
    bgr = [cv2.imdecode(np.frombuffer(file.read(slots[i]), np.uint8), cv2.IMREAD_COLOR) for i in numbers]
    return [cv2.cvtColor(b, cv2.COLOR_BGR2RGB) for b in bgr]


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "landmarks.npz") as data:
        return dict(data)


def check_parity(
    ours: list[Landmarks], recorded: dict[str, np.ndarray], prefix: str, rows: slice = slice(None)
) -> None:
    join = lambda name: np.concatenate([getattr(o, name) for o in ours])
    their = {part: recorded[f"{prefix}|{part}"][rows] for part in ("pose", "pose_score", "pose_world", "face")}
    side = join("mask_region")[:, 2, None]
    assert np.median(distance(join("pose"), their["pose"]) / side) * 256 < POSE_TOLERANCE
    assert np.median(np.abs(join("pose")[..., 2] - their["pose"][..., 2]) / side) * 256 < 2 * POSE_TOLERANCE
    np.testing.assert_allclose(join("pose_score"), their["pose_score"], atol=0.01)
    assert np.median(np.linalg.norm(join("pose_world") - their["pose_world"], axis=-1)) < 1e-3  # metres
    for number, part in SIDES:
        hand, theirs = join("hands")[:, number], recorded[f"{prefix}|{part}"][rows]
        assert (join("hand_score")[:, number] > 0.5).all() and np.isfinite(theirs).all()
        side = np.ptp(theirs[..., :2], axis=1).max(1)[:, None] * 2
        assert np.median(distance(hand, theirs) / side) * 256 < HAND_TOLERANCE
        assert np.median(np.abs(hand[..., 2] - theirs[..., 2]) / side) * 256 < 2 * HAND_TOLERANCE
    side = np.ptp(their["face"][..., :2], axis=1).max(1)[:, None] * 1.5
    assert np.median(distance(join("face"), their["face"]) / side) * 256 < FACE_TOLERANCE
    assert (join("face_score") > 0.9).all()


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[..., :2] - b[..., :2], axis=-1)


@pytest.mark.parametrize("clip", CLIPS)
def test_a_single_picture_gives_mediapipes_landmarks(recorded: dict[str, np.ndarray], clip: str):
    middle = slice(1, 2)
    numbers = [int(i) for i in recorded[f"{clip}|single|frames"][middle]]
    check_parity([detect(frames_of(clip, numbers))], recorded, f"{clip}|single", middle)


@pytest.fixture(scope="module")
def followed(recorded: dict[str, np.ndarray]) -> Landmarks:
    numbers = [int(i) for i in recorded["signer_b|tracked|frames"]]
    return detect(iter(frames_of("signer_b", numbers)), batch=4)


def test_a_clip_gives_mediapipes_landmarks(followed: Landmarks, recorded: dict[str, np.ndarray]):
    check_parity([followed], recorded, "signer_b|tracked")


def test_shapes_types_and_ranges(followed: Landmarks):
    count = len(followed)
    expected = {
        "pose": (33, 3), "pose_score": (33,), "pose_world": (33, 3), "hands": (2, 21, 3), "hand_score": (2,),
        "hands_world": (2, 21, 3), "face": (468, 3), "face_score": (), "iris": (2, 5, 2), "mask_region": (5,),
    }  # fmt: skip
    for name, shape in expected.items():
        values = getattr(followed, name)
        assert values.shape == (count, *shape) and values.dtype == np.float32, name
    assert followed.person_mask.shape == (count, 256, 256) and followed.person_mask.dtype == np.uint8
    assert followed.size == frames_of("signer_b", [0])[0].shape[:2]
    assert followed.frames_without_person == []


def test_left_is_the_persons_left(followed: Landmarks):
    """The person faces the camera: the left hand, eye and shoulder are on the right of the picture."""
    assert (followed.pose[:, 11, 0] > followed.pose[:, 12, 0]).all()
    assert (followed.iris[:, LEFT, 0, 0] > followed.iris[:, RIGHT, 0, 0]).all()
    for side, wrist in ((LEFT, 15), (RIGHT, 16)):
        near = distance(followed.hands[:, side, 0], followed.pose[:, wrist])
        far = distance(followed.hands[:, side, 0], followed.pose[:, 31 - wrist])
        assert (near < far).all()


def test_irises_lie_between_the_corners_of_their_eyes(followed: Landmarks):
    for side, (inner, outer) in ((LEFT, (362, 263)), (RIGHT, (133, 33))):
        centre = followed.iris[:, side, 0]
        a, b = followed.face[:, inner, :2], followed.face[:, outer, :2]
        along = ((centre - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1)
        assert (along > 0.2).all() and (along < 0.8).all()
        assert (distance(centre, (a + b) / 2) < 0.4 * distance(a, b)).all()
        rim = distance(followed.iris[:, side, 1:], centre[:, None])  # an eye is about 2.4 irises wide
        assert (rim / distance(a, b)[:, None] > 0.1).all() and (rim / distance(a, b)[:, None] < 0.45).all()


def test_world_coordinates_are_metres(followed: Landmarks):
    shoulders = np.linalg.norm(followed.pose_world[:, 11] - followed.pose_world[:, 12], axis=-1)
    palm = np.linalg.norm(followed.hands_world[:, :, 0] - followed.hands_world[:, :, 9], axis=-1)
    assert (shoulders > 0.2).all() and (shoulders < 0.5).all()
    assert (palm > 0.05).all() and (palm < 0.14).all()


def test_the_mask_covers_the_face_and_not_the_corner(followed: Landmarks):
    for mask, region, nose in zip(followed.person_mask, followed.mask_region, followed.pose[:, 0], strict=True):
        x, y = (from_picture(nose[None, :2], region)[0] * 256).astype(int)
        assert mask[y, x] > 200
        x, y = (from_picture(np.array([[2.0, 2.0]]), region)[0] * 256).astype(int)
        assert mask[y, x] < 50


def test_a_picture_without_a_person_is_kept_and_named():
    person = frames_of("signer_a", [0])[0]
    empty = np.full_like(person, 90)
    found = detect([empty, person, person, empty, person], batch=2)
    assert found.frames_without_person == [0, 3]
    for name in ("pose", "pose_score", "hands", "hand_score", "face", "face_score", "iris", "person_mask"):
        assert not getattr(found, name)[[0, 3]].any(), name
        assert getattr(found, name)[[1, 2, 4]].any(), name
    assert detect([empty]).frames_without_person == [0]


@pytest.fixture(scope="module")
def two_persons() -> list[np.ndarray]:
    """A person on the left and a larger one on the right."""
    small, large = frames_of("signer_a", [0, 1, 2]), frames_of("signer_c", [0, 1, 2])
    pictures = []
    for a, b in zip(small, large, strict=True):
        side = a.shape[0]
        picture = np.full((side, side * 2, 3), 128, np.uint8)
        half = cv2.resize(a, (side // 2, side // 2), interpolation=cv2.INTER_AREA)
        picture[side // 2 :, : side // 2], picture[:, side:] = half, b
        pictures.append(picture)
    return pictures


def test_the_larger_of_two_persons_is_followed_unless_another_is_asked_for(two_persons: list[np.ndarray]):
    width = two_persons[0].shape[1]
    nose = lambda **choice: detect(two_persons[:1], **choice).pose[:, 0, 0]
    assert (nose() > width / 2).all()
    assert (nose(person=0) < width / 2).all()
    assert (nose(person=1) > width / 2).all()
    at = detect(two_persons[:1], person=0).pose[0, 0, :2]
    assert (nose(person=(float(at[0]), float(at[1]) + 20)) < width / 2).all()
    with pytest.raises(InputError, match=r"person 2 is asked for, .* show 2"):
        detect(two_persons[:1], person=2)


@pytest.mark.thorough
def test_the_person_is_followed_when_the_larger_one_comes_later(two_persons: list[np.ndarray]):
    alone = two_persons[0].copy()
    alone[:, alone.shape[1] // 2 :] = 128
    found = detect([alone, *two_persons], batch=1)
    assert (found.pose[:, 0, 0] < alone.shape[1] / 2).all()
    gone = two_persons[1].copy()
    gone[:, : gone.shape[1] // 2] = 128
    found = detect([alone, two_persons[0], gone, two_persons[2]], batch=1)
    assert found.frames_without_person == [2]
    assert (found.pose[[0, 1, 3], 0, 0] < alone.shape[1] / 2).all()


def test_bad_frames_are_refused_with_number_and_form():
    good = np.zeros((64, 48, 3), np.uint8)
    with pytest.raises(InputError, match=r"frame 1 is uint8 \[48, 64, 3\]; expected .* \[64, 48, 3\]"):
        detect([good, good.transpose(1, 0, 2)])
    with pytest.raises(InputError, match=r"frame 0 is float32"):
        detect([good.astype(np.float32)])
    with pytest.raises(InputError, match="no frames"):
        detect([])


def test_it_stops_between_batches_and_reads_no_further():
    read: list[int] = []

    def frames():
        for i in range(100):
            read.append(i)
            yield np.zeros((32, 32, 3), np.uint8)

    calls: list[int] = []

    def stop() -> None:
        calls.append(len(read))
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detect(frames(), batch=3, stop=stop)
    assert calls == [3, 6] and len(read) == 6


def test_a_window_of_frames_gives_what_single_frames_give():
    """Also around a frame without the person, after which nothing of the frames before is known."""
    shown = frames_of("signer_b", [0, 1, 2, 3, 4])
    pictures = [*shown[:2], np.zeros_like(shown[0]), *shown[2:]]
    one_by_one, together = (detect(pictures, batch=batch) for batch in (1, 16))
    assert one_by_one.frames_without_person == together.frames_without_person == [2]
    for name in ("pose", "hands", "face", "iris", "hand_score", "face_score"):
        a, b = getattr(one_by_one, name), getattr(together, name)
        assert ((a != 0) == (b != 0)).all()  # the same parts are found
        assert np.median(np.abs(a - b)) < 0.1  # px: batches are rounded differently
    flatness = together.face_flatness
    assert flatness is not None
    assert np.isfinite(flatness).tolist() == [True, False, False, False, False, False]
