"""How far joints bend: anatomy, where the prior of signing poses is a bell curve that knows no end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guava_aug.body.joints import SIDES
from guava_aug.tracked.fit.rig import PoseSpace

# Radians from the T pose with a flat hand. Usual ranges of motion of adults (American Academy of Orthopaedic Surgeons),
# with some more; those of elbow and wrist as rotation vectors, in which the turn of the forearm is a part of both.
_BEND = ((-0.5, 1.75), (-0.1, 2.0), (-0.3, 1.6))  # of a finger's three hinges, positive towards the palm
_SPREAD = (-0.45, 0.45)
_THUMB = ((-0.9, 0.9), (-1.1, 1.1), (-1.4, 1.4))  # each of three axes, by joint
_ELBOW = ((-1.5, 1.5), (-2.7, 0.1), (-1.1, 1.1))  # of the left arm: turn, bend (negative), turn while bent
_WRIST = ((-1.6, 1.6), (-0.9, 0.9), (-1.5, 1.5))  # turn, to the sides, bend
_SOFT = 0.1  # radians beyond a limit, one standard deviation: people differ


@dataclass(frozen=True)
class Limits:
    """The range of each unknown of a pose; infinite where there is none."""

    low: Tensor  # [D]
    high: Tensor  # [D]

    def beyond(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return by how much poses [T, D] leave their ranges, and the weights of its squares, zero inside."""
        out = x - torch.minimum(torch.maximum(x, self.low), self.high)
        return out, (out != 0).to(x.dtype) / _SOFT**2


def limits_of(space: PoseSpace) -> Limits:
    """Return the limits of elbows, wrists, fingers and thumbs."""
    low = torch.full((space.size,), -torch.inf, dtype=torch.float64)
    high = -low
    finger = [_BEND[0], _SPREAD, _BEND[1], _BEND[2]]
    hand = torch.tensor([*finger * 4, *(r for r in _THUMB for _ in range(3))], dtype=torch.float64)
    for side in SIDES:
        part = space.slices[f"{side}_hand"]
        low[part], high[part] = hand.unbind(1)
        for name, ranges in (("elbow", _ELBOW), ("wrist", _WRIST)):
            arm = torch.tensor(ranges, dtype=torch.float64)
            if side == "right":  # mirrored: turns about y and z change their sign
                arm[1:] = -arm[1:].flip(1)
            part = space.slices[f"{side}_{name}"]
            low[part], high[part] = arm.unbind(1)
    return Limits(low, high)
