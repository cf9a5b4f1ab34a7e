"""Which unknowns move which landmarks: rows of the least-squares problem, grouped by the branches of the body.

A landmark of the left hand moves with the trunk, the left arm and the left hand, never with the right arm. The
landmarks of a branch therefore have derivatives to a part of the unknowns only, and the products that make the
Gauss-Newton matrix are several times smaller than over all of them.

Derivatives come from twists. An unknown that turns a joint moves a point p with the velocity w x p + v, where the six
numbers (w, v) do not depend on the point; a residual that changes by q . dp when its point moves by dp then changes by
(p x q) . w + q . v.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from guava_aug.body.joints import INDEX
from guava_aug.tracked.fit.rig import Rig


@dataclass(frozen=True)
class Branch:
    """Points and pairs of points whose unknowns are among the same `columns`."""

    points: Tensor  # [n] int64
    pairs: Tensor  # [m] int64
    columns: Tensor  # [C] int64 unknowns
    twists: Tensor  # [E] int64 of `Rig.twists`: first one for each column, then further joints that a column turns
    further: Tensor  # [E - C] int64 place in `columns` of these
    point_mask: Tensor  # [n, E] whether a point moves
    pair_masks: tuple[Tensor, Tensor]  # [m, E] each, likewise of the first and the second point of a pair

    def point_rows(self, across: Tensor, at: Tensor, twists: Tensor) -> Tensor:
        """Return the derivatives [T, n * R, C] of R residuals of each point of the branch.

        Args:
            across: [T, n, R, 3] change of the residuals when a point moves.
            at: [T, n, 3] where the points are.
            twists: [T, 6, all twists].
        """
        rows = self._rows(across, at, twists, self.point_mask)
        return self._summed(rows)

    def pair_rows(self, across: Tensor, at: tuple[Tensor, Tensor], twists: Tensor) -> Tensor:
        """Return the derivatives [T, m * R, C] of R residuals of the difference of each pair: second less first."""
        a, b = (self._rows(across, p, twists, m) for p, m in zip(at, self.pair_masks, strict=True))
        return self._summed(b.sub_(a))

    def with_pairs(self, chosen: Tensor) -> Branch:
        """Return the branch with some of its pairs: `chosen` [m] bool."""
        a, b = self.pair_masks
        return replace(self, pairs=self.pairs[chosen], pair_masks=(a[chosen], b[chosen]))

    def _rows(self, across: Tensor, at: Tensor, twists: Tensor, mask: Tensor) -> Tensor:
        to_twist = torch.cat([torch.linalg.cross(at[:, :, None].expand_as(across), across), across], -1)
        rows = to_twist.flatten(1, 2) @ twists[:, :, self.twists]
        mask = mask.to(rows.dtype)[:, None].expand(-1, across.shape[2], -1).flatten(0, 1)
        out: Tensor = rows.mul_(mask)
        return out

    def _summed(self, rows: Tensor) -> Tensor:
        C = len(self.columns)
        return rows[..., :C].index_add_(2, self.further, rows[..., C:])


def branches(rig: Rig, joints: Tensor, pairs: Tensor) -> list[Branch]:
    """Return the branches of points that ride on `joints` [N], and of pairs [M, 2] of these points.

    Each point and each pair is in exactly one branch: trunk, head, left arm, right arm, or the whole body.
    """
    moved = rig.ancestors[joints][:, rig.twist_joints]  # [N, E]
    size = rig.space.size
    unions = [moved, moved[pairs[:, 0]] | moved[pairs[:, 1]]]
    by_column = [_by_column(u, rig.twist_columns, size) for u in unions]  # [N, D], [M, D]
    left = [torch.ones(len(u), dtype=torch.bool, device=u.device) for u in unions]
    out = []
    for columns in _column_sets(rig):
        inside = [~(u & ~columns).any(1) & rest for u, rest in zip(by_column, left, strict=True)]
        left = [rest & ~here for here, rest in zip(inside, left, strict=True)]
        points, members = (here.nonzero()[:, 0] for here in inside)
        if not len(points) and not len(members):
            continue
        ids = columns.nonzero()[:, 0]
        twists = columns[rig.twist_columns].nonzero()[:, 0]
        place = torch.full((size,), -1, device=ids.device)
        place[ids] = torch.arange(len(ids), device=ids.device)
        a, b = pairs[members].unbind(1)
        out.append(
            Branch(
                points, members, ids, twists, place[rig.twist_columns[twists[len(ids) :]]], moved[points][:, twists],
                (moved[a][:, twists], moved[b][:, twists]),
            )
        )  # fmt: skip
    return out


def _by_column(moved: Tensor, columns: Tensor, size: int) -> Tensor:
    out = torch.zeros(len(moved), size, device=moved.device)
    return out.index_add_(1, columns, moved.float()) > 0


def _column_sets(rig: Rig) -> list[Tensor]:
    """Return sets of unknowns [D] bool, from small to all: trunk, and trunk with each of its branches."""
    size = rig.space.size
    heads = [INDEX[n] for n in ("neck", "left_collar", "right_collar")]
    below = rig.ancestors[:, heads].T  # [3, J] what hangs on the neck or on a collar

    def unknowns(joints: Tensor) -> Tensor:
        return _by_column(joints[rig.twist_joints][None], rig.twist_columns, size)[0]

    trunk = unknowns(~below.any(0))
    return [trunk, *(trunk | unknowns(branch) for branch in below), torch.ones_like(trunk)]
