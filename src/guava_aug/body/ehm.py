"""EHM: the SMPL-X body with the FLAME head, posed.

The equations are those of linear blend skinning with pose-corrective blend shapes (Loper et al., SMPL,
2015; Pavlakos et al., SMPL-X, 2019; Li et al., FLAME, 2017) and of the EHM combination (Zhang et al.,
GUAVA, 2025, section 3.1), in the order the original computes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guava_aug.body.assets import EhmAssets, LinearModel
from guava_aug.body.params import Identity, Motion
from guava_aug.errors import InputError

# FLAME joints: root, neck, jaw, left eye, right eye. SMPL-X: 22 jaw, 23 left eye, 24 right eye.
HEAD_EYES = slice(3, 5)
BODY_EYES = slice(23, 25)
_RODRIGUES_EPS = 1e-8  # added to every component before the norm, as the original does


@dataclass(frozen=True)
class PosedBody:
    """T posed bodies. Metres."""

    vertices: Tensor  # [T, P, 3]
    joints_rest: Tensor  # [T, J, 3] before posing, after head insertion and hand scale
    joints: Tensor  # [T, J, 3] posed
    vertex_transforms: Tensor  # [T, P, 3, 4] blended skinning matrices (rest vertex incl. pose shapes -> posed)
    joint_transforms: Tensor  # [T, J, 4, 4] rest -> posed


@dataclass(frozen=True)
class RestShape:
    """Everything that depends on the identity only. Computed once per video."""

    identity: Identity
    head: Tensor  # [Ph, 3] FLAME template + shape
    head_joints: Tensor  # [Jh, 3] regressed from `head`
    body: Tensor  # [P, 3] SMPL-X template + shape
    offsets: Tensor | None = None  # [P, 3] metres: clothes and hair over the body, at rest; joints do not follow them


class EhmModel:
    """The body model, ready to pose batches of frames.

    It holds no state but its assets, so one object serves any number of identities and threads.
    """

    def __init__(self, assets: EhmAssets):
        self.assets = assets
        self._head_chain = _Chain(assets.head.parents)
        self._body_chain = _Chain(assets.body.parents)

    def to(self, device: torch.device | str) -> EhmModel:
        """Return a copy on `device`."""
        return EhmModel(self.assets.to(device))

    def __call__(self, identity: Identity, motion: Motion) -> PosedBody:
        """Return posed bodies of T frames; see `shape` and `pose` for the two steps."""
        return self.pose(self.shape(identity), motion)

    def shape(self, identity: Identity) -> RestShape:
        """Return the rest shape of one identity, before expression and pose."""
        expected, found = tuple(self.assets.body.J_regressor.shape[:1]), tuple(identity.joints_offset.shape[:1])
        if found != expected:
            raise InputError(
                f"joints_offset has {found[0]} joints, the body model {expected[0]}: the video was tracked with "
                f"another body model, or its identity file is damaged"
            )
        head = _blend(self.assets.head.v_template, self.assets.head.shapedirs, identity.flame_betas)
        body = _blend(self.assets.body.v_template, self.assets.body.shapedirs, identity.betas)
        return RestShape(identity, head, self.assets.head.J_regressor @ head, body)

    def pose(self, rest: RestShape, motion: Motion) -> PosedBody:
        """Return T posed bodies of one rest shape.

        Global and neck rotation of the head model are set to zero, and so are jaw and eyes of the body model: the head
        model deforms the face, the body model moves the head.
        """
        a, identity, T = self.assets, rest.identity, len(motion)

        # 1. the head: expression, jaw, eyes, eyelids, then scale
        head_rest = _blend(rest.head.expand(T, -1, -1), a.head.exprdirs, motion.flame_expression)  # [T, Ph, 3]
        zeros = motion.jaw_pose.new_zeros(T, 2, 3)
        head_pose = torch.cat([zeros, motion.jaw_pose[:, None], motion.eye_pose], 1)  # [T, 5, 3]
        head_joints = a.head.J_regressor @ head_rest
        head, _, head_joints, _, _ = _skin(a.head, self._head_chain, head_rest, head_joints, head_pose)
        left, right = motion.eyelids[:, :, None, None].unbind(1)
        head = (head + right * a.right_eyelid + left * a.left_eyelid) * identity.head_scale

        # 2. the body at rest, and where its eyes are (the joints offset counts here too)
        body = _blend(rest.body.expand(T, -1, -1), a.body.exprdirs, motion.expression)  # [T, P, 3]
        eyes = a.body.J_regressor[BODY_EYES] @ body + identity.joints_offset[BODY_EYES]

        # 3. the head overwrites the body's head, eyes on eyes
        head = head - head_joints[:, HEAD_EYES].mean(1, keepdim=True) + eyes.mean(1, keepdim=True)
        body = body.clone()
        body[:, a.head_to_body] = head

        # 4. hands grow about fixed centres
        for ids, center in ((a.left_hand, a.left_hand_center), (a.right_hand, a.right_hand_center)):
            body[:, ids] = (body[:, ids] - center) * identity.hand_scale + center

        # 5. joints once more, from the changed rest shape
        joints = a.body.J_regressor @ body + identity.joints_offset
        if rest.offsets is not None:
            body = body + rest.offsets

        # 6. skinning
        return PosedBody(*_skin(a.body, self._body_chain, body, joints, _joint_rotations(motion)))

    def pose_joints(self, joints_rest: Tensor, motion: Motion) -> tuple[Tensor, Tensor]:
        """Return posed joints [T, J, 3] and their transforms from rest [T, J, 4, 4], without computing vertices.

        Args:
            joints_rest: [J, 3] metres, as `PosedBody.joints_rest` of one frame.
            motion: T frames.
        """
        rest = joints_rest.expand(len(motion), -1, -1)
        world, relative = self._body_chain.transforms(axis_angle_to_matrix(_joint_rotations(motion)), rest)
        return world[..., :3, 3], relative


def _joint_rotations(motion: Motion) -> Tensor:
    """Return the axis-angle vectors [T, 55, 3] of all joints of the body model; its jaw and eyes stay at rest."""
    zeros = motion.jaw_pose.new_zeros(len(motion), 3, 3)
    return torch.cat(
        [motion.global_orient[:, None], motion.body_pose, zeros, motion.left_hand_pose, motion.right_hand_pose], 1
    )


def canonical_template(body: LinearModel, head: LinearModel, head_to_body: Tensor) -> Tensor:
    """Return the body template [P, 3] with the head template as its head, mean eye joint on mean eye joint."""

    def eyes(model: LinearModel, ids: slice) -> Tensor:
        return (model.J_regressor[ids] @ model.v_template).mean(0)

    out = body.v_template.clone()
    out[head_to_body] = head.v_template - eyes(head, HEAD_EYES) + eyes(body, BODY_EYES)
    return out


def axis_angle_to_matrix(r: Tensor) -> Tensor:
    """Return rotations [..., 3, 3] of axis-angle vectors [..., 3] in radians (Rodrigues' formula)."""
    angle = (r + _RODRIGUES_EPS).norm(dim=-1, keepdim=True)
    x, y, z = (r / angle).unbind(-1)
    zero = torch.zeros_like(x)
    K = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    angle = angle[..., None]
    R: Tensor = torch.eye(3, dtype=r.dtype, device=r.device) + angle.sin() * K + (1 - angle.cos()) * (K @ K)
    return R


def _blend(v: Tensor, dirs: Tensor, coefficients: Tensor) -> Tensor:
    """Return v + dirs @ coefficients. Missing coefficients count as zero, and surplus ones are ignored."""
    n = min(dirs.shape[-1], coefficients.shape[-1])
    if n == 0:
        return v
    offsets = coefficients[..., :n] @ dirs[..., :n].flatten(0, 1).T  # [..., P * 3]
    moved: Tensor = v + offsets.unflatten(-1, (-1, 3))
    return moved


class _Chain:
    """The kinematic tree by depth, so that a pose takes one product per level instead of one per joint."""

    def __init__(self, parents: Tensor):
        self.parents = parents
        p = parents.tolist()
        depth = [0] * len(p)
        for j in range(1, len(p)):
            depth[j] = depth[p[j]] + 1
        self.levels = [
            torch.tensor([j for j in range(len(p)) if depth[j] == d], device=parents.device)
            for d in range(1, max(depth) + 1)
        ]

    def transforms(self, rotations: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Return world transforms [T, J, 4, 4] of joints, and the same relative to the rest pose."""
        T, J = joints.shape[:2]
        local = torch.zeros(T, J, 4, 4, dtype=joints.dtype, device=joints.device)
        local[..., :3, :3] = rotations
        local[:, 0, :3, 3] = joints[:, 0]
        local[:, 1:, :3, 3] = joints[:, 1:] - joints[:, self.parents[1:]]
        local[..., 3, 3] = 1
        world = local.clone()
        for ids in self.levels:
            world[:, ids] = world[:, self.parents[ids]] @ local[:, ids]
        relative = world.clone()
        relative[..., :3, 3] -= (world[..., :3, :3] @ joints[..., None])[..., 0]
        return world, relative


def _skin(
    model: LinearModel,
    chain: _Chain,
    rest: Tensor,  # [T, P, 3]
    joints: Tensor,  # [T, J, 3]
    pose: Tensor,  # [T, J, 3] axis-angle
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return vertices, rest joints, posed joints, vertex and joint transforms of linear blend skinning."""
    T = pose.shape[0]
    rotations = axis_angle_to_matrix(pose)  # [T, J, 3, 3]
    if len(model.posedirs):
        eye = torch.eye(3, dtype=pose.dtype, device=pose.device)
        feature = (rotations[:, 1:] - eye).flatten(1)  # [T, 9 (J - 1)]
        rest = rest + (feature @ model.posedirs).unflatten(-1, (-1, 3))
    world, relative = chain.transforms(rotations, joints)
    blended = (model.lbs_weights @ relative[..., :3, :].flatten(2)).unflatten(-1, (3, 4))  # [T, P, 3, 4]
    # three multiply-adds instead of a batched 3x3 product: torch.matmul is slow on tiny matrices
    vertices = blended[..., 3] + sum(blended[..., k] * rest[..., k, None] for k in range(3))
    assert vertices.shape == (T, rest.shape[1], 3)
    return vertices, joints, world[..., :3, 3], blended, relative
