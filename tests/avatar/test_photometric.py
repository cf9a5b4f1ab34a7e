"""Poses, shape and camera against pictures: towards the truth on drawn pictures, and never for the worse."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from guava_aug.apps.synthetic import default_body_path
from guava_aug.avatar.avatar import Avatar
from guava_aug.avatar.decoders import RawGaussians
from guava_aug.avatar.personalize import Observations, Rates, Weights, photometric
from guava_aug.avatar.personalize.config import FitConfig
from guava_aug.avatar.personalize.photometric import (
    Figures,
    PhotometricConfig,
    PhotometricFitter,
    default_config,
    fade,
    frames_given_up,
    why_not_better,
    windows,
)
from guava_aug.avatar.personalize.picture_fit import rasterize
from guava_aug.avatar.personalize.pose_fit import PoseFit
from guava_aug.avatar.personalize.video import TooFewFramesError
from guava_aug.body import EhmModel, Identity, Motion, load_body_file
from guava_aug.errors import InputError
from guava_aug.tracked.fit.quality import PARTS
from guava_aug.views.cameras import intrinsics

SIZE, FRAMES, CHANNELS = 48, 2, 16
K = intrinsics(SIZE, SIZE, 0.3)
LEFT_ELBOW, LEFT_WRIST = 17, 19  # of body_pose
JOINTS = [18, 20, 37]  # elbow, wrist, fingers of the left arm


@pytest.fixture(scope="module")
def body() -> EhmModel:
    return EhmModel(load_body_file(default_body_path(), uv_size=32))


@pytest.fixture(scope="module")
def avatar(body: EhmModel) -> Avatar:
    """Painted with stripes, so that pictures say where limbs are."""
    identity = Identity(torch.zeros(20), torch.zeros(20), torch.ones(3), torch.ones(3), torch.zeros(55, 3))
    vertices, texels = len(body.assets.body.v_template), int((body.assets.uv_face >= 0).sum())

    def raw(n: int, scale: float, local: bool) -> RawGaussians:
        return RawGaussians(
            torch.zeros(n, CHANNELS), torch.full((n, 1), 0.95), torch.full((n, 3), scale),
            torch.tensor([1.0, 0, 0, 0]).expand(n, 4).clone(), torch.zeros(n, 3) if local else None,
        )  # fmt: skip

    made = Avatar.build(body, identity, raw(vertices, 0.01, False), raw(texels, 0.2, True), 0.001)
    at = body.assets.v_canonical
    stripes = torch.sin(torch.stack([at[:, 0] * 20, at[:, 1] * 20, at[:, 0] * 9], 1)) * 0.4 + 0.5
    none = {name: getattr(made, name)[:0] for name in ("uv_local", "uv_quats", "uv_scales", "uv_face", "uv_bary")}
    features = torch.cat([stripes, made.features[:vertices, 3:]], 1)
    return replace(made, features=features, opacities=made.opacities[:vertices], **none)


@pytest.fixture(scope="module")
def motion() -> Motion:
    zeros = lambda *s: torch.zeros(FRAMES, *s)
    pose = zeros(21, 3)
    pose[:, 15, 2], pose[:, 16, 2] = -1.0, 1.0  # arms down
    pose[1, LEFT_ELBOW, 2] = 0.2
    turned = torch.tensor([torch.pi, 0, 0]).expand(FRAMES, 3).clone()
    return Motion(turned, pose, zeros(15, 3), zeros(15, 3), zeros(50), zeros(50), zeros(3), zeros(2, 3), zeros(2))


@pytest.fixture(scope="module")
def viewmats() -> torch.Tensor:
    view = torch.eye(4).repeat(FRAMES, 1, 1)
    view[:, 2, 3], view[:, 1, 3] = 2.4, 0.3
    return view


@pytest.fixture(scope="module")
def seen(avatar: Avatar, motion: Motion, viewmats: torch.Tensor) -> Observations:
    with torch.no_grad():
        features, alpha = rasterize(avatar.pose(motion), viewmats, K.expand(FRAMES, 3, 3), SIZE, SIZE)
    return Observations(
        images=(features[:, :3] * 255 + 0.5).clamp(0, 255).to(torch.uint8), masks=(alpha * 255 + 0.5).to(torch.uint8),
        frames=torch.arange(FRAMES), cameras=torch.zeros(FRAMES, dtype=torch.long),
        known=torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool), relative=torch.eye(4)[None], K=K[None],
    )  # fmt: skip


@pytest.mark.thorough
def test_poses_come_nearer_to_the_truth_and_to_the_pictures(
    body: EhmModel, avatar: Avatar, motion: Motion, viewmats: torch.Tensor, seen: Observations
) -> None:
    moved = motion.body_pose.clone()
    moved[:, LEFT_ELBOW, 2] += 0.2
    start, views = replace(motion, body_pose=moved), viewmats.clone()
    views[:, 0, 3] += 0.02
    config = FitConfig(
        steps=40, frames_per_step=2, warmup=0, rates=Rates(pose=8e-3, camera=1e-3, shape=0.0, hands=0.0, face=0.0),
        weights=Weights(pose=0.3, camera=0.1, depth=0.0), blur_speed=0,
    )  # fmt: skip
    steps = []
    fit = PoseFit(avatar, start, views, seen, None, config, tied=20, smooth=1.0)
    identity, found, found_views = fit.run(lambda done, total: steps.append((done, total)))
    assert steps[0] == (1, 40) and steps[-1] == (40, 40)

    def off(motion_: Motion, views_: torch.Tensor) -> tuple[float, float]:
        with torch.no_grad():
            a, b = (body.pose(avatar.rest, m).joints + v[:, None, :3, 3] for m, v in
                    ((motion, viewmats), (motion_, views_)))  # fmt: skip
            features, alpha = rasterize(avatar.pose(motion_), views_, K.expand(FRAMES, 3, 3), SIZE, SIZE)
            true = seen.images.float() / 255
            error = ((features[:, :3] + 0.5 * (1 - alpha)) - (true + 0.5 * (1 - seen.masks / 255.0))).square().mean()
        return float((a - b)[:, JOINTS].norm(dim=-1).mean()), float(-10 * torch.log10(error))

    before, after = off(start, views), off(found, found_views)
    assert after[0] < 0.6 * before[0]  # metres
    assert after[1] > before[1] + 2  # dB
    assert torch.equal(identity.betas, avatar.rest.identity.betas)
    assert torch.equal(found.left_hand_pose, motion.left_hand_pose)


def test_shape_coefficients_of_the_head_go_with_those_of_the_body(
    avatar: Avatar, motion: Motion, viewmats: torch.Tensor, seen: Observations
) -> None:
    config = FitConfig(steps=2, frames_per_step=1, rates=Rates(shape=0.1))
    identity, _, _ = PoseFit(avatar, motion, viewmats, seen, None, config, tied=20).run()
    assert identity.betas.abs().max() > 0
    assert torch.equal(identity.betas[:20], identity.flame_betas[:20])


@pytest.mark.parametrize(("total", "size", "overlap"), [(1, 64, 8), (5, 64, 8), (64, 64, 8), (65, 64, 8), (999, 64, 8)])
def test_windows_cover_a_clip_and_overlap(total: int, size: int, overlap: int) -> None:
    found = list(windows(total, size, overlap))
    assert found[0][0] == 0 and found[-1][1] == total
    assert all(0 < last - first <= size + 1 for first, last in found)
    assert all(0 < a[1] - b[0] <= overlap + 1 for a, b in itertools.pairwise(found))


def figures(error: float, iou: float = 0.9, frames: int = 6) -> Figures:
    return Figures(np.full(frames, error), np.full(frames, error), np.full(frames, iou))


def quality(px: float, jitter: float = 1.0, frames: int = 6) -> SimpleNamespace:
    return SimpleNamespace(reprojection={part: np.full(frames, px) for part in PARTS}, jitter=jitter)


def test_what_got_worse_is_given_up_frame_by_frame() -> None:
    before, after = figures(0.02), figures(0.01)
    after.error[1] = 0.03
    before.error[5] = np.nan  # nobody is seen: nothing is worse
    old, new = quality(4.0), quality(5.0)
    new.reprojection["left_hand"][3] = 12.0
    assert frames_given_up(before, after, old, new).tolist() == [False, True, False, True, False, False]


def test_a_clip_that_is_no_better_stays() -> None:
    good = figures(0.02), figures(0.01), quality(4.0), quality(4.5)
    assert why_not_better(*good) is None
    assert "no nearer" in str(why_not_better(good[0], figures(0.02), *good[2:]))
    assert "no nearer" in str(why_not_better(good[0], figures(math.nan), *good[2:]))
    better_outside = replace(good[1], psnr_error=np.full(6, 0.021))  # beside the person alone
    assert "no nearer" in str(why_not_better(good[0], better_outside, *good[2:]))
    assert frames_given_up(good[0], better_outside, *good[2:]).all()
    assert "outline" in str(why_not_better(good[0], figures(0.01, 0.8), *good[2:]))
    assert "landmarks of face" in str(why_not_better(*good[:3], quality(6.0)))
    assert "jitters" in str(why_not_better(*good[:3], quality(4.5, jitter=2.0)))


def test_changes_fade_beside_a_frame_that_is_given_up(motion: Motion) -> None:
    T = 12
    old = Motion(**{k: v[:1].expand(T, *v.shape[1:]) for k, v in vars(motion).items()})
    new = replace(old, body_pose=old.body_pose + 1.0)
    views = torch.eye(4).repeat(T, 1, 1)
    given_up = np.zeros(T, bool)
    given_up[2] = True
    mixed, _ = fade(given_up, old, views, new, views)
    share = (mixed.body_pose - old.body_pose)[:, 0, 0]
    assert share[2] == 0 and torch.allclose(share[7:], torch.ones(T - 7))
    assert (share[2:7].diff() > 0).all() and share.diff().abs().max() < 0.34


@pytest.fixture
def fitter() -> PhotometricFitter:
    made = PhotometricFitter.__new__(PhotometricFitter)
    made.model, made.config, made.size = SimpleNamespace(device=torch.device("cpu")), PhotometricConfig(), SIZE
    return made


@pytest.fixture
def clip(motion: Motion, viewmats: torch.Tensor) -> tuple[SimpleNamespace, SimpleNamespace]:
    """A video and its landmark fit."""
    landmarks = SimpleNamespace(found=np.ones(FRAMES, bool))
    fitted = SimpleNamespace(
        identity="identity",
        motion=motion,
        viewmats=viewmats,
        quality="quality",
        clip=SimpleNamespace(landmarks=landmarks),
    )
    return SimpleNamespace(name="clip", num_frames=FRAMES), fitted


def test_a_clip_that_the_gpu_has_no_memory_for_keeps_its_landmark_fit(
    fitter: PhotometricFitter, clip: tuple[SimpleNamespace, SimpleNamespace], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    video, fitted = clip
    for error in (torch.cuda.OutOfMemoryError("2 GiB"), RuntimeError("Triton Error [CUDA]: out of memory")):
        ticks: list[int] = []

        def work(*args: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(photometric, "_Refining", work)
        found = fitter.refine(video, fitted, ticks.append)
        assert (found.identity, found.quality) == ("identity", "quality") and found.motion is fitted.motion
        assert found.report["used"] is False and "too little memory on the GPU" in str(found.report["why_not"])
        assert sum(ticks) == FRAMES and "the fit to its landmarks stays" in caplog.text


def test_a_frame_that_cannot_be_read_is_no_frame_without_a_person(
    fitter: PhotometricFitter, clip: tuple[SimpleNamespace, SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    video, fitted = clip

    def fails(error: Exception) -> None:
        def observe(*args: object, **more: object) -> None:
            raise error

        monkeypatch.setattr(photometric, "observe_video", observe)

    refining = photometric._Refining.__new__(photometric._Refining)
    refining.fitter, refining.video, refining.fitted = fitter, video, fitted
    refining.config, refining.model, refining.device = fitter.config, fitter.model, fitter.model.device
    refining.progress = photometric._Progress(FRAMES, lambda n: None)
    fails(TooFewFramesError("two frames"))
    assert refining.run().report == {"used": False, "why_not": "too few frames show the person"}
    fails(InputError("frame 1 is damaged"))
    with pytest.raises(InputError, match="frame 1 is damaged"):
        refining.run()
    with pytest.raises(InputError, match="frame 1 is damaged"):
        refining.measure(None, fitted.motion, fitted.viewmats)  # type: ignore[arg-type]


def test_a_cpu_does_with_small_pictures() -> None:
    config = default_config(torch.device("cpu"))
    assert not config.refined and config.size == 256
    assert default_config(torch.device("cuda")).refined
