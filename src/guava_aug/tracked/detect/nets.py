"""Nets that find people, hands, faces and eyes: MediaPipe's, as torch modules built from a list of operators.

`load_net` reads `assets/nets/NAME.safetensors`, which `guava_aug.apps.nets.convert` wrote: metadata `format`, `origin`
(JSON: file, sha256, license) and `graph` (JSON: input, outputs, steps). A step has an `op`, the names of its `inputs`
and its `output`, an `activation`, options of its op, and the shapes of its `weights`. Maps are [H, W, C] in the file's
shapes and in what a net takes and returns; weights are as torch has them. A weight `NAME` is one tensor, or, if many of
its values are zero, `NAME.bits` (which are not, packed as `numpy.packbits` does) and `NAME.values` (those).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from guava_aug.assets import embedded_path
from guava_aug.errors import AssetError
from guava_aug.tracked.detect.depthwise_numba import LANES, depthwise
from guava_aug.tracked.detect.elementwise_numba import NO_SLOPE, add, finish

FORMAT = "guava-aug-net-1"
NETS = (
    "face_detection_short_range", "face_landmark", "hand_landmark_full", "hand_recrop", "iris_landmark",
    "palm_detection_full", "pose_detection", "pose_landmark_full", "selfie_segmentation",
)  # fmt: skip

_SMALL = 2**17  # values of a map; for larger ones both ways are equally fast
_FEW_CHANNELS = 16  # a product with fewer columns or rows is slower than a convolution


def load_net(name: str, device: torch.device | str = "cpu") -> Net:
    """Return one of the embedded nets, in float32, ready for inference.

    Args:
        name: One of `NETS`.
        device: Where it runs.

    Raises:
        AssetError: There is no such net, or its file is damaged.
    """
    if name not in NETS:
        raise AssetError(f"there is no net {name}; expected one of {', '.join(NETS)}")
    return read_net(embedded_path("nets", f"{name}.safetensors")).to(device)


def read_net(path: Path) -> Net:
    """Return the net of a file, on the CPU.

    Raises:
        AssetError: The file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
        if metadata.get("format") != FORMAT:
            raise ValueError(f"format is {metadata.get('format')!r}, expected {FORMAT!r}")
        return Net(path.stem, json.loads(metadata["graph"]), tensors)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as e:
        raise AssetError(f"cannot read the net {path}: {type(e).__name__}: {e}; install guava-aug again") from e


class Net(nn.Module):
    """A net of one picture size. Call it with a batch, get its outputs by name.

    Attributes:
        name: Name of the net.
        size: Height and width of its pictures, pixels.
        input_range: The values that stand for black and white.
        output_shapes: Shape of each output without the batch, maps as [H, W, C].
    """

    def __init__(self, name: str, graph: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.name = name
        height, width, channels = graph["input"]["shape"]
        self.size: tuple[int, int] = (height, width)
        low, high = graph["input"]["range"]
        self.input_range: tuple[float, float] = (low, high)
        self.output_shapes = {key: tuple(output["shape"]) for key, output in graph["outputs"].items()}
        self._shape = (height, width, channels)
        self._input: str = graph["input"]["name"]
        self._outputs: dict[str, str] = {key: output["value"] for key, output in graph["outputs"].items()}
        self._plan = [_Step(step, tensors) for step in graph["steps"]]
        self.steps = nn.ModuleList(self._plan)
        last_use = {i: k for k, step in enumerate(graph["steps"]) for i in step["inputs"]}
        kept = set(self._outputs.values())
        self._dropped = [[i for i, k in last_use.items() if k == n and i not in kept] for n in range(len(self._plan))]
        self.requires_grad_(False).eval()

    @torch.inference_mode()
    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return the outputs of a batch, [N, *shape] float32, on the device of the net.

        Args:
            pictures: [N, H, W, 3] float32 RGB of `size` in `input_range`.
        """
        if pictures.shape[1:] != self._shape or not pictures.is_floating_point():
            wanted, found = ", ".join(map(str, self._shape)), f"{list(pictures.shape)} {pictures.dtype}"
            raise ValueError(f"{self.name} takes [N, {wanted}] float32 in {self.input_range}; got {found}")
        with _whole_float32(pictures.device):
            values = {self._input: pictures.permute(0, 3, 1, 2)}
            for step, dropped in zip(self._plan, self._dropped, strict=True):
                values[step.output] = step([values[i] for i in step.inputs])
                for i in dropped:
                    del values[i]
            return {key: _by_pixel(values[i]) for key, i in self._outputs.items()}


def _whole_float32(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which convolutions on a GPU keep seven digits; TF32, the default there, keeps three."""
    if device.type != "cuda":
        return nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=True, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)


def _by_pixel(x: Tensor) -> Tensor:
    """Return a map with its channels last; other tensors as they are."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


class _Step(nn.Module):
    """One operator with its activation. Maps are [N, C, H, W] here, laid out channels last."""

    weight: Tensor
    bias: Tensor
    slope: Tensor
    taps: Tensor

    def __init__(self, described: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.inputs: list[str] = described["inputs"]
        self.output: str = described["output"]
        for kind, shape in described["weights"].items():
            self.register_buffer(kind, _weight(f"{self.output}.{kind}", shape, tensors))
        self._activation: str = described["activation"]
        self.clamp = _CLAMPS.get(self._activation)
        self.in_kernels = self.clamp is not None or self._activation == "prelu"  # `finish` and `add` do the activation
        self.run = _OPS[described["op"]](self, described)
        self._activates_itself = described["op"] in _ACTIVATED

    def forward(self, inputs: list[Tensor]) -> Tensor:
        out = self.run(*inputs)
        return out if self._activates_itself else self.activate(out)

    def activate(self, x: Tensor) -> Tensor:
        """Return the values after the activation; those given may be overwritten."""
        return _ACTIVATIONS[self._activation](x, self)

    def for_kernels(self) -> tuple[np.ndarray, np.float32, np.float32]:
        """Return slope, least and highest value as `finish` and `add` take them."""
        slope = self.slope.numpy().ravel() if self._activation == "prelu" else NO_SLOPE
        return slope, *(self.clamp or _NO_CLAMP)


def _weight(name: str, shape: list[int], tensors: dict[str, Tensor]) -> Tensor:
    if name in tensors:
        weight = tensors[name].float()
    else:
        bits = np.unpackbits(tensors[f"{name}.bits"].numpy(), count=int(np.prod(shape))).astype(bool)
        weight = torch.zeros(len(bits))
        weight[torch.from_numpy(bits)] = tensors[f"{name}.values"].float()
        weight = weight.reshape(shape)
    if list(weight.shape) != shape:
        raise ValueError(f"{name} has shape {list(weight.shape)}, expected {shape}")
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight


def _conv(step: _Step, described: dict[str, Any]) -> Callable[..., Tensor]:
    """Four ways to the same sums; which is fastest on a CPU depends on the shape (see benchmarks/nets.py)."""
    stride, groups = described["stride"], described["groups"]
    padding = _even_padding(step, described["padding"])
    outputs, inputs, *kernel = step.weight.shape
    is_dense = groups == 1 and not any(padding) and min(outputs, inputs) >= _FEW_CHANNELS
    by_channel = groups == outputs >= LANES
    if by_channel:
        step.register_buffer("taps", step.weight[:, 0].permute(1, 2, 0).contiguous())  # [kh, kw, C]
    if is_dense:
        step.register_buffer("taps", step.weight.permute(2, 3, 1, 0).reshape(-1, outputs).contiguous())  # [kh kw I, O]

    def run(x: Tensor) -> Tensor:
        if is_dense and (stride == kernel or list(x.shape[2:]) == kernel):
            return _product(x, step)
        if _by_kernels(x):
            if by_channel and (kernel == [1, 1] or x.numel() <= _SMALL):
                return _depthwise(x, step, stride, padding)
            if groups == 1 and torch.backends.mkldnn.is_available():
                # what `conv2d` takes for single pictures is slow and leaves another layout behind
                return step.activate(torch.mkldnn_convolution(x, step.weight, step.bias, padding, stride, [1, 1], 1))
        return step.activate(F.conv2d(x, step.weight, step.bias, stride, padding, groups=groups))

    return run


def _by_kernels(x: Tensor) -> bool:
    """Return whether the kernels for CPUs take these values."""
    return x.device.type == "cpu" and x.dtype == torch.float32


def _depthwise(x: Tensor, step: _Step, stride: list[int], padding: list[int]) -> Tensor:
    """Return the convolution of each channel with its own kernel, on the CPU."""
    (down, across), (top, left), (tall, wide, _) = stride, padding, step.taps.shape
    x = x.permute(0, 2, 3, 1).contiguous()
    n, height, width, channels = x.shape
    out = torch.empty(n, (height + 2 * top - tall) // down + 1, (width + 2 * left - wide) // across + 1, channels)
    low, high = step.clamp or _NO_CLAMP
    depthwise(x.numpy(), step.taps.numpy(), step.bias.numpy(), (down, across), (top, left), low, high, out.numpy())
    out = out.permute(0, 3, 1, 2)
    return out if step.clamp else step.activate(out)


def _product(x: Tensor, step: _Step) -> Tensor:
    """Return a convolution whose windows do not overlap, as a matrix product over pixels or patches."""
    outputs, _, height, width = step.weight.shape
    x = x.permute(0, 2, 3, 1)
    if height > 1 or width > 1:
        n, h, w, c = x.shape
        x = x.view(n, h // height, height, w // width, width, c).transpose(2, 3)
        x = x.reshape(n, h // height, w // width, height * width * c)
    rows = x.reshape(-1, x.shape[3])
    if not _by_kernels(x):
        return step.activate(torch.addmm(step.bias, rows, step.taps).view(*x.shape[:3], outputs).permute(0, 3, 1, 2))
    # bias and activation in one pass: `addmm` copies the bias to all of the result first
    out = torch.mm(rows, step.taps)
    finish(out.numpy(), step.bias.numpy(), *step.for_kernels())
    out = out.view(*x.shape[:3], outputs).permute(0, 3, 1, 2)
    return out if step.in_kernels else step.activate(out)


def _even_padding(step: _Step, padding: list[int]) -> list[int]:
    """Return padding down and across that is the same on both sides.

    Where there is one more behind, the kernel gets a row or column of zeros in front: faster than a padded copy.
    """
    top, left, bottom, right = padding
    if bottom - top not in (0, 1) or right - left not in (0, 1):
        raise ValueError(f"{step.output} has padding {padding}; expected as much behind as before, or one more")
    weight = F.pad(step.weight, (right - left, 0, bottom - top, 0))
    step.weight = weight.contiguous(memory_format=torch.channels_last)
    return [bottom, right]


def _transposed_conv(step: _Step, described: dict[str, Any]) -> Callable[..., Tensor]:
    return lambda x: F.conv_transpose2d(x, step.weight, step.bias, described["stride"])


def _linear(step: _Step, described: dict[str, Any]) -> Callable[..., Tensor]:
    return lambda x: F.linear(x.flatten(1), step.weight, step.bias)


def _max_pool(step: _Step, described: dict[str, Any]) -> Callable[..., Tensor]:
    return lambda x: F.max_pool2d(x, described["kernel"], described["stride"])


def _mean(step: _Step, described: dict[str, Any]) -> Callable[..., Tensor]:
    return lambda x: x.mean((2, 3), keepdim=True)


def _pad(step: _Step, described: dict[str, Any]) -> Callable[..., Tensor]:
    top, left, bottom, right = described["padding"]
    return lambda x: F.pad(x, (left, right, top, bottom, 0, described["channels"]))


def _add(step: _Step, described: dict[str, Any]) -> Callable[..., Tensor]:
    """The second operand may lack the last channels."""

    def run(a: Tensor, b: Tensor) -> Tensor:
        if a.ndim == 4 and a.shape[2:] == b.shape[2:] and _by_kernels(a):
            one, other = (x.numpy().transpose(0, 2, 3, 1) for x in (a, b))  # cheaper views than those of torch
            total = np.empty(one.shape, np.float32)
            rows, fewer, sums = (x.reshape(-1, x.shape[3]) for x in (one, other, total))
            add(rows, fewer, *step.for_kernels(), sums)
            out = torch.from_numpy(total).permute(0, 3, 1, 2)
            return out if step.in_kernels else step.activate(out)
        if a.shape == b.shape:
            return step.activate(a + b)
        return step.activate(torch.cat([a[:, : b.shape[1]] + b, a[:, b.shape[1] :]], 1))

    return run


def _multiply(step: _Step, described: dict[str, Any]) -> Callable[..., Tensor]:
    return lambda a, b: a * b


def _resize(step: _Step, described: dict[str, Any]) -> Callable[..., Tensor]:
    return lambda x: F.interpolate(x, described["size"], mode="bilinear", align_corners=False)


def _concat(step: _Step, described: dict[str, Any]) -> Callable[..., Tensor]:
    return lambda *x: torch.cat(x, 1)


def _reshape(step: _Step, described: dict[str, Any]) -> Callable[..., Tensor]:
    return lambda x: _by_pixel(x).reshape(len(x), *described["shape"])


def _slice(step: _Step, described: dict[str, Any]) -> Callable[..., Tensor]:
    return lambda x: x[:, described["begin"] : described["end"]]


def _depth_to_space(step: _Step, described: dict[str, Any]) -> Callable[..., Tensor]:
    """Channels are [block, block, C]; torch's `pixel_shuffle` wants [C, block, block]."""
    block = described["block"]

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        c //= block**2
        return x.view(n, block, block, c, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c, h * block, w * block)

    return run


def _activate(step: _Step, described: dict[str, Any]) -> Callable[..., Tensor]:
    return lambda x: x.clone()


_OPS: dict[str, Callable[[_Step, dict[str, Any]], Callable[..., Tensor]]] = {
    "activate": _activate, "add": _add, "concat": _concat, "conv": _conv, "depth_to_space": _depth_to_space,
    "linear": _linear, "max_pool": _max_pool, "mean": _mean, "multiply": _multiply, "pad": _pad, "reshape": _reshape,
    "resize": _resize, "slice": _slice, "transposed_conv": _transposed_conv,
}  # fmt: skip
_ACTIVATED = ("add", "conv")  # these ops do the activation themselves
_NO_CLAMP = (np.float32(-np.inf), np.float32(np.inf))
_CLAMPS = {"none": _NO_CLAMP, "relu": (np.float32(0), np.float32(np.inf)), "relu6": (np.float32(0), np.float32(6))}
_ACTIVATIONS: dict[str, Callable[[Tensor, _Step], Tensor]] = {  # they may overwrite what they are given
    "none": lambda x, step: x,
    "relu": lambda x, step: x.relu_(),
    "relu6": lambda x, step: x.clamp_(0, 6),
    "hard_swish": lambda x, step: F.hardswish(x, inplace=True),
    "sigmoid": lambda x, step: x.sigmoid_(),
    "prelu": lambda x, step: F.prelu(x, step.slope),
}
