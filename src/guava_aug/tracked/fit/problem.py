"""The cost of poses against landmarks: points in the picture, directions in space, a prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from guava_aug.tracked.fit.branches import Branch
from guava_aug.tracked.fit.contact import Contact
from guava_aug.tracked.fit.limits import Limits
from guava_aug.tracked.fit.rig import Points, Rig
from guava_aug.tracked.fit.silhouette import Outline
from guava_aug.tracked.fit.solver import Quadratic, SharedQuadratic

PLACE = slice(3, 6)  # of a pose vector
_NEAREST = 0.05  # metres; nothing is nearer to the camera


@dataclass(frozen=True)
class Lens:
    """A pinhole lens of the pixels the landmarks are in; integer coordinates are pixel centres."""

    focal: float
    center: tuple[float, float]


@dataclass(frozen=True)
class Observations:
    """What was seen in T frames: N points with weights, M directions between them. float64."""

    pixels: Tensor  # [T, N, 2]
    weights: Tensor  # [T, N] one over the variance, 1 / px^2; zero where not seen
    pairs: Tensor  # [M, 2] int64 from point, to point
    directions: Tensor  # [T, M, 3] unit, camera axes
    looked_at: Tensor  # [M] 1: the axes of a camera that looks at the pair (a hand in its crop); 0: of the picture's
    direction_weights: Tensor  # [T, M] one over the variance

    def frames(self, index: slice | Tensor) -> Observations:
        """Return some of the frames."""
        return Observations(
            self.pixels[index],
            self.weights[index],
            self.pairs,
            self.directions[index],
            self.looked_at,
            self.direction_weights[index],
        )


@dataclass(frozen=True)
class Prior:
    """A Gaussian on poses: mean [D], precision [D, D], both for all frames."""

    mean: Tensor
    precision: Tensor


@dataclass(frozen=True)
class _Residuals:
    """N residuals of R numbers each in T frames, times the roots of their weights."""

    cost: Tensor  # [T]
    off: Tensor  # [T, N, R]
    across: Tensor  # [T, N, R, 3] change when the point, or the second point of the pair, moves
    stretched: Tensor | None  # [T, N, R] change with the logarithm of the focal length alone; None: it has no part

    def to_shared(self, index: Tensor, by_shape: Tensor, root: Tensor | None) -> Tensor:
        """Return the derivatives [T, n, R, K] of some residuals to shape and focal length.

        Args:
            index: [n] which residuals.
            by_shape: [T, n, 3, S] how their points, or the differences of their pairs, move with the shape.
            root: [T, 3] whose depth follows the focal length.
        """
        across = self.across[:, index]
        shape = across @ by_shape
        if self.stretched is None or root is None:
            return torch.cat([shape, shape.new_zeros(*shape.shape[:3], 1)], -1)
        away = across[..., 2] * root[:, None, 2:] + self.stretched[:, index]
        return torch.cat([shape, away[..., None]], -1)


class _Sums:
    """Gauss-Newton sums over the residuals of T frames."""

    def __init__(self, x: Tensor, shared: int | None) -> None:
        (T, D), K = x.shape, shared or 0
        self.shared = shared is not None
        self.g, self.H = x.new_zeros(T, D), x.new_zeros(T, D, D)
        self.g_shared, self.H_shared, self.coupling = x.new_zeros(K), x.new_zeros(K, K), x.new_zeros(T, D, K)

    def add(self, columns: Tensor, rows: list[Tensor], off: list[Tensor], others: list[Tensor] | None) -> None:
        """Add residuals.

        Args:
            columns: [C] unknowns of the frames that they depend on.
            rows: [T, ., C] each, their derivatives to these.
            off: [T, n, R] each, the residuals.
            others: [T, n, R, K] each, their derivatives to the shared unknowns.
        """
        A = torch.cat(rows, 1)
        r = torch.cat([o.flatten(1) for o in off], 1)[..., None]
        transposed = A.transpose(1, 2)
        self.g[:, columns] += (transposed @ r)[..., 0]
        self.H[:, columns[:, None], columns] += transposed @ A
        if others is not None:
            B = torch.cat([o.flatten(1, 2) for o in others], 1)
            self.coupling[:, columns] += transposed @ B
            self.g_shared += (B.transpose(1, 2) @ r).sum(0)[:, 0]
            self.H_shared += B.flatten(0, 1).T @ B.flatten(0, 1)


@dataclass(frozen=True)
class BodyProblem:
    """Poses, root places, shape and focal length against observations.

    The three unknowns "place" of a pose are metres right and down at a reference depth, and the logarithm of the depth
    over it; the reference depth goes with the focal length, so that a change of focal length keeps sizes.
    """

    rig: Rig
    points: Points
    seen: Observations
    prior: Prior
    lens: Lens
    depth: float  # metres of the reference at `lens.focal`
    branches: Sequence[Branch]  # of `points` and `seen.pairs`
    cut: float = 4.0  # standard deviations beyond which a point is let go (Geman-McClure)
    outline: Outline | None = None
    limits: Limits | None = None
    contact: Contact | None = None  # of poses; where the shape is solved, too, it has no part

    def frames(self, index: slice | Tensor) -> BodyProblem:
        """Return the problem of some frames."""
        outline = None if self.outline is None else self.outline.frames(index)
        contact = None if self.contact is None else self.contact.frames(index)
        return replace(
            self, points=self.points.in_frames(index), seen=self.seen.frames(index), outline=outline, contact=contact
        )

    def root(self, x: Tensor, log_focal: Tensor | float = 0.0) -> Tensor:
        """Return where the roots are [T, 3], camera axes."""
        right, down, far = x[:, PLACE].unbind(1)
        grow = far.exp()
        stretch = torch.as_tensor(log_focal, dtype=x.dtype, device=x.device).exp()
        return torch.stack([right * grow, down * grow, self.depth * stretch * grow], 1)

    def positions(self, x: Tensor, shape: Tensor, log_focal: Tensor | float = 0.0) -> Tensor:
        """Return points [T, N, 3], camera axes, metres."""
        joints = self.rig.rest_joints(shape)
        world, place = self.rig.transforms(x, self.root(x, log_focal), joints)
        return self.rig.points(world, place, self.points, joints, shape)

    def project(self, at: Tensor, log_focal: Tensor | float = 0.0) -> Tensor:
        """Return pixels [T, N, 2] of positions."""
        focal = self.lens.focal * torch.as_tensor(log_focal, dtype=at.dtype, device=at.device).exp()
        center = torch.tensor(self.lens.center, dtype=at.dtype, device=at.device)
        return at[..., :2] / at[..., 2:].clamp(min=_NEAREST) * focal + center

    def frame_quadratic(self, x: Tensor, shape: Tensor) -> Quadratic:
        """Return the cost of each frame near x, shape and lens held."""
        return self._evaluate(x, shape, None).frames

    def shared_quadratic(self, x: Tensor, shared: Tensor, shared_prior: Prior) -> SharedQuadratic:
        """Return the cost near x and the shared unknowns: shape [S], and the logarithm of the focal length's factor."""
        return self._evaluate(x, shared[:-1], shared, shared_prior)

    def _evaluate(
        self, x: Tensor, shape: Tensor, shared: Tensor | None, shared_prior: Prior | None = None
    ) -> SharedQuadratic:
        rig, seen = self.rig, self.seen
        log_focal = shared[-1] if shared is not None else x.new_zeros(())
        focal = self.lens.focal * log_focal.exp()
        joints = rig.rest_joints(shape)
        root = self.root(x, log_focal)
        world, place = rig.transforms(x, root, joints)
        at = rig.points(world, place, self.points, joints, shape)  # [T, N, 3]
        T, D = x.shape
        moved = x.new_zeros(T, 3, 3)
        moved[:, 0, 0] = moved[:, 1, 1] = x[:, PLACE.start + 2].exp()
        moved[..., 2] = root
        twists = rig.twists(x, world, place, moved)
        in_picture = self._in_picture(at, focal)
        in_space = self._in_space(at, focal)
        sums = _Sums(x, None if shared is None else len(shared))
        by_shape = None if shared is None else rig.shape_jacobian(world, self.points)  # [T, N, 3, S]
        pairs = seen.pairs
        for branch in self.branches:
            p, m = branch.points, branch.pairs
            ends = (at[:, pairs[m, 0]], at[:, pairs[m, 1]])
            rows = [
                branch.point_rows(in_picture.across[:, p], at[:, p], twists),
                branch.pair_rows(in_space.across[:, m], ends, twists),
            ]
            off = [in_picture.off[:, p], in_space.off[:, m]]
            others = None
            if by_shape is not None:
                others = [
                    in_picture.to_shared(p, by_shape[:, p], root),
                    in_space.to_shared(m, by_shape[:, pairs[m, 1]] - by_shape[:, pairs[m, 0]], None),
                ]
            sums.add(branch.columns, rows, off, others)
        cost = in_picture.cost + in_space.cost
        if self.outline is not None:
            cost = cost + self._add_outline(sums, self.outline, world, place, joints, shape, twists, focal, root)
        if self.contact is not None and shared is None:
            spheres = rig.points(world, place, self.contact.spheres, joints, shape)
            cost = cost + self._add_contact(
                sums, self.contact, torch.cat([at[:, : self.contact.landmarks], spheres], 1), twists
            )
        # the prior
        away = x - self.prior.mean
        pull = away @ self.prior.precision
        frames = Quadratic(cost + (pull * away).sum(1) / 2, sums.g + pull, sums.H + self.prior.precision)
        if self.limits is not None:
            out, stiff = self.limits.beyond(x)
            frames = Quadratic(
                frames.cost + (out**2 * stiff).sum(1) / 2, frames.gradient + out * stiff,
                frames.hessian + torch.diag_embed(stiff),
            )  # fmt: skip
        if shared is None or shared_prior is None:
            empty = x.new_zeros(0)
            return SharedQuadratic(frames, x.new_zeros(T, D, 0), empty, x.new_zeros(0, 0), x.new_zeros(()))
        away = shared - shared_prior.mean
        pull = shared_prior.precision @ away
        return SharedQuadratic(
            frames, sums.coupling, sums.g_shared + pull, sums.H_shared + shared_prior.precision, away @ pull / 2
        )

    def _add_outline(
        self, sums: _Sums, outline: Outline, world: Tensor, place: Tensor, joints: Tensor, shape: Tensor,
        twists: Tensor, focal: Tensor, root: Tensor,
    ) -> Tensor:  # fmt: skip
        """Add the outline to the sums and return its cost [T]."""
        at = self.rig.points(world, place, outline.points, joints, shape)
        z = at[..., 2].clamp(min=_NEAREST)
        slope = at[..., :2] / z[..., None]
        px = slope * focal + at.new_tensor(self.lens.center)
        off = (px * outline.across).sum(-1) - outline.target
        cost, weight = self._robust(off**2, outline.weights)
        along = (slope * outline.across).sum(-1)
        across = torch.cat([outline.across, -along[..., None]], -1) * (focal / z * weight)[..., None]
        found = _Residuals(cost, (off * weight)[..., None], across[:, :, None], (along * focal * weight)[..., None])
        by_shape = self.rig.shape_jacobian(world, outline.points) if sums.shared else None
        for branch in outline.branches:
            p = branch.points
            rows = branch.point_rows(found.across[:, p], at[:, p], twists)
            others = None if by_shape is None else [found.to_shared(p, by_shape[:, p], root)]
            sums.add(branch.columns, [rows], [found.off[:, p]], others)
        return cost

    def _add_contact(self, sums: _Sums, contact: Contact, at: Tensor, twists: Tensor) -> Tensor:
        """Add what is inside of what to the sums and return its cost [T]; `at` [T, N, 3] landmarks, then spheres."""
        a, b = contact.ends.unbind(1)
        depth, slope = contact.inside(at[:, b] - at[:, a])
        root = contact.weights.sqrt()
        off, across = depth * root, slope * root[..., None]
        touched = (off > 0).any(0)
        for branch in contact.branches:
            some = branch.with_pairs(touched[branch.pairs])
            m = some.pairs
            if len(m):
                rows = some.pair_rows(across[:, m, None], (at[:, a[m]], at[:, b[m]]), twists)
                sums.add(some.columns, [rows], [off[:, m, None]], None)
        return (off**2).sum(1) / 2

    def _in_picture(self, at: Tensor, focal: Tensor) -> _Residuals:
        """Return the residuals of points [T, N, 3] in the picture."""
        seen = self.seen
        z = at[..., 2].clamp(min=_NEAREST)
        slope = at[..., :2] / z[..., None]
        off = slope * focal + at.new_tensor(self.lens.center) - seen.pixels  # [T, N, 2]
        cost, root = self._robust((off**2).sum(-1), seen.weights)
        across = at.new_zeros(*at.shape[:2], 2, 3)
        across[..., 0, 0] = across[..., 1, 1] = 1
        across[..., 2] = -slope
        across *= (focal / z * root)[..., None, None]
        return _Residuals(cost, off * root[..., None], across, slope * focal * root[..., None])

    def _in_space(self, at: Tensor, focal: Tensor) -> _Residuals:
        """Return the residuals of the directions between points."""
        seen = self.seen
        a, b = seen.pairs.unbind(1)
        between = at[:, b] - at[:, a]
        length = between.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        unit = between / length
        off = unit - self._turned(seen.directions, (seen.pixels[:, a] + seen.pixels[:, b]) / 2, focal)
        cost, root = self._robust((off**2).sum(-1), seen.direction_weights)
        # of a unit vector only what lies across it
        across = torch.eye(3, dtype=at.dtype, device=at.device) - unit[..., None] * unit[..., None, :]
        return _Residuals(cost, off * root[..., None], across * (root[..., None] / length)[..., None], None)

    def _robust(self, squares: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cost [T] of squared residuals [T, N] (Geman-McClure), and the roots of their weights [T, N]."""
        error, c2 = squares * weights, self.cut**2
        let = c2 / (c2 + error)  # as a reweighted square
        return (let * error).sum(1) / 2, let * weights.sqrt()

    def _turned(self, directions: Tensor, pixels: Tensor, focal: Tensor) -> Tensor:
        """Return directions in the picture's axes; those `looked_at` come from a camera that looks at `pixels`."""
        xy = (pixels - pixels.new_tensor(self.lens.center)) / focal * self.seen.looked_at[:, None]
        ray = torch.cat([xy, torch.ones_like(xy[..., :1])], -1)
        ray = ray / ray.norm(dim=-1, keepdim=True)
        # the smallest rotation that takes (0, 0, 1) to the ray
        axis = torch.stack([-ray[..., 1], ray[..., 0], torch.zeros_like(ray[..., 0])], -1)
        once = torch.linalg.cross(axis, directions)
        twice = torch.linalg.cross(axis, once)
        out: Tensor = directions + once + twice / (1 + ray[..., 2:])
        return out
