"""The edge of the mask as an observation of the shape."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from perfect import DEPTH, FORMAT_LENS, SIZE, fitter, landmarks_of, signing

from guava_aug.tracked.detect.landmarks import Landmarks
from guava_aug.tracked.fit.observe import Clip
from guava_aug.tracked.fit.problem import Prior
from guava_aug.tracked.fit.silhouette import Outline, outline
from guava_aug.tracked.fit.vectors import pose_vectors
from guava_aug.tracked.outline import BodyOutline

FRAMES = 2


def _poses() -> tuple[torch.Tensor, torch.Tensor]:
    rig = fitter().body.rig
    x = rig.space.from_rotation_vectors(pose_vectors(signing(FRAMES)[1]))
    x[:, 3:6] = torch.tensor([0.0, 0.18, 0.0], dtype=torch.float64)
    return x, torch.zeros(rig.rest.space.size, dtype=torch.float64)


def _landmarks(mask: np.ndarray) -> Landmarks:
    """Landmarks with a mask [T, S, S] of the whole picture, at half its size as a net would give it."""
    region = np.tile(np.array([SIZE / 2, SIZE / 2, SIZE, SIZE, 0], np.float32), (FRAMES, 1))
    small = mask.reshape(FRAMES, SIZE // 2, 2, SIZE // 2, 2).mean((2, 4))
    return replace(landmarks_of(signing(FRAMES)[1]), person_mask=(small * 255).astype(np.uint8), mask_region=region)


def _own_mask() -> np.ndarray:
    x, shape = _poses()
    rig, body = fitter().body.rig, BodyOutline(fitter().model)
    identity, motion = signing(FRAMES)
    root = Clip(fitter().body, landmarks_of(motion), 25.0, FORMAT_LENS, DEPTH).problem(None).root(x)
    viewmats = torch.eye(4).repeat(FRAMES, 1, 1)
    viewmats[:, :3, 3] = (root - rig.rest_joints(shape)[0]).float()
    return body.silhouettes(body.rest(identity), motion, viewmats, SIZE)


def _outline(landmarks: Landmarks) -> Outline:
    x, shape = _poses()
    body = fitter().body
    rig = body.rig
    root = Clip(body, landmarks, 25.0, FORMAT_LENS, DEPTH).problem(None).root(x)
    world, place = rig.transforms(x, root, rig.rest_joints(shape))
    return outline(rig, body.surface, landmarks, shape, world, place, FORMAT_LENS.focal, FORMAT_LENS.center)


def _away(found: Outline) -> torch.Tensor:
    """How far the mask's edge is outside of the body, px, of the points that count."""
    x, shape = _poses()
    problem = Clip(fitter().body, landmarks_of(signing(FRAMES)[1]), 25.0, FORMAT_LENS, DEPTH).problem(None)
    rig = fitter().body.rig
    joints = rig.rest_joints(shape)
    world, place = rig.transforms(x, problem.root(x), joints)
    px = problem.project(rig.points(world, place, found.points, joints, shape))
    return (found.target - (px * found.across).sum(-1))[found.weights > 0]


def test_the_bodys_own_silhouette_ends_at_its_outline_less_the_clothes() -> None:
    found = _outline(_landmarks(_own_mask()))
    assert (found.weights > 0).sum() > 25 * FRAMES
    clothes = 0.006 * FORMAT_LENS.focal / DEPTH  # px
    assert abs(float(_away(found).median()) + clothes) < 1.5


def test_a_larger_mask_pulls_outwards_and_what_is_outside_of_the_picture_does_not() -> None:
    own = _own_mask()
    larger = np.stack([cv2.dilate(m.astype(np.uint8), np.ones((13, 13), np.uint8)) for m in own]) > 0
    grown = float(_away(_outline(_landmarks(larger))).median() - _away(_outline(_landmarks(own))).median())
    assert 4 < grown < 8
    cropped = replace(_landmarks(own), size=(SIZE, SIZE // 2))
    right = _outline(cropped)
    half = (right.points.rest[..., 0] > 0.1) & (right.weights > 0)  # metres: the person's left, right in the picture
    assert not half.any()


def test_its_derivatives_are_those_of_finite_differences() -> None:
    landmarks = _landmarks(_own_mask())
    x, shape = _poses()
    D = x.shape[1]
    problem = replace(
        Clip(fitter().body, landmarks, 25.0, FORMAT_LENS, DEPTH).problem(None), outline=_outline(landmarks)
    )
    seen = problem.seen  # the outline alone
    problem = replace(
        problem, seen=replace(seen, weights=seen.weights * 0, direction_weights=seen.direction_weights * 0)
    )
    flat = Prior(torch.zeros(len(shape) + 1).double(), torch.zeros(len(shape) + 1, len(shape) + 1).double())
    problem = replace(problem, prior=Prior(torch.zeros(D).double(), torch.zeros(D, D).double()))
    shared = torch.cat([shape, torch.full((1,), 0.1).double()])
    found = problem.shared_quadratic(x, shared, flat)
    step = 1e-6

    def cost(x: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        return problem.shared_quadratic(x, shared, flat).frames.cost.sum()

    for k in (0, 2, 4, 5, 7):
        d = torch.zeros_like(x)
        d[:, k] = step
        slope = (cost(x + d, shared) - cost(x - d, shared)) / (2 * step)
        torch.testing.assert_close(found.frames.gradient[:, k].sum(), slope, rtol=1e-4, atol=1e-3)
    for k in (0, 1, 3, len(shape)):
        e = torch.zeros_like(shared)
        e[k] = step
        slope = (cost(x, shared + e) - cost(x, shared - e)) / (2 * step)
        torch.testing.assert_close(found.gradient[k], slope, rtol=1e-3, atol=1e-3)
