"""The networks as training runs them: several people at once, every person in several poses and views.

The modules are the inference ones (`avatar.network`, `avatar.styleunet`); only the plumbing between is batched here.
A test holds it to `ReconstructionNetwork.forward` and `Avatar.pose`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..avatar.avatar import face_frames, matrix_to_quat, quat_multiply
from ..avatar.config import ModelConfig
from ..avatar.decoders import RawGaussians
from ..avatar.network import _DEPTH_EPS, ReconstructionNetwork, _embed_direction
from ..avatar.occlusion import facing, unhidden
from ..avatar.styleunet import StyleUNet
from ..body import EhmAssets
from ..render.rasterize_grad import rasterize_grad
from ..views.cameras import intrinsics

_MAX_FACE_SCALES = 8.0


@dataclass(frozen=True)
class Sources:
    """B source frames."""

    images: Tensor  # [B, 3, S, S] on black, S = feature_img_size
    vertices: Tensor  # [B, P, 3] posed
    seen: Tensor  # [B, F] bool: faces the source camera sees
    depth: Tensor  # [B, D, D] nearest depth, metres beyond the mean vertex; only visibility "point" looks at it
    viewmats: Tensor  # [B, 4, 4]


@dataclass(frozen=True)
class Poses:
    """K poses and cameras of each of B people."""

    vertices: Tensor  # [B, K, P, 3]
    turns: Tensor  # [B, K, P, 4] wxyz, from the blended skinning matrices
    viewmats: Tensor  # [B, K, 4, 4]


@dataclass(frozen=True)
class Predicted:
    rgb: Tensor  # [B, K, 3, H, W] 0..1, refined
    raw: Tensor  # [B, K, 3, H, W] first three splatted channels, over black
    alpha: Tensor  # [B, K, 1, H, W]
    vertex: RawGaussians  # [B, P, .]
    uv: RawGaussians  # [B, M, .]


class TrainingModel(nn.Module):
    """Reconstruction network and refiner under one roof."""

    def __init__(self, config: ModelConfig, assets: EhmAssets, *, train_noise: bool = False):
        super().__init__()
        self.config, self.assets = config, assets
        self.network = ReconstructionNetwork(config, len(assets.body.v_template))
        self.refiner = StyleUNet(config.refiner)
        _soften_start(self.network)
        for name, p in self.named_parameters():
            # at zero strength pictures do not depend on noise maps, so videos cannot flicker with them
            if _is_unused(name) or (not train_noise and _is_noise_strength(name)):
                p.requires_grad_(False)
        self.occupied = assets.uv_face >= 0
        self.texels = torch.nonzero(self.occupied.flatten())[:, 0]  # [M] row-major
        self.texel_face = assets.uv_face[self.occupied].long()  # [M]
        self.texel_bary = assets.uv_bary[self.occupied]  # [M, 3]

        self._graphs: tuple[Callable[..., Any], ...] | None = None

    def speed_up(self, batch: Sources, images: int, *, amp: bool) -> None:
        """Pixels before channels in memory, and both networks as CUDA graphs for batches of just this size.

        At this scale a step is thousands of small kernels, and launching them one by one takes longer than they do.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        front = (*vars(batch).values(), _directions(batch.viewmats))
        size = self.config.image_size
        back = torch.rand(images, self.config.color_dim, size, size, device=batch.images.device, requires_grad=True)
        self._graphs = torch.cuda.make_graphed_callables(
            (_Front(self, amp), _Back(self, amp)), (tuple(t.clone() for t in front), (back,)), allow_unused_input=True
        )

    def forward(self, sources: Sources, poses: Poses, *, amp: bool = False) -> Predicted:
        front, back = self._graphs or (_Front(self, amp), _Back(self, amp))
        found = front(*vars(sources).values(), _directions(sources.viewmats))
        vertex, uv = RawGaussians(*found[:4]), RawGaussians(*found[4:])
        size = self.config.image_size
        K = intrinsics(size, size, self.config.tanfov)
        means, quats, scales = self.pose(vertex, uv, poses)
        colors = torch.cat([vertex.colors, uv.colors], 1)
        colors = torch.cat([torch.sigmoid(colors[..., :3]), colors[..., 3:]], -1)
        opacities = torch.cat([vertex.opacities, uv.opacities], 1)[..., 0]
        drawn = rasterize_grad(means, quats, scales, opacities, colors, poses.viewmats, K, size, size)
        rgb = back(drawn.image.flatten(0, 1))
        return Predicted(rgb.unflatten(0, drawn.image.shape[:2]), drawn.image[:, :, :3], drawn.alpha, vertex, uv)

    def reconstruct(self, s: Sources, direction: Tensor) -> tuple[RawGaussians, RawGaussians]:
        """Canonical Gaussians of B people: of the vertices [B, P, .] and of the occupied texels [B, M, .].

        direction: [B, 27] embedded view directions.
        """
        net, cfg = self.network, self.config
        features = net.dino_encoder(s.images.contiguous(memory_format=torch.channels_last))
        xy = self._project(s.vertices, s.viewmats)
        sampled = F.grid_sample(features.vertex_map.float(), xy[:, None], padding_mode="border", align_corners=False)[
            :, :, 0
        ].transpose(1, 2)  # [B, P, D]; positions need more than bfloat16's eight bits
        B, P = s.vertices.shape[:2]
        if cfg.visibility == "point":
            covered = ~unhidden(xy, relative_depth(s.vertices, s.viewmats, s.vertices), s.depth)
            covered &= facing(s.vertices, self.assets.faces, s.viewmats)
            sampled = sampled * ~covered[..., None]
        context = net.global_feature_mapping(features.global_feature)[:, None].expand(-1, P, -1)
        base = net.vertex_base_feature.expand(B, -1, -1).to(sampled.dtype)
        vertex = net.vertex_gs_decoder(torch.cat([sampled, base, context], -1), direction)

        size = (cfg.image_size, cfg.image_size)
        rgb = F.interpolate(s.images, size, mode="bilinear", align_corners=False)
        corners = self.assets.faces[self.assets.uv_face.clamp(min=0).long()]  # [U, U, 3]
        surface = (s.vertices[:, corners] * self.assets.uv_bary[..., None]).sum(-2)  # [B, U, U, 3]
        grid = self._project(surface.flatten(1, 2), s.viewmats).unflatten(1, surface.shape[1:3])
        lifted = F.grid_sample(
            torch.cat([rgb, features.uv_map.float()], 1), grid, padding_mode="zeros", align_corners=False
        )
        visible = self.visible_texels(s, surface, grid)
        style = net.uv_style_mapping(features.global_feature)
        maps = net.uv_feature_decoder(lifted * visible[:, None], _no_noise(net.uv_feature_decoder, lifted), style)
        base = net.uv_base_feature.expand(B, -1, -1, -1).to(maps.dtype)
        uv = net.uv_point_decoder(torch.cat([maps, base], 1), direction)
        return vertex, uv.rows(lambda v: v.flatten(1, 2)[:, self.texels])

    def visible_texels(self, s: Sources, surface: Tensor, xy: Tensor) -> Tensor:
        """[B, U, U] bool, as `Reconstruction.uv_visible`: texels at `surface` [B, U, U, 3], in the image at `xy`."""
        visible = self.occupied & s.seen[:, self.assets.uv_face.clamp(min=0).long()]
        if self.config.visibility == "point":
            z = relative_depth(surface.flatten(1, 2), s.viewmats, s.vertices)
            visible = visible & unhidden(xy.flatten(1, 2), z, s.depth).view_as(visible)
        return visible

    def pose(self, vertex: RawGaussians, uv: RawGaussians, p: Poses) -> tuple[Tensor, Tensor, Tensor]:
        """Means, quaternions, scales [B, K, N, .] of the canonical Gaussians in K poses, as `Avatar.pose`."""
        assert uv.local_pos is not None
        with torch.no_grad():
            frames, face_scale = face_frames(p.vertices[:, :, self.assets.faces])  # [B, K, F, 3, 3], [B, K, F]
            face_quats = matrix_to_quat(frames)
            s = face_scale[:, :, self.texel_face, None]
            axes = frames[:, :, self.texel_face]  # [B, K, M, 3, 3]
            turn = face_quats[:, :, self.texel_face]
            corners = self.assets.faces[self.texel_face]  # [M, 3]
            surface = sum(p.vertices[:, :, corners[:, k]] * self.texel_bary[:, k, None] for k in range(3))
        # what grows without bound early in training would cover the picture; a trained network stays far below
        uv_scales = uv.scales.clamp(max=_MAX_FACE_SCALES)
        quats = F.normalize(quat_multiply(p.turns, vertex.rotations[:, None]), dim=-1)
        local = sum(axes[..., k] * uv.local_pos[:, None, :, k, None] for k in range(3))
        means = torch.cat([p.vertices, s * local + surface], 2)
        quats = torch.cat([quats, quat_multiply(turn, uv.rotations[:, None])], 2)
        scales = torch.cat([vertex.scales[:, None].expand(-1, p.vertices.shape[1], -1, -1), s * uv_scales[:, None]], 2)
        return means, quats, scales

    def refine(self, features: Tensor) -> Tensor:
        """[I, 3, H, W] 0..1 of splatted features [I, C, H, W]."""
        features = features.contiguous(memory_format=torch.channels_last)
        return torch.sigmoid(self.refiner(features, _no_noise(self.refiner, features)))

    def _project(self, points: Tensor, viewmats: Tensor) -> Tensor:
        """[B, n, 2] image coordinates in -1..1 of world points [B, n, 3]."""
        with torch.autocast(points.device.type, enabled=False):
            camera = points @ viewmats[:, :3, :3].transpose(1, 2) + viewmats[:, None, :3, 3]
            return camera[..., :2] * self.config.invtanfov / (camera[..., 2:] + _DEPTH_EPS)


class _Front(nn.Module):
    """Source frames to Gaussians, tensors in and tensors out: what a CUDA graph can hold."""

    def __init__(self, owner: TrainingModel, amp: bool):
        super().__init__()
        self.network, self.amp = owner.network, amp
        self._owner = (owner,)  # in a tuple: not a submodule

    def forward(
        self, images: Tensor, vertices: Tensor, seen: Tensor, depth: Tensor, viewmats: Tensor, direction: Tensor
    ) -> tuple[Tensor, ...]:
        with _autocast(images, self.amp):
            both = self._owner[0].reconstruct(Sources(images, vertices, seen, depth, viewmats), direction)
        return tuple(v.float() for g in both for v in vars(g).values() if v is not None)


class _Back(nn.Module):
    """Splatted features to pictures."""

    def __init__(self, owner: TrainingModel, amp: bool):
        super().__init__()
        self.refiner, self.amp = owner.refiner, amp
        self._owner = (owner,)

    def forward(self, features: Tensor) -> Tensor:
        with _autocast(features, self.amp):
            return self._owner[0].refine(features).float()


def _autocast(like: Tensor, amp: bool) -> torch.autocast:
    return torch.autocast(like.device.type, torch.bfloat16, enabled=amp, cache_enabled=False)


def _directions(viewmats: Tensor) -> Tensor:
    """[B, 27] embedded view directions of cameras [B, 4, 4]."""
    return torch.cat([_embed_direction(v) for v in viewmats])


def relative_depth(points: Tensor, viewmats: Tensor, vertices: Tensor) -> Tensor:
    """[B, n] depth of points [B, n, 3] beyond that of the mean vertex, metres: small enough for half precision."""
    with torch.autocast(points.device.type, enabled=False):
        axis = viewmats[:, None, 2, :3]
        return ((points - vertices.mean(1, keepdim=True)) * axis).sum(-1)


def vertex_turns(vertex_transforms: Tensor) -> Tensor:
    """[..., 4] wxyz of blended skinning matrices [..., 3, 4]."""
    return matrix_to_quat(vertex_transforms[..., :3])


def _no_noise(unet: StyleUNet, like: Tensor) -> list[Tensor]:
    return [like.new_zeros(1, 1, 1, 1)] * len(unet.noise_sizes)


def _is_unused(name: str) -> bool:
    """In the checkpoint for the original's sake, but never part of the forward pass."""
    return name.endswith("mask_token") or "refinenet.0.resConfUnit1" in name


def _is_noise_strength(name: str) -> bool:
    return "style_conv" in name and name.endswith(".weight") and "modulated_conv" not in name


def _soften_start(net: ReconstructionNetwork) -> None:
    """Start from small, half-transparent Gaussians on the surface: random heads would start from a cloud."""
    with torch.no_grad():
        net.vertex_base_feature.mul_(0.2)
        net.uv_base_feature.mul_(0.2)
        nn.init.trunc_normal_(net.dino_encoder.dino_model.pos_embed, std=0.02)
        vertex, uv = net.vertex_gs_decoder, net.uv_point_decoder
        heads: tuple[tuple[nn.Sequential, float, float], ...] = (
            (vertex.opacity_layers, 0.3, -1.5),
            (vertex.scale_layers, 0.3, -2.2),
            (uv.opacity_head, 0.3, 1.0),
            (uv.scale_head, 0.3, -0.7),
            (uv.local_pos_head, 0.1, 0.0),
            (uv.rot_head, 1.0, 0.0),
        )
        for head, gain, bias in heads:
            last = head[-1]
            assert isinstance(last, nn.Linear | nn.Conv2d) and last.bias is not None
            last.weight.mul_(gain)
            last.bias.fill_(bias)
            if head is uv.rot_head:
                last.bias[0] = 1.0  # no turn
