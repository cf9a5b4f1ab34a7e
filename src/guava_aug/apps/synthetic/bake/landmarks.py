"""Finds where the landmarks of the detector lie on the embedded body, from generated people whose pose is known.

    python -m guava_aug.apps.synthetic.bake.landmarks OUT.npz --people 20 --frames 12

Many bodies, many poses, seeds of their own: no other program generates people with these. What is found is written as
a small file (`tracked.fit.calibration`): the joint each point rides on and its place there, the place of each face
landmark on the surface of the head, how much the detector scatters, and the poses and speeds of signing people.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guava_aug.apps.synthetic import default_body_path
from guava_aug.apps.synthetic.bank import Bank, expression_names
from guava_aug.apps.synthetic.motion import FPS, signing_motion
from guava_aug.apps.synthetic.scene import Scene, make_scene, scene_pictures
from guava_aug.apps.synthetic.subjects import make_identity
from guava_aug.body.ehm import EhmModel, axis_angle_to_matrix
from guava_aug.body.files import load_body_file
from guava_aug.body.joints import INDEX, JOINTS
from guava_aug.body.params import Identity, Motion
from guava_aug.tracked.detect.detect import detect
from guava_aug.tracked.detect.landmarks import Landmarks
from guava_aug.tracked.fit.calibration import (
    HAND_BONES,
    LIMB_KINDS,
    LIMB_SIDES,
    LIMBS,
    NUM_FACE,
    NUM_POSE,
    Calibration,
    corrected,
)
from guava_aug.tracked.fit.carry import front_of_head
from guava_aug.tracked.fit.rig import PoseSpace, pose_space, rest_body
from guava_aug.tracked.fit.vectors import pose_vectors
from guava_aug.views.cameras import Cameras, intrinsics

log = logging.getLogger(__name__)
FIRST_SEED = 3000  # of people for calibration; benchmarks and tests use others
_EVERY = 10  # frames of the motion between two pictures
_FAR_COSTS = 0.08  # metres of scatter that a metre from the joint counts for: near joints are preferred
_SEEN = 0.5  # scores below it do not count
_LEAST_FRAMES = 12
_NEAR_FOCALS = (0.9, 2.0)  # of near cameras, in widths of the picture
_MAP_SAMPLES = 8.0  # how many samples the identity counts for
_STRAIGHT = torch.ones(3, dtype=torch.float64)
_MIRROR = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
_FACE_CANDIDATES = 10  # vertices whose triangles are tried
# What people do beyond the generator's motion: standard deviations in radians that are added to those it has.
_SLACK = {
    "orient": (0.12, 0.35, 0.10), "place": (0.3, 0.3, 0.15), "spine": (0.12, 0.12, 0.10), "neck": (0.12, 0.15, 0.10),
    "head": (0.15, 0.2, 0.12), "collar": (0.08, 0.10, 0.10), "shoulder": (0.35, 0.35, 0.35), "elbow": (0.3, 0.35, 0.1),
    "wrist": (0.12, 0.2, 0.3),
}  # fmt: skip
_BEND_SLACK, _SPREAD_SLACK, _THUMB_SLACK = 0.25, 0.12, 0.2


@dataclass(frozen=True)
class Sample:
    """One generated person in T pictures, as the detector saw it and as it is."""

    landmarks: Landmarks
    identity: Identity
    motion: Motion
    viewmats: Tensor  # [T, 4, 4]
    K: Tensor  # [3, 3] pixels of the pictures; integer coordinates are pixel centres


@dataclass(frozen=True)
class _Truth:
    """Samples, one frame after the other, camera axes."""

    joints: Tensor  # [F, J, 3]
    turns: Tensor  # [F, J, 3, 3]
    eyes: Tensor  # [F, 2, 3, 3]
    head: Tensor  # [F, Ph, 3]
    K: Tensor  # [F, 3, 3]
    seen: list[Landmarks]

    def of(self, name: str) -> np.ndarray:
        """Return a field of the landmarks of all frames."""
        return np.concatenate([getattr(s, name) for s in self.seen])


def calibrate(model: EhmModel, samples: Sequence[Sample]) -> Calibration:
    """Return the calibration that the samples show."""
    truth = _truth(model, samples)
    pose = _ride(truth, truth.of("pose"), truth.of("pose_score"), [list(range(22))] * NUM_POSE)
    hands = truth.of("hands")
    score = np.repeat(truth.of("hand_score")[..., None], 21, 2)
    found = []
    mirrored = np.diag([-1.0, 1.0, 1.0])
    for k in range(21):
        found.append(_best_joint(truth, hands[:, :, k], score[:, :, k], mirrored))
    hand_joints = torch.tensor([[j for j, _, _ in found], [_other_hand(j) for j, _, _ in found]])
    left = torch.stack([o for _, o, _ in found])
    offsets = torch.stack([left, left @ torch.from_numpy(mirrored)])
    vertices, weights, face_sigma = _face(model, truth)
    iris, iris_sigma = _irises(truth)
    space = pose_space(rest_body(model, torch.tensor([0])))
    statistics = _motion_statistics(model, space)
    pose_points = _points_in_space(truth, pose[0], pose[1])
    hand_points = [_points_in_space(truth, hand_joints[s], offsets[s]) for s in (0, 1)]
    bones, limbs = _bone_directions(truth, hand_points), _limb_directions(truth, pose_points)
    return Calibration(
        pose_joints=pose[0], pose_offsets=pose[1], pose_sigma=pose[2],
        hand_joints=hand_joints, hand_offsets=offsets,
        hand_sigma=torch.tensor([s for _, _, s in found], dtype=torch.float64),
        bone_maps=bones[0], bone_sigma=bones[1], limb_maps=limbs[0], limb_sigma=limbs[1],
        face_vertices=vertices, face_weights=weights, face_sigma=face_sigma,
        iris_offsets=iris, iris_sigma=iris_sigma, **statistics,
    )  # fmt: skip


def _truth(model: EhmModel, samples: Sequence[Sample]) -> _Truth:
    joints, turns, eyes, heads, lenses = [], [], [], [], []
    for s in samples:
        posed = model(s.identity, s.motion)
        place = s.viewmats[:, None, :3, 3]
        joints.append(posed.joints + place)
        turns.append(posed.joint_transforms[..., :3, :3])
        heads.append((posed.vertices[:, model.assets.head_to_body] + place).double())
        head = posed.joint_transforms[:, INDEX["head"], None, :3, :3]
        eyes.append(head @ axis_angle_to_matrix(s.motion.eye_pose))
        lenses.append(s.K.expand(len(s.motion), 3, 3))
    f64 = lambda parts: torch.cat(parts).double()
    return _Truth(f64(joints), f64(turns), f64(eyes), f64(heads), f64(lenses), [s.landmarks for s in samples])


def _ride(
    truth: _Truth, pixels: np.ndarray, score: np.ndarray, candidates: list[list[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return joint [N], offset [N, 3] and scatter [N] of points seen at pixels [F, N, 2 or 3]."""
    joints, offsets, sigmas = [], [], []
    for k in range(pixels.shape[1]):
        best: tuple[int, Tensor, float] = (0, torch.zeros(3, dtype=torch.float64), 1.0)
        for j in candidates[k]:
            o, sigma = _offset(truth.joints[:, j], truth.turns[:, j], pixels[:, k], score[:, k], truth.K)
            if sigma + _FAR_COSTS * float(o.norm()) < best[2] + _FAR_COSTS * float(best[1].norm()):
                best = (j, o, sigma)
        joints.append(best[0])
        offsets.append(best[1])
        sigmas.append(best[2])
    return torch.tensor(joints), torch.stack(offsets), torch.tensor(sigmas, dtype=torch.float64)


def _best_joint(
    truth: _Truth, pixels: np.ndarray, score: np.ndarray, mirrored: np.ndarray
) -> tuple[int, Tensor, float]:
    """Return joint of the left hand, offset and scatter of one hand landmark, both hands together."""
    mirror = torch.from_numpy(mirrored)
    best: tuple[int, Tensor, float] = (0, torch.zeros(3, dtype=torch.float64), 1.0)
    for j in [INDEX["left_wrist"], *range(25, 40)]:
        other = _other_hand(j)
        o, sigma = _offset(
            torch.cat([truth.joints[:, j], truth.joints[:, other]]),
            torch.cat([truth.turns[:, j], truth.turns[:, other] @ mirror]),
            np.concatenate([pixels[:, 0], pixels[:, 1]]), np.concatenate([score[:, 0], score[:, 1]]),
            truth.K.repeat(2, 1, 1),
        )  # fmt: skip
        if sigma + _FAR_COSTS * float(o.norm()) < best[2] + _FAR_COSTS * float(best[1].norm()):
            best = (j, o, sigma)
    return best


def _other_hand(joint: int) -> int:
    return INDEX[JOINTS[joint].replace("left_", "right_")]


def _offset(at: Tensor, turn: Tensor, pixels: np.ndarray, score: np.ndarray, K: Tensor) -> tuple[Tensor, float]:
    """Return the offset [3] in the joint's frame that explains the pixels [F, 2], and the scatter in metres.

    A projected point is linear in the offset once multiplied by its depth; frames that disagree are let go.
    """
    ok = torch.from_numpy(score > _SEEN)
    if int(ok.sum()) < _LEAST_FRAMES:
        return torch.zeros(3, dtype=torch.float64), 0.99
    at, turn, K = at[ok], turn[ok], K[ok]
    uv = torch.from_numpy(pixels[score > _SEEN][:, :2].astype(np.float64)) - 0.5
    slope = (uv - K[:, :2, 2]) / K[:, [0, 1], [0, 1]]
    A = turn[:, :2] - slope[..., None] * turn[:, 2:]  # [F, 2, 3] metres per metre
    b = -(at[:, :2] - slope * at[:, 2:])  # [F, 2]
    w = torch.ones(len(A), dtype=torch.float64)
    scatter = torch.ones(())
    o = torch.zeros(3, dtype=torch.float64)
    for _ in range(8):
        H = (A.transpose(1, 2) @ (A * w[:, None, None])).sum(0)
        H = H + torch.eye(3, dtype=torch.float64) * float(w.sum()) * 0.002
        o = torch.linalg.solve(H, (A.transpose(1, 2) @ (b * w[:, None])[..., None]).sum(0)[:, 0])
        miss = (A @ o - b).norm(dim=1)
        scatter = (miss.median() / 1.18).clamp(min=5e-4)  # of one of two directions
        w = (1 + (miss / (2 * scatter)) ** 2) ** -2
    return o, float(scatter)


def _points_in_space(truth: _Truth, joints: Tensor, offsets: Tensor) -> Tensor:
    return truth.joints[:, joints] + (truth.turns[:, joints] @ offsets[..., None])[..., 0]


def _scatter(miss: Tensor, ok: Tensor) -> Tensor:
    return miss[ok].norm(dim=-1).median() / 1.54  # of one of three directions


def _bone_directions(truth: _Truth, points: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return maps [20, 3, 4] and scatter [20] of the directions of hand bones."""
    world = torch.from_numpy(truth.of("hands_world")).double()
    score = torch.from_numpy(truth.of("hand_score"))
    found = []
    for a, b in HAND_BONES:
        true, seen = [], []
        for s, mirror in ((0, _STRAIGHT), (1, _MIRROR)):
            ok = score[:, s] > _SEEN
            true.append(_normal(points[s][ok, b] - points[s][ok, a]) * mirror)
            seen.append(_normal(world[ok, s, b] - world[ok, s, a]) * mirror)
        found.append(_direction_map(torch.cat(true), torch.cat(seen)))
    return torch.stack([m for m, _ in found]), torch.stack([s for _, s in found])


def _limb_directions(truth: _Truth, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps [4, 3, 4] and scatter [4] of the directions of limbs."""
    world = torch.from_numpy(truth.of("pose_world")).double()
    score = torch.from_numpy(truth.of("pose_score"))
    kinds: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for (a, b), kind, side in zip(LIMBS, LIMB_KINDS, LIMB_SIDES, strict=True):
        ok = (score[:, a] > _SEEN) & (score[:, b] > _SEEN)
        mirror = _STRAIGHT if side > 0 else _MIRROR
        true, seen = (_normal(p[ok, b] - p[ok, a]) * mirror for p in (points, world))
        kinds.setdefault(kind, []).append((true, seen))
    found = []
    for _, parts in sorted(kinds.items()):
        true, seen = (torch.cat(x) for x in zip(*parts, strict=True))
        found.append(_direction_map(true, seen))
    return torch.stack([m for m, _ in found]), torch.stack([s for _, s in found])


def _direction_map(true: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the affine map [3, 4] that takes seen to true directions [F, 3], near the identity, and what is left."""
    A = torch.cat([seen, torch.ones(len(seen), 1, dtype=seen.dtype)], 1)
    identity = torch.cat([torch.eye(3, dtype=seen.dtype), torch.zeros(3, 1, dtype=seen.dtype)], 1)
    prior = _MAP_SAMPLES * torch.eye(4, dtype=seen.dtype)
    found = torch.linalg.solve(A.T @ A + prior, A.T @ true + prior @ identity.T).T
    miss = corrected(seen, found, 1) - true
    return found, miss.norm(dim=1).median() / 1.54  # of one of three directions


def _normal(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True).clamp(min=1e-9)


# ---- the face


def _face(model: EhmModel, truth: _Truth) -> tuple[Tensor, Tensor, Tensor]:
    """Return head vertices [468, 3], weights [468, 3] and scatter [468] of the face landmarks."""
    ok = torch.from_numpy(truth.of("face_score") > _SEEN)
    seen = torch.from_numpy(truth.of("face")[..., :2]).double()[ok] - 0.5
    K, head = truth.K[ok], truth.head[ok]
    scale = (K[:, 0, 0] / head[..., 2].mean(1))[:, None, None]  # px per metre
    flat = head[..., :2] / head[..., 2:] * K[:, None, [0, 1], [0, 1]] + K[:, None, :2, 2]  # [F, Ph, 2]
    candidates, faces = front_of_head(model.assets)
    flat, seen = flat / scale, seen / scale  # metres
    apart = torch.stack([torch.cdist(s, f) for s, f in zip(seen, flat[:, candidates], strict=True)]).median(0).values
    vertices, weights, sigmas = [], [], []
    for k in range(NUM_FACE):
        near = candidates[apart[k].topk(_FACE_CANDIDATES, largest=False).indices]
        ids = faces[torch.isin(faces, near).any(1)]
        corner = flat[:, ids]  # [F, C, 3, 2]
        target = seen[:, k, None] - corner[:, :, 2]
        A = (corner[:, :, :2] - corner[:, :, 2:]).transpose(2, 3)  # [F, C, 2, 2]
        H = (A.transpose(2, 3) @ A).sum(0) + 1e-9 * torch.eye(2, dtype=torch.float64)
        w = torch.linalg.solve(H, (A.transpose(2, 3) @ target[..., None]).sum(0))[..., 0]  # [C, 2]
        full = torch.cat([w, 1 - w.sum(1, keepdim=True)], 1).clamp(0, 1)
        full = full / full.sum(1, keepdim=True)
        miss = ((corner * full[..., None]).sum(2) - seen[:, k, None]).norm(dim=-1).median(0).values
        best = int(miss.argmin())
        vertices.append(ids[best])
        weights.append(full[best])
        sigmas.append(miss[best] / 1.18)
    return torch.stack(vertices), torch.stack(weights), torch.stack(sigmas).clamp(min=5e-4)


def _irises(truth: _Truth) -> tuple[Tensor, Tensor]:
    iris = truth.of("iris")[:, :, 0]
    score = truth.of("face_score")
    found = [_offset(truth.joints[:, INDEX[n]], truth.eyes[:, k], iris[:, k], score, truth.K)
             for k, n in enumerate(("left_eye", "right_eye"))]  # fmt: skip
    return torch.stack([o for o, _ in found]), torch.tensor(max(s for _, s in found), dtype=torch.float64)


# ---- poses and speeds


def _motion_statistics(model: EhmModel, space: PoseSpace, people: int = 24, frames: int = 100) -> dict[str, Tensor]:
    """Return mean, covariance and usual acceleration of poses and expressions of generated signing, both ways round."""
    poses, jumps, faces, face_jumps = [], [], [], []
    for k in range(people):
        seed = FIRST_SEED + 500 + k
        rng = np.random.default_rng([seed, 0x5167])
        identity = make_identity(Bank.bare(), rng, female=bool(k % 2))
        motion = signing_motion(model, identity, expression_names(), seed, frames)
        for vectors in both_ways(pose_vectors(motion)):
            x = space.from_rotation_vectors(vectors)
            poses.append(x)
            jumps.append(x[2:] - 2 * x[1:-1] + x[:-2])
        e = torch.cat([motion.flame_expression, motion.jaw_pose, motion.eyelids], 1).double()
        faces.append(e)
        face_jumps.append(e[2:] - 2 * e[1:-1] + e[:-2])
    x, e = torch.cat(poses), torch.cat(faces)
    slack = torch.zeros(space.size, dtype=torch.float64)
    for name, part in space.slices.items():
        kind = name.split("_")[-1]
        if kind != "hand":
            slack[part] = torch.tensor(_SLACK[kind], dtype=torch.float64)
    fingers = torch.tensor([_BEND_SLACK, _SPREAD_SLACK, _BEND_SLACK, _BEND_SLACK] * 4 + [_THUMB_SLACK] * 9)
    for side in ("left", "right"):
        slack[space.slices[f"{side}_hand"]] = fingers.double()
    covariance = torch.cov(x.T)
    keep = torch.zeros_like(covariance)  # what moves together: the trunk with the head, each arm, each hand
    groups = (("spine", "neck", "head"), *(
        tuple(f"{side}_{n}" for n in ("collar", "shoulder", "elbow", "wrist")) for side in ("left", "right")
    ), ("orient",), ("place",), ("left_hand",), ("right_hand",))  # fmt: skip
    for group in groups:
        ids = torch.cat([torch.arange(space.size)[space.slices[n]] for n in group])
        keep[ids[:, None], ids] = 1
    mean = x.mean(0)
    for name in ("orient", "place"):
        mean[space.slices[name]] = 0
    return {
        "pose_mean": mean,
        "pose_covariance": covariance * keep + torch.diag(slack**2),
        "pose_acceleration": torch.cat(jumps).std(0).clamp(min=2e-3),
        "expression_mean": e.mean(0),
        "expression_covariance": torch.cov(e.T) + torch.diag(torch.full((e.shape[1],), 0.03, dtype=torch.float64)),
        "expression_acceleration": torch.cat(face_jumps).std(0).clamp(min=5e-3),
    }


def both_ways(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return rotation vectors [T, 55, 3] and those of the mirrored motion."""
    other = [INDEX[_mirror_name(n)] for n in JOINTS]
    return vectors, vectors[:, other] * torch.tensor([1.0, -1.0, -1.0], dtype=vectors.dtype)


def _mirror_name(name: str) -> str:
    for a, b in (("left_", "right_"), ("right_", "left_")):
        if name.startswith(a):
            return b + name[len(a) :]
    return name


# ---- the program


def make_sample(bank: Bank, seed: int, frames: int, size: int, device: str) -> Sample:
    """Return the person of a seed, detected in pictures of many moments; every third is seen by a near camera."""
    scene = make_scene(bank, seed, frames * _EVERY, size)
    chosen = list(range(_EVERY // 2, frames * _EVERY, _EVERY))
    K, viewmat = intrinsics(size, size), scene.viewmat.clone()
    if seed % 3 == 0:
        focal = size * float(np.random.default_rng([seed, 0x1E5]).uniform(*_NEAR_FOCALS))
        viewmat[2, 3] *= focal / float(K[0, 0])
        K = torch.tensor([[focal, 0, (size - 1) / 2], [0, focal, (size - 1) / 2], [0, 0, 1]])
    pictures = _pictures(bank, scene, Cameras(viewmat[None], K, size, size), chosen)
    found = detect(pictures, device=device, fps=FPS / _EVERY)
    return Sample(found, scene.person.identity, scene.motion[chosen], viewmat.expand(frames, 4, 4), K)


def _pictures(bank: Bank, scene: Scene, camera: Cameras, frames: list[int]) -> Iterator[NDArray[np.uint8]]:
    for i in frames:
        picture, _ = scene_pictures(bank, scene, camera, slice(i, i + 1), supersample=2)
        yield (picture[0].permute(1, 2, 0).clamp(0, 1) * 255 + 0.5).byte().numpy()


def main() -> int:
    """Generate people, detect their landmarks, write the calibration, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m guava_aug.apps.synthetic.bake.landmarks", description="calibrate the detector's landmarks"
    )
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--bank", type=Path, help="bundle of guava_aug.apps.synthetic.bake.pack_bank; else painted people"
    )
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--frames", type=int, default=12, help="pictures of each person")
    parser.add_argument("--size", type=int, default=512, help="of the pictures, px")
    parser.add_argument("--device", default="cpu", help="where the detector's nets run")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    bank = Bank.load(args.bank) if args.bank else Bank.bare()
    samples = []
    for k in range(args.people):
        samples.append(make_sample(bank, FIRST_SEED + k, args.frames, args.size, args.device))
        log.info("person %d of %d", k + 1, args.people)
    calibrate(EhmModel(load_body_file(default_body_path(), uv_size=64)), samples).save(args.out)
    log.info("wrote %s, %.0f kB", args.out, args.out.stat().st_size / 1e3)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
