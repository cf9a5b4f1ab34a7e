"""The networks as training runs them: several subjects at once, every person in several poses and views.

Modules, reconstruction and posing are the avatar's own (`ReconstructionNetwork.predict`, `pose_gaussians`). Here are
what only training has: batches of subjects, a limit on scales, the differentiable rasteriser and CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guava_aug.avatar.avatar import CanonicalGeometry, appearance, pose_gaussians
from guava_aug.avatar.config import ModelConfig
from guava_aug.avatar.decoders import RawGaussians
from guava_aug.avatar.network import ReconstructionNetwork, SourceGeometry, embed_directions, followed_faces
from guava_aug.avatar.source_pixels import SourcePlaces, prepare_picture
from guava_aug.avatar.styleunet import StyleUNet
from guava_aug.body import EhmAssets
from guava_aug.render.rasterize_grad import rasterize_grad, rasterize_images
from guava_aug.views.cameras import lens_matrices, project_points

_MAX_FACE_SCALES = 8.0


@dataclass(frozen=True)
class Sources:
    """B source frames."""

    images: Tensor  # [B, 3, S, S] on black, S = feature_img_size
    vertices: Tensor  # [B, P, 3] posed
    seen: Tensor  # [B, F] bool: faces the source camera sees
    depth: Tensor  # [B, D, D] nearest depth, metres beyond the mean vertex; only visibility "point" looks at it
    viewmats: Tensor  # [B, 4, 4]
    lenses: Tensor  # [B, 4] the numbers of each camera's `Lens`
    # [B, 4, H, W] the same frames in full: colour on black and the mask it was cut out with, both as the tracker would
    # give them (black and 0 where the video does not show the square)
    pictures: Tensor


@dataclass(frozen=True)
class Poses:
    """K poses and cameras of each of B subjects."""

    vertices: Tensor  # [B, K, P, 3]
    turns: Tensor  # [B, K, P, 4] wxyz, from the blended skinning matrices
    viewmats: Tensor  # [B, K, 4, 4]
    lenses: Tensor  # [B, K, 4] the numbers of each camera's `Lens`


@dataclass(frozen=True)
class Predicted:
    """What the model renders for B samples with K views each."""

    rgb: Tensor  # [B, K, 3, H, W] 0..1, as rendered
    refined: Tensor  # [B, K, 3, H, W] 0..1, without the source's own pixels; `rgb` if the model does not use them
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
        self.followed = followed_faces(assets)  # [P + M]
        occupied = assets.uv_face >= 0
        self.texels = torch.nonzero(occupied.flatten())[:, 0]  # [M] row-major
        self.texel_face = assets.uv_face[occupied].long()  # [M]
        self.texel_bary = assets.uv_bary[occupied]  # [M, 3]

        self._graphs: tuple[Callable[..., Any], ...] | None = None

    def capture_cuda_graphs(self, batch: Sources, images: int, *, amp: bool) -> None:
        """Store tensors channels last, and capture both networks as CUDA graphs for batches of this size.

        At this scale a step is thousands of small kernels, and launching them one by one takes longer than they do.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        front = (*vars(batch).values(), embed_directions(batch.viewmats))
        size = self.config.image_size
        back = torch.rand(images, self.config.color_dim, size, size, device=batch.images.device, requires_grad=True)
        self._graphs = torch.cuda.make_graphed_callables(
            (_Front(self, amp), _Back(self, amp)), (tuple(t.clone() for t in front), (back,)), allow_unused_input=True
        )

    def forward(self, sources: Sources, poses: Poses, *, amp: bool = False) -> Predicted:
        """Return reconstruct, pose, render and refine; amp: with automatic mixed precision."""
        front, back = self._graphs or (_Front(self, amp), _Back(self, amp))
        found = front(*vars(sources).values(), embed_directions(sources.viewmats))
        vertex, uv, visible = RawGaussians(*found[:4]), RawGaussians(*found[4:9]), found[9]
        size = self.config.image_size
        K = lens_matrices(poses.lenses, size, size)
        means, quats, scales = self.pose(vertex, uv, poses)
        opacities, features = appearance(vertex, uv)
        drawn = rasterize_grad(means, quats, scales, opacities, features, poses.viewmats, K, size, size)
        refined = back(drawn.image.flatten(0, 1)).unflatten(0, drawn.image.shape[:2])
        rgb = refined
        if self.config.source_pixels:
            with torch.no_grad():  # where Gaussians lie is learnt from what they show
                maps = self._source_maps(sources, uv, visible, means, poses)
                places, _, _, _ = rasterize_images(
                    means.flatten(0, 1), quats.flatten(0, 1), scales.flatten(0, 1),
                    opacities.repeat_interleave(means.shape[1], 0), maps,
                    poses.viewmats.flatten(0, 1), K.flatten(0, 1), size, size,
                )  # fmt: skip
            rgb = self._blend(refined, drawn.alpha.detach(), places, sources.pictures, amp)
        return Predicted(rgb, refined, drawn.image[:, :, :3], drawn.alpha, vertex, uv)

    def _source_maps(self, sources: Sources, uv: RawGaussians, visible: Tensor, means: Tensor, poses: Poses) -> Tensor:
        """Return [B K, N, 7] of `SourcePlaces.maps_from`."""
        P, k = sources.vertices.shape[1], means.shape[1]
        assert uv.local_pos is not None
        found = self.network.source_places(
            _geometry(sources), self.assets, uv.local_pos, visible[:, :P], visible[:, P:]
        )
        each = SourcePlaces(*(t.repeat_interleave(k, 0) for t in vars(found).values()))
        seen = project_points(means.flatten(0, 1), poses.viewmats.flatten(0, 1), poses.lenses.flatten(0, 1))[..., :2]
        return each.maps_from(seen, self.assets.faces, self.followed)

    def _blend(self, refined: Tensor, alpha: Tensor, places: Tensor, pictures: Tensor, amp: bool) -> Tensor:
        prepared = prepare_picture(pictures, self.config.image_size)
        each = prepared.repeat_interleave(refined.shape[1], 0)
        with _autocast(refined, amp):
            rgb: Tensor = self.network.source_blend(refined.flatten(0, 1), alpha.flatten(0, 1), places, each)
        return rgb.unflatten(0, refined.shape[:2])

    def reconstruct(self, s: Sources, direction: Tensor) -> tuple[RawGaussians, RawGaussians, Tensor]:
        """Return canonical Gaussians of B subjects, and which of them the source frame sees.

        Gaussians of the vertices [B, P, .], of the occupied texels [B, M, .]; [B, P + M] 0 or 1.
        direction: [B, 27] embedded view directions.
        """
        geometry = _geometry(s)
        images = s.images.contiguous(memory_format=torch.channels_last)
        no_noise = _no_noise(self.network.uv_feature_decoder, s.images)
        found = self.network.predict(images, geometry, self.assets, direction, no_noise)
        visible = torch.cat([found.vertex_visible, found.uv_visible.flatten(1)[:, self.texels]], 1).float()
        return found.vertex, found.uv.rows(lambda v: v.flatten(1, 2)[:, self.texels]), visible

    def pose(self, vertex: RawGaussians, uv: RawGaussians, p: Poses) -> tuple[Tensor, Tensor, Tensor]:
        """Return means, quaternions, scales [B, K, N, .] of the canonical Gaussians in K poses, as `Avatar.pose`."""
        assert uv.local_pos is not None
        canonical = CanonicalGeometry(
            vertex_quats=vertex.rotations[:, None],
            vertex_scales=vertex.scales[:, None],
            uv_local=uv.local_pos[:, None],
            uv_quats=uv.rotations[:, None],
            # what grows without bound early in training would cover the picture; a trained network stays far below
            uv_scales=uv.scales[:, None].clamp(max=_MAX_FACE_SCALES),
        )
        return pose_gaussians(p.vertices, p.turns, self.assets.faces, self.texel_face, self.texel_bary, canonical)

    def refine(self, features: Tensor) -> Tensor:
        """Return [I, 3, H, W] 0..1 of splatted features [I, C, H, W]."""
        features = features.contiguous(memory_format=torch.channels_last)
        return torch.sigmoid(self.refiner(features, _no_noise(self.refiner, features)))


class _Front(nn.Module):
    """Source frames to Gaussians, tensors in and tensors out: what a CUDA graph can hold."""

    def __init__(self, owner: TrainingModel, amp: bool):
        super().__init__()
        self.network, self.amp = owner.network, amp
        self._owner = (owner,)  # in a tuple: not a submodule

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        sources, direction = Sources(*inputs[:-1]), inputs[-1]
        with _autocast(sources.images, self.amp):
            vertex, uv, visible = self._owner[0].reconstruct(sources, direction)
        return (*(v.float() for g in (vertex, uv) for v in vars(g).values() if v is not None), visible)


class _Back(nn.Module):
    """Splatted features to pictures."""

    def __init__(self, owner: TrainingModel, amp: bool):
        super().__init__()
        self.refiner, self.amp = owner.refiner, amp
        self._owner = (owner,)

    def forward(self, features: Tensor) -> Tensor:
        with _autocast(features, self.amp):
            return self._owner[0].refine(features).float()


def _geometry(s: Sources) -> SourceGeometry:
    return SourceGeometry(s.vertices, s.viewmats, s.lenses, s.seen, s.depth, from_body=True)


def _autocast(like: Tensor, amp: bool) -> torch.autocast:
    return torch.autocast(like.device.type, torch.bfloat16, enabled=amp, cache_enabled=False)


def _no_noise(unet: StyleUNet, like: Tensor) -> list[Tensor]:
    return [like.new_zeros(1, 1, 1, 1)] * len(unet.noise_sizes)


def _is_unused(name: str) -> bool:
    """Return whether a weight is in checkpoints for the original only, and never part of the forward pass."""
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
