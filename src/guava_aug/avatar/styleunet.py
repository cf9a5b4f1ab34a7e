"""StyleUNet: a U-Net whose features condition a StyleGAN2 generator by spatial feature transform.

Used twice: the "large" one decodes the UV map, the "small" one refines the rendered features into RGB. Module names are
the checkpoint's. Generator: Karras et al., StyleGAN2 (2020); SFT: Wang et al. (2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guava_aug.avatar.config import StyleUNetConfig

_CHANNELS = {4: 256, 8: 256, 16: 256, 32: 256, 64: 128, 128: 64, 256: 32, 512: 16, 1024: 8}
_SLOPE = 0.2
_EPS = 1e-8


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE, inplace=True)


def _resize(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _channels(cfg: StyleUNetConfig) -> dict[int, int]:
    return {size: min(int(c / cfg.channel_scale), cfg.max_channels) for size, c in _CHANNELS.items()}


class StyleUNet(nn.Module):
    """Image [B, in_dim, S, S] -> image [B, out_dim, S, S], without an activation at the end."""

    def __init__(self, cfg: StyleUNetConfig, extra_style_dim: int = 0):
        super().__init__()
        if cfg.in_size != cfg.out_size:
            raise ValueError(f"in_size {cfg.in_size} differs from out_size {cfg.out_size}: not used by GUAVA")
        ch = _channels(cfg)
        self.levels = int(math.log2(cfg.out_size)) - 2  # 7 at 512
        sizes = [cfg.out_size >> i for i in range(self.levels + 1)]  # 512 ... 4

        self.conv_body_first = nn.Conv2d(cfg.in_dim, ch[cfg.out_size], 1)
        self.conv_body_down = nn.ModuleList(_ResBlock(ch[a], ch[b], 0.5) for a, b in pairwise(sizes))
        self.final_conv = nn.Conv2d(ch[4], ch[4], 3, padding=1)
        self.final_linear = nn.Linear(ch[4] * 16, cfg.num_style_feat)
        up = sizes[::-1]
        self.conv_body_up = nn.ModuleList(_ResBlock(ch[a], ch[b], 2) for a, b in pairwise(up))
        if extra_style_dim:
            self.style_fuse = nn.Sequential(
                nn.Linear(extra_style_dim + cfg.num_style_feat, cfg.num_style_feat),
                nn.LeakyReLU(_SLOPE),
                nn.Linear(cfg.num_style_feat, cfg.num_style_feat),
            )
        self.condition_scale = nn.ModuleList(_condition(ch[s]) for s in up[1:])
        self.condition_shift = nn.ModuleList(_condition(ch[s]) for s in up[1:])
        self.stylegan_decoder = (_SmallGenerator if cfg.small else _Generator)(cfg)

    @property
    def noise_sizes(self) -> list[int]:
        """Return the side of the noise map of every style convolution, in order."""
        return self.stylegan_decoder.noise_sizes

    def forward(
        self,
        x: Tensor,  # [B, in_dim, S, S]
        noise: Sequence[Tensor],  # one [1, 1, s, s] per `noise_sizes`
        extra_style: Tensor | None = None,  # [B, extra_style_dim]
    ) -> Tensor:
        """Return the image [B, out_dim, S, S]."""
        style, conditions = self.encode(x, extra_style)
        image: Tensor = self.stylegan_decoder(style, conditions, noise)
        return image

    def encode(self, x: Tensor, extra_style: Tensor | None = None) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return the style code [B, num_style_feat] and per level the (scale, shift) maps, coarse to fine."""
        x = _lrelu(self.conv_body_first(x))
        skips = []
        for block in self.conv_body_down:
            x = block(x)
            skips.append(x)
        x = _lrelu(self.final_conv(x))
        style = self.final_linear(x.flatten(1))
        if extra_style is not None:
            style = self.style_fuse(torch.cat([style, extra_style], 1))
        conditions = []
        for block, scale, shift in zip(self.conv_body_up, self.condition_scale, self.condition_shift, strict=True):
            x = block(x + skips.pop())
            conditions.append((scale(x), shift(x)))
        return style, conditions


def _condition(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.LeakyReLU(_SLOPE),
        nn.Conv2d(channels, channels, 3, padding=1),
    )


class _ResBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, factor: float):
        super().__init__()
        self.factor = factor
        self.conv1 = nn.Conv2d(c_in, c_in, 3, padding=1)
        self.conv2 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = _lrelu(self.conv2(_resize(_lrelu(self.conv1(x)), self.factor)))
        skip: Tensor = self.skip(_resize(x, self.factor))
        return y + skip


class _Generator(nn.Module):
    """StyleGAN2 with SFT: two modulated convolutions per level."""

    convs_per_level = 2

    def __init__(self, cfg: StyleUNetConfig):
        super().__init__()
        ch, d = _channels(cfg), cfg.num_style_feat
        sizes = [8 << i for i in range(int(math.log2(cfg.out_size)) - 2)]
        mlp: list[nn.Module] = [_NormStyle()]
        for _ in range(cfg.num_mlp):
            mlp += [nn.Linear(d, d), nn.LeakyReLU(_SLOPE)]
        self.style_mlp = nn.Sequential(*mlp)
        self.constant_input = _Constant(ch[4])
        self.style_conv1 = _StyleConv(ch[4], ch[4], d)
        self.to_rgb1 = _ToRGB(ch[4], cfg.out_dim, d)
        self.style_convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        c_in = ch[4]
        for size in sizes:
            c = ch[size]
            self.style_convs.append(_StyleConv(c_in, c, d, upsample=True))
            if self.convs_per_level == 2:
                self.style_convs.append(_StyleConv(c, c, d))
            self.to_rgbs.append(_ToRGB(c, cfg.out_dim, d))
            c_in = c
        self.noise_sizes = [4] + [s for s in sizes for _ in range(self.convs_per_level)]
        self.noises = nn.Module()
        for i in range(len(self.noise_sizes)):
            # the original derives the size from the layer number as if there were two layers a level, so the
            # small generator's buffers do not fit its maps; the shapes are kept because checkpoints have them
            size = 2 ** ((i + 5) // 2)
            self.noises.register_buffer(f"noise{i}", torch.zeros(1, 1, size, size))

    def stored_noise(self) -> list[Tensor]:
        """Return the checkpoint's noise maps. Their sizes fit the large generator only."""
        return [getattr(self.noises, f"noise{i}") for i in range(len(self.noise_sizes))]

    def forward(self, style: Tensor, conditions: list[tuple[Tensor, Tensor]], noise: Sequence[Tensor]) -> Tensor:
        latent = self.style_mlp(style)  # one code for all layers
        x = self.constant_input(len(style))
        x = self.style_conv1(x, latent, noise[0])
        rgb: Tensor = self.to_rgb1(x, latent)
        for i, (scale, shift) in enumerate(conditions):
            j = i * self.convs_per_level
            x = self.style_convs[j](x, latent, noise[j + 1])
            x = self.second(i, x * scale + shift, latent, noise)
            rgb = _resize(rgb, 2) + self.to_rgbs[i](x, latent)
        return rgb

    def second(self, level: int, x: Tensor, latent: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Return the result of a level's second convolution."""
        j = 2 * level + 1
        out: Tensor = self.style_convs[j](x, latent, noise[j + 1])
        return out


class _SmallGenerator(_Generator):
    """The refiner's generator: the second convolution of a level is not modulated."""

    convs_per_level = 1

    def __init__(self, cfg: StyleUNetConfig):
        super().__init__(cfg)
        ch = _channels(cfg)
        self.normal_convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(ch[s], ch[s], 3, padding=1), nn.LeakyReLU(_SLOPE)) for s in self.noise_sizes[1:]
        )

    def second(self, level: int, x: Tensor, latent: Tensor, noise: Sequence[Tensor]) -> Tensor:
        out: Tensor = self.normal_convs[level](x)
        return out


class _NormStyle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + _EPS)


class _Constant(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, batch: int) -> Tensor:
        return self.weight.expand(batch, -1, -1, -1)


class _ModulatedConv(nn.Module):
    """Convolution whose weight is scaled per sample and input channel, then optionally demodulated.

    For a batch the scale is applied to the activations before the convolution, and the demodulation to those after it:
    the same sum, with one ordinary convolution instead of a grouped one. For a single sample the weight is scaled,
    which is smaller than the activations, in the original's order.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, style_dim: int, demodulate: bool):
        super().__init__()
        self.demodulate = demodulate
        self.modulation = nn.Linear(style_dim, c_in)
        nn.init.kaiming_normal_(self.modulation.weight, a=0, mode="fan_in", nonlinearity="linear")
        nn.init.ones_(self.modulation.bias)
        self.weight = nn.Parameter(torch.empty(1, c_out, c_in, kernel, kernel))
        nn.init.normal_(self.weight, std=1 / math.sqrt(c_in * kernel**2))

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        weight, scale = self.weight[0], self.modulation(latent)  # [O, I, k, k], [B, I]
        padding = weight.shape[-1] // 2
        if len(x) == 1:
            weight = weight * scale[0, :, None, None]
            if self.demodulate:
                weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + _EPS)
            return F.conv2d(x, weight, padding=padding)
        y = F.conv2d(x * scale[..., None, None], weight, padding=padding)
        if self.demodulate:
            energy = weight.square().sum((2, 3))  # [O, I]
            y = y * torch.rsqrt(scale.square() @ energy.T + _EPS)[..., None, None]
        return y


class _StyleConv(nn.Module):
    def __init__(self, c_in: int, c_out: int, style_dim: int, upsample: bool = False):
        super().__init__()
        self.upsample = upsample
        self.modulated_conv = _ModulatedConv(c_in, c_out, 3, style_dim, demodulate=True)
        self.weight = nn.Parameter(torch.zeros(1))  # noise strength
        self.bias = nn.Parameter(torch.zeros(1, c_out, 1, 1))

    def forward(self, x: Tensor, latent: Tensor, noise: Tensor) -> Tensor:
        x = self.modulated_conv(_resize(x, 2) if self.upsample else x, latent) * math.sqrt(2)
        return _lrelu(x + self.weight * noise + self.bias)


class _ToRGB(nn.Module):
    def __init__(self, c_in: int, c_out: int, style_dim: int):
        super().__init__()
        self.modulated_conv = _ModulatedConv(c_in, c_out, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, c_out, 1, 1))

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        rgb: Tensor = self.modulated_conv(x, latent) + self.bias
        return rgb
