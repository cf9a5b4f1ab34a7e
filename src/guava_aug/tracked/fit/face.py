"""The face: expression, jaw, eyelids and gaze of frames whose head is placed roughly."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from guava_aug.body.ehm import EhmModel
from guava_aug.body.joints import INDEX
from guava_aug.body.params import Motion
from guava_aug.tracked.fit.calibration import Calibration
from guava_aug.tracked.fit.problem import Lens
from guava_aug.tracked.fit.rig import NUM_EXPRESSION, Points, axis_angle, left_jacobian, rest_body, skew, still
from guava_aug.tracked.fit.solver import Quadratic, Smoothness, solve_frames, solve_sequence

JAW, LIDS = slice(NUM_EXPRESSION, NUM_EXPRESSION + 3), slice(NUM_EXPRESSION + 3, NUM_EXPRESSION + 5)
NUM_FACE_UNKNOWNS = NUM_EXPRESSION + 5
_HEAD_MOVES = (0.05, 0.02)  # radians, metres: how far the face may move the head that the body gave
_CUT = 4.0
_BOUND = 0.02  # softness of the limits of expression and eyelids
_GAZE = 0.25  # radians
PRECISION = torch.float32  # of derivatives; steps are solved for in double precision
_HEAD = 6  # unknowns of the head before those of the face
_HEAD_ACCELERATION, _FREEDOM = 0.01, 4.0  # radians or metres in a frame; of Student's t


@dataclass(frozen=True)
class FaceModel:
    """The face landmarks on the head at rest: linear in shape, expression and eyelids, with a turning jaw. float64."""

    points: Points  # [468] at rest, riding on the head
    by_expression: Tensor  # [468, 3, E]
    by_eyelids: Tensor  # [468, 3, 2]
    jaw_weight: Tensor  # [468]
    jaw_at: Tensor  # [3] of the mean head, body axes
    jaw_shapes: Tensor  # [468, 3, 9] pose blend shapes of the jaw
    bounded: bool  # expressions are activations of 0 and more, not components

    def local(self, face: Tensor) -> Tensor:
        """Return how far landmarks move from rest [T, 468, 3] for face unknowns [T, 55]."""
        return self.moved(face)[0]

    def moved(self, face: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return movements from rest [T, 468, 3], and what the derivatives are made of.

        These are how a landmark follows what moves it before the jaw turns [T, 468, 3, 3], and its derivative to the
        jaw's rotation vector [T, 468, 3, 3].
        """
        expression, jaw, lids = face[:, :NUM_EXPRESSION], face[:, JAW], face[:, LIDS]
        R = axis_angle(jaw)
        eye = torch.eye(3, dtype=face.dtype, device=face.device)
        rest, w = self.points.rest, self.jaw_weight[:, None]
        before = rest + _applied(self.by_expression, expression) + _applied(self.jaw_shapes, (R - eye).flatten(1))
        arm = before - self.jaw_at
        turned = arm @ R.transpose(1, 2)
        moved = before + w * (turned - arm) + _applied(self.by_eyelids, lids) - rest
        blend = eye + w[..., None] * (R[:, None] - eye)
        turn = left_jacobian(jaw)  # [T, 3, 3]
        by_jaw = w[..., None] * (skew(-turned) @ turn[:, None])
        # the jaw's blend shapes follow the entries of R
        slopes = torch.stack([skew(turn[:, :, k]) @ R for k in range(3)], -1).flatten(1, 2)  # [T, 9, 3]
        by_jaw += blend @ (self.jaw_shapes.flatten(0, 1) @ slopes).unflatten(1, (-1, 3))
        return moved, blend, by_jaw

    def rows(self, across: Tensor, blend: Tensor, by_jaw: Tensor) -> Tensor:
        """Return the derivatives [T, 468, R, 55] of R residuals of each landmark.

        Args:
            across: [T, 468, R, 3] change of the residuals when a landmark moves, in the axes of the head.
            blend: Of `moved`.
            by_jaw: Of `moved`.
        """
        T, R = len(across), across.shape[2]
        expression = ((across @ blend).transpose(0, 1).flatten(1, 2) @ self.by_expression).unflatten(1, (T, R))
        lids = (across.transpose(0, 1).flatten(1, 2) @ self.by_eyelids).unflatten(1, (T, R))
        return torch.cat([expression.transpose(0, 1), across @ by_jaw, lids.transpose(0, 1)], -1)

    def to(self, dtype: torch.dtype) -> FaceModel:
        """Return the model in another precision."""
        p = self.points
        return FaceModel(
            Points(p.joints, p.rest.to(dtype), p.rest_by_shape.to(dtype)), self.by_expression.to(dtype),
            self.by_eyelids.to(dtype), self.jaw_weight.to(dtype), self.jaw_at.to(dtype), self.jaw_shapes.to(dtype),
            self.bounded,
        )  # fmt: skip


def _applied(shapes: Tensor, coefficients: Tensor) -> Tensor:
    """Return [T, N, 3] of shapes [N, 3, K] with coefficients [T, K]."""
    out: Tensor = (coefficients @ shapes.flatten(0, 1).T).unflatten(1, (-1, 3))
    return out


def face_model(model: EhmModel, calibration: Calibration) -> FaceModel:
    """Return the face landmarks of a body model, found by posing the model itself."""
    a = model.assets
    ids = a.head_to_body[calibration.face_vertices.flatten()]
    w = calibration.face_weights

    def mixed(vertices: Tensor) -> Tensor:  # [P', ...] -> [468, ...]
        corners = vertices.unflatten(0, (-1, 3))
        out: Tensor = (corners * w.reshape(*w.shape, *[1] * (corners.dim() - 2))).sum(1)
        return out

    rest = rest_body(model, ids)
    space = rest.space
    identity = space.identity(torch.zeros(space.size))

    def posed(**changes: Tensor) -> Tensor:
        return model(identity, replace(still(), **changes)).vertices[0, ids].double()

    base = posed()
    expressions = []
    for k in range(NUM_EXPRESSION):
        e = torch.zeros(1, 50)
        e[0, k] = 1
        expressions.append(posed(flame_expression=e) - base)
    lids = [posed(eyelids=torch.eye(2)[k : k + 1]) - base for k in range(2)]
    head_ids = calibration.face_vertices.flatten()
    head_rest = model.shape(identity)
    eyes_to_body = (model(identity, still()).vertices[0, a.head_to_body] - head_rest.head).double().mean(0)
    shapes = a.head.posedirs.double()
    jaw_shapes = (
        shapes[9:18].unflatten(1, (-1, 3))[:, head_ids] if len(shapes) else torch.zeros(9, len(head_ids), 3).double()
    )
    by_expression = mixed(torch.stack(expressions, -1))
    return FaceModel(
        points=Points(torch.full((len(w),), INDEX["head"]), mixed(rest.vertices), mixed(rest.vertices_by_shape)),
        by_expression=by_expression,
        by_eyelids=mixed(torch.stack(lids, -1)),
        jaw_weight=mixed(a.head.lbs_weights[head_ids, 2].double()),
        jaw_at=head_rest.head_joints[2].double() + eyes_to_body,
        jaw_shapes=mixed(jaw_shapes.transpose(0, 1)).permute(0, 2, 1).contiguous(),
        bounded=bool(a.head.exprdirs.shape[-1] and space.tied),
    )


@dataclass(frozen=True)
class FaceProblem:
    """Face unknowns and small movements of the head against the face landmarks of T frames."""

    model: FaceModel
    rest: Tensor  # [468, 3] of the shape, relative to the head joint
    turn: Tensor  # [T, 3, 3] of the head
    at: Tensor  # [T, 3] the head joint, camera axes
    pixels: Tensor  # [T, 468, 2]
    weights: Tensor  # [T, 468] 1 / px^2
    mean: Tensor  # [55]
    precision: Tensor  # [55, 55]
    lens: Lens

    def frames(self, index: Tensor | slice) -> FaceProblem:
        """Return the problem of some frames."""
        return replace(
            self, turn=self.turn[index], at=self.at[index], pixels=self.pixels[index], weights=self.weights[index]
        )

    def quadratic(self, x: Tensor) -> Quadratic:
        """Return the cost near x [T, 61]: three turns and three metres of the head, then the face."""
        p = x.to(PRECISION)
        moved, blend, by_jaw = self.model.moved(p[:, _HEAD:])
        turn = axis_angle(p[:, :3]) @ self.turn
        arm = (self.rest + moved) @ turn.transpose(1, 2)
        at = arm + (self.at + p[:, 3:6])[:, None]
        T = len(at)
        z = at[..., 2].clamp(min=0.05)
        slope = at[..., :2] / z[..., None]
        off = slope * self.lens.focal + p.new_tensor(self.lens.center) - self.pixels  # [T, 468, 2]
        error, c2 = (off**2).sum(-1) * self.weights, _CUT**2
        let = c2 / (c2 + error)  # Geman-McClure as a reweighted square
        root = let * self.weights.sqrt()
        across = p.new_zeros(T, at.shape[1], 2, 3)
        across[..., 0, 0] = across[..., 1, 1] = 1
        across[..., 2] = -slope
        across *= (self.lens.focal / z * root)[..., None, None]
        spin = torch.linalg.cross(arm[:, :, None].expand_as(across), across) @ left_jacobian(p[:, :3])[:, None]
        rows = torch.cat([spin, across, self.model.rows(across @ turn[:, None], blend, by_jaw)], -1).flatten(1, 2)
        transposed = rows.transpose(1, 2)
        H = (transposed @ rows).to(x.dtype)
        g = (transposed @ (off * root[..., None]).flatten(1)[..., None])[..., 0].to(x.dtype)
        cost = (let * error).sum(1).to(x.dtype) / 2
        # priors: the head stays, the face is a face
        head = x.new_tensor([_HEAD_MOVES[0] ** -2] * 3 + [_HEAD_MOVES[1] ** -2] * 3)
        away = x[:, 6:] - self.mean
        pull = torch.cat([x[:, :6] * head, away @ self.precision], 1)
        cost = cost + ((x[:, :6] ** 2 * head).sum(1) + (away @ self.precision * away).sum(1)) / 2
        H[:, :6, :6] += torch.diag(head)
        H[:, 6:, 6:] += self.precision
        low, high = self._bounds(x)
        out = torch.where(x < low, x - low, torch.where(x > high, x - high, torch.zeros_like(x)))
        stiff = (out != 0).to(x.dtype) / _BOUND**2
        cost = cost + (out**2 * stiff).sum(1) / 2
        return Quadratic(cost, g + pull + out * stiff, H + torch.diag_embed(stiff))

    def _bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = torch.full_like(x, -1e9), torch.full_like(x, 1e9)
        face_low, face_high = low[:, 6:], high[:, 6:]
        face_low[:, LIDS], face_high[:, LIDS] = 0, 1
        face_low[:, JAW.start] = 0
        if self.model.bounded:
            face_low[:, :NUM_EXPRESSION], face_high[:, :NUM_EXPRESSION] = 0, 3
        return low, high

    def frame_quadratic(self, x: Tensor, index: Tensor) -> Quadratic:
        """Return the cost near x of the frames `index`."""
        return self.frames(index).quadratic(x)

    def start(self, faces: Tensor | None = None) -> Tensor:
        """Return unknowns [T, 61] to begin with: faces [T, 55], or the usual one, on the head where it is."""
        T = len(self.pixels)
        return torch.cat([self.mean.new_zeros(T, _HEAD), self.mean.expand(T, -1) if faces is None else faces], 1)

    def solve(self, x: Tensor, acceleration: Tensor, iterations: int = 6) -> Tensor:
        """Return the unknowns [T, 61] with smoothness, from x [T, 61]; `acceleration` [55] is the usual one."""
        x = solve_frames(self.frame_quadratic, x, iterations)
        if len(x) < 3:
            return x
        typical = torch.cat([x.new_full((_HEAD,), _HEAD_ACCELERATION), acceleration])
        ends = (0, _HEAD, _HEAD + JAW.start, _HEAD + LIDS.start, _HEAD + LIDS.stop)
        groups = [torch.arange(a, b) for a, b in itertools.pairwise(ends)]
        plain = Smoothness(torch.ones_like(x))
        return solve_sequence(
            self.quadratic, lambda q: plain.reweighted(q, groups, typical, _FREEDOM), x, iterations, tolerance=1e-3
        )


def gaze(
    turn: Tensor,  # [T, 3, 3] of the head
    eyes: Tensor,  # [T, 2, 3] joints of the eyes, camera axes
    iris_offsets: Tensor,  # [2, 3]
    pixels: Tensor,  # [T, 2, 2] middles of the irises
    weights: Tensor,  # [T] 1 / px^2
    lens: Lens,
) -> Tensor:
    """Return the rotation vectors of the eyes [T, 2, 3]: both look the same way, up or down and to a side."""
    T = len(turn)
    angles = turn.new_zeros(T, 2)
    center = turn.new_tensor(lens.center)
    for _ in range(4):
        vectors = torch.cat([angles, angles.new_zeros(T, 1)], 1)
        R = axis_angle(vectors)
        local = (R[:, None] @ iris_offsets[..., None])[..., 0]  # [T, 2, 3]
        slopes = skew(-local) @ left_jacobian(vectors)[:, None, :, :2]  # [T, 2, 3, 2]
        at = eyes + (turn[:, None] @ local[..., None])[..., 0]
        J = turn[:, None] @ slopes
        z = at[..., 2:]
        off = at[..., :2] / z * lens.focal + center - pixels
        A = (lens.focal / z[..., None] * (J[:, :, :2] - (at[..., :2] / z)[..., None] * J[:, :, 2:])).flatten(1, 2)
        H = A.transpose(1, 2) @ A * weights[:, None, None] + torch.eye(2, dtype=A.dtype, device=A.device) / _GAZE**2
        g = (A.transpose(1, 2) @ off.flatten(1)[..., None])[..., 0] * weights[:, None] + angles / _GAZE**2
        angles = angles - torch.linalg.solve(H, g[..., None])[..., 0]
    return torch.cat([angles, angles.new_zeros(T, 1)], 1)[:, None].expand(T, 2, 3)


def face_motion(motion: Motion, face: Tensor, eyes: Tensor) -> Motion:
    """Return `motion` with this face [T, 55] and these eyes [T, 2, 3]."""
    f32 = face.float().cpu()
    return replace(
        motion, flame_expression=f32[:, :NUM_EXPRESSION], jaw_pose=f32[:, JAW], eyelids=f32[:, LIDS].clamp(0, 1),
        eye_pose=eyes.float().cpu().contiguous(),
    )  # fmt: skip
