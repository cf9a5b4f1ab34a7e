"""Landmarks of a clip as observations with weights."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from guava_aug.tracked.detect.landmarks import Landmarks
from guava_aug.tracked.fit.body_points import FittedBody
from guava_aug.tracked.fit.calibration import HAND_BONES, LIMB_KINDS, LIMB_SIDES, LIMBS, NUM_POSE, PAIRS, corrected
from guava_aug.tracked.fit.clean import hand_blur
from guava_aug.tracked.fit.contact import Contact, contact_of
from guava_aug.tracked.fit.problem import BodyProblem, Lens, Observations
from guava_aug.tracked.fit.rig import Points

_UNUSABLE = 0.1  # metres of scatter: the detector never saw the point
# The detector's errors go together (a whole hand, many frames), so a landmark tells less than one alone would; a hand's
# directions in space are the net's guess from its usual hands, wrong for a whole clip where this one is seen otherwise.
_POSE_SHARE, _HAND_SHARE, _FACE_SHARE, _BONE_SHARE = 0.6, 0.6, 0.4, 0.07
# Of upper arms, forearms, shoulders, trunk. The detector turned the upper arms of a real person before calibrated
# cameras by 22 degrees towards the camera, and hips are seldom seen: both count less than generated people would let.
_LIMB_SHARES = (0.1, 0.2, 0.3, 0.1)
_DETECTOR_PIXEL = 0.7  # px of a 512 picture: no landmark is better
# What clothes and people add to the scatter on generated people in painted clothes: metres; parts of a direction.
_CLOTHES, _HIP_CLOTHES, _BUILD, _HAND_BUILD = 0.010, 0.035, 0.06, 0.05
_POSE_OF_HAND = ((15, 17, 19, 21), (16, 18, 20, 22))
_POSE_OF_FACE = slice(0, 11)
_HIPS = slice(23, 25)


@dataclass(frozen=True)
class Clip:
    """Landmarks of T frames seen through a lens, by a body whose root is about `depth` metres away."""

    body: FittedBody
    landmarks: Landmarks
    fps: float
    lens: Lens
    depth: float

    @property
    def scale(self) -> float:
        """Return px per metre at the reference depth."""
        return self.lens.focal / self.depth

    @property
    def detector_pixel(self) -> float:
        """Return the px that the best landmark may be off."""
        return _DETECTOR_PIXEL * max(self.landmarks.size) / 512

    def frames(self, index: slice | Tensor) -> Clip:
        """Return some of the frames."""
        return Clip(self.body, select(self.landmarks, index), self.fps, self.lens, self.depth)

    def problem(self, face_offsets: Tensor | None, cut: float = 4.0) -> BodyProblem:
        """Return the body's problem.

        Args:
            face_offsets: [T, 468, 3] how the face landmarks are moved from rest; None: not at all.
            cut: Standard deviations beyond which a landmark is let go.
        """
        b = self.body
        head = b.face.points[b.steady]
        rest = head.rest if face_offsets is None else head.rest + face_offsets[:, b.steady]
        points = Points.cat([b.points, Points(head.joints, rest, head.rest_by_shape)])
        return BodyProblem(
            b.rig, points, observations(self), b.pose_prior, self.lens, self.depth, b.branches, cut, limits=b.limits
        )

    def contact(self, shape: Tensor) -> Contact:
        """Return what the hands of the clip may touch and not enter, for a body of `shape` [S]."""
        b = self.body
        return contact_of(b.rig, b.points, b.face.points, b.surface, shape, _f64(self.landmarks.hand_score))


def first_depth(body: FittedBody, landmarks: Landmarks, lens: Lens) -> float:
    """Return the depth at which the face, or the shoulders, have their mean size."""
    if (landmarks.face_score > 0.5).any():
        seen, rest = landmarks.face[landmarks.face_score > 0.5][:, [33, 263], :2], body.face.points.rest[[33, 263]]
    else:
        seen, rest = landmarks.pose[landmarks.found][:, [11, 12], :2], body.points.rest[[11, 12]]
    width = float(np.quantile(np.linalg.norm(seen[:, 0] - seen[:, 1], axis=1), 0.8))
    return lens.focal * float((rest[0] - rest[1]).norm()) / max(width, 1.0)


def pixels(values: np.ndarray) -> Tensor:
    """Return landmarks [..., 2 or 3] as pixels [..., 2] whose integer coordinates are pixel centres."""
    return torch.from_numpy(values[..., :2].astype(np.float64)) - 0.5


def observations(clip: Clip) -> Observations:
    """Return all points and directions of a clip, with weights from scores, scatter and blur."""
    lm, c, b = clip.landmarks, clip.body.calibration, clip.body
    pose, hands, face = pixels(lm.pose), pixels(lm.hands).flatten(1, 2), pixels(lm.face)
    face_seen = _f64(lm.face_score)[:, None]
    hand_seen = _f64(lm.hand_score * hand_blur(lm, clip.fps))  # [T, 2]
    hand_weights = (hand_seen[..., None] * _HAND_SHARE / _variance(clip, c.hand_sigma)).flatten(1)
    directions, weights = _directions(clip, hand_seen)
    pairs = torch.tensor(PAIRS)
    return Observations(
        torch.cat([pose, hands, face[:, b.steady]], 1),
        torch.cat([_pose_weights(clip, pose, hand_seen, face_seen), hand_weights, face_weights(clip)[:, b.steady]], 1),
        pairs, directions, _by_hand_net(pairs), weights,
    )  # fmt: skip


def face_weights(clip: Clip) -> Tensor:
    """Return weights [T, 468], 1 / px^2, of the face landmarks for the pose of the head."""
    seen = _f64(clip.landmarks.face_score)[:, None]
    return seen * _FACE_SHARE / _variance(clip, clip.body.wobble)


def _pose_weights(clip: Clip, pose: Tensor, hand_seen: Tensor, face_seen: Tensor) -> Tensor:
    c, (height, width) = clip.body.calibration, clip.landmarks.size
    inside = (pose > 0).all(-1) & (pose[..., 0] < width - 1) & (pose[..., 1] < height - 1)
    dressed = torch.full_like(c.pose_sigma, _CLOTHES)
    dressed[_HIPS] = _HIP_CLOTHES
    weights = _f64(clip.landmarks.pose_score) * inside * (c.pose_sigma < _UNUSABLE)
    weights = weights * _POSE_SHARE / _variance(clip, (c.pose_sigma**2 + dressed**2).sqrt())
    # where hands and face were seen by their own nets, those know better
    for side, ids in enumerate(_POSE_OF_HAND):
        weights[:, ids] *= (1 - 0.8 * hand_seen[:, side]).clamp(min=0.2)[:, None]
    weights[:, _POSE_OF_FACE] *= 1 - 0.9 * face_seen
    return weights


def _directions(clip: Clip, hand_seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return directions [T, M, 3] and weights [T, M] of `PAIRS`: limbs, then bones of hands."""
    lm, c = clip.landmarks, clip.body.calibration
    directions, weights = [], []
    world = _f64(lm.pose_world)
    score = _f64(lm.pose_score)
    for (a, b), kind, side in zip(LIMBS, LIMB_KINDS, LIMB_SIDES, strict=True):
        directions.append(corrected(_unit(world[:, b] - world[:, a]), c.limb_maps[kind], side))
        weights.append(
            torch.minimum(score[:, a], score[:, b]) * _LIMB_SHARES[kind] / (c.limb_sigma[kind] ** 2 + _BUILD**2)
        )
    hands = _f64(lm.hands_world)
    for s in (0, 1):
        for k, (a, b) in enumerate(HAND_BONES):
            directions.append(corrected(_unit(hands[:, s, b] - hands[:, s, a]), c.bone_maps[k], 1 - 2 * s))
            weights.append(hand_seen[:, s] * _BONE_SHARE / (c.bone_sigma[k] ** 2 + _HAND_BUILD**2))
    return torch.stack(directions, 1), torch.stack(weights, 1)


def _by_hand_net(pairs: Tensor) -> Tensor:
    """Return [M] 1 for bones of hands, which are seen in crops of their own; limbs are seen in the whole picture."""
    return (pairs[:, 0] >= NUM_POSE).double()


def _variance(clip: Clip, sigma: Tensor) -> Tensor:
    out: Tensor = (sigma * clip.scale) ** 2 + clip.detector_pixel**2
    return out


def select(landmarks: Landmarks, index: Tensor | slice) -> Landmarks:
    """Return the landmarks of some frames; how flat the face's colours are is no matter of the fit."""
    k = index.numpy() if isinstance(index, Tensor) else index
    names = [f.name for f in fields(Landmarks) if f.name not in ("size", "face_flatness")]
    return Landmarks(**{n: getattr(landmarks, n)[k] for n in names}, size=landmarks.size)


def _f64(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float64))


def _unit(v: Tensor) -> Tensor:
    out: Tensor = v / v.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    return out
