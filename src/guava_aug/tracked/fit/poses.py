"""Poses and faces of every frame, window after window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from guava_aug.body.joints import INDEX, SIDES
from guava_aug.tracked.fit.contact import Contact
from guava_aug.tracked.fit.face import PRECISION, FaceProblem, gaze
from guava_aug.tracked.fit.observe import Clip, pixels
from guava_aug.tracked.fit.problem import BodyProblem
from guava_aug.tracked.fit.solver import Quadratic, Smoothness, solve_frames, solve_sequence

_WINDOW, _AHEAD = 96, 12  # frames solved together, and how many of them the next window solves again
_FIRST_CUTS = (30.0, 10.0)  # standard deviations: first everything counts
_FACE_SHARE = 0.1  # of what independent landmarks would tell
_FREEDOM = 3.0  # of Student's t: how easily fast movements are let go
_ACCELERATION = 1.5  # times that of the generated people
_FPS = 25.0  # of the usual accelerations
_GROUPS = (
    ("orient", "spine"), ("place",), ("neck", "head"), ("left_hand",), ("right_hand",),
    *(tuple(f"{side}_{n}" for n in ("collar", "shoulder", "elbow", "wrist")) for side in SIDES),
)  # fmt: skip


def solve_poses(
    clip: Clip, shape: Tensor, start: Callable[[Clip, Tensor], Tensor], iterations: int,
    done: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return poses [T, D], faces [T, 55] and rotation vectors of the eyes [T, 2, 3].

    Windows overlap: the last frames of one are solved again by the next, which continues from the two frames before.

    Args:
        clip: The clip.
        shape: [S].
        start: First poses of a window.
        iterations: At most so many of each solver.
        done: Told how many more frames are fitted; raises to stop.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    before: Tensor | None = None
    total, first = len(clip.landmarks), 0
    contact = clip.contact(shape)
    while first < total:
        last = min(total, first + _WINDOW)
        keep = last - first if last == total else last - first - _AHEAD
        window = clip.frames(slice(first, last))
        touching = contact.frames(slice(first, last))
        found = _window(window, shape, touching, start(window, shape), before, iterations)
        parts.append(tuple(a[:keep] for a in found))  # type: ignore[arg-type]
        before = found[0][keep - 2 : keep] if keep >= 2 else None
        first += keep
        if done is not None:
            done(keep)
    x, faces, eyes = (torch.cat(p) for p in zip(*parts, strict=True))
    return x, faces, eyes


def _window(
    clip: Clip, shape: Tensor, contact: Contact, x: Tensor, before: Tensor | None, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    for cut in _FIRST_CUTS:
        problem = replace(clip.problem(None, cut), contact=contact)
        x = solve_frames(frame_quadratic(problem, shape), x, iterations)
    faces = fit_faces(clip, x, shape, smooth=False, iterations=4)
    smooth = _smoothness(clip, x, before)
    problem = replace(clip.problem(clip.body.face.local(faces)), contact=contact)
    x = solve_sequence(_quadratic(problem, shape), smooth, x, iterations)
    faces = fit_faces(clip, x, shape, faces)
    return x, faces, _gaze(clip, x, shape)


def frame_quadratic(problem: BodyProblem, shape: Tensor) -> Callable[[Tensor, Tensor], Quadratic]:
    """Return the cost of frames `index` near x, for `solve_frames`."""
    return lambda x, index: problem.frames(index).frame_quadratic(x, shape)


def _quadratic(problem: BodyProblem, shape: Tensor) -> Callable[[Tensor], Quadratic]:
    return lambda x: problem.frame_quadratic(x, shape)


def _smoothness(clip: Clip, x: Tensor, before: Tensor | None) -> Callable[[Tensor], Smoothness]:
    c, slices = clip.body.calibration, clip.body.rig.space.slices
    typical = c.pose_acceleration * (_FPS / clip.fps) ** 2 * _ACCELERATION
    groups = [torch.cat([torch.arange(slices[n].start, slices[n].stop) for n in names]) for names in _GROUPS]
    plain = Smoothness(torch.ones_like(x), before)
    return lambda q: plain.reweighted(q, groups, typical, _FREEDOM)


def head_transform(clip: Clip, x: Tensor, shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return turn [T, 3, 3] and place [T, 3] of the head joint, and places [T, J, 3] of all joints, camera axes."""
    rig = clip.body.rig
    world, place = rig.transforms(x, clip.problem(None).root(x), rig.rest_joints(shape))
    return world[:, INDEX["head"]], place[:, INDEX["head"]], place


def fit_faces(
    clip: Clip, x: Tensor, shape: Tensor, faces: Tensor | None = None, *, smooth: bool = True, iterations: int = 6
) -> Tensor:
    """Return the face [T, 55] of frames whose bodies are at poses x [T, D]; `faces` is where to begin."""
    body, c = clip.body, clip.body.calibration
    turn, place, _ = head_transform(clip, x, shape)
    points = body.face.points
    rest = points.rest + points.rest_by_shape @ shape - body.rig.rest_joints(shape)[INDEX["head"]]
    seen = torch.from_numpy(clip.landmarks.face_score.astype(np.float64))[:, None]
    weights = seen * _FACE_SHARE / ((c.face_sigma * clip.scale) ** 2 + clip.detector_pixel**2)

    def fast(v: Tensor) -> Tensor:
        return v.to(PRECISION)

    problem = FaceProblem(
        body.fast_face, fast(rest), fast(turn), fast(place), fast(pixels(clip.landmarks.face)), fast(weights),
        body.face_prior.mean, body.face_prior.precision, clip.lens,
    )  # fmt: skip
    acceleration = c.expression_acceleration * (_FPS / clip.fps) ** 2
    start = problem.start(faces)
    found = (
        problem.solve(start, acceleration, iterations)
        if smooth
        else solve_frames(problem.frame_quadratic, start, iterations)
    )
    return found[:, 6:]


def _gaze(clip: Clip, x: Tensor, shape: Tensor) -> Tensor:
    turn, _, place = head_transform(clip, x, shape)
    c, lm = clip.body.calibration, clip.landmarks
    seen = (lm.face_score > 0) & (np.abs(lm.iris).sum((1, 2, 3)) > 0)
    weights = torch.from_numpy(seen.astype(np.float64) * lm.face_score)
    weights = weights / ((c.iris_sigma * clip.scale) ** 2 + clip.detector_pixel**2)
    eyes = place[:, [INDEX["left_eye"], INDEX["right_eye"]]]
    return gaze(turn, eyes, c.iris_offsets, pixels(lm.iris[:, :, 0]), weights, clip.lens)
