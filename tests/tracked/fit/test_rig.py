"""The reduced body is the body, and its derivatives are derivatives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from perfect import DEPTH, FORMAT_LENS, fitter, joints_about_neck, landmarks_of, signing

from guava_aug.body.ehm import axis_angle_to_matrix
from guava_aug.tracked.fit.observe import Clip
from guava_aug.tracked.fit.rig import axis_angle, left_jacobian, rotation_vector
from guava_aug.tracked.fit.solver import solve_pentadiagonal
from guava_aug.tracked.fit.vectors import pose_vectors


def test_rig_joints_are_those_of_the_body_model() -> None:
    identity, motion = signing(6)
    rig = fitter().body.rig
    x = rig.space.from_rotation_vectors(pose_vectors(motion))
    shape = torch.zeros(rig.rest.space.size, dtype=torch.float64)
    _, place = rig.transforms(x, torch.zeros(6, 3, dtype=torch.float64), rig.rest_joints(shape))
    expected = joints_about_neck(identity, motion).double()
    apart = ((place - place[:, 12:13]) * 1e3 - expected).norm(dim=-1)
    assert apart[:, :25].max() < 0.1, "trunk and arms have all their turns"
    # the generator bends about the z of the body, our hinges are square to each bone: 7 mm in a bent little finger
    assert apart[:, 25:].max() < 10
    assert apart[:, 25:].mean() < 2


def test_derivatives_are_those_of_finite_differences() -> None:
    _, motion = signing(2)
    body = fitter().body
    problem = Clip(body, landmarks_of(motion), 25.0, FORMAT_LENS, DEPTH).problem(None)
    x = body.rig.space.from_rotation_vectors(pose_vectors(motion))
    x[:, 3:6] = torch.tensor([0.02, 0.15, 0.03], dtype=torch.float64)
    shape = torch.zeros(body.rig.rest.space.size, dtype=torch.float64)
    quadratic = problem.frame_quadratic(x, shape)
    step = 1e-6
    for k in range(0, x.shape[1], 7):
        moved = [x.clone(), x.clone()]
        moved[0][:, k] += step
        moved[1][:, k] -= step
        above, below = (problem.frame_quadratic(m, shape).cost for m in moved)
        torch.testing.assert_close(quadratic.gradient[:, k], (above - below) / (2 * step), rtol=2e-4, atol=2e-2)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_rotation_vectors_and_their_jacobian(entries: list[float]) -> None:
    r = torch.tensor([entries], dtype=torch.float64)
    R = axis_angle(r)
    torch.testing.assert_close(axis_angle_to_matrix(rotation_vector(R)), R, rtol=0, atol=1e-6)
    d = torch.tensor([[1e-5, -2e-5, 1.5e-5]], dtype=torch.float64)
    turned = axis_angle((left_jacobian(r) @ d[..., None])[..., 0]) @ R
    torch.testing.assert_close(axis_angle(r + d), turned, rtol=0, atol=1e-8)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7])
def test_banded_solution_is_the_dense_one(frames: int) -> None:
    g = torch.Generator().manual_seed(frames)
    D = 3
    root = torch.randn(frames, D, D, generator=g, dtype=torch.float64)
    blocks = root @ root.transpose(1, 2) + 8 * torch.eye(D)
    first, second, right = (torch.randn(frames, D, generator=g, dtype=torch.float64) for _ in range(3))
    dense = torch.zeros(frames * D, frames * D, dtype=torch.float64)
    for t in range(frames):
        dense[t * D : t * D + D, t * D : t * D + D] = blocks[t]
        for away, values in ((1, first), (2, second)):
            if t + away < frames:
                a, b = slice(t * D, t * D + D), slice((t + away) * D, (t + away) * D + D)
                dense[a, b] = dense[b, a] = torch.diag(values[t])
    expected = torch.linalg.solve(dense, right.flatten()).reshape(frames, D)
    torch.testing.assert_close(solve_pentadiagonal(blocks, first, second, right), expected)
