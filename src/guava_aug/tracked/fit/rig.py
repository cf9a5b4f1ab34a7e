"""A reduced body: joints, and points that ride on joints, with their derivatives to pose and shape.

A fit never needs the vertices of the body model. Rest positions are linear in the shape, rotation vectors of the joints
are linear in the pose parameters (a finger joint bends about its own hinge), and so the Gauss-Newton matrices of
thousands of frames are a few batched products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from guava_aug.body.assets import EhmAssets
from guava_aug.body.ehm import EhmModel, axis_angle_to_matrix
from guava_aug.body.joints import FINGERS, INDEX, SIDES
from guava_aug.body.params import Identity, Motion

NUM_BODY_SHAPE, NUM_FACE_SHAPE = 20, 30  # coefficients that are fitted
NUM_EXPRESSION = 50
NUM_JOINTS = 55
_PROBE = 0.05  # step of the two scales, whose effect on the rest shape is all but linear
_SMALL = 1e-6  # radians


@dataclass(frozen=True)
class ShapeSpace:
    """What the entries of a shape vector mean: `body` coefficients, `face` coefficients, hand scale, head scale.

    Where the head's first coefficients are those of the body (`tied`), as in the embedded model, the face has only the
    others.
    """

    body: int
    face: int
    tied: bool

    @property
    def size(self) -> int:
        """Return the number S of entries."""
        return self.body + self.face + 2

    def identity(self, shape: Tensor) -> Identity:
        """Return the identity of a shape vector [S]; the scales are stored as their difference from one."""
        s = shape.detach().float().cpu()
        betas, face = s[: self.body], s[self.body : self.body + self.face]
        ones = torch.ones(3)
        return Identity(
            betas=torch.nn.functional.pad(betas, (0, 300 - self.body)),
            flame_betas=torch.cat([betas, face]) if self.tied else face.clone(),
            head_scale=ones * (1 + s[-1]),
            hand_scale=ones * (1 + s[-2]),
            joints_offset=torch.zeros(NUM_JOINTS, 3),
        )

    def vector(self, identity: Identity) -> Tensor:
        """Return the shape vector [S] of an identity, differentiable."""
        face = identity.flame_betas[self.body :] if self.tied else identity.flame_betas
        scales = torch.stack([identity.hand_scale.mean(), identity.head_scale.mean()]) - 1
        return torch.cat([identity.betas[: self.body], face[: self.face], scales])

    @staticmethod
    def of(assets: EhmAssets) -> ShapeSpace:
        """Return the shape space of a body model."""
        body = min(NUM_BODY_SHAPE, assets.body.shapedirs.shape[-1])
        head = assets.head.shapedirs.shape[-1]
        on_body = assets.body.shapedirs[assets.head_to_body, :, :body]
        tied = head > body and bool((assets.head.shapedirs[..., :body] - on_body).abs().max() < 1e-3)
        return ShapeSpace(body, min(NUM_FACE_SHAPE, head - body) if tied else min(50, head), tied)


def still(frames: int = 1) -> Motion:
    """Return the T pose, in the body's own frame."""

    def z(*shape: int) -> Tensor:
        return torch.zeros(frames, *shape)

    return Motion(z(3), z(21, 3), z(15, 3), z(15, 3), z(50), z(50), z(3), z(2, 3), z(2))


@dataclass(frozen=True)
class RestBody:
    """Joints and chosen vertices at rest, linear in shape, expression and eyelids. float64.

    A rest position is `mean + by_shape @ shape`; chosen vertices also move by expression and eyelids.
    """

    space: ShapeSpace
    joints: Tensor  # [J, 3]
    joints_by_shape: Tensor  # [J, 3, S]
    vertices: Tensor  # [P', 3]
    vertices_by_shape: Tensor  # [P', 3, S]
    parents: Tensor  # [J]


def rest_body(model: EhmModel, vertex_ids: Tensor) -> RestBody:
    """Return the rest positions of all joints and of some vertices, found by posing the model itself.

    Args:
        model: The body model, on the CPU.
        vertex_ids: [P'] body vertices.
    """
    space = ShapeSpace.of(model.assets)

    def at(shape: Tensor) -> tuple[Tensor, Tensor]:
        posed = model(space.identity(shape), still())
        return posed.joints_rest[0].double(), posed.vertices[0, vertex_ids].double()

    zero = torch.zeros(space.size)
    joints, vertices = at(zero)
    columns = []
    for k in range(space.size):
        step = zero.clone()
        step[k] = _PROBE if k >= space.size - 2 else 1.0
        moved = at(step)
        columns.append(((moved[0] - joints) / step[k], (moved[1] - vertices) / step[k]))
    by_joint, by_vertex = (torch.stack(c, -1) for c in zip(*columns, strict=True))
    return RestBody(space, joints, by_joint, vertices, by_vertex, model.assets.body.parents)


# ---- pose parameters


@dataclass(frozen=True)
class PoseSpace:
    """Which entries of a pose vector [D] turn which joints: `rotation vectors of the joints = turns @ pose`."""

    turns: Tensor  # [J * 3, D]
    slices: dict[str, slice]  # "orient", "place", "spine", ..., "left_hand"

    @property
    def size(self) -> int:
        """Return D."""
        return int(self.turns.shape[1])

    def from_rotation_vectors(self, vectors: Tensor) -> Tensor:
        """Return the poses [T, D] whose rotation vectors are nearest (least squares) to those of [T, J, 3].

        That of the root is relative to facing the camera.
        """
        out: Tensor = vectors.flatten(1) @ torch.linalg.pinv(self.turns).T
        return out


def pose_space(rest: RestBody) -> PoseSpace:
    """Return the pose parameters of the upper body: three spine joints as one, and hinges of the fingers."""
    blocks: dict[str, list[tuple[int, Tensor]]] = {}
    eye = torch.eye(3, dtype=torch.float64)

    def free(*names: str, share: float = 1.0) -> list[tuple[int, Tensor]]:
        return [(INDEX[n], eye * share) for n in names]

    blocks["orient"] = free("pelvis")
    blocks["place"] = []
    blocks["spine"] = free("spine1", "spine2", "spine3", share=1 / 3)
    for name in ("neck", "head"):
        blocks[name] = free(name)
    for name in ("collar", "shoulder", "elbow", "wrist"):
        for side in SIDES:
            blocks[f"{side}_{name}"] = free(f"{side}_{name}")
    columns: list[Tensor] = []
    slices: dict[str, slice] = {}
    start = 0
    for name, joints in blocks.items():
        width = torch.zeros(NUM_JOINTS * 3, 3, dtype=torch.float64)
        for j, axes in joints:
            width[3 * j : 3 * j + 3] += axes
        columns.append(width)
        slices[name] = slice(start, start + 3)
        start += 3
    for side in SIDES:
        turns = [_column(j, axis) for j, axis in hand_axes(rest, side)]
        columns.append(torch.stack(turns, 1))
        slices[f"{side}_hand"] = slice(start, start + len(turns))
        start += len(turns)
    return PoseSpace(torch.cat(columns, 1), slices)


def _column(joint: int, axis: Tensor) -> Tensor:
    out = torch.zeros(NUM_JOINTS * 3, dtype=torch.float64)
    out[3 * joint : 3 * joint + 3] = axis
    return out


def hand_axes(rest: RestBody, side: str) -> list[tuple[int, Tensor]]:
    """Return (joint, axis [3]) of the 25 turns of a hand.

    The four fingers bend at three hinges (positive towards the palm) and spread at the first joint; the thumb's joints
    bend, spread and twist. Axes come from the bones of the mean hand at rest.
    """
    at = rest.joints
    wrist, index, pinky = (at[INDEX[f"{side}_{n}"]] for n in ("wrist", "index1", "pinky1"))
    palm = torch.linalg.cross(index - wrist, pinky - wrist)
    palm = _unit(palm if side == "right" else -palm)  # the direction the palm looks in
    out = []
    for finger in FINGERS:
        ids = [INDEX[f"{side}_{finger}{k}"] for k in (1, 2, 3)]
        for k, joint in enumerate(ids):
            bone = _unit(at[ids[min(k, 1) + 1]] - at[ids[min(k, 1)]])
            bend = _unit(torch.linalg.cross(bone, palm))
            spread = torch.linalg.cross(bend, bone)
            if finger == "thumb":
                out += [(joint, axis) for axis in torch.eye(3, dtype=torch.float64)]
            else:
                out += [(joint, bend)] + ([(joint, spread)] if k == 0 else [])
    return out


def _unit(v: Tensor) -> Tensor:
    out: Tensor = v / v.norm(dim=-1, keepdim=True)
    return out


# ---- points on joints


@dataclass(frozen=True)
class Points:
    """N points that ride on joints: rest positions, linear in the shape."""

    joints: Tensor  # [N] int64, the joint each point rides on
    rest: Tensor  # [N, 3], or [T, N, 3] where it differs by frame
    rest_by_shape: Tensor  # [N, 3, S]

    def __len__(self) -> int:
        return len(self.joints)

    def __getitem__(self, index: Tensor) -> Points:
        """Return some of the points."""
        return Points(self.joints[index], self.rest[..., index, :], self.rest_by_shape[index])

    @staticmethod
    def cat(parts: list[Points]) -> Points:
        """Return points one after the other; if one differs by frame, all do."""
        frames = [p.rest.shape[0] for p in parts if p.rest.dim() == 3]
        rests = [p.rest.expand(frames[0], -1, -1) if frames and p.rest.dim() == 2 else p.rest for p in parts]
        joints, by_shape = torch.cat([p.joints for p in parts]), torch.cat([p.rest_by_shape for p in parts])
        return Points(joints, torch.cat(rests, -2), by_shape)

    def in_frames(self, index: Tensor | slice) -> Points:
        """Return the points of some frames."""
        return self if self.rest.dim() == 2 else replace(self, rest=self.rest[index])


class Rig:
    """The joint tree with rest positions of one shape: forward kinematics and derivatives.

    Camera axes: x right, y down, z forward, the person facing the camera with its left on the right.
    """

    def __init__(self, rest: RestBody, space: PoseSpace | None = None, device: torch.device | str = "cpu"):
        self.rest = rest
        self.space = space or pose_space(rest)
        self.turns = self.space.turns.to(device)
        self.joints, self.joints_by_shape = rest.joints.to(device), rest.joints_by_shape.to(device)
        self.parents: list[int] = rest.parents.tolist()
        self.flip = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64, device=device))
        ancestors = torch.zeros(NUM_JOINTS, NUM_JOINTS, dtype=torch.bool)
        for j in range(NUM_JOINTS):
            k = j
            while k >= 0:
                ancestors[j, k] = True
                k = self.parents[k]
        self.ancestors = ancestors.to(device)  # [J, J] whether k is j or above it
        joints, columns, axes = _twists(self.space)
        self.twist_joints, self.twist_columns, self.twist_axes = joints.to(device), columns.to(device), axes.to(device)
        self.above = torch.tensor(self.parents, device=device).clamp(min=0)
        self.levels = _levels(self.parents, device)

    def transforms(self, pose: Tensor, root: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Return world rotations [T, J, 3, 3] and positions [T, J, 3] of the joints.

        Args:
            pose: [T, D].
            root: [T, 3] where the root is.
            joints: [J, 3] rest positions.
        """
        local = axis_angle(self.space_vectors(pose))  # [T, J, 3, 3]
        world = local.clone()
        world[:, 0] = local[:, 0] @ self.flip
        place = torch.zeros(len(pose), NUM_JOINTS, 3, dtype=pose.dtype, device=pose.device)
        place[:, 0] = root
        for ids, above in self.levels:
            world[:, ids] = world[:, above] @ local[:, ids]
            bones = (joints[ids] - joints[above])[..., None]
            place[:, ids] = place[:, above] + (world[:, above] @ bones)[..., 0]
        return world, place

    def space_vectors(self, pose: Tensor) -> Tensor:
        """Return rotation vectors [T, J, 3]."""
        out: Tensor = (pose @ self.turns.T).unflatten(-1, (-1, 3))
        return out

    def rest_joints(self, shape: Tensor) -> Tensor:
        """Return [J, 3] of a shape vector [S]."""
        return self.joints + self.joints_by_shape @ shape

    def points(self, world: Tensor, place: Tensor, points: Points, joints: Tensor, shape: Tensor) -> Tensor:
        """Return positions [T, N, 3] of points under the transforms of `transforms`."""
        local = points.rest + points.rest_by_shape @ shape - joints[points.joints]
        return place[:, points.joints] + (world[:, points.joints] @ local[..., None])[..., 0]

    def twists(self, pose: Tensor, world: Tensor, place: Tensor, moved: Tensor) -> Tensor:
        """Return how the unknowns move what hangs on their joints [T, 6, E]: a point p by w x p + v for each unit.

        E are first the D unknowns, then further joints that an unknown turns (`twist_joints`, `twist_columns`).

        Args:
            pose: [T, D].
            world: [T, J, 3, 3] of `transforms`.
            place: [T, J, 3] of `transforms`.
            moved: [T, 3, 3] derivative of the root's place to the unknowns "place".
        """
        ids = self.twist_joints
        parent = world[:, self.above]
        parent[:, 0] = torch.eye(3, dtype=pose.dtype, device=pose.device)
        turn = parent @ left_jacobian(self.space_vectors(pose))  # [T, J, 3, 3]
        w = (turn[:, ids] @ self.twist_axes.to(pose.dtype)[..., None])[..., 0]  # [T, E, 3]
        out = torch.cat([w, torch.linalg.cross(place[:, ids], w)], -1).transpose(1, 2).contiguous()
        out[:, 3:, self.space.slices["place"]] = moved
        return out

    def shape_jacobian(self, world: Tensor, points: Points) -> Tensor:
        """Return the derivatives [T, N, 3, S] of point positions to the shape, the root held."""
        T, S = len(world), self.joints_by_shape.shape[-1]
        place = torch.zeros(T, NUM_JOINTS, 3, S, dtype=world.dtype, device=world.device)
        for ids, above in self.levels:
            place[:, ids] = place[:, above] + world[:, above] @ (
                self.joints_by_shape[ids] - self.joints_by_shape[above]
            )
        local = points.rest_by_shape - self.joints_by_shape[points.joints]
        return place[:, points.joints] + world[:, points.joints] @ local


def _twists(space: PoseSpace) -> tuple[Tensor, Tensor, Tensor]:
    """Return joint [E], unknown [E] and axis [E, 3] of all turns: each unknown once, then its further joints."""
    turns = space.turns.unflatten(0, (-1, 3))  # [J, 3, D]
    first: list[tuple[int, int]] = []
    further: list[tuple[int, int]] = []
    for column in range(space.size):
        joints = turns[:, :, column].abs().sum(1).nonzero()[:, 0].tolist()
        first.append((joints[0] if joints else 0, column))  # what turns nothing moves the root
        further += [(j, column) for j in joints[1:]]
    joints, columns = torch.tensor(first + further).unbind(1)
    return joints, columns, turns[joints, :, columns]


def _levels(parents: list[int], device: torch.device | str) -> list[tuple[Tensor, Tensor]]:
    depth = [0] * len(parents)
    for j in range(1, len(parents)):
        depth[j] = depth[parents[j]] + 1
    out = []
    for d in range(1, max(depth) + 1):
        ids = [j for j in range(len(parents)) if depth[j] == d]
        out.append((torch.tensor(ids, device=device), torch.tensor([parents[j] for j in ids], device=device)))
    return out


def skew(v: Tensor) -> Tensor:
    """Return the matrices [..., 3, 3] of the cross product with v [..., 3]."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    out: Tensor = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    return out


def axis_angle(r: Tensor) -> Tensor:
    """Return the rotations [..., 3, 3] of rotation vectors [..., 3]; exact at zero."""
    return axis_angle_to_matrix(r + _SMALL * 1e-3)


def left_jacobian(r: Tensor) -> Tensor:
    """Return J [..., 3, 3] with exp(r + d) = exp(J d) exp(r) for small d (the left Jacobian of SO(3))."""
    angle = r.norm(dim=-1).clamp(min=_SMALL)[..., None, None]
    K = skew(r)
    eye = torch.eye(3, dtype=r.dtype, device=r.device)
    out: Tensor = eye + (1 - angle.cos()) / angle**2 * K + (angle - angle.sin()) / angle**3 * (K @ K)
    return out


def rotation_vector(R: Tensor) -> Tensor:
    """Return rotation vectors [..., 3] of rotations [..., 3, 3], of length 0 to pi."""
    # by the quaternion, which is stable also near half a turn
    m = R
    t = torch.stack(
        [
            1 + m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2],
            1 + m[..., 0, 0] - m[..., 1, 1] - m[..., 2, 2],
            1 - m[..., 0, 0] + m[..., 1, 1] - m[..., 2, 2],
            1 - m[..., 0, 0] - m[..., 1, 1] + m[..., 2, 2],
        ],
        -1,
    )
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    candidates = torch.stack(
        [
            torch.stack([t[..., 0], a, b, c], -1),
            torch.stack([a, t[..., 1], d, e], -1),
            torch.stack([b, d, t[..., 2], f], -1),
            torch.stack([c, e, f, t[..., 3]], -1),
        ],
        -2,
    )
    best = t.argmax(-1)[..., None, None].expand(*t.shape[:-1], 1, 4)
    q = candidates.gather(-2, best)[..., 0, :]
    q = q / q.norm(dim=-1, keepdim=True)
    q = torch.where(q[..., :1] < 0, -q, q)
    length = q[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(length, q[..., :1])
    return q[..., 1:] * torch.where(length > 1e-12, angle / length.clamp(min=1e-12), torch.full_like(angle, 2.0))
