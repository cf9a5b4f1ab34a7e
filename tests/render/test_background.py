"""Backgrounds on synthetic videos whose wall is known."""

from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch

from guava_aug.errors import InputError, UsageError
from guava_aug.render.background import add_grain, background_for, scaled_margin
from guava_aug.render.inpaint import grow, onion_peel_fill, smooth_fill
from guava_aug.render.plate import temporal_plate
from guava_aug.tracked.masks import PLATE_FRAMES, ranges

SIZE = 128
SHIRT = np.array([200, 20, 30], np.uint8)  # saturated red: its hue is nowhere on the wall


@dataclass
class Chunk:
    start: int
    stop: int
    images: torch.Tensor
    masks: torch.Tensor


class Video:
    """A person over a wall, stored at twice SIZE: a torso that never leaves and an arm that waves."""

    name = "synthetic"

    def __init__(self, num_frames=24, move=0, noise=2.0, jpeg=True, person=True, lost_hand=(), wall=None):
        self.num_frames, self.move, self.noise, self.jpeg = num_frames, move, noise, jpeg
        self.person, self.lost_hand = person, lost_hand
        y, x = np.mgrid[: 2 * SIZE, : 2 * SIZE].astype(np.float32) / (2 * SIZE)
        gradient = np.stack([150 + 60 * x, 150 + 50 * y, 190 - 50 * x], axis=-1)
        self.wall = gradient if wall is None else wall
        self.reads = []

    def parts(self, i):
        """(torso, arm) soft masks 0..1."""
        torso = np.zeros((2 * SIZE, 2 * SIZE), np.uint8)
        cv2.ellipse(torso, (128, 230), (50, 110), 0, 0, 360, 255, -1)
        arm = np.zeros_like(torso)
        angle = 2 * np.pi * i / self.num_frames
        hand = int(200 + 25 * np.cos(angle)), int(110 + 70 * np.sin(angle))
        cv2.line(arm, (150, 190), hand, 255, 18)
        return [cv2.GaussianBlur(p, (0, 0), 1.5).astype(np.float32) / 255 for p in (torso, arm)]

    def mask(self, i):
        torso, arm = self.parts(i)
        return np.maximum(torso, arm) if self.person else np.zeros_like(torso)

    def read_frame(self, i):
        self.reads.append(i)
        alpha = self.mask(i)[..., None]
        rgb = np.roll(self.wall, self.move * i, axis=1) * (1 - alpha) + SHIRT * alpha
        rgb = rgb + np.random.default_rng(i).normal(0, self.noise, rgb.shape)
        rgb = np.clip(rgb, 0, 255).astype(np.uint8)
        mask = self.parts(i)[0] if i in self.lost_hand else self.mask(i)
        mask = (mask * 255).round().astype(np.uint8)
        if self.jpeg:
            quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
            rgb = cv2.imdecode(cv2.imencode(".jpg", rgb[..., ::-1], quality)[1], cv2.IMREAD_COLOR)[..., ::-1]
            mask = cv2.imdecode(cv2.imencode(".jpg", mask, quality)[1], cv2.IMREAD_GRAYSCALE)
        return rgb, mask

    def clean(self):
        return cv2.resize(self.wall, (SIZE, SIZE), interpolation=cv2.INTER_AREA) / 255

    def ever_seen(self, margin):
        hidden = [grow(cv2.resize(self.mask(i), (SIZE, SIZE)) > 0.05, margin) for i in range(self.num_frames)]
        return ~np.logical_and.reduce(hidden)

    def chunk(self, start, stop):
        def small(x):
            return cv2.resize(x, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255

        frames = [self.read_frame(i) for i in range(start, stop)]
        images = torch.from_numpy(np.stack([small(rgb) for rgb, _ in frames])).permute(0, 3, 1, 2)
        return Chunk(start, stop, images, torch.from_numpy(np.stack([small(m) for _, m in frames]))[:, None])


def plate_of(video):
    background = background_for(video, "plate", SIZE)
    assert background.kind == "static", background.note
    return background, background.frames(video.chunk(0, 1))[0].permute(1, 2, 0).numpy()


def shirtness(picture):
    """How much redder than green a pixel is; the wall's largest value is 40/255."""
    return (picture[..., 0] - picture[..., 1]).max()


def test_plate_is_the_wall_where_it_was_ever_seen():
    video = Video()
    _, plate = plate_of(video)
    seen = video.ever_seen(margin=3)
    assert 0.6 < seen.mean() < 0.95
    error = np.abs(plate - video.clean())
    assert error[seen].max() < 6 / 255  # the truth carries noise and JPEG rounding
    assert error[seen].mean() < 1 / 255


def test_never_seen_area_continues_the_wall_without_the_person():
    video = Video()
    _, plate = plate_of(video)
    never = ~video.ever_seen(margin=3)
    assert never.mean() > 0.05
    assert np.abs(plate - video.clean())[never].max() < 12 / 255  # a step to the shirt's red is 110/255
    assert shirtness(plate) < 60 / 255
    steps = np.abs(np.diff(plate, axis=0)).max(axis=-1)
    assert steps[never[:-1]].max() < 8 / 255


def test_the_originals_fill_does_leave_the_person():
    """The contrast that makes the two tests above worth something."""
    video = Video(wall=np.full((2 * SIZE, 2 * SIZE, 3), 160, np.float32))
    big = Chunk(
        0,
        1,
        *(
            t.repeat_interleave(4, -1).repeat_interleave(4, -2)
            for t in vars(video.chunk(0, 1)).values()
            if isinstance(t, torch.Tensor)
        ),
    )
    filled = background_for(video, "original", 4 * SIZE).frames(big)
    assert shirtness(filled[0].permute(1, 2, 0).numpy()) > 100 / 255
    assert torch.equal(filled, onion_peel_fill(big.images, big.masks))


class StillArm(Video):
    def parts(self, i):
        return super().parts(0)


@pytest.mark.parametrize("kind", [Video, StillArm])
@pytest.mark.parametrize("lost_hand", [(6,), (6, 12)])
def test_a_mask_that_loses_the_arm_leaves_no_ghost(kind, lost_hand):
    video = kind(lost_hand=lost_hand)
    _, plate = plate_of(video)
    assert np.abs(plate - video.clean()).max() < 14 / 255  # the arm differs by 150/255


def test_an_area_seen_in_one_frame_only_shows_that_frame():
    class Curtain(Video):
        """Everything below row 180 is masked except in frame 3."""

        def mask(self, i):
            mask = np.zeros((2 * SIZE, 2 * SIZE), np.float32)
            mask[180 if i != 3 else 240 :] = 1
            return mask

    video = Curtain(noise=0)
    _, plate = plate_of(video)
    assert np.abs(plate - video.clean())[:110].max() < 6 / 255


def test_static_plate_has_one_frame_and_is_the_same_object_again():
    video = Video()
    background, _ = plate_of(video)
    first, second = background.frames(video.chunk(0, 2)), background.frames(video.chunk(5, 9))
    assert first.shape == (1, 3, SIZE, SIZE)
    assert first.data_ptr() == second.data_ptr()
    assert (background.mode, background.kind) == ("plate", "static")
    assert "never seen" in background.note


def test_moving_background_is_filled_per_frame():
    stripes = np.zeros((2 * SIZE, 2 * SIZE, 3), np.float32)
    stripes[:] = 120 + 60 * np.sin(np.arange(2 * SIZE) / 6)[None, :, None]
    video = Video(move=5, wall=stripes)
    background = background_for(video, "plate", SIZE)
    assert background.kind == "per-frame"
    assert "moves" in background.note
    chunk = video.chunk(3, 6)
    frames = background.frames(chunk)
    assert frames.shape == (3, 3, SIZE, SIZE)
    for t in range(3):
        person = grow(chunk.masks[t, 0].numpy() > 0.05, 3)
        assert torch.equal(frames[t][:, ~person], chunk.images[t][:, ~person])
        assert shirtness(frames[t].permute(1, 2, 0).numpy()) < 60 / 255


def test_noise_and_a_waving_person_are_not_a_moving_background():
    assert background_for(Video(noise=8.0), "plate", SIZE).kind == "static"


def test_one_frame_video():
    video = Video(num_frames=1)
    _, plate = plate_of(video)
    assert np.abs(plate - video.clean()).max() < 14 / 255
    assert shirtness(plate) < 60 / 255


def test_empty_masks_give_the_median_of_the_video():
    video = Video(person=False, noise=0, jpeg=False)
    _, plate = plate_of(video)
    np.testing.assert_allclose(plate, video.clean(), atol=1.1 / 255)


def test_full_masks_give_grey_and_nearly_full_ones_stay_finite():
    class Full(Video):
        left = 0

        def mask(self, i):
            mask = np.ones((2 * SIZE, 2 * SIZE), np.float32)
            mask[: self.left, : self.left] = 0
            return mask

    video = Full()
    assert (plate_of(video)[1] == 0.5).all()
    video.left = 16
    _, plate = plate_of(video)
    assert np.isfinite(plate).all()
    assert shirtness(plate) < 20 / 255


def test_at_most_64_frames_are_read_and_they_span_the_video():
    video = Video(num_frames=200, jpeg=False)
    background_for(video, "plate", SIZE)
    assert len(set(video.reads)) == len(video.reads) == PLATE_FRAMES
    assert (min(video.reads), max(video.reads)) == (0, 199)
    assert np.diff(sorted(video.reads)).max() <= 4


def test_same_video_same_plate():
    assert torch.equal(background_for(Video(), "plate", SIZE).plate, background_for(Video(), "plate", SIZE).plate)


def unfiltered(video):
    """The plate as it was before frames were left out: of all frames, step by step."""
    frames, people = [], []
    for i in range(video.num_frames):
        rgb, mask = video.read_frame(i)
        frames.append(cv2.resize(rgb, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
        people.append(cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_AREA) > 0.05 * 255)
    found = temporal_plate(np.stack(frames), np.stack(people), scaled_margin(SIZE))
    return add_grain(smooth_fill(found.picture, found.hole), found.hole)


@pytest.mark.parametrize("lost_hand", [(), (6,), (6, 12)])
def test_a_plate_without_rejected_frames_is_bit_for_bit_that_of_all_frames(lost_hand):
    video = Video(lost_hand=lost_hand)
    background, plate = plate_of(video)
    assert background.left_out == () and "without" not in background.note
    assert np.array_equal(plate, unfiltered(video))


class LostMasks(Video):
    """Masks that are empty in some frames."""

    lost = ()

    def read_frame(self, i):
        rgb, mask = super().read_frame(i)
        return rgb, mask * np.uint8(i not in self.lost)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_neighbouring_empty_masks_leave_nobody_in_the_plate(count):
    video = LostMasks(num_frames=80, jpeg=False)
    right = plate_of(video)[1]
    video.lost = tuple(range(75 - count, 75))
    background, plate = plate_of(video)
    read = sorted(set(video.reads))
    assert background.left_out == tuple(i for i in read if i in video.lost)
    assert f"without frames {ranges(background.left_out)} whose masks miss the person" in background.note
    assert shirtness(plate) < 60 / 255
    assert (np.abs(plate - right).max(-1) > 25 / 255).mean() < 0.005
    if count > 2:  # one or two were noticed before
        assert shirtness(unfiltered(video)) > 100 / 255


def test_frames_without_masks_show_nobody_where_the_background_moves(monkeypatch):
    """The background of the good frame next to it stands in."""
    stripes = np.zeros((2 * SIZE, 2 * SIZE, 3), np.float32)
    stripes[:] = 120 + 60 * np.sin(np.arange(2 * SIZE) / 6)[None, :, None]
    monkeypatch.setattr("guava_aug.tracked.masks.PLATE_FRAMES", 12)  # more frames than are sampled
    video = LostMasks(move=5, wall=stripes)
    right = background_for(video, "plate", SIZE).frames(video.chunk(0, 24))
    video.lost = (10, 11, 12)
    background = background_for(video, "plate", SIZE)
    assert background.kind == "per-frame" and background.left_out == (10, 11, 12)
    chunk = video.chunk(8, 16)
    untouched = chunk.images.clone()
    frames = background.frames(chunk)
    assert shirtness(frames[3].permute(1, 2, 0).numpy()) < 60 / 255
    for t, stands_in in enumerate((8, 9, 9, 9, 13, 13, 14, 15)):
        close = 2 / 255 if 10 <= 8 + t <= 12 else 0
        assert (frames[t] - right[stands_in]).abs().max() <= close
    assert torch.equal(chunk.images, untouched)


def test_undetected_masks_beside_rejected_ones_are_outvoted():
    """Where masks fail, their neighbours may have lost a part: too few samples then count only if they look right."""
    video = LostMasks(num_frames=24, lost_hand=(9, 10, 11), jpeg=False)
    video.lost = (12, 13, 14, 15)

    class Still(LostMasks):
        def parts(self, i):
            return Video.parts(self, 0)

    still = Still(num_frames=24, lost_hand=(9, 10, 11), jpeg=False)
    still.lost = video.lost
    for each in (video, still):
        background, plate = plate_of(each)
        assert background.left_out == (12, 13, 14, 15)
        assert shirtness(plate) < 60 / 255


def test_video_without_frames_is_refused():
    video = Video()
    video.num_frames = 0
    with pytest.raises(InputError, match="synthetic"):
        background_for(video)


def test_plain_colours():
    video = Video()
    black = background_for(video, "black", SIZE).frames(video.chunk(0, 2))
    green = background_for(video, "#00b140", SIZE).frames(video.chunk(0, 2))
    assert black.shape == green.shape == (1, 3, SIZE, SIZE)
    assert (black == 0).all()
    assert (green[0].permute(1, 2, 0) * 255).round().unique(dim=0).reshape(-1, 3)[0].tolist() == [0, 0xB1, 0x40]
    assert video.reads == [0, 1, 0, 1]  # only the chunks were read


@pytest.mark.parametrize("mode", ["#12345", "#gg0000", "#12 456", "plat", "", "Black"])
def test_unknown_modes_are_refused(mode):
    with pytest.raises(UsageError, match="--background"):
        background_for(Video(), mode, SIZE)


def test_picture_is_cropped_in_the_middle_to_cover(tmp_path):
    picture = np.zeros((40, 120, 3), np.uint8)
    picture[:, :40], picture[:, 40:80], picture[:, 80:] = (255, 0, 0), (0, 128, 255), (255, 255, 0)
    path = tmp_path / "bühne.png"
    path.write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
    background = background_for(Video(), str(path), SIZE)
    plate = background.frames(Video().chunk(0, 1))
    assert background.kind == "static"
    assert plate.shape == (1, 3, SIZE, SIZE)
    assert (plate[0, :, 5:-5, 5:-5] * 255).round().reshape(3, -1).unique(dim=1)[:, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("content", [None, b"", b"not a picture"])
def test_unreadable_pictures_are_refused(tmp_path, content):
    path = tmp_path / "wall.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"wall\.png"):
        background_for(Video(), str(path), SIZE)


def test_frames_that_cannot_be_read_are_reported():
    video = Video()

    def broken(i):
        raise InputError(f"synthetic: frame {i} is damaged")

    video.read_frame = broken
    with pytest.raises(InputError, match="damaged"):
        background_for(video, "plate", SIZE)
