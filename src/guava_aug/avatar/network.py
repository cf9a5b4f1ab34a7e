"""GUAVA's inference network: from one source frame to canonical Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guava_aug.avatar.avatar import uv_centres
from guava_aug.avatar.config import ModelConfig
from guava_aug.avatar.decoders import RawGaussians, UVDecoder, VertexDecoder
from guava_aug.avatar.encoder import ImageEncoder, ImageFeatures
from guava_aug.avatar.source_pixels import (
    CLEARANCE,
    CLEARANCE_DEPTH,
    SourceBlend,
    SourcePixels,
    SourcePlaces,
    face_edges,
    faces_of_vertices,
    prepare_picture,
    seen_weight,
    vertex_cosines,
)
from guava_aug.avatar.styleunet import StyleUNet
from guava_aug.avatar.visibility import facing, nearest_depth, rasterize_mesh, relative_depth, unhidden
from guava_aug.body import EhmAssets, PosedBody
from guava_aug.views.cameras import Lens, project_points

_FREQUENCIES = (1.0, 2.0, 4.0, 8.0)  # of the view direction's harmonic embedding
_DIR_DIM = 3 * (2 * len(_FREQUENCIES) + 1)
_EXTRA_STYLE_DIM = 512


@dataclass(frozen=True)
class SourceGeometry:
    """B posed bodies in their source cameras, and which parts of the body each camera sees."""

    vertices: Tensor  # [B, P, 3] world, metres
    viewmats: Tensor  # [B, 4, 4] world to camera
    lens: Lens | Tensor  # of all B cameras; or [B, 4], the numbers of each camera's `Lens`
    seen: Tensor  # [B, F] bool: faces that a pixel shows
    nearest: Tensor  # [B, D, D] of `visibility.nearest_depth`, metres; only visibility "point" looks at it
    from_body: bool = False  # whether `nearest` is measured from the mean vertex, which half precision can hold

    def project(self, points: Tensor) -> Tensor:
        """Return image coordinates [B, n, 3] of world points [B, n, 3], see `project_points`."""
        return project_points(points, self.viewmats, self.lens)

    def depth(self, points: Tensor) -> Tensor:
        """Return depths [B, n] in metres of world points [B, n, 3], with the same origin as `nearest`."""
        if self.from_body:
            return relative_depth(points, self.viewmats, self.vertices)
        with torch.autocast(points.device.type, enabled=False):
            return torch.stack([_depth(p, v) for p, v in zip(points, self.viewmats, strict=True)])


@dataclass(frozen=True)
class Prediction:
    """Output of the network for B source frames; UV Gaussians are still in the layout of the UV chart."""

    vertex: RawGaussians  # [B, P, .]
    uv: RawGaussians  # [B, U, U, .]
    features: ImageFeatures
    prj_xy: Tensor  # [B, P, 3] of `SourceGeometry.project`
    vertex_features: Tensor  # [B, P, prj_out_dim]
    uv_visible: Tensor  # [B, U, U] bool
    uv_input: Tensor  # [B, dino_out_dim + 3, U, U]
    uv_features: Tensor  # [B, uv_out_dim, U, U]
    vertex_visible: Tensor  # [B, P] bool; all with visibility "face"


@dataclass(frozen=True)
class Reconstruction:
    """Canonical Gaussians of one source frame, and the data they were made from."""

    vertex: RawGaussians  # rows [P, .]
    uv: RawGaussians  # rows [M, .], one per occupied texel, row-major
    features: ImageFeatures
    prj_xy: Tensor  # [P, 3] projected vertices: x, y in -1..1, third value unused
    vertex_features: Tensor  # [P, prj_out_dim] sampled at the projected vertices
    pixel_faces: Tensor  # [S, S] int32 face per source pixel, -1 none
    uv_visible: Tensor  # [U, U] bool: texel occupied and visible to the source camera, by face or by point
    uv_input: Tensor  # [dino_out_dim + 3, U, U]
    uv_features: Tensor  # [uv_out_dim, U, U]
    source: SourcePixels | None = None  # of P vertices and M texels; only of models with `source_pixels`


class ReconstructionNetwork(nn.Module):
    """The original's `Ubody_Gaussian_inferer` without the body model; module names are the checkpoint's."""

    def __init__(self, cfg: ModelConfig, num_vertices: int):
        super().__init__()
        self.cfg = cfg
        dim, wide = cfg.vit.embed_dim, cfg.global_vertex_dim
        self.dino_encoder = ImageEncoder(cfg)

        def mlp(w: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(dim, w), nn.LeakyReLU(), nn.Linear(w, w), nn.LeakyReLU(), nn.Linear(w, w))

        self.global_feature_mapping = mlp(wide)
        self.vertex_base_feature = nn.Parameter(torch.randn(num_vertices, cfg.smplx_fea_dim))
        self.vertex_gs_decoder = VertexDecoder(cfg.prj_out_dim + cfg.smplx_fea_dim + wide, _DIR_DIM, cfg.color_dim)
        self.uv_style_mapping = mlp(_EXTRA_STYLE_DIM)
        self.uv_feature_decoder = StyleUNet(cfg.uv_decoder, extra_style_dim=_EXTRA_STYLE_DIM)
        self.uv_base_feature = nn.Parameter(torch.randn(cfg.uv_base_dim, cfg.uvmap_size, cfg.uvmap_size))
        self.uv_point_decoder = UVDecoder(cfg.uv_out_dim + cfg.uv_base_dim, _DIR_DIM, cfg.color_dim)
        if cfg.source_pixels:
            self.source_blend = SourceBlend()

    def forward(
        self,
        image: Tensor,  # [1, 3, S, S] RGB 0..1, black background, S = feature_img_size
        posed: PosedBody,  # the source frame's body, T = 1
        viewmat: Tensor,  # [4, 4] the source frame's camera
        assets: EhmAssets,
        uv_noise: Sequence[Tensor] | None = None,  # maps of the UV decoder; default the checkpoint's own
        pixel_faces: Tensor | None = None,  # [S, S] to replace the z-buffer's result
        lens: Lens | None = None,  # the source camera's; default the original's, `invtanfov`
        picture: Tensor | None = None,  # [4, H, W] uint8 RGB and mask at full resolution
    ) -> Reconstruction:
        """Return the canonical Gaussians of one source frame.

        Args:
            image: [1, 3, S, S] RGB 0..1.
            posed: The body in the source frame.
            viewmat: [4, 4] world to camera.
            assets: The body model.
            uv_noise: Noise maps of the UV decoder; None: those of the checkpoint.
            pixel_faces: [S, S] int32 visible faces in place of the z-buffer's result.
            lens: The lens of the source camera; None: the original's.
            picture: [4, H, W] uint8, RGB and mask at full resolution, for models with `source_pixels`; None: `image`.
        """
        lens = Lens(self.cfg.invtanfov, self.cfg.invtanfov) if lens is None else lens
        geometry, pixel_faces = self._source_geometry(posed.vertices, viewmat[None], lens, assets, pixel_faces)
        found = self.predict(image, geometry, assets, embed_directions(viewmat[None]), uv_noise)
        occupied = assets.uv_face >= 0
        uv = found.uv.rows(lambda v: v[0][occupied])
        source = None
        if self.cfg.source_pixels:
            assert uv.local_pos is not None
            visible = found.uv_visible[:, occupied]
            places = self.source_places(geometry, assets, uv.local_pos[None], found.vertex_visible, visible)
            source = SourcePixels(
                SourcePlaces(*(t[0] for t in vars(places).values())), followed_faces(assets), assets.faces,
                self._source_picture(image, picture),
            )  # fmt: skip
        return Reconstruction(
            vertex=found.vertex.rows(lambda v: v[0]),
            uv=uv,
            features=found.features,
            prj_xy=found.prj_xy[0],
            vertex_features=found.vertex_features[0],
            pixel_faces=pixel_faces,
            uv_visible=found.uv_visible[0],
            uv_input=found.uv_input[0],
            uv_features=found.uv_features[0],
            source=source,
        )

    def predict(
        self,
        images: Tensor,  # [B, 3, S, S] RGB 0..1, black background, S = feature_img_size
        geometry: SourceGeometry,
        assets: EhmAssets,
        direction: Tensor,  # [B, 27] of `embed_directions`
        uv_noise: Sequence[Tensor] | None = None,
    ) -> Prediction:
        """Return the Gaussians of B source frames, for inference and training; nothing synchronises with a GPU."""
        features = self.dino_encoder(images)
        vertices = geometry.vertices
        B, P = vertices.shape[:2]

        # vertex branch
        prj_xy = geometry.project(vertices)
        sampled = F.grid_sample(
            features.vertex_map.float(), prj_xy[:, None, :, :2], padding_mode="border", align_corners=False
        )[:, :, 0].transpose(1, 2)  # [B, P, prj_out_dim]; positions need more than bfloat16's eight bits
        unhidden_vertex = torch.ones(B, P, dtype=torch.bool, device=vertices.device)
        if (
            self.cfg.visibility == "point"
        ):  # a vertex that faces away keeps the feature sampled through the body: the same clothes
            unhidden_vertex = unhidden(prj_xy[..., :2], geometry.depth(vertices), geometry.nearest)
            covered = ~unhidden_vertex & facing(vertices, assets.faces, geometry.viewmats)
            sampled = sampled * ~covered[..., None]
        context = self.global_feature_mapping(features.global_feature)[:, None].expand(-1, P, -1)
        base = self.vertex_base_feature.expand(B, -1, -1).to(sampled.dtype)
        vertex = self.vertex_gs_decoder(torch.cat([sampled, base, context], -1), direction)

        # UV branch
        corners = assets.faces[assets.uv_face.clamp(min=0).long()]  # [U, U, 3]
        surface = (assets.uv_bary[..., None] * vertices[:, corners]).sum(-2)  # [B, U, U, 3]
        uv_xy = geometry.project(surface.flatten(1, 2)).unflatten(1, surface.shape[1:3])[..., :2]
        visible = self.visible_texels(geometry, assets, surface, uv_xy)
        uv_input = self._lift_to_uv(images, features.uv_map.float(), uv_xy) * visible[:, None]
        noise = self.uv_feature_decoder.stylegan_decoder.stored_noise() if uv_noise is None else uv_noise
        style = self.uv_style_mapping(features.global_feature)
        uv_features = self.uv_feature_decoder(uv_input, noise, style)
        base = self.uv_base_feature.expand(B, -1, -1, -1).to(uv_features.dtype)
        uv = self.uv_point_decoder(torch.cat([uv_features, base], 1), direction)
        return Prediction(vertex, uv, features, prj_xy, sampled, visible, uv_input, uv_features, unhidden_vertex)

    def source_places(
        self,
        geometry: SourceGeometry,
        assets: EhmAssets,
        uv_local: Tensor,  # [B, M, 3] of the occupied texels, as predicted
        vertex_visible: Tensor,  # [B, P]
        uv_visible: Tensor,  # [B, M]
    ) -> SourcePlaces:
        """Return where the Gaussians, P of the vertices and M of the texels, lie in B source frames."""
        vertices, occupied = geometry.vertices, assets.uv_face >= 0
        face, bary = assets.uv_face[occupied].long(), assets.uv_bary[occupied]
        centres = torch.cat([vertices, uv_centres(vertices, assets.faces, face, bary, uv_local)], 1)
        at_vertices = vertex_cosines(vertices, assets.faces, geometry.viewmats)
        on_chart = (at_vertices[:, assets.faces[face]] * bary).sum(-1)
        visible = torch.cat([vertex_visible, uv_visible], 1)
        xy = geometry.project(centres)[..., :2]
        clear = unhidden(xy, geometry.depth(centres), geometry.nearest, CLEARANCE, CLEARANCE_DEPTH)
        weight = seen_weight(xy, torch.cat([at_vertices, on_chart], 1), visible * clear)
        return SourcePlaces(xy, weight, face_edges(xy, assets.faces))

    def _source_picture(self, image: Tensor, picture: Tensor | None) -> Tensor:
        """Return `SourcePixels.picture` [4, S, S]; without a picture, of the encoder's image on black."""
        if picture is None:
            both = torch.cat([image, (image.amax(1, keepdim=True) > 0).float()], 1)
        else:
            stored = picture[None].to(image.device).float() / 255
            both = torch.cat([stored[:, :3] * stored[:, 3:], stored[:, 3:]], 1)
        return prepare_picture(both, self.cfg.image_size)[0]

    def visible_texels(
        self,
        geometry: SourceGeometry,
        assets: EhmAssets,
        surface: Tensor,  # [B, U, U, 3] the texels in the world
        xy: Tensor,  # [B, U, U, 2] the texels in the image, -1..1
    ) -> Tensor:
        """Return [B, U, U] bool: whether a texel is occupied and visible to the source camera, by face or by point."""
        visible = (assets.uv_face >= 0) & geometry.seen[:, assets.uv_face.clamp(min=0).long()]
        if self.cfg.visibility == "point":
            z = geometry.depth(surface.flatten(1, 2))
            visible = visible & unhidden(xy.flatten(1, 2), z, geometry.nearest).view_as(visible)
        return visible

    def _source_geometry(
        self,
        vertices: Tensor,  # [1, P, 3]
        viewmats: Tensor,  # [1, 4, 4]
        lens: Lens,
        assets: EhmAssets,
        pixel_faces: Tensor | None,  # [S, S]
    ) -> tuple[SourceGeometry, Tensor]:
        """Return the result of the z-buffer, and the visible face of every pixel, int32 [S, S]."""
        device, F_ = vertices.device, len(assets.faces)
        geometry = SourceGeometry(
            vertices, viewmats, lens, torch.zeros(1, F_, dtype=torch.bool, device=device), vertices.new_zeros(1, 1, 1)
        )
        if pixel_faces is None or self.cfg.visibility == "point":
            xy, z = geometry.project(vertices)[0, :, :2], geometry.depth(vertices)[0]
            points = torch.cat([xy, z[:, None]], 1).float().cpu().numpy()
            found, depth, _ = rasterize_mesh(points, assets.faces.cpu().numpy(), self.cfg.image_size)
            pixel_faces = torch.from_numpy(found) if pixel_faces is None else pixel_faces
            near = nearest_depth(torch.from_numpy(np.where(depth < 0, np.inf, depth)).to(vertices)[None])
            geometry = replace(geometry, nearest=near)
        geometry.seen[0, pixel_faces[pixel_faces >= 0].long().to(device)] = True
        return geometry, pixel_faces

    def _lift_to_uv(
        self,
        images: Tensor,  # [B, 3, S, S]
        uv_map: Tensor,  # [B, dino_out_dim, image_size, image_size]
        uv_xy: Tensor,  # [B, U, U, 2] where each texel is in the source image
    ) -> Tensor:
        """Return source colour and features at each texel, [B, 3 + dino_out_dim, U, U]."""
        size = (self.cfg.image_size, self.cfg.image_size)
        rgb = F.interpolate(images, size, mode="bilinear", align_corners=False)
        return F.grid_sample(torch.cat([rgb, uv_map], 1), uv_xy, padding_mode="zeros", align_corners=False)


def followed_faces(assets: EhmAssets) -> Tensor:
    """Return [P + M] the face that each Gaussian of the vertices and the occupied texels follows."""
    at_vertices = faces_of_vertices(assets.faces, len(assets.body.v_template))
    return torch.cat([at_vertices, assets.uv_face[assets.uv_face >= 0].long()])


def _depth(points: Tensor, viewmat: Tensor) -> Tensor:
    """Return camera depths [...] in metres of points [..., 3]."""
    return points @ viewmat[2, :3] + viewmat[2, 3]


def embed_directions(viewmats: Tensor) -> Tensor:
    """Return the harmonic embedding [B, 27] of the view directions of cameras [B, 4, 4].

    R @ (0, 0, 1), the third COLUMN of the world-to-camera rotation, is not the camera's axis in the world;
    the weights were trained with it.
    """
    direction = viewmats[:, :3, 2]
    phase = (direction[..., None] * direction.new_tensor(_FREQUENCIES)).flatten(1)  # four of x, four of y, four of z
    return torch.cat([phase.sin(), phase.cos(), direction], 1)
