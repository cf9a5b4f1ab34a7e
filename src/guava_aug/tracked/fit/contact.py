"""Hands stay outside of trunk, head, forearms and each other, and in front of trunk and head where they are seen.

A picture says little about depth, but a hand that the detector sees before the chest is not behind it or in it. Trunk,
head, forearms and palms are spheres that ride on joints; each landmark of a hand that is inside of one is pushed out. A
landmark that is beyond the middle of trunk or head, and hidden by it, is pushed to the camera instead of out at the
back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from guava_aug.body.joints import INDEX, SIDES
from guava_aug.tracked.fit.branches import Branch, branches
from guava_aug.tracked.fit.calibration import NUM_HAND, NUM_POSE
from guava_aug.tracked.fit.rig import Points, Rig
from guava_aug.tracked.fit.silhouette import Surface

_WIDE = 0.06  # metres from the middle of the body: vertices there say how thick the trunk is
_BAND, _ACROSS = 0.07, 5  # metres between the heights of the trunk's spheres; spheres at each
_TRUNK = ("spine1", "spine2", "spine3")
_FOREARM, _PALM = (0.035, (0.3, 0.55, 0.8)), 0.022  # metres: radius, and places along the bone; radius
_FINGER = 0.006  # metres: landmarks lie inside of fingers
_SCATTER = 0.01  # metres, one standard deviation of being inside
_SHARE = 0.2  # the landmarks of a hand are pushed together
_HEAD_SPHERES = 2  # of the upper and the lower half of the face
_LEAST = 4  # vertices that make a sphere


@dataclass(frozen=True)
class Contact:
    """S spheres, and M pairs of a sphere and a landmark that has to stay outside of it."""

    spheres: Points  # [S]
    radii: Tensor  # [S] metres, with the thickness of a finger
    landmarks: int  # how many landmarks come before the spheres
    ends: Tensor  # [M, 2] int64 of pairs: sphere (after the landmarks), landmark (as `BodyProblem.points` counts)
    front: Tensor  # [M] bool: where the sphere would hide it, the landmark is before it
    weights: Tensor  # [T, M] 1 / m^2; zero where the hand is not seen
    branches: Sequence[Branch]  # of pairs of points: landmarks, then spheres

    def frames(self, index: slice | Tensor) -> Contact:
        """Return some of the frames."""
        return replace(self, weights=self.weights[index])

    def inside(self, between: Tensor) -> tuple[Tensor, Tensor]:
        """Return how deep landmarks are inside [T, M], metres, and its derivatives to where they are [T, M, 3].

        Args:
            between: [T, M, 3] from the middle of the sphere to the landmark, camera axes.
        """
        radius = self.radii[self.ends[:, 0] - self.landmarks]
        far = between.norm(dim=-1).clamp(min=1e-6)
        side = between[..., :2].norm(dim=-1).clamp(min=1e-6)
        behind = self.front & (between[..., 2] > 0)
        # out of the sphere; behind its middle the farther to the camera, the farther behind
        deeper = 1 + between[..., 2] / radius
        depth = torch.where(behind, (radius - side) * deeper, radius - far)
        out = between / far[..., None]
        across = -between[..., :2] / side[..., None] * deeper[..., None]
        to_camera = torch.cat([across, ((radius - side) / radius)[..., None]], -1)
        slope = torch.where(behind[..., None], to_camera, -out)
        reached = depth > 0
        return depth * reached, slope * reached[..., None]


def contact_of(
    rig: Rig, landmarks: Points, face: Points, surface: Surface, shape: Tensor, hand_seen: Tensor
) -> Contact:
    """Return the contact of hands with a body of one shape.

    Args:
        rig: The joints.
        landmarks: 33 of the body, 21 of each hand.
        face: Landmarks of the face.
        surface: Vertices of the trunk.
        shape: [S].
        hand_seen: [T, 2] 0..1, left hand, right hand.
    """
    joints = rig.rest_joints(shape)
    trunk, head = _trunk(surface, shape, joints), _head(face, shape)
    arms = [_arm(joints, side) for side in SIDES]
    parts = [trunk, head, *arms]
    ids = torch.cat([p[0] for p in parts])
    middles, radii = torch.cat([p[1] for p in parts]), torch.cat([p[2] for p in parts])
    none = middles.new_zeros(len(ids), 3, len(shape))
    starts = [0, len(trunk[0]), len(trunk[0]) + len(head[0])]
    starts += [starts[-1] + len(arms[0][0]), len(ids)]
    pairs, front, of_hand = [], [], []
    for s in (0, 1):
        hand = NUM_POSE + NUM_HAND * s + torch.arange(1, NUM_HAND)
        other = 2 + (1 - s)
        spheres = torch.cat([torch.arange(starts[2]), torch.arange(starts[other], starts[other + 1])])
        pairs.append(torch.cartesian_prod(spheres, hand))
        front.append(pairs[-1][:, 0] < starts[2])
        of_hand.append(torch.full((len(pairs[-1]),), s))
    both = torch.cat(pairs)
    seen = hand_seen[:, torch.cat(of_hand)]
    riding = torch.cat([landmarks.joints, ids])
    ends = torch.stack([both[:, 0] + len(landmarks), both[:, 1]], 1)
    return Contact(
        Points(ids, middles, none), radii + _FINGER, len(landmarks), ends, torch.cat(front),
        seen * _SHARE / _SCATTER**2, branches(rig, riding, ends),
    )  # fmt: skip


def _trunk(surface: Surface, shape: Tensor, joints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return joints [n], middles [n, 3] and radii [n] of the trunk's spheres: some heights, a row across at each."""
    at = surface.rest + surface.rest_by_shape @ shape
    spine = [INDEX[n] for n in _TRUNK]
    own = torch.isin(surface.joints, torch.tensor([*spine, INDEX["left_collar"], INDEX["right_collar"]]))
    at = at[own]
    low, high = float(joints[spine[0], 1]), float(joints[INDEX["left_shoulder"], 1])
    ids, middles = [], []
    for height in torch.arange(low + _BAND, high, _BAND).tolist():
        band = at[(at[:, 1] - height).abs() < _BAND / 2]
        core = band[band[:, 0].abs() < _WIDE]
        if len(core) < _LEAST:
            continue
        back, front = float(core[:, 2].min()), float(core[:, 2].max())
        beside = max(0.0, float(band[:, 0].abs().max()) - (front - back) / 2)
        middles += [[x, height, (front + back) / 2] for x in torch.linspace(-beside, beside, _ACROSS).tolist()]
        ids += [min(spine, key=lambda j, h=height: abs(float(joints[j, 1]) - h))] * _ACROSS  # type: ignore[misc]
    found = _f64(middles, 3)
    # as large as the skin lets them be
    return torch.tensor(ids, dtype=torch.int64), found, torch.cdist(found, at).min(1).values


def _head(face: Points, shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the spheres (least squares) of the upper and the lower half of the face."""
    at = face.rest + face.rest_by_shape @ shape
    order = at[:, 1].argsort()
    middles, radii = [], []
    for part in order.chunk(_HEAD_SPHERES):
        p = at[part]
        A = torch.cat([2 * p, torch.ones_like(p[:, :1])], 1)
        found = torch.linalg.lstsq(A, (p**2).sum(1, keepdim=True)).solution[:, 0]
        middles.append(found[:3])
        radii.append((found[3] + (found[:3] ** 2).sum()).sqrt())
    return torch.full((_HEAD_SPHERES,), INDEX["head"]), torch.stack(middles), torch.stack(radii)


def _arm(joints: Tensor, side: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the spheres of a forearm and of its palm."""
    elbow, wrist = joints[INDEX[f"{side}_elbow"]], joints[INDEX[f"{side}_wrist"]]
    knuckles = joints[[INDEX[f"{side}_{n}1"] for n in ("index", "pinky")]].mean(0)
    radius, places = _FOREARM
    middles = [elbow + (wrist - elbow) * k for k in places] + [(wrist + knuckles) / 2]
    ids = [INDEX[f"{side}_elbow"]] * len(places) + [INDEX[f"{side}_wrist"]]
    return torch.tensor(ids), torch.stack(middles), _f64([radius] * len(places) + [_PALM])


def _f64(values: list[float] | list[list[float]], width: int | None = None) -> Tensor:
    out = torch.tensor(values, dtype=torch.float64)
    return out if width is None else out.reshape(-1, width)
