"""From the source image to feature maps: DINOv2 tokens fused into a pyramid.

The transformer is that of DINOv2 (Oquab et al., 2023), inference only. Modules have the checkpoint's key names.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guava_aug.avatar.config import ModelConfig, VitConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_NORM_EPS = 1e-6  # of the transformer
_NUM_BLOCKS = 5  # the first feeds the low-level branch, the other four the pyramid


@dataclass(frozen=True)
class ImageFeatures:
    """Feature maps of B source images."""

    uv_map: Tensor  # [B, dino_out_dim, S, S] for the UV branch (`f_map1`)
    vertex_map: Tensor  # [B, prj_out_dim, S, S] for the vertex branch (`f_map2`)
    global_feature: Tensor  # [B, D]
    tokens: list[Tensor]  # 5 x [B, patches, D]


class ImageEncoder(nn.Module):
    """The original's `DINO_Enocder`; module names are the checkpoint's."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        dim, hidden, widths = cfg.vit.embed_dim, cfg.prj_out_dim // 2, cfg.projects
        self.output_size = cfg.image_size
        self.dino_model = VisionTransformer(cfg.vit, cfg.feature_img_size // cfg.vit.patch_size)

        def conv3(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)

        self.projects = nn.ModuleList(nn.Conv2d(dim, w, 1) for w in widths)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                conv3(widths[3], widths[3], stride=2),
            ]
        )
        self.layer_rn = nn.ModuleList(conv3(w + 3, hidden, bias=False) for w in widths)
        self.refinenet = nn.ModuleList(_FusionBlock(hidden) for _ in widths)
        self.project_l = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            conv3(dim, hidden, bias=False),
            nn.Upsample(scale_factor=4, mode="bilinear", align_corners=True),
            conv3(hidden, hidden // 2, bias=False),
        )
        self.fuse_l = nn.Sequential(
            conv3(hidden + hidden // 2 + 3, hidden, bias=False), nn.LeakyReLU(), conv3(hidden, hidden, bias=False)
        )
        self.skip_l = conv3(hidden + 3, hidden, bias=False)
        self.output_conv = conv3(hidden, cfg.dino_out_dim)
        self.output_conv_2 = conv3(hidden, cfg.prj_out_dim)

    def forward(
        self,
        images: Tensor,  # [B, 3, S, S] RGB 0..1 on black, S = feature_img_size
    ) -> ImageFeatures:
        # filled on the device: a copy from the host could not be part of a CUDA graph
        """Return the features of images [B, 3, S, S], RGB 0..1."""
        mean, std = (
            torch.cat([images.new_full((1, 1, 1), v) for v in values]) for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        images = (images - mean) / std
        tokens = self.dino_model(images, _NUM_BLOCKS)
        grid = round(tokens[0].shape[1] ** 0.5)
        low, *pyramid = [t.transpose(1, 2).unflatten(2, (grid, grid)) for t in tokens]

        levels = []
        for feature, project, resize, layer in zip(
            pyramid, self.projects, self.resize_layers, self.layer_rn, strict=True
        ):
            feature = resize(project(feature))
            image = F.interpolate(images, feature.shape[-2:], mode="bilinear", antialias=True)
            levels.append(layer(torch.cat([image, feature], 1)))

        path = self.refinenet[0](levels[3], None, levels[2].shape[-2:])
        path = self.refinenet[1](path, levels[2], levels[1].shape[-2:])
        path = self.refinenet[2](path, levels[1], levels[0].shape[-2:])
        path = self.refinenet[3](path, levels[0], [2 * s for s in levels[0].shape[-2:]])

        size = (self.output_size, self.output_size)

        def resize_to(x: Tensor) -> Tensor:
            return F.interpolate(x, size, mode="bilinear", align_corners=False)

        path = torch.cat([resize_to(path), resize_to(images)], 1)
        path = self.fuse_l(torch.cat([path, resize_to(self.project_l(low))], 1)) + self.skip_l(path)
        return ImageFeatures(
            uv_map=self.output_conv(path),
            vertex_map=self.output_conv_2(path),
            # The top-left patch, as the class token was dropped one step before. The weights depend on it.
            global_feature=tokens[-1][:, 0],
            tokens=tokens,
        )


class _FusionBlock(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.out_conv = nn.Conv2d(dim, dim, 1)
        self.resConfUnit1 = _ResidualConv(dim)
        self.resConfUnit2 = _ResidualConv(dim)

    def forward(self, x: Tensor, skip: Tensor | None, size: list[int] | torch.Size) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        x = F.interpolate(self.resConfUnit2(x), tuple(size), mode="bilinear", align_corners=False)
        out: Tensor = self.out_conv(x)
        return out


class _ResidualConv(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(F.relu(self.conv1(F.relu(x))))
        return out + x


class VisionTransformer(nn.Module):
    """Patch tokens of the last blocks, normalised."""

    def __init__(self, cfg: VitConfig, grid: int):
        super().__init__()
        self.patch_embed = _PatchEmbed(cfg)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, cfg.embed_dim))
        self.mask_token = nn.Parameter(torch.zeros(1, cfg.embed_dim))  # pre-training only; in the checkpoint
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, cfg.embed_dim))
        self.blocks = nn.ModuleList(_Block(cfg.embed_dim, cfg.num_heads) for _ in range(cfg.depth))
        self.norm = nn.LayerNorm(cfg.embed_dim, eps=_NORM_EPS)

    def forward(
        self,
        images: Tensor,  # [B, 3, S, S], ImageNet-normalised; S = grid * patch size
        num_blocks: int,
    ) -> list[Tensor]:  # num_blocks x [B, grid * grid, D], class token dropped
        """Return the patch tokens of the last `num_blocks` blocks, normalised, for images [B, 3, H, W]."""
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i >= len(self.blocks) - num_blocks:
                outputs.append(self.norm(x)[:, 1:])
        return outputs


class _PatchEmbed(nn.Module):
    def __init__(self, cfg: VitConfig):
        super().__init__()
        self.proj = nn.Conv2d(3, cfg.embed_dim, cfg.patch_size, stride=cfg.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.proj(images)
        return patches.flatten(2).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.attn = _Attention(dim, num_heads)
        self.ls1 = _LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.mlp = _Mlp(dim)
        self.ls2 = _LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        y: Tensor = self.ls2(self.mlp(self.norm2(x)))
        return x + y


class _Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class _Mlp(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class _LayerScale(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma
