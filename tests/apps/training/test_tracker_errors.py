"""What a tracker would find: sizes of its errors in millimetres and pixels, and that pictures of it fit."""

import numpy as np
import pytest
import torch

from guava_aug.apps.synthetic.bank import Bank
from guava_aug.apps.synthetic.motion import signing_motion
from guava_aug.apps.synthetic.scene import expression_names, tracked_camera
from guava_aug.apps.synthetic.subjects import make_identity
from guava_aug.apps.training.data import format_lenses
from guava_aug.apps.training.generate import through_lens
from guava_aug.apps.training.tracker_errors import ErrorSizes, Tracking, tracked_with_errors
from guava_aug.body.joints import INDEX
from guava_aug.views.cameras import fixed_camera

_PARTS = {
    "upper": ("left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
    "hands": ("left_wrist", "right_wrist", "left_middle1", "right_middle1"),
    "tips": ("left_index3", "right_index3", "left_middle3", "right_middle3"),
    "head": ("head", "left_eye", "right_eye"),
}
_FRAMES = 8


def _truths() -> list[Tracking]:
    bank, out = Bank.bare(), []
    for seed in range(6):
        identity = make_identity(bank, np.random.default_rng(seed), female=seed % 2 == 0)
        motion = signing_motion(bank.model, identity, expression_names(), seed, 5 * _FRAMES)[list(range(0, 40, 5))]
        rng, base, lenses = np.random.default_rng(seed), tracked_camera(seed), format_lenses(_FRAMES)
        views = base.repeat(_FRAMES, 1, 1)
        if seed % 3 == 1:
            near, lens = through_lens(base, rng)
            views, lenses = near.repeat(_FRAMES, 1, 1), lens.repeat(_FRAMES, 1)
        elif seed % 3 == 2:
            views = torch.cat([fixed_camera(base, rng.uniform(-0.5, 0.5), 0.2, 1.0).viewmats for _ in range(_FRAMES)])
        out.append(Tracking(identity, motion, views, lenses))
    return out


@pytest.fixture(scope="module")
def truths() -> list[Tracking]:
    return _truths()


def _errors(body, truth: Tracking, found: Tracking) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return millimetres off and off along the line of sight after aligning the neck, pixels of 1024: [n, J] each."""

    def seen(t: Tracking) -> tuple[torch.Tensor, torch.Tensor]:
        joints = body(t.identity, t.motion).joints
        p = joints @ t.viewmats[:, :3, :3].transpose(1, 2) + t.viewmats[:, None, :3, 3]
        xy = p[..., :2] / p[..., 2:] * t.lenses[:, None, :2] + t.lenses[:, None, 2:]
        return p - p[:, [INDEX["neck"]]], xy * 512

    (p, xy), (q, uv) = seen(truth), seen(found)
    return (p - q).norm(dim=-1) * 1000, (p - q)[..., 2].abs() * 1000, (xy - uv).norm(dim=-1)


def test_errors_are_as_large_as_those_of_our_tracker(body, truths):
    """Against docs/own_video.md: hands 35 to 49 mm, upper joints 20 to 24, head 8 to 12; hands 4.5 to 5.7 px."""
    found = [tracked_with_errors(body, t, np.random.default_rng(k)) for k, t in enumerate(truths)]
    mm, depth, px = (torch.stack(x) for x in zip(*map(lambda t, f: _errors(body, t, f), truths, found), strict=True))
    of = lambda values, part: float(values[..., [INDEX[name] for name in _PARTS[part]]].mean())
    assert 15 < of(mm, "upper") < 28
    assert 22 < of(mm, "hands") < 48
    assert 5 < of(mm, "head") < 14
    assert of(depth, "hands") > 0.8 * of(mm, "hands")
    for part, most in (("upper", 5), ("hands", 5), ("head", 6), ("tips", 8)):
        assert 2 < of(px, part) < most, part
    # a part of each person's is the same in all frames
    same = (depth - depth.mean(1, keepdim=True))[..., INDEX["left_wrist"]].std(1)
    assert float(same.mean()) < float(depth[..., INDEX["left_wrist"]].std())


def test_no_error_gives_back_the_truth(body, truths):
    nothing = ErrorSizes(
        betas=0, face_betas=0, scale=0, torso=(0, 0), collar=(0, 0), head=(0, 0), finger=0, twist=0, depth=0,
        hand_depth=0, pixels=0, camera=0, lens=0, expression=0, jaw=0, eyes=0, eyelids=0,
    )  # fmt: skip
    for truth in truths[:3]:
        found = tracked_with_errors(body, truth, np.random.default_rng(0), nothing, known_lens=False)
        exact, ours = body(truth.identity, truth.motion), body(found.identity, found.motion)
        torch.testing.assert_close(ours.vertices, exact.vertices, atol=2e-5, rtol=0)
        torch.testing.assert_close(found.viewmats, truth.viewmats, atol=1e-3, rtol=0)
        assert torch.equal(found.lenses, truth.lenses)


def test_the_same_generator_gives_the_same_errors(body, truths):
    a, b = (tracked_with_errors(body, truths[1], np.random.default_rng(4), known_lens=False) for _ in range(2))
    for name in ("body_pose", "global_orient", "left_hand_pose", "expression"):
        assert torch.equal(getattr(a.motion, name), getattr(b.motion, name))
    assert torch.equal(a.viewmats, b.viewmats) and torch.equal(a.lenses, b.lenses)
    assert not torch.equal(a.lenses, truths[1].lenses)
