"""Joints that bend too far are bent back."""

from __future__ import annotations

from dataclasses import replace

import torch
from perfect import DEPTH, FORMAT_LENS, fitter, landmarks_of, signing

from guava_aug.tracked.fit.limits import limits_of
from guava_aug.tracked.fit.observe import Clip
from guava_aug.tracked.fit.vectors import pose_vectors

FRAMES = 3


def _poses() -> torch.Tensor:
    x = fitter().body.rig.space.from_rotation_vectors(pose_vectors(signing(FRAMES)[1]))
    x[:, 3:6] = torch.tensor([0.0, 0.18, 0.0], dtype=torch.float64)
    return x


def test_generated_signing_is_within_the_limits() -> None:
    space = fitter().body.rig.space
    x = space.from_rotation_vectors(pose_vectors(signing(60)[1]))
    out, stiff = limits_of(space).beyond(x)
    assert out.abs().max() < 0.35
    assert (stiff > 0).double().mean() < 0.01


def test_both_sides_have_the_same_limits() -> None:
    space = fitter().body.rig.space
    limits = limits_of(space)
    mirror = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    for name in ("elbow", "wrist"):
        low, high = (getattr(limits, n)[space.slices[f"left_{name}"]] * mirror for n in ("low", "high"))
        part = space.slices[f"right_{name}"]
        torch.testing.assert_close(limits.low[part], torch.minimum(low, high))
        torch.testing.assert_close(limits.high[part], torch.maximum(low, high))
    torch.testing.assert_close(limits.low[space.slices["left_hand"]], limits.low[space.slices["right_hand"]])


def test_an_elbow_and_a_finger_that_bend_backwards_are_pushed_back() -> None:
    problem = Clip(fitter().body, landmarks_of(signing(FRAMES)[1]), 25.0, FORMAT_LENS, DEPTH).problem(None)
    shape = torch.zeros(problem.rig.rest.space.size, dtype=torch.float64)
    slices = problem.rig.space.slices
    bends = {  # unknown: a value that no joint reaches
        slices["left_elbow"].start + 1: 0.6, slices["right_elbow"].start + 1: -0.6, slices["left_hand"].start + 2: -0.5,
        slices["right_hand"].start + 3: 2.2,
    }  # fmt: skip
    free = replace(problem, limits=None)
    for column, value in bends.items():
        x = _poses()
        x[:, column] = value
        pull = problem.frame_quadratic(x, shape).gradient - free.frame_quadratic(x, shape).gradient
        assert (pull[:, column].sign() == torch.tensor(value).sign()).all(), "the cost grows away from the range"
        other = torch.arange(x.shape[1]) != column
        torch.testing.assert_close(pull[:, other], torch.zeros_like(pull[:, other]), rtol=0, atol=0.5)
        step = 1e-6
        costs = []
        for sign in (1, -1):
            moved = x.clone()
            moved[:, column] += sign * step
            costs.append(problem.frame_quadratic(moved, shape).cost - free.frame_quadratic(moved, shape).cost)
        torch.testing.assert_close(pull[:, column], (costs[0] - costs[1]) / (2 * step), rtol=1e-3, atol=1e-2)
