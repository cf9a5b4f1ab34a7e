"""The refiner in half precision on a GPU: the same network as `styleunet`, with few passes over memory.

At 512 x 512 with 16 to 64 channels the network is limited by memory, not by arithmetic, so every kernel here also
computes the operations around its convolution: bias, activation, pooling, skip connection, noise, feature transform,
RGB head. Images are channels-last, products float16, sums float32. Only exact algebra is used:

- the first layer is linear and one pixel wide, so it is applied to the Gaussians' features instead of the image
  (`project`), and half as many channels are splatted;
- the modulation of a style convolution is part of the end of the kernel before it, the demodulation of its own end;
- the two condition branches of a level are one convolution of twice the width;
- bilinear enlargement followed by a convolution is one linear operation on the small image (`refiner_convs.Phases`),
  with a quarter of the reads;
- with few channels a row of a product covers two or four neighbouring pixels: their inputs are adjacent, and the
  traffic between memory and the matrix units, which is the limit, falls by a third or more.

Nothing is compiled ahead of time: Triton caches the kernels on disk after the first use. The kernels are in
`refiner_kernels`.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from guava_aug.avatar import styleunet
from guava_aug.avatar.refiner_convs import (
    PHASE_CHANNELS,
    Conv,
    ConvRGB,
    StyleConv,
    Transform,
    UpConv,
    UpStyleConv,
    pad,
    padded,
)
from guava_aug.avatar.styleunet import StyleUNet

_RECORDED = 32  # frames of a batch at most: what is kept for it grows with them
_SMALLEST_CANVAS = 8  # frames

log = logging.getLogger(__name__)


class HalfRefiner:
    """Float16 version of a `StyleUNet` refiner on a CUDA device.

    It holds packed weights, and recorded launches by batch size.
    """

    def __init__(self, net: StyleUNet, noise: list[Tensor]):
        """Pack the weights of a refiner.

        Args:
            net: The refiner, on a CUDA device.
            noise: Noise maps, one [1, 1, s, s] per `net.noise_sizes`.
        """
        self._seen: set[int] = set()  # sizes of batches
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}  # by size: launches and their result
        self._canvases: dict[int, tuple[Tensor, Tensor]] = {}  # what they read, and where their result goes
        self._stream: torch.cuda.Stream | None = None  # launches are recorded on it
        self._memory = torch.cuda.graph_pool_handle() if noise[0].is_cuda else None  # shared: one runs at a time
        self.size = 4 << net.levels
        self.levels = net.levels
        first = net.conv_body_first
        self.width = padded(first.out_channels)  # channels to splat
        self._first = nn.functional.pad(first.weight[:, :, 0, 0].T, (0, self.width - first.out_channels)).contiguous()
        assert first.bias is not None
        self.first_bias = nn.functional.pad(first.bias, (0, self.width - first.out_channels)).contiguous()
        last = net.levels - 1  # from here down to 4 x 4 pixels
        self.down = [
            (Conv(b.conv1), Conv(b.conv2, skip=b.skip.weight, together=i < last))
            for i, b in enumerate(_blocks(net.conv_body_down))
        ]
        self.up = [(Conv(b.conv1, together=i > 0), _up_conv(b, i)) for i, b in enumerate(_blocks(net.conv_body_up))]
        self.final_conv, self.final_linear = net.final_conv, net.final_linear
        branches = list(zip(net.condition_scale, net.condition_shift, strict=True))
        self.first_conditions = [Conv(_side_by_side(_conv2d(a, 0), _conv2d(b, 0))) for a, b in branches]
        self.second_conditions = [Transform(_conv2d(a, 2), _conv2d(b, 2)) for a, b in branches]

        g = net.stylegan_decoder
        self.style_mlp, self.constant = g.style_mlp, g.constant_input.weight
        styled, rgb = [g.style_conv1, *g.style_convs], [g.to_rgb1, *g.to_rgbs]
        self._modulation = _pack_modulation([c.modulated_conv for c in (*styled, *rgb)])
        self._widths = [padded(c.modulated_conv.weight.shape[2]) for c in (*styled, *rgb)]
        grains = [(c.weight * n[0, 0]).half().contiguous() for c, n in zip(styled, noise, strict=True)]
        self.first_styled = StyleConv(styled[0], grains[0], together=False)
        self.styled = [_up_style(c, n, i) for i, (c, n) in enumerate(zip(styled[1:], grains[1:], strict=True))]
        self.first_rgb = g.to_rgb1
        assert isinstance(g, styleunet._SmallGenerator)
        normal = [_conv2d(c, 0) for c in g.normal_convs]
        self.normal = [
            ConvRGB(c, h.modulated_conv.weight[0], h.bias.flatten()) for c, h in zip(normal, rgb[1:], strict=True)
        ]

    def project(self, features: Tensor) -> Tensor:
        """Return [N, width] float16: features [N, C] of Gaussians after the first layer's matrix, without its bias."""
        return (features.float() @ self._first).half()

    def canvas(self, frames: int) -> Tensor | None:
        """Return the preferred output memory of rasterisation for a batch; None: any memory.

        It is [T, width, S, S] float16, channels last.
        """
        kept = self._kept(frames)
        return None if kept is None else kept[0]

    def _kept(self, frames: int) -> tuple[Tensor, Tensor] | None:
        """Return the canvas of a batch, and the memory [T, S, S, 3] of the result of its recorded launches."""
        if self._memory is None or not 0 < frames <= _RECORDED:
            return None
        size = max(_SMALLEST_CANVAS, 1 << (frames - 1).bit_length())  # shared by batches of similar sizes
        if size not in self._canvases:
            empty = lambda C: torch.empty(size, self.size, self.size, C, dtype=torch.float16, device=self._first.device)
            self._canvases[size] = empty(self.width), empty(3)
        enter, result = self._canvases[size]
        return enter[:frames].permute(0, 3, 1, 2), result[:frames]

    @property
    def keeps_memory(self) -> bool:
        """Return whether there is memory to release."""
        return bool(self._canvases)

    def release(self) -> None:
        """Release the memory of recorded launches, and stop recording: the GPU's memory is too small."""
        self._memory, self._recorded, self._canvases = None, {}, {}

    def __call__(
        self,
        x: Tensor,  # [T, width, S, S] float16, channels last: the first layer's output
    ) -> Tensor:
        """Return [T, 3, S, S] float16 RGB 0..1, channels last; the next call may overwrite it.

        From the second batch of a size on (the first may compile), one recorded launch replaces about 190.
        """
        with torch.cuda.device_of(x):  # kernels run on the current device
            kept = self._kept(len(x))
            if kept is None or len(x) not in self._seen:
                self._seen.add(len(x))
                return self._run(x)
            if len(x) not in self._recorded:
                try:
                    self._recorded[len(x)] = self._record(*kept)
                except RuntimeError as error:  # too little memory to keep, or a driver that cannot
                    log.warning("rendering is slower: the refiner's launches cannot be recorded (%s)", error)
                    self.release()
                    return self._run(x)
            if x.data_ptr() != kept[0].data_ptr():
                kept[0].copy_(x)
            graph, result = self._recorded[len(x)]
            graph.replay()
            return result

    def _record(self, enter: Tensor, into: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Return launches to repeat on the content of `enter`, and their result, which is in `into`."""
        graph = torch.cuda.CUDAGraph()
        if self._stream is None:  # torch's default belongs to the GPU that recorded first
            self._stream = torch.cuda.Stream(enter.device)
        record = torch.cuda.graph(graph, self._memory, self._stream, capture_error_mode="thread_local")
        with record:  # other threads continue
            return graph, self._run(enter, into)

    def _run(self, x: Tensor, into: Tensor | None = None) -> Tensor:
        """Return the result, in new memory or in `into` [T, S, S, 3]."""
        x = x.permute(0, 2, 3, 1)  # [T, S, S, C]
        skips: list[Tensor] = []
        for conv1, conv2 in self.down:
            half, pooled = conv1.pooled(x)
            x = conv2(half, side=pooled)
            skips.append(x)
        deep = nn.functional.leaky_relu(
            self.final_conv(x.permute(0, 3, 1, 2)[:, : self.final_conv.in_channels].float()), 0.2
        )
        latent = self.style_mlp(self.final_linear(deep.flatten(1)))
        scales = list(torch.addmm(self._modulation[1], latent, self._modulation[0]).split(self._widths, 1))
        styles, heads = scales[: self.levels + 1], scales[self.levels + 1 :]

        u = _channels_last(deep) + skips.pop()
        g = self.first_styled((_channels_last(self.constant) * styles[0][:, None, None]).half(), styles[0])
        rgb = _first_rgb(g, self.first_rgb, heads[0])
        g = (g * styles[1][:, None, None]).half()
        for i in range(self.levels):
            conv1, enlarge = self.up[i]
            y, u = enlarge.doubled(conv1(u), u, skips.pop() if skips else None)
            g = self.styled[i].doubled(g, styles[i + 1])
            g = self.second_conditions[i](self.first_conditions[i](y), g)
            if i + 1 < self.levels:
                g, rgb = self.normal[i](g, heads[i + 1], rgb, styles[i + 2])
            else:
                rgb = self.normal[i].last(g, heads[i + 1], rgb, into)
        return rgb.permute(0, 3, 1, 2)


def _conv2d(modules: nn.Module, index: int) -> nn.Conv2d:
    assert isinstance(modules, nn.Sequential)
    conv = modules[index]
    assert isinstance(conv, nn.Conv2d)
    return conv


def _blocks(modules: nn.ModuleList) -> list[styleunet._ResBlock]:
    return [m for m in modules if isinstance(m, styleunet._ResBlock)]


def _channels_last(x: Tensor) -> Tensor:
    """Return [T, H, W, padded C] float16 of [T, C, H, W]."""
    return nn.functional.pad(x.permute(0, 2, 3, 1), (0, padded(x.shape[1]) - x.shape[1])).half().contiguous()


def _side_by_side(a: nn.Conv2d, b: nn.Conv2d) -> nn.Conv2d:
    """Return one convolution with the outputs of both (each padded)."""
    P = padded(a.out_channels)
    both = nn.Conv2d(a.in_channels, 2 * P, 3, padding=1, device=a.weight.device).requires_grad_(False)
    both.weight.copy_(torch.cat([pad(c.weight, P, a.in_channels) for c in (a, b)]))
    assert a.bias is not None and b.bias is not None
    assert both.bias is not None
    both.bias.copy_(torch.cat([nn.functional.pad(x, (0, P - len(x))) for x in (a.bias, b.bias)]))
    return both


def _pack_modulation(convs: list[styleunet._ModulatedConv]) -> tuple[Tensor, Tensor]:
    """Return one matrix [d, sum of padded C in] and bias for the scales of all modulated convolutions."""
    weights, biases = [], []
    for c in convs:
        more = padded(c.weight.shape[2]) - c.weight.shape[2]
        weights.append(nn.functional.pad(c.modulation.weight, (0, 0, 0, more)))
        biases.append(nn.functional.pad(c.modulation.bias, (0, more)))
    return torch.cat(weights).T.contiguous(), torch.cat(biases)


def _up_conv(block: styleunet._ResBlock, level: int) -> UpConv | Conv:
    """Return the operation that doubles an image of 4 << level pixels at the end of a residual block."""
    if _in_phases(block.conv2.weight, level):
        return UpConv(block.conv2, block.skip.weight)
    return Conv(block.conv2, skip=block.skip.weight)


def _up_style(conv: styleunet._StyleConv, noise: Tensor, level: int) -> UpStyleConv | StyleConv:
    """Return the style convolution that doubles an image of 4 << level pixels."""
    return (UpStyleConv if _in_phases(conv.modulated_conv.weight[0], level) else StyleConv)(conv, noise)


def _in_phases(weight: Tensor, level: int) -> bool:
    """Return whether `Phases` applies: few enough channels, and enough pixels for a product of 16 rows."""
    return level > 0 and padded(weight.shape[0]) <= PHASE_CHANNELS


def _first_rgb(g: Tensor, head: styleunet._ToRGB, scale: Tensor) -> Tensor:
    """Return the RGB head of the first level, [T, 4, 4, 3]; small, so in plain torch."""
    matrix = head.modulated_conv.weight[0, :, :, 0, 0]
    n = matrix.shape[1]
    rgb = torch.einsum("thwc,tc,oc->thwo", g[..., :n].float(), scale[:, :n], matrix)
    return (rgb + head.bias.flatten()).half()
