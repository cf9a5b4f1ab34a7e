"""Landmarks as a perfect detector would give them: points of a known body, with noise."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from guava_aug.apps.synthetic import default_body_path
from guava_aug.apps.synthetic.motion import signing_motion
from guava_aug.apps.synthetic.scene import expression_names
from guava_aug.body import EhmModel, Identity, Motion, load_body_file
from guava_aug.tracked.detect.landmarks import Landmarks
from guava_aug.tracked.fit import ClipFitter, Lens
from guava_aug.tracked.fit.calibration import Calibration
from guava_aug.tracked.fit.observe import Clip
from guava_aug.tracked.fit.rig import axis_angle
from guava_aug.tracked.fit.vectors import pose_vectors

SIZE = 512
FORMAT_LENS = Lens(12.0 * SIZE, (255.5, 255.5))
DEPTH = 14.4  # metres, of the format's lens


@cache
def fitter() -> ClipFitter:
    """The embedded body with a detector whose directions in space are true."""
    calibration = Calibration.load()
    unit = torch.cat([torch.eye(3), torch.zeros(3, 1)], 1).double()
    maps = {n: unit.expand(len(getattr(calibration, n)), 3, 4).clone() for n in ("bone_maps", "limb_maps")}
    return ClipFitter(EhmModel(load_body_file(default_body_path(), 64)), replace(calibration, **maps))


@cache
def signing(frames: int, seed: int = 77) -> tuple[Identity, Motion]:
    """A mean person who signs."""
    rest = fitter().body.rig.rest
    identity = rest.space.identity(torch.zeros(rest.space.size))
    return identity, signing_motion(fitter().model, identity, expression_names(), seed, frames)


def landmarks_of(motion: Motion, lens: Lens = FORMAT_LENS, depth: float = DEPTH, noise: float = 0.3) -> Landmarks:
    """Landmarks of the mean person in a picture of 512 px; `noise` px, one standard deviation."""
    body, T = fitter().body, len(motion)
    rng = np.random.default_rng(5)
    rig = body.rig
    x = rig.space.from_rotation_vectors(pose_vectors(motion))
    x[:, 3:6] = torch.tensor([0.0, 0.18, 0.0], dtype=torch.float64)
    shape = torch.zeros(rig.rest.space.size, dtype=torch.float64)
    empty = Landmarks(
        *(np.zeros(s, np.float32) for s in ((T, 33, 3), (T, 33), (T, 33, 3), (T, 2, 21, 3), (T, 2), (T, 2, 21, 3),
                                           (T, 468, 3), (T,), (T, 2, 5, 2))),
        np.zeros((T, 256, 256), np.uint8), np.zeros((T, 5), np.float32), (SIZE, SIZE),
    )  # fmt: skip
    problem = Clip(body, empty, 25.0, lens, depth).problem(None)
    at = problem.positions(x, shape)
    world, place = rig.transforms(x, problem.root(x), rig.rest_joints(shape))
    face = torch.cat([motion.flame_expression, motion.jaw_pose, motion.eyelids], 1).double()
    head = world[:, 15]
    local = body.face.points.rest + body.face.local(face) - rig.joints[15]
    face_px = problem.project(place[:, 15:16] + local @ head.transpose(1, 2))
    eyes = (
        place[:, 23:25]
        + (head[:, None] @ axis_angle(motion.eye_pose.double()) @ body.calibration.iris_offsets[..., None])[..., 0]
    )

    def seen(px: torch.Tensor) -> np.ndarray:
        out = px.numpy() + 0.5 + rng.normal(0, noise, px.shape)
        return np.concatenate([out, np.zeros_like(out[..., :1])], -1).astype(np.float32)

    points = seen(problem.project(at[:, :75]))
    space = at[:, :75].numpy().astype(np.float32)
    hips = (space[:, 23:24] + space[:, 24:25]) / 2
    score = np.ones((T, 33), np.float32)
    score[:, 25:] = 0
    return replace(
        empty, pose=points[:, :33], pose_score=score, pose_world=space[:, :33] - hips,
        hands=points[:, 33:].reshape(T, 2, 21, 3), hand_score=np.ones((T, 2), np.float32),
        hands_world=space[:, 33:].reshape(T, 2, 21, 3), face=seen(face_px), face_score=np.ones(T, np.float32),
        iris=np.repeat(seen(problem.project(eyes))[:, :, None, :2], 5, 2),
    )  # fmt: skip


def joints_about_neck(identity: Identity, motion: Motion) -> torch.Tensor:
    """Joints [T, 55, 3] from the neck, mm."""
    joints = fitter().model(identity, motion).joints
    return (joints - joints[:, 12:13]) * 1e3
