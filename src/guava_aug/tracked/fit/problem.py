"""The cost of poses against landmarks: points in the picture, directions in space, a prior."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from guava_aug.tracked.fit.rig import Points, Rig
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
    cut: float = 4.0  # standard deviations beyond which a point is let go (Geman-McClure)

    def frames(self, index: slice | Tensor) -> BodyProblem:
        """Return the problem of some frames."""
        return replace(self, points=self.points.in_frames(index), seen=self.seen.frames(index))

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
        joints = rig.rest_joints(shape)
        root = self.root(x, log_focal)
        world, place = rig.transforms(x, root, joints)
        at = rig.points(world, place, self.points, joints, shape)
        T, N = at.shape[:2]

        # derivatives of positions to the frame's unknowns, then to the shared ones
        J = rig.pose_jacobian(x, world, place, self.points, at)  # [T, N, 3, D]
        moved = torch.zeros(T, 3, 3, dtype=x.dtype, device=x.device)
        moved[:, 0, 0] = moved[:, 1, 1] = x[:, PLACE.start + 2].exp()
        moved[..., 2] = root
        J[..., PLACE] = moved[:, None]
        if shared is not None:
            by_shape = rig.shape_jacobian(world, self.points)
            by_focal = torch.zeros(T, N, 3, 1, dtype=x.dtype, device=x.device)
            by_focal[:, :, 2, 0] = root[:, None, 2]
            J = torch.cat([J, by_shape, by_focal], -1)

        rows, residuals, weights, cost = [], [], [], x.new_zeros(T)
        # points in the picture
        focal = self.lens.focal * log_focal.exp()
        z = at[..., 2].clamp(min=_NEAREST)
        slope = at[..., :2] / z[..., None]
        off = slope * focal + x.new_tensor(self.lens.center) - seen.pixels  # [T, N, 2]
        to_pixel = focal / z[..., None, None] * (J[:, :, :2] - slope[..., None] * J[:, :, 2:])  # [T, N, 2, D]
        if shared is not None:
            to_pixel[..., -1] += slope * focal
        error = (off**2).sum(-1) * seen.weights  # [T, N]
        c2 = self.cut**2
        let = (c2 / (c2 + error)) ** 2  # Geman-McClure as a reweighted square
        cost = cost + (c2 * error / (c2 + error)).sum(1) / 2
        rows.append(to_pixel.flatten(1, 2))
        residuals.append(off.flatten(1))
        weights.append((let * seen.weights)[..., None].expand(-1, -1, 2).flatten(1))
        # directions between points
        if len(seen.pairs):
            a, b = seen.pairs.unbind(1)
            between = at[:, b] - at[:, a]
            length = between.norm(dim=-1, keepdim=True).clamp(min=1e-6)
            miss = between / length - self._turned(seen.directions, (seen.pixels[:, a] + seen.pixels[:, b]) / 2, focal)
            error = (miss**2).sum(-1) * seen.direction_weights
            let = (c2 / (c2 + error)) ** 2
            cost = cost + (c2 * error / (c2 + error)).sum(1) / 2
            # of a unit vector only what lies across it
            unit = (between / length)[..., None]
            slopes = (J[:, b] - J[:, a]) / length[..., None]
            slopes = slopes - unit * (unit * slopes).sum(2, keepdim=True)
            rows.append(slopes.flatten(1, 2))
            residuals.append(miss.flatten(1))
            weights.append((let * seen.direction_weights)[..., None].expand(-1, -1, 3).flatten(1))
        A, r, w = torch.cat(rows, 1), torch.cat(residuals, 1), torch.cat(weights, 1)
        weighted = A * w[..., None]
        H = A.transpose(1, 2) @ weighted
        g = (weighted.transpose(1, 2) @ r[..., None])[..., 0]
        D = x.shape[1]
        # the prior
        away = x - self.prior.mean
        pull = away @ self.prior.precision
        cost = cost + (pull * away).sum(1) / 2
        frames = Quadratic(cost, g[:, :D] + pull, H[:, :D, :D] + self.prior.precision)
        if shared is None or shared_prior is None:
            empty = x.new_zeros(0)
            return SharedQuadratic(frames, x.new_zeros(T, D, 0), empty, x.new_zeros(0, 0), x.new_zeros(()))
        away = shared - shared_prior.mean
        pull = shared_prior.precision @ away
        return SharedQuadratic(
            frames, H[:, :D, D:], g[:, D:].sum(0) + pull, H[:, D:, D:].sum(0) + shared_prior.precision, away @ pull / 2
        )

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
