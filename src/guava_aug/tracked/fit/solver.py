"""Least squares over many frames: Levenberg-Marquardt with coupled frames, or with shared unknowns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-2, 1e-6, 1e6
_EASIER, _HARDER = 0.3, 4.0  # what an accepted and a refused step do to the damping
_RIDGE = 1e-9


@dataclass(frozen=True)
class Quadratic:
    """A cost of T frames with D unknowns each, near one point: value + gradient . d + d . hessian . d / 2."""

    cost: Tensor  # [T]
    gradient: Tensor  # [T, D]
    hessian: Tensor  # [T, D, D] Gauss-Newton


@dataclass(frozen=True)
class Smoothness:
    """A cost on second differences in time: `weights[t, d] * (x[t-1] - 2 x[t] + x[t+1])**2`, halved.

    `before` [2, D] are the two frames before the first, which are held; None: the sequence begins.
    """

    weights: Tensor  # [T, D]; those of the first and the last frame count only where there are frames before
    before: Tensor | None = None

    def differences(self, x: Tensor) -> Tensor:
        """Return second differences [T, D], centred on each frame; zero where a neighbour is missing."""
        out = torch.zeros_like(x)
        if len(x) > 2:
            out[1:-1] = x[:-2] - 2 * x[1:-1] + x[2:]
        return out

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the differences [D] that reach over the beginning: about the frame before, and about the first."""
        if self.before is None:
            return None
        first = self.before[0] - 2 * self.before[1] + x[0]
        second = self.before[1] - 2 * x[0] + x[1] if len(x) > 1 else torch.zeros_like(first)
        return first, second

    def cost(self, x: Tensor) -> Tensor:
        """Return the cost, a number."""
        total = (self.weights * self.differences(x) ** 2).sum()
        edge = self.boundary(x)
        if edge is not None:
            total = total + (self.weights[0] * (edge[0] ** 2 + edge[1] ** 2)).sum()
        return total / 2

    def reweighted(self, x: Tensor, groups: Sequence[Tensor], typical: Tensor, freedom: float) -> Smoothness:
        """Return weights that let go where a group of unknowns (a limb) accelerates more than is typical.

        Args:
            x: [T, D].
            groups: Numbers of unknowns that accelerate together.
            typical: [D] usual second differences.
            freedom: Of Student's t distribution; the smaller, the more a fast frame is let go.
        """
        size = self.differences(x) / typical
        weights = torch.ones_like(x) / typical**2
        for group in groups:
            n = size[:, group].shape[1]
            energy = (size[:, group] ** 2).sum(1, keepdim=True)
            weights[:, group] = weights[:, group] * (freedom + n) / (freedom + energy)
        return Smoothness(weights, self.before)


def solve_frames(
    quadratic: Callable[[Tensor, Tensor], Quadratic],  # cost of the frames with these numbers near x
    x: Tensor,  # [T, D]
    iterations: int,
    tolerance: float = 1e-3,
) -> Tensor:
    """Return the minimum of the cost of each frame by itself [T, D], all frames at once, each with its own damping.

    A frame is done when a step gains less than `tolerance` of its cost; only the others go on.
    """
    x = x.clone()
    left = torch.arange(len(x), device=x.device)
    damping = torch.full((len(x),), _FIRST_DAMPING, dtype=x.dtype, device=x.device)
    now = quadratic(x, left)
    for _ in range(iterations):
        diagonal = now.hessian.diagonal(dim1=1, dim2=2)
        system = now.hessian + torch.diag_embed(damping[:, None] * diagonal + _RIDGE)
        step = torch.nan_to_num(-torch.linalg.solve_ex(system, now.gradient[..., None])[0][..., 0])
        tried = quadratic(x[left] + step, left)
        better = tried.cost < now.cost
        x[left[better]] += step[better]
        done = better & (now.cost - tried.cost < tolerance * now.cost)
        damping = torch.where(better, damping * _EASIER, damping * _HARDER)
        done |= damping > _MOST_DAMPING
        on = ~done
        left, damping = left[on], damping[on].clamp(min=_LEAST_DAMPING)
        if not len(left):
            break
        better = better[on]
        now = Quadratic(
            torch.where(better, tried.cost[on], now.cost[on]),
            torch.where(better[:, None], tried.gradient[on], now.gradient[on]),
            torch.where(better[:, None, None], tried.hessian[on], now.hessian[on]),
        )
    return x


def solve_sequence(
    quadratic: Callable[[Tensor], Quadratic],
    smoothness: Callable[[Tensor], Smoothness],
    x: Tensor,  # [T, D]
    iterations: int,
    tolerance: float = 1e-4,
) -> Tensor:
    """Return the minimum of the cost of a sequence [T, D] whose frames are coupled by smoothness.

    The weights of the smoothness are taken anew at every accepted step, so that it acts as a robust cost.
    """
    damping = 1e-3
    smooth = smoothness(x)
    now = quadratic(x)
    total = float(now.cost.sum() + smooth.cost(x))
    for _ in range(iterations):
        step = -_banded_step(now, smooth, x, damping)
        tried = quadratic(x + step)
        new_total = float(tried.cost.sum() + smooth.cost(x + step))
        if not new_total < total:
            damping *= 10
            if damping > _MOST_DAMPING:
                break
            continue
        done = total - new_total < tolerance * total
        x, now = x + step, tried
        if done:
            break
        damping = max(damping * _EASIER, _LEAST_DAMPING)
        smooth = smoothness(x)
        total = float(now.cost.sum() + smooth.cost(x))
    return x


def _banded_step(now: Quadratic, smooth: Smoothness, x: Tensor, damping: float) -> Tensor:
    T = len(x)
    w = smooth.weights
    gradient = now.gradient.clone()
    diagonal = torch.zeros_like(x)
    first, second = torch.zeros_like(x), torch.zeros_like(x)  # coupling of frame t with t + 1, and t + 2
    if T > 2:
        inner = w[1:-1]
        pull = inner * smooth.differences(x)[1:-1]
        gradient[:-2] += pull
        gradient[1:-1] -= 2 * pull
        gradient[2:] += pull
        diagonal[:-2] += inner
        diagonal[1:-1] += 4 * inner
        diagonal[2:] += inner
        first[:-2] -= 2 * inner
        first[1:-1] -= 2 * inner
        second[:-2] += inner
    edge = smooth.boundary(x)
    if edge is not None:
        gradient[0] += w[0] * (edge[0] - 2 * edge[1])
        diagonal[0] += 5 * w[0]
        if T > 1:
            gradient[1] += w[0] * edge[1]
            diagonal[1] += w[0]
            first[0] -= 2 * w[0]
    blocks = now.hessian + torch.diag_embed(
        diagonal + damping * now.hessian.diagonal(dim1=1, dim2=2) + damping * diagonal + _RIDGE
    )
    return solve_pentadiagonal(blocks, first, second, gradient)


def solve_pentadiagonal(
    blocks: Tensor,  # [T, D, D] symmetric positive definite
    first: Tensor,  # [T, D] diagonal of the block that couples frame t with t + 1; the last row counts for nothing
    second: Tensor,  # [T, D] with t + 2
    right: Tensor,  # [T, D]
) -> Tensor:
    """Return the solution [T, D] of a symmetric positive definite system whose far blocks are diagonal.

    Pairs of frames make it block tridiagonal, which is solved by block Cholesky.
    """
    T, D = right.shape
    if T % 2:  # one more frame that couples with none
        blocks = torch.cat([blocks, torch.eye(D, dtype=blocks.dtype, device=blocks.device)[None]])
        first, second, right = (torch.cat([a, torch.zeros_like(a[:1])]) for a in (first, second, right))
        first, second = first.clone(), second.clone()
        first[T - 1 :] = 0
        second[max(T - 2, 0) :] = 0
    n = len(right) // 2
    main = right.new_zeros(n, 2 * D, 2 * D)
    main[:, :D, :D], main[:, D:, D:] = blocks[0::2], blocks[1::2]
    inside = torch.diag_embed(first[0::2])
    main[:, :D, D:], main[:, D:, :D] = inside, inside
    below = right.new_zeros(n, 2 * D, 2 * D)  # rows: the pair after, columns: this pair
    below[:, :D, :D] = torch.diag_embed(second[0::2])
    below[:, :D, D:] = torch.diag_embed(first[1::2])
    below[:, D:, D:] = torch.diag_embed(second[1::2])
    y = right.reshape(n, 2 * D)
    factors: list[Tensor] = []
    carried: list[Tensor] = []
    forward: list[Tensor] = []
    for k in range(n):
        block, value = main[k], y[k]
        if k:
            block = block - carried[-1] @ carried[-1].T
            value = value - carried[-1] @ forward[-1]
        L = torch.linalg.cholesky_ex(block)[0]
        factors.append(L)
        forward.append(torch.linalg.solve_triangular(L, value[:, None], upper=False)[:, 0])
        if k < n - 1:
            carried.append(torch.linalg.solve_triangular(L, below[k].T, upper=False).T)
    out = right.new_zeros(n, 2 * D)
    for k in range(n - 1, -1, -1):
        value = forward[k]
        if k < n - 1:
            value = value - carried[k].T @ out[k + 1]
        out[k] = torch.linalg.solve_triangular(factors[k].T, value[:, None], upper=True)[:, 0]
    return out.reshape(-1, D)[:T]


@dataclass(frozen=True)
class SharedQuadratic:
    """As `Quadratic`, with K unknowns that all frames share."""

    frames: Quadratic
    coupling: Tensor  # [T, D, K]
    gradient: Tensor  # [K]
    hessian: Tensor  # [K, K]
    cost: Tensor  # of the shared unknowns by themselves, a number


def solve_shared(
    quadratic: Callable[[Tensor, Tensor], SharedQuadratic],
    x: Tensor,  # [T, D]
    shared: Tensor,  # [K]
    iterations: int,
    tolerance: float = 1e-4,
) -> tuple[Tensor, Tensor, float]:
    """Return frames [T, D], shared unknowns [K] and the cost at the minimum (Gauss-Newton, Schur complement)."""
    damping = 1e-2
    now = quadratic(x, shared)
    total = float(now.frames.cost.sum() + now.cost)
    for _ in range(iterations):
        H = now.frames.hessian
        H = H + torch.diag_embed(damping * H.diagonal(dim1=1, dim2=2) + _RIDGE)
        right = torch.cat([now.coupling, now.frames.gradient[..., None]], 2)
        solved = torch.linalg.solve_ex(H, right)[0]  # [T, D, K + 1]
        S = now.hessian + torch.diag(damping * now.hessian.diagonal() + _RIDGE)
        S = S - (now.coupling.transpose(1, 2) @ solved[..., :-1]).sum(0)
        g = now.gradient - (now.coupling.transpose(1, 2) @ solved[..., -1:]).sum(0)[:, 0]
        step = -torch.linalg.solve(S, g)
        frame_step = -(solved[..., -1] + solved[..., :-1] @ step)
        tried = quadratic(x + frame_step, shared + step)
        new_total = float(tried.frames.cost.sum() + tried.cost)
        if not new_total < total:
            damping *= 10
            if damping > _MOST_DAMPING:
                break
            continue
        done = total - new_total < tolerance * total
        x, shared, now, total = x + frame_step, shared + step, tried, new_total
        damping = max(damping * _EASIER, _LEAST_DAMPING)
        if done:
            break
    return x, shared, total
