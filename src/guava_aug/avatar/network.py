"""GUAVA's inference network: one source frame in, canonical Gaussians out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..body import EhmAssets, PosedBody
from .config import ModelConfig
from .decoders import RawGaussians, UVDecoder, VertexDecoder
from .encoder import ImageEncoder, ImageFeatures
from .occlusion import facing, nearest_depth, unhidden
from .styleunet import StyleUNet
from .visibility import rasterize_mesh

_FREQUENCIES = (1.0, 2.0, 4.0, 8.0)  # of the view direction's harmonic embedding
_DIR_DIM = 3 * (2 * len(_FREQUENCIES) + 1)
_EXTRA_STYLE_DIM = 512
_DEPTH_EPS = 1e-7  # added to the depth before dividing by it


@dataclass(frozen=True)
class Reconstruction:
    """Canonical Gaussians of one source frame, and what they were made from."""

    vertex: RawGaussians  # rows [P, .]
    uv: RawGaussians  # rows [M, .], one per occupied texel, row-major
    features: ImageFeatures
    prj_xy: Tensor  # [P, 3] projected vertices: x, y in -1..1, third value unused
    vertex_features: Tensor  # [P, prj_out_dim] sampled at the projected vertices
    pixel_faces: Tensor  # [S, S] int32 face per source pixel, -1 none
    uv_visible: Tensor  # [U, U] bool: texel occupied and seen by the source camera, by face or by point
    uv_input: Tensor  # [dino_out_dim + 3, U, U]
    uv_features: Tensor  # [uv_out_dim, U, U]


class ReconstructionNetwork(nn.Module):
    """The original's `Ubody_Gaussian_inferer` without the body model; module names are the checkpoint's."""

    def __init__(self, cfg: ModelConfig, num_vertices: int):
        super().__init__()
        self.cfg = cfg
        dim, wide = cfg.vit.embed_dim, cfg.global_vertex_dim
        self.dino_encoder = ImageEncoder(cfg)
        mlp = lambda w: nn.Sequential(
            nn.Linear(dim, w), nn.LeakyReLU(), nn.Linear(w, w), nn.LeakyReLU(), nn.Linear(w, w)
        )
        self.global_feature_mapping = mlp(wide)
        self.vertex_base_feature = nn.Parameter(torch.randn(num_vertices, cfg.smplx_fea_dim))
        self.vertex_gs_decoder = VertexDecoder(cfg.prj_out_dim + cfg.smplx_fea_dim + wide, _DIR_DIM, cfg.color_dim)
        self.uv_style_mapping = mlp(_EXTRA_STYLE_DIM)
        self.uv_feature_decoder = StyleUNet(cfg.uv_decoder, extra_style_dim=_EXTRA_STYLE_DIM)
        self.uv_base_feature = nn.Parameter(torch.randn(cfg.uv_base_dim, cfg.uvmap_size, cfg.uvmap_size))
        self.uv_point_decoder = UVDecoder(cfg.uv_out_dim + cfg.uv_base_dim, _DIR_DIM, cfg.color_dim)

    def forward(
        self,
        image: Tensor,  # [1, 3, S, S] RGB 0..1, black background, S = feature_img_size
        posed: PosedBody,  # the source frame's body, T = 1
        viewmat: Tensor,  # [4, 4] the source frame's camera
        assets: EhmAssets,
        uv_noise: Sequence[Tensor] | None = None,  # maps of the UV decoder; default the checkpoint's own
        pixel_faces: Tensor | None = None,  # [S, S] to replace the z-buffer's result
    ) -> Reconstruction:
        features = self.dino_encoder(image)
        direction = _embed_direction(viewmat)
        vertices = posed.vertices[0]

        prj_xy = self._project(vertices, viewmat)
        by_point = self.cfg.visibility == "point"
        if pixel_faces is None or by_point:
            points = _image_points(prj_xy, vertices, viewmat)
            found, depth, _ = rasterize_mesh(points, assets.faces.cpu().numpy(), self.cfg.image_size)
            pixel_faces = torch.from_numpy(found) if pixel_faces is None else pixel_faces
            near = nearest_depth(torch.from_numpy(np.where(depth < 0, np.inf, depth)).to(vertices)[None])

        # vertex branch
        sampled = F.grid_sample(
            features.vertex_map, prj_xy[None, None, :, :2], padding_mode="border", align_corners=False
        )[0, :, 0].T  # [P, prj_out_dim]
        if by_point:  # a vertex turned away keeps what it sees through the body: mostly the same clothes
            covered = ~unhidden(prj_xy[None, :, :2], _depth(vertices, viewmat)[None], near)
            covered &= facing(vertices[None], assets.faces, viewmat[None])
            sampled = sampled * ~covered[0, :, None]
        context = self.global_feature_mapping(features.global_feature).expand(len(vertices), -1)
        vertex = self.vertex_gs_decoder(torch.cat([sampled, self.vertex_base_feature, context], -1)[None], direction)

        # UV branch
        occupied = assets.uv_face >= 0
        face = assets.uv_face.clamp(min=0).long()
        seen = torch.zeros(len(assets.faces), dtype=torch.bool, device=face.device)
        seen[pixel_faces[pixel_faces >= 0].long().to(face.device)] = True
        visible = occupied & seen[face]
        surface = (assets.uv_bary[..., None] * vertices[assets.faces[face]]).sum(-2)  # [U, U, 3]
        uv_xy = self._project(surface, viewmat)[..., :2]
        if by_point:
            unhid = unhidden(uv_xy.flatten(0, 1)[None], _depth(surface, viewmat).flatten()[None], near)
            visible = visible & unhid.view_as(visible)
        uv_input = self._lift_to_uv(image, features.uv_map, uv_xy) * visible
        noise = self.uv_feature_decoder.stylegan_decoder.stored_noise() if uv_noise is None else uv_noise
        style = self.uv_style_mapping(features.global_feature)
        uv_features = self.uv_feature_decoder(uv_input, noise, style)
        uv = self.uv_point_decoder(torch.cat([uv_features, self.uv_base_feature[None]], 1), direction)

        return Reconstruction(
            vertex=vertex.rows(lambda v: v[0]),
            uv=uv.rows(lambda v: v[0][occupied]),
            features=features,
            prj_xy=prj_xy,
            vertex_features=sampled,
            pixel_faces=pixel_faces,
            uv_visible=visible,
            uv_input=uv_input[0],
            uv_features=uv_features[0],
        )

    def _project(self, points: Tensor, viewmat: Tensor) -> Tensor:
        """[..., 3]: image coordinates in -1..1 (x right, y down); the third is about `invtanfov`."""
        camera = (F.pad(points, (0, 1), value=1.0) @ viewmat.T)[..., :3]
        return camera * self.cfg.invtanfov / (camera[..., 2:] + _DEPTH_EPS)

    def _lift_to_uv(
        self,
        image: Tensor,  # [1, 3, S, S]
        uv_map: Tensor,  # [1, dino_out_dim, image_size, image_size]
        uv_xy: Tensor,  # [U, U, 2] where each texel is in the source image
    ) -> Tensor:
        """[1, 3 + dino_out_dim, U, U] source colour and features at each texel."""
        size = (self.cfg.image_size, self.cfg.image_size)
        rgb = F.interpolate(image, size, mode="bilinear", align_corners=False)
        return F.grid_sample(torch.cat([rgb, uv_map], 1), uv_xy[None], padding_mode="zeros", align_corners=False)


def _depth(points: Tensor, viewmat: Tensor) -> Tensor:
    """[...] camera depth in metres of points [..., 3]."""
    return points @ viewmat[2, :3] + viewmat[2, 3]


def _image_points(prj_xy: Tensor, vertices: Tensor, viewmat: Tensor) -> np.ndarray:
    """(P, 3) float32 array for the z-buffer: x, y in -1..1 and the camera depth in metres."""
    return torch.cat([prj_xy[:, :2], _depth(vertices, viewmat)[:, None]], 1).float().cpu().numpy()


def _embed_direction(viewmat: Tensor) -> Tensor:
    """[1, 27] harmonic embedding of the view direction.

    R @ (0, 0, 1), the third COLUMN of the world-to-camera rotation, is not the camera's axis in the world;
    the weights were trained with it.
    """
    direction = viewmat[:3, 2]
    phase = (direction[:, None] * direction.new_tensor(_FREQUENCIES)).flatten()  # x's four, y's four, z's four
    return torch.cat([phase.sin(), phase.cos(), direction])[None]
