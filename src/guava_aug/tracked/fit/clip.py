"""From the landmarks of a clip to what `write_tracked` needs: shape, motion, cameras, lens.

1. Hands are given to the arms they are at; scores and blur become weights.
2. Shape, lens and depth from some frames spread over the clip, all unknowns at once.
3. The face of every frame, then the poses of every frame, window after window.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from guava_aug.body.ehm import EhmModel
from guava_aug.body.joints import INDEX
from guava_aug.body.params import Identity, Motion
from guava_aug.errors import InputError
from guava_aug.tracked.detect.landmarks import Landmarks
from guava_aug.tracked.fit.calibration import HAND_BONES, LIMB_KINDS, LIMB_SIDES, LIMBS, Calibration, corrected
from guava_aug.tracked.fit.clean import HandRepairs, hand_blur, repair_hands
from guava_aug.tracked.fit.face import FaceModel, FaceProblem, face_model, face_motion, gaze
from guava_aug.tracked.fit.problem import BodyProblem, Lens, Observations, Prior
from guava_aug.tracked.fit.rig import Points, RestBody, Rig, axis_angle, rest_body, rotation_vector
from guava_aug.tracked.fit.solver import Smoothness, solve_frames, solve_sequence, solve_shared

log = logging.getLogger(__name__)

FORMAT_FOCAL = 12.0  # of the tracked format's nearly orthographic lens, in widths of the crop
_SHAPE_FRAMES = 24
_WINDOW, _AHEAD = 96, 12  # frames solved together, and those of them that the next window solves again
_FACE_POINTS = 60  # of the head while the body is fitted
_SHOULDERS_OF_CROP, _CROP_DROP = 0.30, 0.17  # shoulder width and drop of its middle, of the crop's side
_UNUSABLE = 0.1  # metres of scatter: the detector never saw the point
# The detector's errors go together (a whole hand, many frames), so a landmark tells less than one alone would.
_POSE_SHARE, _HAND_SHARE, _FACE_SHARE, _BONE_SHARE, _LIMB_SHARE = 0.3, 0.3, 0.05, 0.15, 0.3
_DETECTOR_PIXEL = 0.7  # px of a 512 picture: no landmark is better
_SHAPE_SIGMA, _HAND_SCALE_SIGMA, _HEAD_SCALE_SIGMA, _FOCAL_SIGMA = 0.25, 0.01, 0.005, 0.3
_SIZE_SIGMA = 0.005  # of the size of a person, which a picture does not show; small, since many frames pull together
# What clothes and people add to the scatter on generated people in painted clothes: metres; parts of a direction.
_CLOTHES, _HIP_CLOTHES, _FACES, _BUILD, _HAND_BUILD = 0.010, 0.035, 0.0015, 0.06, 0.05
_FREEDOM = 3.0  # of Student's t: how easily fast movements are let go
_GROUPS = (
    ("orient", "spine"), ("place",), ("neck", "head"), ("left_collar", "left_shoulder", "left_elbow", "left_wrist"),
    ("right_collar", "right_shoulder", "right_elbow", "right_wrist"), ("left_hand",), ("right_hand",),
)  # fmt: skip


@dataclass(frozen=True)
class Crop:
    """The square of the picture that is stored: left, top, side in px; its corner is a corner of pixels."""

    x: float
    y: float
    side: float


@dataclass(frozen=True)
class ClipFit:
    """The result: the arguments of `write_tracked`, and how well it fits."""

    identity: Identity
    motion: Motion
    viewmats: Tensor  # [T, 4, 4] world to camera, OpenCV axes
    K: Tensor | None  # [3, 3] lens in widths of the crop; None: the format's own
    crop: Crop
    repairs: HandRepairs


class ClipFitter:
    """A body model with its landmarks, ready to fit any number of clips."""

    def __init__(self, model: EhmModel, calibration: Calibration | None = None):
        self.calibration = calibration or Calibration.load()
        c = self.calibration
        self.model = model
        self.face: FaceModel = face_model(model, c)
        ids = torch.cat([c.pose_joints, c.hand_joints.flatten()])
        offsets = torch.cat([c.pose_offsets, c.hand_offsets.flatten(0, 1)])
        self.rest, self.points = _points(model, ids, offsets)
        self.rig = Rig(self.rest)
        self.size_slope = _size_slope(self.rest)
        spread = (self.face.by_expression @ c.expression_covariance[:50, :50]) * self.face.by_expression
        wobble = (spread.sum((1, 2)) + c.face_sigma**2).sqrt() + 0.004 * self.face.jaw_weight
        self.steady = spread_points(self.face.points.rest, wobble, _FACE_POINTS)
        self.wobble = (wobble**2 + _FACES**2).sqrt()
        self.pose_prior = Prior(c.pose_mean, torch.linalg.inv(c.pose_covariance))
        mean = c.expression_mean.clone()
        self.face_prior = (mean, torch.linalg.inv(c.expression_covariance))

    def fit(
        self,
        landmarks: Landmarks,
        *,
        fps: float = 25.0,
        crop: Crop | None = None,
        lens: Lens | None = None,
        estimate_lens: bool = False,
        iterations: int = 10,
    ) -> ClipFit:
        """Return the fit of a clip."""
        if not landmarks.found.any():
            raise InputError("no person was found in any frame; choose another video, or another --person")
        landmarks, repairs = repair_hands(landmarks)
        crop = crop or framing(landmarks)
        given = lens or format_lens(crop)
        if estimate_lens and lens is None:
            h, w = landmarks.size
            given = Lens(1.2 * max(h, w), ((w - 1) / 2, (h - 1) / 2))
        clip = _Clip(self, landmarks, fps, given)
        shape, lens_found, depth = clip.shape_and_lens(estimate_lens and lens is None)
        clip = replace_lens(clip, lens_found, depth)
        x, faces, head_turn, head_at, gazes = clip.solve(shape, iterations)
        return self._result(
            clip, x, shape, faces, gazes, crop, keep_lens=lens is not None or estimate_lens, repairs=repairs
        )

    def _result(
        self, clip: _Clip, x: Tensor, shape: Tensor, faces: Tensor, gazes: Tensor, crop: Crop, *, keep_lens: bool,
        repairs: HandRepairs,
    ) -> ClipFit:  # fmt: skip
        space = self.rest.space
        vectors = self.rig.space_vectors(x)
        R = axis_angle(vectors[:, 0]) @ self.rig.flip
        orient = rotation_vector(R)
        length = orient.norm(dim=1, keepdim=True).clamp(min=1e-9)
        orient = torch.where(orient[:, :1] < 0, orient * (1 - 2 * math.pi / length), orient)
        root = clip.problem(None).root(x)
        viewmats = torch.eye(4).repeat(len(x), 1, 1)
        viewmats[:, :3, 3] = (root - self.rig.rest_joints(shape)[0]).float()
        f = vectors.float()
        zeros = torch.zeros(len(x), 50)
        motion = Motion(
            orient.float(), f[:, 1:22].contiguous(), f[:, 25:40].contiguous(), f[:, 40:55].contiguous(), zeros,
            zeros.clone(), torch.zeros(len(x), 3), torch.zeros(len(x), 2, 3), torch.zeros(len(x), 2),
        )  # fmt: skip
        motion = face_motion(motion, faces, gazes)
        K = None
        if keep_lens:
            s = crop.side
            cx, cy = clip.lens.center
            K = torch.tensor(
                [
                    [clip.lens.focal / s, 0, (cx + 0.5 - crop.x) / s],
                    [0, clip.lens.focal / s, (cy + 0.5 - crop.y) / s],
                    [0, 0, 1],
                ]
            )
        return ClipFit(space.identity(shape), motion, viewmats, K, crop, repairs)


def _size_slope(rest: RestBody) -> Tensor:
    """Return how the size of a body grows with its shape [S]: the mean logarithm of some bones' lengths."""
    bones = [("left_shoulder", "right_shoulder"), ("left_eye", "right_eye"), ("neck", "head")]
    for side in ("left", "right"):
        bones += [
            (f"{side}_shoulder", f"{side}_elbow"),
            (f"{side}_elbow", f"{side}_wrist"),
            (f"{side}_wrist", f"{side}_middle1"),
        ]
    a, b = torch.tensor([[INDEX[n] for n in bone] for bone in bones]).unbind(1)
    along = rest.joints[b] - rest.joints[a]
    grow = rest.joints_by_shape[b] - rest.joints_by_shape[a]
    return ((along[..., None] * grow).sum(1) / (along**2).sum(1, keepdim=True)).mean(0)


def _points(model: EhmModel, joints: Tensor, offsets: Tensor) -> tuple[RestBody, Points]:
    """Return the rest body, and points at offsets from joints that grow with the flesh around them."""
    assets = model.assets
    at = (assets.body.J_regressor @ assets.body.v_template)[joints].double() + offsets
    near = []
    weights = assets.body.lbs_weights
    for j, p in zip(joints.tolist(), at, strict=True):
        ids = (weights[:, j] > 0.3).nonzero()[:, 0]
        ids = ids if len(ids) >= 6 else weights[:, j].topk(6).indices
        apart = (assets.body.v_template[ids].double() - p).norm(dim=1)
        near.append(ids[apart.topk(6, largest=False).indices])
    rest = rest_body(model, torch.cat(near))
    by_shape = rest.vertices_by_shape.unflatten(0, (-1, 6)).mean(1)
    return rest, Points(joints, rest.joints[joints] + offsets, by_shape)


def spread_points(at: Tensor, scatter: Tensor, count: int) -> Tensor:
    """Return the numbers of `count` points that are steady and far from each other."""
    usable = (scatter < scatter.quantile(0.6)).nonzero()[:, 0]
    chosen = [int(usable[scatter[usable].argmin()])]
    apart = (at[usable] - at[chosen[0]]).norm(dim=1)
    while len(chosen) < min(count, len(usable)):
        k = int(usable[apart.argmax()])
        chosen.append(k)
        apart = torch.minimum(apart, (at[usable] - at[k]).norm(dim=1))
    return torch.tensor(chosen)


def framing(landmarks: Landmarks) -> Crop:
    """Return the tracker's framing of the whole clip: the shoulders are 0.3 of the square's side."""
    ok = landmarks.pose_score[:, 11:13].min(1) > 0.5
    ok = ok if ok.any() else landmarks.found
    left, right = (np.median(landmarks.pose[ok, k, :2], 0) for k in (11, 12))
    side = float(np.linalg.norm(left - right)) / _SHOULDERS_OF_CROP
    middle = (left + right) / 2
    return Crop(float(middle[0] - side / 2), float(middle[1] + _CROP_DROP * side - side / 2), side)


def format_lens(crop: Crop) -> Lens:
    """Return the format's nearly orthographic lens, in px of the whole picture."""
    return Lens(FORMAT_FOCAL * crop.side, (crop.x + crop.side / 2 - 0.5, crop.y + crop.side / 2 - 0.5))


def replace_lens(clip: _Clip, lens: Lens, depth: float) -> _Clip:
    """Return the clip seen through another lens."""
    return _Clip(clip.fitter, clip.landmarks, clip.fps, lens, depth)


class _Clip:
    """One clip: its landmarks as observations."""

    def __init__(self, fitter: ClipFitter, landmarks: Landmarks, fps: float, lens: Lens, depth: float | None = None):
        self.fitter, self.landmarks, self.fps, self.lens = fitter, landmarks, fps, lens
        self.face_pixels = torch.from_numpy(landmarks.face[..., :2].astype(np.float64)) - 0.5
        self.face_seen = torch.from_numpy(landmarks.face_score.astype(np.float64))
        self.depth = depth or self._first_depth()
        self.seen = self._observations()

    @property
    def scale(self) -> float:
        """Return px per metre at the reference depth."""
        return self.lens.focal / self.depth

    def _first_depth(self) -> float:
        """Return the depth at which face, or shoulders, have their mean size."""
        lm, f = self.landmarks, self.fitter
        if (lm.face_score > 0.5).any():
            ok = lm.face_score > 0.5
            seen = float(np.quantile(np.linalg.norm(lm.face[ok, 33, :2] - lm.face[ok, 263, :2], axis=1), 0.8))
            true = float((f.face.points.rest[33] - f.face.points.rest[263]).norm())
        else:
            seen = float(
                np.quantile(np.linalg.norm(lm.pose[lm.found, 11, :2] - lm.pose[lm.found, 12, :2], axis=1), 0.8)
            )
            true = float((f.points.rest[11] - f.points.rest[12]).norm())
        return self.lens.focal * true / max(seen, 1.0)

    def _observations(self) -> Observations:
        lm, c, scale = self.landmarks, self.fitter.calibration, self.scale
        T = len(lm)
        t64 = lambda a: torch.from_numpy(np.asarray(a, np.float64))
        h, w = lm.size
        pixel = _DETECTOR_PIXEL * max(h, w) / 512
        pose, hands = t64(lm.pose[..., :2]) - 0.5, t64(lm.hands[..., :2]).flatten(1, 2) - 0.5
        inside = (pose[..., 0] > 0) & (pose[..., 0] < w - 1) & (pose[..., 1] > 0) & (pose[..., 1] < h - 1)
        variance = lambda sigma: (sigma * scale) ** 2 + pixel**2
        dressed = torch.full_like(c.pose_sigma, _CLOTHES)
        dressed[23:25] = _HIP_CLOTHES
        pose_sigma = (c.pose_sigma**2 + dressed**2).sqrt()
        pose_weights = t64(lm.pose_score) * inside * _POSE_SHARE / variance(pose_sigma) * (c.pose_sigma < _UNUSABLE)
        blur = t64(hand_blur(lm, self.fps))
        hand_seen = t64(lm.hand_score) * blur  # [T, 2]
        # what the hand net says about a hand is better than what the pose net says
        for s, ids in enumerate(((15, 17, 19, 21), (16, 18, 20, 22))):
            pose_weights[:, ids] *= (1 - 0.8 * hand_seen[:, s]).clamp(min=0.2)[:, None]
        pose_weights[:, :11] *= 1 - 0.9 * self.face_seen[:, None]
        hand_weights = (hand_seen[..., None] * _HAND_SHARE / variance(c.hand_sigma)).flatten(1)
        f = self.fitter
        face_weights = self.face_seen[:, None] * (_FACE_SHARE * 8) / variance(f.wobble[f.steady])
        pairs, directions, weights = [], [], []
        for (a, b), kind, side in zip(LIMBS, LIMB_KINDS, LIMB_SIDES, strict=True):
            world = t64(lm.pose_world)
            directions.append(corrected(_normal(world[:, b] - world[:, a]), c.limb_maps[kind], side))
            weights.append(t64(lm.pose_score[:, [a, b]]).min(1).values * _LIMB_SHARE / (c.limb_sigma[kind] ** 2 + _BUILD**2))
            pairs.append((a, b))
        for s in (0, 1):
            world = t64(lm.hands_world[:, s])
            for k, (a, b) in enumerate(HAND_BONES):
                directions.append(corrected(_normal(world[:, b] - world[:, a]), c.bone_maps[k], 1 - 2 * s))
                weights.append(hand_seen[:, s] * _BONE_SHARE / (c.bone_sigma[k] ** 2 + _HAND_BUILD**2))
                pairs.append((33 + 21 * s + a, 33 + 21 * s + b))
        return Observations(
            torch.cat([pose, hands, self.face_pixels[:, f.steady]], 1),
            torch.cat([pose_weights, hand_weights, face_weights], 1),
            torch.tensor(pairs), torch.stack(directions, 1), torch.stack(weights, 1),
        )  # fmt: skip

    def problem(self, face_offsets: Tensor | None) -> BodyProblem:
        """Return the body's problem; `face_offsets` [T, 468, 3]: how the face landmarks are moved from rest."""
        f = self.fitter
        head = f.face.points[f.steady]
        rest = head.rest if face_offsets is None else head.rest + face_offsets[:, f.steady]
        points = Points.cat([f.points, Points(head.joints, rest, head.rest_by_shape)])
        return BodyProblem(f.rig, points, self.seen, f.pose_prior, self.lens, self.depth)

    def start(self, shape: Tensor) -> Tensor:
        """Return first poses [T, D]: the mean pose, placed by the shoulders or the face."""
        f, lm = self.fitter, self.landmarks
        T = len(lm)
        x = f.pose_prior.mean.expand(T, -1).clone()
        problem = self.problem(None)
        at = problem.positions(x[:1] * 1.0, shape)[0]
        shoulders = at[[11, 12]].mean(0)
        root = problem.root(x[:1])[0]
        target = torch.from_numpy(lm.pose[:, [11, 12], :2].mean(1).astype(np.float64)) - 0.5
        ok = torch.from_numpy(lm.found)
        target = _hold(target, ok)
        center = torch.tensor(self.lens.center, dtype=torch.float64)
        x[:, 3:5] = (target - center) / self.scale - (shoulders - root)[:2]
        return x

    def _chosen(self) -> Tensor:
        """Return the frames shape and lens are found from: well seen, spread over the clip."""
        lm = self.landmarks
        good = lm.pose_score[:, 11:17].mean(1) + lm.face_score + lm.hand_score.sum(1)
        parts = np.array_split(np.flatnonzero(lm.found), min(_SHAPE_FRAMES, int(lm.found.sum())))
        return torch.tensor([int(p[np.argmax(good[p])]) for p in parts if len(p)])

    def shape_and_lens(self, estimate: bool) -> tuple[Tensor, Lens, float]:
        """Return shape [S], lens and reference depth from some frames."""
        f = self.fitter
        S = f.rest.space.size
        ids = self._chosen()
        sigma = torch.full((S + 1,), _SHAPE_SIGMA, dtype=torch.float64)
        sigma[-3], sigma[-2], sigma[-1] = _HAND_SCALE_SIGMA, _HEAD_SCALE_SIGMA, _FOCAL_SIGMA if estimate else 1e-4
        size = torch.cat([f.size_slope, f.size_slope.new_zeros(1)])
        precision = torch.diag(sigma**-2) + size[:, None] * size / _SIZE_SIGMA**2
        shared_prior = Prior(torch.zeros(S + 1, dtype=torch.float64), precision)
        sub = _Clip(f, select(self.landmarks, ids), self.fps, self.lens, self.depth)
        zero = torch.zeros(S, dtype=torch.float64)
        shared = torch.zeros(S + 1, dtype=torch.float64)
        x = sub.start(zero)
        offsets = None
        for cut in (30.0, 10.0):
            x = solve_frames(lambda q, c=cut: replace(sub.problem(None), cut=c).frame_quadratic(q, zero), x, 10)
        for _ in range(2):
            problem = sub.problem(offsets)
            x, shared, cost = solve_shared(
                lambda q, s, p=problem: p.shared_quadratic(q, s, shared_prior), x, shared, 12
            )
            moved = replace(sub.lens, focal=sub.lens.focal * float(shared[-1].exp()))
            depth = sub.depth * float(shared[-1].exp()) * float(x[:, 5].median().exp())
            x = x.clone()
            x[:, 5] -= x[:, 5].median()
            sub = _Clip(f, sub.landmarks, self.fps, moved, depth)
            shared_prior = Prior(shared_prior.mean.clone(), shared_prior.precision)
            shared_prior.mean[-1] -= float(shared[-1])
            shared = torch.cat([shared[:-1], shared.new_zeros(1)])
            faces, _, _ = sub.faces(x, shared[:-1], smooth=False)
            offsets = f.face.local(faces)
        return shared[:-1], sub.lens, sub.depth

    def faces(self, x: Tensor, shape: Tensor, *, smooth: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Return face unknowns [T, 55], and turn [T, 3, 3] and place [T, 3] of the head."""
        f, c = self.fitter, self.fitter.calibration
        head = INDEX["head"]
        problem = self.problem(None)
        joints = f.rig.rest_joints(shape)
        world, place = f.rig.transforms(x, problem.root(x), joints)
        points = f.face.points
        rest = points.rest + points.rest_by_shape @ shape - joints[head]
        h, w = self.landmarks.size
        variance = (c.face_sigma * self.scale) ** 2 + (_DETECTOR_PIXEL * max(h, w) / 512) ** 2
        weights = self.face_seen[:, None] * _FACE_SHARE * 2 / variance
        mean, precision = f.face_prior
        face = FaceProblem(
            f.face, rest, world[:, head], place[:, head], self.face_pixels, weights, mean, precision, self.lens
        )
        found = (
            face.solve(None, c.expression_acceleration * 25**2 / self.fps**2)
            if smooth
            else solve_frames(face.quadratic, torch.cat([mean.new_zeros(len(x), 6), mean.expand(len(x), -1)], 1), 6)
        )
        return found[:, 6:], axis_angle(found[:, :3]) @ world[:, head], place[:, head] + found[:, 3:6]

    def solve(self, shape: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return poses [T, D], faces [T, 55], head turns, head places and gazes of all frames."""
        parts = []
        before: Tensor | None = None
        T, start = len(self.landmarks), 0
        while start < T:
            stop = min(T, start + _WINDOW)
            window = _Clip(self.fitter, select(self.landmarks, slice(start, stop)), self.fps, self.lens, self.depth)
            keep = stop - start if stop == T else stop - start - _AHEAD
            x, faces, gazes = window._window(shape, iterations, before)
            parts.append((x[:keep], faces[:keep], gazes[:keep]))
            before = (
                torch.cat([p[0] for p in parts[-2:]])[-2:]
                if len(parts[-1][0]) + (0 if len(parts) < 2 else 2) >= 2
                else None
            )
            start += keep
        x, faces, gazes = (torch.cat(p) for p in zip(*parts, strict=True))
        return x, faces, x, x, gazes

    def _window(self, shape: Tensor, iterations: int, before: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        f, c = self.fitter, self.fitter.calibration
        x = self.start(shape)
        if before is not None:
            x[:] = before[-1]
            x[:, 3:5] = self.start(shape)[:, 3:5]
        first = self.problem(None)
        for cut in (30.0, 10.0):
            x = solve_frames(lambda q, k=cut: replace(first, cut=k).frame_quadratic(q, shape), x, iterations)
        typical = c.pose_acceleration * 25**2 / self.fps**2 * 1.5
        groups = [s for names in _GROUPS for s in [_span(f.rig.space.slices, names)]]
        plain = Smoothness(torch.ones_like(x), before)
        smooth = lambda q: _grouped(plain, q, groups, typical)
        x = solve_sequence(lambda q: first.frame_quadratic(q, shape), smooth, x, iterations)
        faces, _, _ = self.faces(x, shape)
        second = self.problem(f.face.local(faces))
        x = solve_sequence(lambda q: second.frame_quadratic(q, shape), smooth, x, iterations // 2)
        faces, _, _ = self.faces(x, shape)
        return x, faces, self._gaze(x, shape)

    def _gaze(self, x: Tensor, shape: Tensor) -> Tensor:
        f, c = self.fitter, self.fitter.calibration
        joints = f.rig.rest_joints(shape)
        world, place = f.rig.transforms(x, self.problem(None).root(x), joints)
        eyes = place[:, [INDEX["left_eye"], INDEX["right_eye"]]]
        iris = torch.from_numpy(self.landmarks.iris[:, :, 0].astype(np.float64)) - 0.5
        h, w = self.landmarks.size
        weights = self.face_seen / ((c.iris_sigma * self.scale) ** 2 + (_DETECTOR_PIXEL * max(h, w) / 512) ** 2)
        weights = weights * torch.from_numpy(np.abs(self.landmarks.iris).sum((1, 2, 3)) > 0)
        return gaze(world[:, INDEX["head"]], eyes, c.iris_offsets, iris, weights, self.lens)


def _span(slices: dict[str, slice], names: Sequence[str]) -> Tensor:
    return torch.cat([torch.arange(slices[n].start, slices[n].stop) for n in names])


def _grouped(plain: Smoothness, x: Tensor, groups: list[Tensor], typical: Tensor) -> Smoothness:
    return plain.reweighted(x, groups, typical, _FREEDOM)


def _normal(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True).clamp(min=1e-9)


def _hold(values: Tensor, ok: Tensor) -> Tensor:
    """Return values [T, .] with those of unseen frames taken from the nearest seen one."""
    ids = ok.nonzero()[:, 0]
    if not len(ids) or len(ids) == len(ok):
        return values
    nearest = (torch.arange(len(ok))[:, None] - ids[None]).abs().argmin(1)
    return values[ids[nearest]]


def select(landmarks: Landmarks, index: Tensor | slice) -> Landmarks:
    """Return the landmarks of some frames."""
    k = index.numpy() if isinstance(index, Tensor) else index
    return Landmarks(
        **{
            f.name: getattr(landmarks, f.name) if f.name == "size" else getattr(landmarks, f.name)[k]
            for f in fields(Landmarks)
        }
    )
