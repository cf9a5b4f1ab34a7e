"""TFLite operators, as the format defines them, against the converted net. No TFLite file or package is needed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from guava_aug.apps.nets import tflite_file
from guava_aug.apps.nets.convert import Source, convert, write_net
from guava_aug.apps.nets.tflite_file import Operator, TfliteGraph
from guava_aug.errors import AssetError
from guava_aug.tracked.detect.nets import read_net

CONV = {"DilationHFactor": 1, "DilationWFactor": 1, "FusedActivationFunction": 0}
ORIGIN = {"file": "the file"}


def _run(tmp_path: Path, graph: TfliteGraph, x: np.ndarray) -> np.ndarray:
    path = tmp_path / "net.safetensors"
    write_net(path, graph, Source("folder", (0, 1), ("y",)), ORIGIN)
    return read_net(path)(torch.from_numpy(x))["y"].numpy()


def _graph(
    operators: list[Operator], shapes: dict[int, tuple[int, ...]], constants: dict[int, np.ndarray]
) -> TfliteGraph:
    """A net from tensor 0 to the output of the last operator."""
    shapes = {**{i: c.shape for i, c in constants.items()}, **shapes}
    return TfliteGraph(tuple(operators), shapes, {}, constants, (0,), operators[-1].outputs)


def _same_conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, depthwise: bool) -> np.ndarray:
    """The definition: [H, W, C] with windows that begin at every stride, the padding's odd pixel behind."""
    k = weight.shape[1]
    sizes = [-(-n // stride) for n in x.shape[:2]]
    pads = [max((m - 1) * stride + k - n, 0) for m, n in zip(sizes, x.shape[:2], strict=True)]
    padded = np.pad(x, [(p // 2, p - p // 2) for p in pads] + [(0, 0)])
    out = np.zeros((*sizes, len(bias)))
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            window = padded[i * stride : i * stride + k, j * stride : j * stride + k]
            out[i, j] = bias + ((window * weight[0]).sum((0, 1)) if depthwise else (weight * window).sum((1, 2, 3)))
    return out


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("size", "kernel"), [((8, 8), 3), ((7, 8), 3), ((9, 6), 5), ((5, 5), 2), ((6, 6), 1), ((1, 1), 3)]
)
def test_padding_same(tmp_path: Path, size: tuple[int, int], kernel: int, stride: int, depthwise: bool) -> None:
    random = np.random.default_rng(0)
    inputs, outputs = (11, 11) if depthwise else (3, 4)
    x = random.normal(size=(2, *size, inputs)).astype(np.float32)
    weight = random.normal(size=(1 if depthwise else outputs, kernel, kernel, inputs)).astype(np.float32)
    bias = random.normal(size=outputs).astype(np.float32)
    out = tuple(-(-n // stride) for n in size)
    options = {**CONV, "Padding": 0, "StrideH": stride, "StrideW": stride, "DepthMultiplier": 1}
    operator = Operator("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", (0, 1, 2), (3,), options)
    graph = _graph([operator], {0: (1, *size, inputs), 3: (1, *out, outputs)}, {1: weight, 2: bias})
    found = _run(tmp_path, graph, x)
    wanted = [_same_conv(one, weight, bias, stride, depthwise) for one in x]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("channels", "kernel", "stride"), [(20, 1, 1), (20, 2, 2), (20, 4, 1)])
def test_windows_that_do_not_overlap(tmp_path: Path, channels: int, kernel: int, stride: int) -> None:
    """They are computed as products of matrices."""
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 4, 4, 3)).astype(np.float32)
    first = random.normal(size=(channels, 1, 1, 3)).astype(np.float32)
    weight = random.normal(size=(24, kernel, kernel, channels)).astype(np.float32)
    zeros = np.zeros(channels, np.float32), np.zeros(24, np.float32)
    out = (4 - kernel) // stride + 1
    options = {**CONV, "Padding": 1, "StrideH": stride, "StrideW": stride}
    graph = _graph(
        [Operator("CONV_2D", (0, 1, 2), (5,), {**CONV, "Padding": 1, "StrideH": 1, "StrideW": 1}),
         Operator("CONV_2D", (5, 3, 4), (6,), options)],
        {0: (1, 4, 4, 3), 5: (1, 4, 4, channels), 6: (1, out, out, 24)},
        {1: first, 2: zeros[0], 3: weight, 4: zeros[1]},
    )  # fmt: skip
    between = x.astype(np.float64) @ first[:, 0, 0].T
    wanted = np.zeros((2, out, out, 24))
    for i in range(out):
        for j in range(out):
            window = between[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            wanted[:, i, j] = np.einsum("nhwc,ohwc->no", window, weight)
    np.testing.assert_allclose(_run(tmp_path, graph, x), wanted, rtol=0, atol=1e-4)


def test_sum_with_added_channels_then_prelu(tmp_path: Path) -> None:
    """Padding of channels, sum and PReLU become one step."""
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    weight = np.random.default_rng(1).normal(size=(5, 1, 1, 3)).astype(np.float32)
    slope = np.linspace(-1, 1, 5, dtype=np.float32)
    graph = _graph(
        [Operator("CONV_2D", (0, 1, 2), (3,), {**CONV, "Padding": 0, "StrideH": 1, "StrideW": 1}),
         Operator("PAD", (0, 4), (5,), {}),
         Operator("ADD", (5, 3), (6,), {"FusedActivationFunction": 0}),
         Operator("PRELU", (6, 7), (8,), {})],
        {0: (1, 4, 4, 3), 3: (1, 4, 4, 5), 5: (1, 4, 4, 5), 6: (1, 4, 4, 5), 8: (1, 4, 4, 5)},
        {1: weight, 2: np.zeros(5, np.float32), 4: np.array([[0, 0], [0, 0], [0, 0], [0, 2]]),
         7: slope.reshape(1, 1, 5)},
    )  # fmt: skip
    assert [(step.op, step.activation) for step in convert(graph, "it")] == [("conv", "none"), ("add", "prelu")]
    total = x @ weight[:, 0, 0].T + np.pad(x, [(0, 0), (0, 0), (0, 0), (0, 2)])
    np.testing.assert_allclose(_run(tmp_path, graph, x), np.where(total > 0, total, total * slope), atol=1e-5)


def test_an_activation_of_something_used_twice_stays(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
    graph = _graph(
        [Operator("MAX_POOL_2D", (0,), (1,), {"FilterHeight": 2, "FilterWidth": 2, "StrideH": 2, "StrideW": 2,
                                              "Padding": 1, "FusedActivationFunction": 0}),
         Operator("RELU", (1,), (2,), {}),
         Operator("ADD", (1, 2), (3,), {"FusedActivationFunction": 3})],
        {0: (1, 4, 4, 3), 1: (1, 2, 2, 3), 2: (1, 2, 2, 3), 3: (1, 2, 2, 3)}, {},
    )  # fmt: skip
    pooled = x.reshape(1, 2, 2, 2, 2, 3).max((2, 4))
    wanted = (pooled + pooled.clip(0)).clip(0, 6)
    np.testing.assert_allclose(_run(tmp_path, graph, x), wanted, atol=1e-6)


def test_depth_to_space(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 2, 3, 3)).astype(np.float32)
    weight = np.random.default_rng(1).normal(size=(8, 1, 1, 3)).astype(np.float32)
    graph = _graph(
        [Operator("CONV_2D", (0, 1, 2), (3,), {**CONV, "Padding": 0, "StrideH": 1, "StrideW": 1}),
         Operator("DEPTH_TO_SPACE", (3,), (4,), {"BlockSize": 2})],
        {0: (1, 2, 3, 3), 3: (1, 2, 3, 8), 4: (1, 4, 6, 2)}, {1: weight, 2: np.zeros(8, np.float32)},
    )  # fmt: skip
    deep = x @ weight[:, 0, 0].T
    wanted = np.zeros((2, 4, 6, 2))
    for a in range(2):
        for b in range(2):
            wanted[:, a::2, b::2] = deep[..., 2 * (2 * a + b) : 2 * (2 * a + b) + 2]
    np.testing.assert_allclose(_run(tmp_path, graph, x), wanted, atol=1e-5)


def test_weights_with_zeros_come_back(tmp_path: Path) -> None:
    """They are stored without their zeros, in the precision of the file."""
    random = np.random.default_rng(0)
    weight = (random.normal(size=(30, 1, 1, 3)) * (random.uniform(size=(30, 1, 1, 3)) < 0.3)).astype(np.float16)
    graph = _graph(
        [Operator("CONV_2D", (0, 1, 2), (3,), {**CONV, "Padding": 0, "StrideH": 1, "StrideW": 1})],
        {0: (1, 1, 1, 3), 3: (1, 1, 1, 30)}, {1: weight, 2: np.zeros(30, np.float16)},
    )  # fmt: skip
    found = _run(tmp_path, graph, np.eye(3, dtype=np.float32).reshape(3, 1, 1, 3))
    np.testing.assert_array_equal(found[:, 0, 0].T, weight[:, 0, 0])


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(AssetError, match="it: operator TANH is not known"):
        convert(_graph([Operator("TANH", (0,), (1,), {})], {0: (1, 2, 2, 3), 1: (1, 2, 2, 3)}, {}), "it")
    resize = Operator("RESIZE_BILINEAR", (0, 1), (2,), {"AlignCorners": True, "HalfPixelCenters": False})
    graph = _graph([resize], {0: (1, 2, 2, 3), 2: (1, 4, 4, 3)}, {1: np.array([4, 4])})
    with pytest.raises(AssetError, match=r"it: RESIZE_BILINEAR with .*AlignCorners"):
        convert(graph, "it")


class _Level:
    """A level of a sparse tensor: dense with a size, or compressed rows."""

    def __init__(self, size: int = 0, segments: Any = None, indices: Any = None) -> None:
        self._size, self._rows = size, (segments, indices)

    def Format(self) -> int:
        return int(self._rows[0] is not None)

    def DenseSize(self) -> int:
        return self._size

    def ArraySegments(self) -> Any:
        return self._rows[0]

    def ArrayIndices(self) -> Any:
        return self._rows[1]

    def ArraySegmentsType(self) -> int:
        return 1

    ArrayIndicesType = ArraySegmentsType


@pytest.mark.parametrize("block", [1, 2])
def test_sparse_tensors(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Compressed rows, of single values and of blocks of 1 x 2."""
    monkeypatch.setattr(tflite_file, "_index_vector", lambda kind, table: np.array(table))
    dense = np.array([[0, 0, 3, 4, 0, 0], [0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 5, 6]], np.float32)
    if block == 1:
        levels = [_Level(3), _Level(segments=[0, 2, 2, 6], indices=[2, 3, 0, 1, 4, 5])]
        order, blocks = [0, 1], []
    else:
        levels = [_Level(3), _Level(segments=[0, 1, 1, 3], indices=[1, 0, 2]), _Level(2)]
        order, blocks = [0, 1, 2], [1]
    sparsity = SimpleNamespace(
        DimMetadataLength=lambda: len(levels), DimMetadata=lambda i: levels[i],
        TraversalOrderLength=lambda: len(order), TraversalOrder=lambda i: order[i],
        BlockMapLength=lambda: len(blocks), BlockMap=lambda i: blocks[i],
    )  # fmt: skip
    found = tflite_file._dense(sparsity, np.array([3, 4, 1, 2, 5, 6], np.float32), dense.shape)
    np.testing.assert_array_equal(found, dense)
