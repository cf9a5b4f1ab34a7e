"""The kernels of the detection nets on a CPU against the same operators of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from guava_aug.tracked.detect.depthwise_numba import LANES, depthwise
from guava_aug.tracked.detect.elementwise_numba import NO_SLOPE, add, finish

LIMITS = [(-np.inf, np.inf), (0, np.inf), (0, 6)]  # no activation, relu, relu6


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return 4 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def limits(low: float, high: float) -> tuple[np.float32, np.float32]:
    return np.float32(low), np.float32(high)


@pytest.mark.parametrize("channels", [LANES, LANES + 1, 2 * LANES, 2 * LANES + 3, 5 * LANES])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [((1, 1), 3, 1, 1), ((9, 7), 3, 1, 1), ((8, 12), 5, 2, 2), ((13, 4), 6, 2, 2), ((6, 11), 1, 1, 0)],
)
def test_depthwise_convolution(channels: int, size: tuple[int, int], kernel: int, stride: int, padding: int):
    x, weight, bias = values(2, *size, channels), values(kernel, kernel, channels), values(channels)
    wanted = F.conv2d(
        x.permute(0, 3, 1, 2), weight.permute(2, 0, 1)[:, None], bias, stride, padding, groups=channels
    ).permute(0, 2, 3, 1)  # fmt: skip
    for low, high in LIMITS:
        out = np.full(wanted.shape, np.nan, np.float32)
        depthwise(
            x.numpy(), weight.numpy(), bias.numpy(), (stride, stride), (padding, padding), *limits(low, high), out
        )
        np.testing.assert_allclose(out, wanted.clamp(low, high).numpy(), atol=1e-4)


@pytest.mark.parametrize(("pixels", "channels"), [(1, 1), (7, 3), (5, 33)])
def test_bias_and_activation(pixels: int, channels: int):
    x, bias, slope = values(pixels, channels), values(channels), values(channels, seed=1)
    for low, high in LIMITS:
        out = x.clone()
        finish(out.numpy(), bias.numpy(), NO_SLOPE, *limits(low, high))
        np.testing.assert_array_equal(out.numpy(), (x + bias).clamp(low, high).numpy())
    out = x.clone()
    finish(out.numpy(), bias.numpy(), slope.numpy(), *limits(0, 6))
    np.testing.assert_array_equal(out.numpy(), F.prelu(x + bias, slope).numpy())


@pytest.mark.parametrize("common", [1, 8, 19])
def test_sums_of_maps_of_which_the_second_may_lack_channels(common: int):
    a, b, slope = values(6, 19), values(6, common), values(19, seed=1)
    total = a.clone()
    total[:, :common] += b
    out = np.full(a.shape, np.nan, np.float32)
    for low, high in LIMITS:
        add(a.numpy(), b.numpy(), NO_SLOPE, *limits(low, high), out)
        np.testing.assert_array_equal(out, total.clamp(low, high).numpy())
    add(a.numpy(), b.numpy(), slope.numpy(), *limits(0, 6), out)
    np.testing.assert_array_equal(out, F.prelu(total, slope).numpy())
