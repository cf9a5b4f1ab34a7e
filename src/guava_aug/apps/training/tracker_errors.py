"""The body and the cameras that a tracker would find in pictures whose truth is known.

A tracker fits landmarks: in the picture it is right within a few pixels, along the line of sight it is not. So torso
and head are turned mostly towards or away from the camera, arms are solved again so that elbow and wrist stay on their
pixels at another depth and with the bones of a wrong shape, and a camera is fitted to what came out. Every error has a
part that is constant for a person and one for each frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import roma
import torch
from torch import Tensor

from guava_aug.apps.synthetic.skeleton import PARENTS
from guava_aug.body import EhmModel, Identity, Motion
from guava_aug.body.joints import INDEX, SIDES

_TORSO = (
    "pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar",
    *(f"{side}_{part}" for side in SIDES for part in ("hip", "knee", "ankle", "foot")),
)  # fmt: skip
_UPPER = ("spine3", "neck", "head", "left_collar", "right_collar", "left_shoulder", "right_shoulder")
_ITERATIONS = 8  # of either fit
_LATERAL = 5.0  # times as much as along the line of sight counts what is off across it
_BEND = (0.3, 0.3, 1.0)  # fingers bend about z


@dataclass(frozen=True)
class ErrorSizes:
    """Standard deviations of what a tracker's fit is wrong by; the results are measured in the tests.

    Angles are radians, first about the two axes across the line of sight, then about the line itself.
    """

    constant: float = 0.6  # share of the variance of each that is the same in all frames of a person
    betas: float = 0.25
    face_betas: float = 0.3
    scale: float = 0.02  # of head and hands
    torso: tuple[float, float] = (0.07, 0.006)
    collar: tuple[float, float] = (0.05, 0.01)
    head: tuple[float, float] = (0.035, 0.012)
    finger: float = 0.06  # of each joint
    twist: float = 0.07  # of upper arms and hands about themselves
    depth: float = 0.047  # metres, of elbows and wrists
    hand_depth: float = 0.01  # metres, of the knuckles, from their wrist
    pixels: float = 2.2 / 1024  # of the picture's side: elbows, wrists, knuckles
    camera: float = 1.5 / 1024  # of the picture's side
    lens: float = 0.06  # of the logarithm of a true lens's focal length
    expression: float = 0.15
    jaw: float = 0.02
    eyes: float = 0.04
    eyelids: float = 0.05


@dataclass(frozen=True)
class Tracking:
    """What a tracker finds in n pictures of a person."""

    identity: Identity
    motion: Motion
    viewmats: Tensor  # [n, 4, 4]
    lenses: Tensor  # [n, 4] the numbers of each camera's `Lens`


def tracked_with_errors(
    body: EhmModel,
    truth: Tracking,
    rng: np.random.Generator,
    sizes: ErrorSizes | None = None,
    *,
    known_lens: bool = True,
) -> Tracking:
    """Return what a tracker would find where `truth` is, on the CPU.

    Each frame is wrong as seen by its own camera, so that its picture fits whichever camera took it.

    Args:
        body: The body model; it poses on its own device.
        truth: On the CPU.
        rng: All that is random comes from it.
        sizes: Of the errors.
        known_lens: Whether the focal length is given and not estimated.
    """
    s, n = sizes or ErrorSizes(), len(truth.motion)
    noise = _Noise(rng, n, s.constant)
    device = body.assets.faces.device
    exact = body(truth.identity.to(device), truth.motion.to(device))
    identity = _wrong_shape(truth.identity, rng, s)
    m = truth.motion
    motion = replace(
        m,
        expression=(m.expression + noise(s.expression, m.expression.shape[1])).float(),
        flame_expression=(m.flame_expression + noise(s.expression, m.flame_expression.shape[1])).float(),
        jaw_pose=(m.jaw_pose + noise.turns(s.jaw, 0.0) * torch.tensor([1.0, 0.0, 0.0])).float(),
        eye_pose=(m.eye_pose + noise.turns(s.eyes, 0.0)[:, None]).float(),
        eyelids=(m.eyelids + noise(s.eyelids, 1)).clamp(0, 1).float(),
        left_hand_pose=(m.left_hand_pose + noise.fingers(s.finger)).float(),
        right_hand_pose=(m.right_hand_pose + noise.fingers(s.finger)).float(),
    )
    lenses = truth.lenses.double()
    if not known_lens:
        lenses[:, :2] *= math.exp(rng.normal(0, s.lens))
    rest = body(identity.to(device), motion.to(device)).joints_rest.double().cpu()  # whatever the pose
    pose = _Pose(exact.joint_transforms[..., :3, :3].double().cpu(), rest)
    camera = _Camera(truth, lenses, exact.joints.double().cpu())

    # 1. torso and head turn, mostly as one camera cannot see, and the camera follows
    pose.turn(_TORSO, camera.R, noise.turns(*s.torso))
    for side in SIDES:
        pose.turn((f"{side}_collar",), camera.R, noise.turns(*s.collar))
    for name in ("neck", "head"):
        pose.turn((name,), camera.R, noise.turns(*s.head))
    pose.place()
    camera.fit(pose.joints, noise(2 * s.camera, 2))

    # 2. arms reach for their pixels with the bones and from the shoulders that there are
    for side in SIDES:
        shoulder, elbow, wrist, knuckle = (
            INDEX[f"{side}_{part}"] for part in ("shoulder", "elbow", "wrist", "middle1")
        )
        for a, b, near, depth in (
            (shoulder, elbow, shoulder, s.depth),
            (elbow, wrist, shoulder, s.depth),
            (wrist, knuckle, wrist, s.hand_depth),
        ):
            target, ray = camera.target(b, near, pose.joints[:, near], noise(2 * s.pixels, 2), noise(depth, 1))
            pose.aim(a, b, target, ray)
        pose.twist(shoulder, elbow, noise(s.twist, 1))
        pose.twist(wrist, knuckle, noise(s.twist, 1))
    local = pose.local()
    motion = replace(motion, global_orient=local[:, 0].float(), body_pose=local[:, 1:22].float())
    return Tracking(identity, motion, camera.viewmats().float(), lenses.float())


def _wrong_shape(identity: Identity, rng: np.random.Generator, s: ErrorSizes) -> Identity:
    """Return another shape near `identity`. Body and head share their first coefficients, and keep doing so."""
    wrong = rng.normal(0, s.betas, len(identity.betas))
    face = rng.normal(0, s.face_betas, len(identity.flame_betas))
    shared = min(len(wrong), len(face))
    face[:shared] = wrong[:shared]
    scale = np.exp(rng.normal(0, s.scale, 2))
    add = lambda v, d: v + torch.as_tensor(d, dtype=v.dtype)
    return replace(
        identity, betas=add(identity.betas, wrong), flame_betas=add(identity.flame_betas, face),
        head_scale=identity.head_scale * float(scale[0]), hand_scale=identity.hand_scale * float(scale[1]),
    )  # fmt: skip


class _Noise:
    """Normal noise for n frames of one person, part of it constant."""

    def __init__(self, rng: np.random.Generator, frames: int, constant: float):
        self.rng, self.frames, self.constant = rng, frames, constant

    def __call__(self, size: float, count: int) -> Tensor:
        """Return [n, count] of standard deviation `size`."""
        same, own = self.rng.normal(0, 1, (1, count)), self.rng.normal(0, 1, (self.frames, count))
        return torch.from_numpy(size * (math.sqrt(self.constant) * same + math.sqrt(1 - self.constant) * own))

    def turns(self, across: float, along: float) -> Tensor:
        """Return [n, 3] rotation vectors: two axes of size `across`, the third of size `along`."""
        return self(1.0, 3) * torch.tensor([across, across, along])

    def fingers(self, size: float) -> Tensor:
        """Return [n, 15, 3] to be added to a hand's pose."""
        return self(size, 45).view(-1, 15, 3) * torch.tensor(_BEND)


class _Pose:
    """World rotations and places of the joints of n frames, which can be changed one by one."""

    def __init__(self, world: Tensor, rest: Tensor):
        self.world, self.rest, self.joints = world.clone(), rest, rest.clone()  # [n, J, 3, 3], [n, J, 3] twice

    def turn(self, names: tuple[str, ...], R: Tensor, rotvec: Tensor) -> None:
        """Turn joints alone by rotation vectors [n, 3] that are given in the frames R [n, 3, 3] of cameras."""
        turn = R.transpose(1, 2) @ roma.rotvec_to_rotmat(rotvec) @ R
        for name in names:
            self.world[:, INDEX[name]] = turn @ self.world[:, INDEX[name]]

    def place(self) -> None:
        """Put every joint where the rotations of those above it say."""
        for j, p in enumerate(PARENTS):
            if p >= 0:
                bone = self.rest[:, j] - self.rest[:, p]
                self.joints[:, j] = self.joints[:, p] + (self.world[:, p] @ bone[..., None])[..., 0]

    def aim(self, a: int, b: int, target: Tensor, ray: Tensor) -> None:
        """Turn joint a so that its bone ends as near to `target` [n, 3] as it can, above all across `ray` [n, 3].

        Gauss-Newton on the sphere that the bone's end can reach.
        """
        bone = self.rest[:, b] - self.rest[:, a]
        length = bone.norm(dim=1, keepdim=True)
        before = (self.world[:, a] @ bone[..., None])[..., 0] / length
        eye = torch.eye(3, dtype=bone.dtype)
        weigh = _LATERAL * eye - (_LATERAL - 1) * ray[:, :, None] * ray[:, None]
        u = before
        for _ in range(_ITERATIONS):
            tangent = torch.linalg.svd(u[:, None])[2][:, 1:].transpose(1, 2)  # [n, 3, 2]
            residual = weigh @ (self.joints[:, a] + length * u - target)[..., None]
            J = length[..., None] * (weigh @ tangent)
            step = torch.linalg.solve(J.transpose(1, 2) @ J + 1e-3 * eye[:2, :2], J.transpose(1, 2) @ residual)
            u = torch.nn.functional.normalize(u - (tangent @ step)[..., 0].clamp(-0.2, 0.2), dim=1)
        axis = torch.linalg.cross(before, u)
        sine = axis.norm(dim=1, keepdim=True)
        angle = torch.atan2(sine, (before * u).sum(1, keepdim=True))
        self.world[:, a] = roma.rotvec_to_rotmat(axis / sine.clamp(min=1e-9) * angle) @ self.world[:, a]
        self.joints[:, b] = self.joints[:, a] + length * u

    def twist(self, a: int, b: int, angle: Tensor) -> None:
        """Turn joint a about its bone to b by angles [n, 1]."""
        along = torch.nn.functional.normalize(self.joints[:, b] - self.joints[:, a], dim=1)
        self.world[:, a] = roma.rotvec_to_rotmat(along * angle) @ self.world[:, a]

    def local(self) -> Tensor:
        """Return the rotation vectors [n, 22, 3] of root and body."""
        above = [self.world[:, p].transpose(1, 2) @ self.world[:, j] for j, p in enumerate(PARENTS[:22]) if p >= 0]
        return roma.rotmat_to_rotvec(torch.stack([self.world[:, 0], *above], 1))


class _Camera:
    """The true pictures of the joints, and a camera that is fitted to other joints."""

    def __init__(self, truth: Tracking, lenses: Tensor, joints: Tensor):
        self.R, self.t = truth.viewmats[:, :3, :3].double(), truth.viewmats[:, :3, 3].double()
        self.lenses = lenses
        true = self._camera(joints)
        self.depth = true[..., 2]  # [n, J] true
        self.xy = _projected(true, truth.lenses.double())  # [n, J, 2] true, -1..1
        longer = lenses[:, 1] / truth.lenses[:, 1].double()
        self.t = torch.stack([*self.t[:, :2].unbind(1), self.t[:, 2] * longer], 1)  # as large through another lens

    def fit(self, joints: Tensor, off: Tensor) -> None:
        """Move so that upper joints [n, J, 3] are at their true pixels, but for an error `off` [n, 2]."""
        ids = [INDEX[name] for name in _UPPER]
        for _ in range(_ITERATIONS):
            p = self._camera(joints[:, ids])
            residual = _projected(p, self.lenses) - self.xy[:, ids]  # [n, U, 2]
            scale, z = self.lenses[:, None, :2], p[..., 2:]
            J = torch.zeros(*p.shape[:2], 2, 3, dtype=p.dtype)
            J[..., 0, 0], J[..., 1, 1] = (scale / z).unbind(-1)
            J[..., 2] = -scale * p[..., :2] / z.square()
            J, r = J.flatten(1, 2), residual.flatten(1)[..., None]
            self.t = self.t - torch.linalg.solve(J.transpose(1, 2) @ J, J.transpose(1, 2) @ r)[..., 0]
        z = self._camera(joints[:, ids])[..., 2].mean(1, keepdim=True)
        self.t = self.t + torch.cat([off * z / self.lenses[:, :2], torch.zeros_like(z)], 1)

    def target(self, joint: int, near: int, start: Tensor, off: Tensor, deeper: Tensor) -> tuple[Tensor, Tensor]:
        """Return where a joint is to be [n, 3], and the line of sight [n, 3] on which that is.

        On its true pixel but for `off` [n, 2] of -1..1, as much farther than `start` [n, 3] as it truly is from the
        joint `near`, but for `deeper` [n, 1] metres.
        """
        z = self._camera(start)[:, 2:] + (self.depth[:, joint] - self.depth[:, near])[:, None] + deeper
        slope = (self.xy[:, joint] + off - self.lenses[:, 2:]) / self.lenses[:, :2]
        p = torch.cat([slope * z, z], 1)
        back = lambda v: (self.R.transpose(1, 2) @ v[..., None])[..., 0]
        return back(p - self.t), back(torch.nn.functional.normalize(p, dim=1))

    def viewmats(self) -> Tensor:
        """Return [n, 4, 4]."""
        out = torch.eye(4, dtype=self.R.dtype).repeat(len(self.R), 1, 1)
        out[:, :3, :3], out[:, :3, 3] = self.R, self.t
        return out

    def _camera(self, points: Tensor) -> Tensor:
        """Return points [n, 3] or [n, k, 3] in the frames of the cameras."""
        if points.dim() == 2:
            return self._camera(points[:, None])[:, 0]
        return points @ self.R.transpose(1, 2) + self.t[:, None]


def _projected(points: Tensor, lenses: Tensor) -> Tensor:
    """Return [n, k, 2] of -1..1 of points [n, k, 3] in the frames of cameras with lenses [n, 4]."""
    return points[..., :2] / points[..., 2:] * lenses[:, None, :2] + lenses[:, None, 2:]
