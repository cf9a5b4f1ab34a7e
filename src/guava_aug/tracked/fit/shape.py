"""Shape, lens and depth of a clip, from some of its frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from guava_aug.tracked.detect.landmarks import Landmarks
from guava_aug.tracked.fit.body_points import FittedBody
from guava_aug.tracked.fit.calibration import LIMB_KINDS, NUM_HAND, NUM_POSE
from guava_aug.tracked.fit.observe import Clip, first_depth, pixels
from guava_aug.tracked.fit.poses import fit_faces, frame_quadratic
from guava_aug.tracked.fit.problem import PLACE, BodyProblem, Lens, Prior
from guava_aug.tracked.fit.silhouette import Outline, outline
from guava_aug.tracked.fit.solver import solve_frames, solve_shared

_FRAMES = 24
_ROUNDS = 3
# Standard deviations of the shape; smaller than those of people, since the errors of many frames pull together.
# The size of a hand can hardly be told from its depth.
_SHAPE, _HAND_SCALE, _HEAD_SCALE = 0.25, 0.003, 0.012
_SIZE = 0.005  # of the size of a person, which one camera does not show
_USUAL_FOCAL, _FOCAL = 1.1, 0.3  # of lenses, in the picture's longer side; logarithm's standard deviation
_FIRST_FOCAL = 1.2  # where the search begins, in the picture's longer side
# What is wrong about near cameras: the face net flattens faces, upper arms seem turned to the camera, clothes are wide,
# and the usual pose is not this person's. For the lens they count these shares of what they count for the rest.
_LENS_FACE, _LENS_UPPER_ARMS, _LENS_OUTLINE, _LENS_PRIOR = 0.08, 0.1, 0.1, 0.2
_HELD = 1e-4  # standard deviation of a focal length that is given
_FIRST_CUTS = (30.0, 10.0)  # standard deviations: first everything counts


def first_poses(clip: Clip, shape: Tensor) -> Tensor:
    """Return poses [T, D] to begin with: the mean pose, its shoulders where they were seen."""
    body, landmarks = clip.body, clip.landmarks
    x = body.pose_prior.mean.expand(len(landmarks), -1).clone()
    problem = clip.problem(None)
    mean = problem.frames(slice(0, 1))
    at, root = mean.positions(x[:1], shape)[0], mean.root(x[:1])[0]
    seen = _held(pixels(landmarks.pose[:, [11, 12]]).mean(1), torch.from_numpy(landmarks.found))
    x[:, PLACE.start : PLACE.start + 2] = (seen - seen.new_tensor(clip.lens.center)) / clip.scale - (
        at[[11, 12]].mean(0) - root
    )[:2]
    return x


def shape_and_lens(body: FittedBody, landmarks: Landmarks, fps: float, lens: Lens | None) -> tuple[Tensor, Lens, float]:
    """Return shape [S], lens and reference depth of a clip.

    Args:
        body: The body.
        landmarks: The clip.
        fps: Its frames per second.
        lens: The lens in px of the picture; None: it is estimated, from sizes that change with depth.
    """
    chosen = _chosen(landmarks)
    if lens is not None:
        clip = Clip(body, landmarks, fps, lens, first_depth(body, landmarks, lens)).frames(chosen)
        return _solve(clip, None)
    height, width = landmarks.size
    side = max(height, width)
    guess = Lens(_FIRST_FOCAL * side, ((width - 1) / 2, (height - 1) / 2))
    clip = Clip(body, landmarks, fps, guess, first_depth(body, landmarks, guess)).frames(chosen)
    _, found, _ = _solve(clip, _USUAL_FOCAL * side)
    return shape_and_lens(body, landmarks, fps, found)


def _solve(clip: Clip, usual_focal: float | None) -> tuple[Tensor, Lens, float]:
    """Return shape, lens and depth; the focal length is near `usual_focal`, or held if that is None."""
    size = clip.body.rig.rest.space.size
    shared = torch.zeros(size + 1, dtype=torch.float64)
    x = first_poses(clip, shared[:-1])
    for cut in _FIRST_CUTS:
        x = solve_frames(frame_quadratic(clip.problem(None, cut), shared[:-1]), x, 10)
    offsets = None
    for _ in range(_ROUNDS):
        prior = _shape_prior(clip, usual_focal)
        problem = replace(clip.problem(offsets), outline=_outline(clip, x, shared[:-1]))
        if usual_focal is not None:
            problem = _for_lens(problem)
        x, shared, _ = solve_shared(lambda a, b, p=problem, q=prior: p.shared_quadratic(a, b, q), x, shared, 12)  # type: ignore[misc]
        # the new reference: the focal length that was found, and the median depth
        stretch, far = float(shared[-1].exp()), x[:, PLACE.stop - 1].median()
        lens = replace(clip.lens, focal=clip.lens.focal * stretch)
        clip = replace(clip, lens=lens, depth=clip.depth * stretch * float(far.exp()))
        x = x.clone()
        x[:, PLACE.start : PLACE.stop - 1] *= far.exp()
        x[:, PLACE.stop - 1] -= far
        shared = torch.cat([shared[:-1], shared.new_zeros(1)])
        faces = fit_faces(clip, x, shared[:-1], smooth=False)
        offsets = clip.body.face.local(faces)
    return shared[:-1], clip.lens, clip.depth


def _for_lens(problem: BodyProblem) -> BodyProblem:
    """Return the problem in which what says wrong things about lenses counts less."""
    seen, outline = problem.seen, problem.outline
    weights, directions = seen.weights.clone(), seen.direction_weights.clone()
    weights[:, NUM_POSE + 2 * NUM_HAND :] *= _LENS_FACE
    directions[:, [k for k, kind in enumerate(LIMB_KINDS) if kind == 0]] *= _LENS_UPPER_ARMS
    prior = replace(problem.prior, precision=problem.prior.precision * _LENS_PRIOR)
    return replace(
        problem, seen=replace(seen, weights=weights, direction_weights=directions), prior=prior,
        outline=None if outline is None else replace(outline, weights=outline.weights * _LENS_OUTLINE),
    )  # fmt: skip


def _outline(clip: Clip, x: Tensor, shape: Tensor) -> Outline:
    rig, lens = clip.body.rig, clip.lens
    world, place = rig.transforms(x, clip.problem(None).root(x), rig.rest_joints(shape))
    return outline(rig, clip.body.surface, clip.landmarks, shape, world, place, lens.focal, lens.center)


def _shape_prior(clip: Clip, usual_focal: float | None) -> Prior:
    size = clip.body.rig.rest.space.size
    sigma = torch.full((size + 1,), _SHAPE, dtype=torch.float64)
    sigma[-3], sigma[-2], sigma[-1] = _HAND_SCALE, _HEAD_SCALE, _HELD if usual_focal is None else _FOCAL
    slope = torch.cat([clip.body.size_slope, clip.body.size_slope.new_zeros(1)])
    mean = torch.zeros(size + 1, dtype=torch.float64)
    if usual_focal is not None:
        mean[-1] = float(np.log(usual_focal / clip.lens.focal))
    return Prior(mean, torch.diag(sigma**-2) + slope[:, None] * slope / _SIZE**2)


def _chosen(landmarks: Landmarks) -> Tensor:
    """Return numbers of frames that are well seen and spread over the clip."""
    score = landmarks.pose_score[:, 11:17].mean(1) + landmarks.face_score + landmarks.hand_score.sum(1)
    found = np.flatnonzero(landmarks.found)
    parts = np.array_split(found, min(_FRAMES, len(found)))
    return torch.tensor([int(p[np.argmax(score[p])]) for p in parts])


def _held(values: Tensor, ok: Tensor) -> Tensor:
    """Return values [T, .] with those of unseen frames taken from the nearest seen one."""
    ids = ok.nonzero()[:, 0]
    if not len(ids) or len(ids) == len(ok):
        return values
    return values[ids[(torch.arange(len(ok))[:, None] - ids).abs().argmin(1)]]
