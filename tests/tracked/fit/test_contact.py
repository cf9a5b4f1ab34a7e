"""Hands stay outside of the body, and before it where they are seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from perfect import DEPTH, FORMAT_LENS, fitter, landmarks_of, signing

from guava_aug.body.joints import INDEX
from guava_aug.tracked.fit.contact import Contact
from guava_aug.tracked.fit.observe import Clip
from guava_aug.tracked.fit.poses import frame_quadratic
from guava_aug.tracked.fit.problem import BodyProblem
from guava_aug.tracked.fit.solver import solve_frames
from guava_aug.tracked.fit.vectors import pose_vectors

FRAMES = 2


def _problem() -> tuple[BodyProblem, torch.Tensor, torch.Tensor]:
    """Contact alone with a prior, poses of generated signing, and their shape."""
    motion = signing(FRAMES)[1]
    clip = Clip(fitter().body, landmarks_of(motion), 25.0, FORMAT_LENS, DEPTH)
    x = clip.body.rig.space.from_rotation_vectors(pose_vectors(motion))
    x[:, 3:6] = torch.tensor([0.0, 0.18, 0.0], dtype=torch.float64)
    shape = torch.zeros(clip.body.rig.rest.space.size, dtype=torch.float64)
    return replace(clip.problem(None), contact=clip.contact(shape)), x, shape


def _between(problem: BodyProblem, x: torch.Tensor, shape: torch.Tensor) -> tuple[Contact, torch.Tensor]:
    contact, rig = problem.contact, problem.rig
    assert contact is not None
    joints = rig.rest_joints(shape)
    world, place = rig.transforms(x, problem.root(x), joints)
    at = torch.cat([rig.points(world, place, p, joints, shape) for p in (problem.points, contact.spheres)], 1)
    at = torch.cat([at[:, : contact.landmarks], at[:, len(problem.points) :]], 1)
    a, b = contact.ends.unbind(1)
    return contact, at[:, b] - at[:, a]


def _in_the_chest(x: torch.Tensor) -> torch.Tensor:
    """Poses whose left hand is in the chest: the upper arm hangs, the elbow is bent across the body."""
    slices = fitter().body.rig.space.slices
    x = x.clone()
    x[:, slices["left_shoulder"]] = torch.tensor([0.31, -0.52, -1.23], dtype=torch.float64)
    x[:, slices["left_elbow"]] = torch.tensor([0.68, -2.55, -0.21], dtype=torch.float64)
    return x


def test_spheres_are_inside_of_the_body() -> None:
    problem, _, _ = _problem()
    contact, surface = problem.contact, fitter().body.surface
    assert contact is not None
    spine = torch.isin(contact.spheres.joints, torch.tensor([INDEX[f"spine{k}"] for k in (1, 2, 3)]))
    reach = torch.cdist(contact.spheres.rest[spine], surface.rest) - contact.radii[spine, None]
    assert reach.min(1).values.abs().max() < 0.01, "the spheres of the trunk touch its skin"
    front = contact.spheres.rest[spine, 2] + contact.radii[spine]
    assert abs(float(front.max() - surface.rest[:, 2].max())) < 0.015


def test_derivatives_are_those_of_finite_differences() -> None:
    problem, x, shape = _problem()
    x = _in_the_chest(x)
    free = replace(problem, contact=None)
    pull = problem.frame_quadratic(x, shape).gradient - free.frame_quadratic(x, shape).gradient
    assert pull.abs().max() > 1, "something touches"
    step = 1e-6
    for k in range(0, x.shape[1], 3):
        costs = []
        for sign in (1, -1):
            moved = x.clone()
            moved[:, k] += sign * step
            costs.append(problem.frame_quadratic(moved, shape).cost - free.frame_quadratic(moved, shape).cost)
        torch.testing.assert_close(pull[:, k], (costs[0] - costs[1]) / (2 * step), rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("depth", [-0.04, 0.03])
def test_what_is_in_a_sphere_is_pushed_out_and_what_is_behind_it_to_the_front(depth: float) -> None:
    problem, _, _ = _problem()
    contact = problem.contact
    assert contact is not None
    pair = int(contact.front.nonzero()[0])
    between = torch.ones(1, len(contact.front), 3, dtype=torch.float64)
    between[0, pair] = torch.tensor([0.01, 0.0, depth], dtype=torch.float64)
    inside, slope = contact.inside(between)
    assert inside[0, pair] > 0
    assert slope[0, pair, 2] > 0, "the cost falls to the camera"
    assert slope[0, pair, 0] < 0, "and outwards"
    assert not inside[0, ~torch.isin(torch.arange(len(contact.front)), torch.tensor([pair]))].any()
    assert not slope[inside == 0].any()


def test_a_hand_in_the_chest_comes_out_to_the_front() -> None:
    problem, x, shape = _problem()
    x = _in_the_chest(x)
    seen = replace(
        problem.seen, weights=torch.zeros_like(problem.seen.weights),
        direction_weights=torch.zeros_like(problem.seen.direction_weights),
    )  # fmt: skip
    prior = replace(problem.prior, mean=x[0], precision=problem.prior.precision * 0.05)
    alone = replace(problem, seen=seen, prior=prior)
    contact, between = _between(alone, x, shape)
    before = contact.inside(between)[0].amax(1)
    assert (before > 0.03).all()
    found = solve_frames(frame_quadratic(alone, shape), x, 20)
    after = contact.inside(_between(alone, found, shape)[1])[0].amax(1)
    assert (after < 0.4 * before).all(), (before, after)


def test_a_hand_that_was_not_seen_is_left_alone() -> None:
    problem, x, shape = _problem()
    x = _in_the_chest(x)
    assert problem.contact is not None
    unseen = replace(problem, contact=replace(problem.contact, weights=torch.zeros_like(problem.contact.weights)))
    expected = replace(problem, contact=None).frame_quadratic(x, shape)
    torch.testing.assert_close(unseen.frame_quadratic(x, shape).cost, expected.cost)
