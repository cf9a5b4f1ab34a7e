"""The avatar: canonical Gaussians of one person, and how they are posed with the body."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from guava_aug.avatar.decoders import RawGaussians
from guava_aug.avatar.source_pixels import SourcePixels
from guava_aug.body import EhmModel, Identity, Motion, PosedBody, RestShape

_SAFE_SQUARED_LENGTH = 1e-20


@dataclass(frozen=True)
class PosedGaussians:
    """T frames of N Gaussians in the tracked world. Opacities and features do not change with the pose."""

    means: Tensor  # [T, N, 3] metres
    quats: Tensor  # [T, N, 4] wxyz; vertex Gaussians unit, UV Gaussians as predicted
    scales: Tensor  # [T, N, 3] metres, standard deviations
    opacities: Tensor  # [N] 0..1
    features: Tensor  # [N, C]; the first three are RGB 0..1
    joints: Tensor | None = None  # [T, J, 3] posed joints of the body, metres; None: not made by `Avatar.pose`
    source: SourcePixels | None = None  # the source frame's own pixels; None: the model does not use them

    def __len__(self) -> int:
        """Return the number of frames T."""
        return self.means.shape[0]

    def draw_maps(self, viewmats: Tensor, K: Tensor, width: int, height: int) -> Tensor:
        """Return `SourcePixels.draw` [T, 7, height, width] through cameras [T, 4, 4] with lens K [3, 3]."""
        assert self.source is not None
        return self.source.draw(self.means, self.quats, self.scales, self.opacities, viewmats, K, width, height)

    def __getitem__(self, index: slice) -> PosedGaussians:
        return replace(
            self,
            means=self.means[index],
            quats=self.quats[index],
            scales=self.scales[index],
            joints=None if self.joints is None else self.joints[index],
        )


@dataclass(frozen=True)
class Avatar:
    """Canonical Gaussians: one per body vertex (the first P), then one per kept UV texel (M).

    Immutable: building an avatar never changes the tensors it is built from, posing never changes the avatar.
    """

    body: EhmModel
    rest: RestShape
    vertex_quats: Tensor  # [P, 4] wxyz
    vertex_scales: Tensor  # [P, 3] metres
    uv_local: Tensor  # [M, 3] position in the frame of its face, units of the face scale
    uv_quats: Tensor  # [M, 4]
    uv_scales: Tensor  # [M, 3] units of the face scale
    uv_face: Tensor  # [M] int64 face each UV Gaussian is attached to
    uv_bary: Tensor  # [M, 3]
    opacities: Tensor  # [P + M]
    features: Tensor  # [P + M, C]
    kept: Tensor  # [M0] bool: which occupied texels became Gaussians
    source: SourcePixels | None = None  # of the N Gaussians; None: the model does not use them

    @property
    def num_gaussians(self) -> int:
        """Return the number of Gaussians N = P + M."""
        return len(self.opacities)

    @staticmethod
    def build(
        body: EhmModel,
        identity: Identity,
        vertex: RawGaussians,
        uv: RawGaussians,
        opacity_threshold: float,
        source: SourcePixels | None = None,
    ) -> Avatar:
        """Return the avatar of predicted Gaussians; UV points at or below `opacity_threshold` are dropped.

        `source` has a place for each vertex and each UV point.

        Source: the original's `Ubody_Gaussian` with `pruning=True`.
        """
        assets = body.assets
        occupied = assets.uv_face >= 0
        kept = uv.opacities[:, 0] > opacity_threshold
        assert uv.local_pos is not None
        opacities, features = appearance(vertex, uv.rows(lambda v: v[kept]))
        return Avatar(
            body=body,
            rest=body.shape(identity),
            vertex_quats=vertex.rotations,
            vertex_scales=vertex.scales,
            uv_local=uv.local_pos[kept],
            uv_quats=uv.rotations[kept],
            uv_scales=uv.scales[kept],
            uv_face=assets.uv_face[occupied][kept].long(),
            uv_bary=assets.uv_bary[occupied][kept],
            opacities=opacities,
            features=features,
            kept=kept,
            source=None if source is None else source.rows(torch.cat([kept.new_ones(len(vertex.opacities)), kept])),
        )

    def with_identity(self, identity: Identity) -> Avatar:
        """Return the avatar with the same appearance on another body shape (cross-identity reenactment)."""
        return replace(self, rest=self.body.shape(identity))

    def pose(self, motion: Motion) -> PosedGaussians:
        """Return the Gaussians of T frames. They depend on identity and motion, never on a camera."""
        return self.on_body(self.body.pose(self.rest, motion))

    def on_body(self, posed: PosedBody) -> PosedGaussians:
        """Return the Gaussians on T posed bodies."""
        means, quats, scales = pose_gaussians(
            posed.vertices, vertex_turns(posed.vertex_transforms), self.body.assets.faces, self.uv_face, self.uv_bary,
            CanonicalGeometry(self.vertex_quats, self.vertex_scales, self.uv_local, self.uv_quats, self.uv_scales),
        )  # fmt: skip
        return PosedGaussians(means, quats, scales, self.opacities, self.features, posed.joints, self.source)


@dataclass(frozen=True)
class CanonicalGeometry:
    """Positions of Gaussians on a body at rest, vertex Gaussians (P) and UV Gaussians (M) separately."""

    vertex_quats: Tensor  # [..., P, 4] wxyz
    vertex_scales: Tensor  # [..., P, 3] metres
    uv_local: Tensor  # [..., M, 3] position in the frame of its face, units of the face scale
    uv_quats: Tensor  # [..., M, 4]
    uv_scales: Tensor  # [..., M, 3] units of the face scale


def appearance(vertex: RawGaussians, uv: RawGaussians) -> tuple[Tensor, Tensor]:
    """Return opacities [..., N] 0..1 and features [..., N, C] (RGB 0..1 first) of predicted Gaussians, N = P + M."""
    colors = torch.cat([vertex.colors, uv.colors], -2)
    opacities = torch.cat([vertex.opacities, uv.opacities], -2)[..., 0]
    return opacities, torch.cat([torch.sigmoid(colors[..., :3]), colors[..., 3:]], -1)


def vertex_turns(vertex_transforms: Tensor) -> Tensor:
    """Return quaternions [..., 4] (wxyz) of blended skinning matrices [..., 3, 4].

    A vertex Gaussian is rotated by the blended matrix, which is not a rotation; the branch rule of `matrix_to_quat`
    decides.
    """
    return matrix_to_quat(vertex_transforms[..., :3])


def pose_gaussians(
    vertices: Tensor,  # [..., P, 3] posed, metres
    turns: Tensor,  # [..., P, 4] of `vertex_turns`
    faces: Tensor,  # [F, 3]
    uv_face: Tensor,  # [M] int64 the face of each UV Gaussian
    uv_bary: Tensor,  # [M, 3]
    canonical: CanonicalGeometry,  # leading dimensions as those of `vertices`, or such as broadcast to them
) -> tuple[Tensor, Tensor, Tensor]:
    """Return means [..., N, 3], quaternions [..., N, 4] and scales [..., N, 3] of Gaussians on posed bodies.

    Differentiable in everything but the choice of a quaternion's branch.
    """
    quats = F.normalize(quat_multiply(turns, canonical.vertex_quats), dim=-1)

    # UV Gaussians follow the frame of their face
    frames, face_scale = face_frames(vertices[..., faces, :])  # [..., F, 3, 3], [..., F]
    face_quats = matrix_to_quat(frames)
    s = face_scale[..., uv_face, None]  # [..., M, 1]
    centres = _uv_centres(vertices, faces, uv_face, uv_bary, canonical.uv_local, frames, s)
    return (
        torch.cat([vertices, centres], -2),
        torch.cat([quats, quat_multiply(face_quats[..., uv_face, :], canonical.uv_quats)], -2),
        torch.cat([canonical.vertex_scales.expand_as(vertices), canonical.uv_scales * s], -2),
    )


def uv_centres(vertices: Tensor, faces: Tensor, uv_face: Tensor, uv_bary: Tensor, uv_local: Tensor) -> Tensor:
    """Return only the means [..., M, 3] of UV Gaussians on posed bodies; arguments as `pose_gaussians`."""
    frames, face_scale = face_frames(vertices[..., faces, :])
    return _uv_centres(vertices, faces, uv_face, uv_bary, uv_local, frames, face_scale[..., uv_face, None])


def _uv_centres(
    vertices: Tensor, faces: Tensor, uv_face: Tensor, uv_bary: Tensor, uv_local: Tensor, frames: Tensor, scale: Tensor
) -> Tensor:
    columns = frames[..., uv_face, :, :]  # [..., M, 3, 3]
    local = sum(columns[..., k] * uv_local[..., k, None] for k in range(3))
    corner_ids = faces[uv_face]  # [M, 3]
    surface = sum(vertices[..., corner_ids[:, k], :] * uv_bary[:, k, None] for k in range(3))
    return scale * local + surface


def face_frames(corners: Tensor) -> tuple[Tensor, Tensor]:
    """Return frames [..., 3, 3] (columns are the axes) and scales [...] of triangles with corners [..., 3, 3].

    The first axis lies along the first edge, the second is the normal, the third lies in the plane. The scale is the
    mean of the length of the first edge and the height over it.
    """
    v0, v1, v2 = corners.unbind(-2)
    e1, e2 = v1 - v0, v2 - v0
    a0 = _unit(e1)
    a1 = _unit(torch.linalg.cross(a0, e2))
    a2 = -_unit(torch.linalg.cross(a1, a0))
    scale = (_length(e1)[..., 0] + (a2 * e2).sum(-1).abs()) / 2
    return torch.stack([a0, a1, a2], -1), scale


def matrix_to_quat(m: Tensor) -> Tensor:
    """Return unit quaternions [..., 4] (wxyz) of matrices [..., 3, 3], which may deviate slightly from rotations.

    The rows of 4 q q^T are expressed in the entries of the matrix; the row with the largest diagonal entry (the first
    of x, y, z, w among equals) gives q. Source: Markley, Unit quaternion from rotation matrix, 2008. The branch rule is
    that of roma, which the original uses, but whose arg-max over a strided diagonal takes more than half of the posing
    time on a CPU.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in m.unbind(-2))
    w = [1 + a + e + i, h - f, c - g, d - b]
    x = [w[1], 1 + a - e - i, d + b, g + c]
    y = [w[2], x[2], 1 + e - i - a, h + f]
    z = [w[3], x[3], y[3], 1 + i - a - e]
    largest = torch.stack([x[1], y[2], z[3], w[0]], -1).max(-1, keepdim=True).indices
    quat = torch.stack(w, -1)
    for k, row in enumerate((x, y, z)):
        quat = torch.where(largest == k, torch.stack(row, -1), quat)
    unit: Tensor = quat / quat.norm(dim=-1, keepdim=True)
    return unit


def quat_multiply(p: Tensor, q: Tensor) -> Tensor:
    """Return the Hamilton product of quaternions [..., 4] in wxyz order."""
    pw, px, py, pz = p.unbind(-1)
    qw, qx, qy, qz = q.unbind(-1)
    return torch.stack(
        [
            pw * qw - px * qx - py * qy - pz * qz,
            pw * qx + px * qw + py * qz - pz * qy,
            pw * qy - px * qz + py * qw + pz * qx,
            pw * qz + px * qy - py * qx + pz * qw,
        ],
        -1,
    )


def _length(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True).clamp(min=_SAFE_SQUARED_LENGTH).sqrt()


def _unit(x: Tensor) -> Tensor:
    return x / _length(x)
