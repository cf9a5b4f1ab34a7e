"""Converts the nine detection nets of MediaPipe's wheel to safetensors: operators as JSON, weights as they are.

    pip download --no-deps mediapipe==0.10.21
    pip install 'guava-aug[bake]'
    python -m guava_aug.apps.nets.convert mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl OUT_DIR

The wheel is only unpacked, not installed. Every net becomes `OUT_DIR/NAME.safetensors`, which
`guava_aug.tracked.detect.nets.load_net` reads; that module describes the file. Weights keep the precision that they
have in the wheel. Paddings are written out in pixels; paddings, activations and added channels become part of the
operator that they belong to.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from guava_aug.apps.nets.tflite_file import ACTIVATIONS, SAME, Operator, TfliteGraph, read_tflite
from guava_aug.errors import AssetError
from guava_aug.tracked.detect.nets import FORMAT

log = logging.getLogger(__name__)

LICENSE = "Apache-2.0, Copyright The MediaPipe Authors"
MIN_ZEROS = 0.1  # share of zeros from which only the others are stored


@dataclass(frozen=True)
class Source:
    """Where a net is in the wheel, and what its graph in MediaPipe says of it."""

    folder: str  # below mediapipe/modules
    range: tuple[float, float]  # of the input
    outputs: tuple[str, ...]  # our names, in the file's order
    half_from: int | None = None  # weights of so many values are rounded to half precision; None: as in the wheel


SOURCES = {
    "pose_detection": Source("pose_detection", (-1, 1), ("boxes", "scores")),
    "pose_landmark_full": Source("pose_landmark", (0, 1), ("landmarks", "presence", "mask", "heatmap", "world")),
    "palm_detection_full": Source("palm_detection", (0, 1), ("boxes", "scores")),
    "hand_landmark_full": Source("hand_landmark", (0, 1), ("landmarks", "presence", "handedness", "world")),
    "hand_recrop": Source("holistic_landmark", (0, 1), ("crop",)),
    "face_detection_short_range": Source("face_detection", (-1, 1), ("boxes", "scores")),
    "face_landmark": Source("face_landmark", (0, 1), ("landmarks", "presence")),
    "iris_landmark": Source("iris_landmark", (0, 1), ("eye", "iris"), half_from=8192),  # 8e-5 of the range
    "selfie_segmentation": Source("selfie_segmentation", (0, 1), ("mask",)),
}


@dataclass(frozen=True)
class Step:
    """One operator of a converted net; see `guava_aug.tracked.detect.nets`."""

    op: str
    inputs: tuple[int, ...]
    output: int
    activation: str = "none"
    options: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)


def convert(graph: TfliteGraph, where: str) -> list[Step]:
    """Return the steps of a net.

    Raises:
        AssetError: An operator is of a kind, or has options, that are not known.
    """
    steps = []
    for operator in graph.operators:
        make = _MAKERS.get(operator.kind)
        if make is None:
            raise AssetError(f"{where}: operator {operator.kind} is not known")
        step = make(graph, operator)
        if step is None:
            raise AssetError(f"{where}: {operator.kind} with {operator.options} is not known")
        code = operator.options.get("FusedActivationFunction", 0)
        if code:
            step = dataclasses.replace(step, activation=ACTIVATIONS[code])
        steps.append(step)
    return _fold(steps, set(graph.outputs))


def _step(op: str, operator: Operator, inputs: int = 1, **options: Any) -> Step:
    return Step(op, operator.inputs[:inputs], operator.outputs[0], options=options)


def _padding(graph: TfliteGraph, operator: Operator, kernel: tuple[int, int]) -> list[int]:
    """Return top, left, bottom, right.

    SAME: a window for every stride that begins within the input; an odd pixel of padding comes last.
    """
    if operator.options["Padding"] != SAME:
        return [0, 0, 0, 0]
    begins, ends = [], []
    for size, k, stride in zip(graph.shapes[operator.inputs[0]][1:3], kernel, _stride(operator), strict=True):
        total = max((-(-size // stride) - 1) * stride + k - size, 0)
        begins.append(total // 2)
        ends.append(total - total // 2)
    return begins + ends


def _stride(operator: Operator) -> list[int]:
    return [operator.options["StrideH"], operator.options["StrideW"]]


def _conv(graph: TfliteGraph, operator: Operator) -> Step | None:
    """A convolution, of all channels or of each (weights [out, h, w, in] or [1, h, w, channels])."""
    options, weight = operator.options, graph.constants[operator.inputs[1]]
    if options["DilationHFactor"] != 1 or options["DilationWFactor"] != 1:
        return None
    depthwise = operator.kind == "DEPTHWISE_CONV_2D"
    channels = graph.shapes[operator.inputs[0]][3]
    if weight.shape[3] != channels or (depthwise and options["DepthMultiplier"] != 1):
        return None
    kernel = (weight.shape[1], weight.shape[2])
    step = _step("conv", operator, stride=_stride(operator), padding=_padding(graph, operator, kernel),
                 groups=channels if depthwise else 1)  # fmt: skip
    step.weights["weight"] = weight.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
    step.weights["bias"] = graph.constants[operator.inputs[2]]
    return step


def _transposed_conv(graph: TfliteGraph, operator: Operator) -> Step | None:
    """MediaPipe's custom operator: weights [out, h, w, in]; its options are padding, stride across, stride down."""
    weight = graph.constants[operator.inputs[1]]
    _, width, height = np.frombuffer(operator.options["bytes"], np.int32).tolist()
    if weight.shape[1:3] != (height, width):  # else windows overlap or leave gaps, and the padding matters
        return None
    step = _step("transposed_conv", operator, stride=[height, width])
    step.weights["weight"] = weight.transpose(3, 0, 1, 2)
    step.weights["bias"] = graph.constants[operator.inputs[2]]
    return step


def _linear(graph: TfliteGraph, operator: Operator) -> Step | None:
    step = _step("linear", operator)
    step.weights["weight"], step.weights["bias"] = (graph.constants[i] for i in operator.inputs[1:3])
    return step if len(graph.shapes[operator.inputs[0]]) == 2 else None


def _pool(graph: TfliteGraph, operator: Operator) -> Step | None:
    kernel = (operator.options["FilterHeight"], operator.options["FilterWidth"])
    if any(_padding(graph, operator, kernel)):
        return None
    if operator.kind == "MAX_POOL_2D":
        return _step("max_pool", operator, kernel=list(kernel), stride=_stride(operator))
    whole = kernel == graph.shapes[operator.inputs[0]][1:3]
    return _step("mean", operator) if whole else None


def _mean(graph: TfliteGraph, operator: Operator) -> Step | None:
    axes = sorted(graph.constants[operator.inputs[1]].tolist())
    return _step("mean", operator) if axes == [1, 2] and not operator.options["KeepDims"] else None


def _pad(graph: TfliteGraph, operator: Operator) -> Step | None:
    (_, down, across, channels) = pairs = graph.constants[operator.inputs[1]].reshape(4, 2).tolist()
    if any(pairs[0]) or channels[0]:
        return None
    return _step("pad", operator, padding=[down[0], across[0], down[1], across[1]], channels=channels[1])


def _slice(graph: TfliteGraph, operator: Operator) -> Step | None:
    begin, end, strides = (graph.constants[i].tolist() for i in operator.inputs[1:4])
    shape = graph.shapes[operator.inputs[0]]
    masks = [value for name, value in operator.options.items() if name.endswith("Mask")]
    if any(masks) or any(begin[:3]) or tuple(end[:3]) != shape[:3] or set(strides) != {1}:
        return None
    return _step("slice", operator, begin=begin[3], end=end[3])


def _resize(graph: TfliteGraph, operator: Operator) -> Step | None:
    if operator.options["AlignCorners"] or not operator.options["HalfPixelCenters"]:
        return None
    return _step("resize", operator, size=graph.constants[operator.inputs[1]].tolist())


def _reshape(graph: TfliteGraph, operator: Operator) -> Step | None:
    return _step("reshape", operator, shape=list(graph.shapes[operator.outputs[0]][1:]))


def _concat(graph: TfliteGraph, operator: Operator) -> Step | None:
    flat = len(graph.shapes[operator.outputs[0]]) == 3 and operator.options["Axis"] == 1
    return _step("concat", operator, len(operator.inputs)) if flat else None


def _sum(graph: TfliteGraph, operator: Operator) -> Step | None:
    a, b = (graph.shapes.get(i) for i in operator.inputs)
    return _step("add", operator, 2) if a == b else None


def _product(graph: TfliteGraph, operator: Operator) -> Step | None:
    a, b = (graph.shapes[i] for i in operator.inputs)
    return _step("multiply", operator, 2) if b in (a, (1, 1, 1, a[3])) else None


def _prelu(graph: TfliteGraph, operator: Operator) -> Step | None:
    step = dataclasses.replace(_step("activate", operator), activation="prelu")
    step.weights["slope"] = graph.constants[operator.inputs[1]].reshape(-1)
    return step if len(step.weights["slope"]) == graph.shapes[operator.inputs[0]][3] else None


def _activate(graph: TfliteGraph, operator: Operator) -> Step | None:
    name = {"RELU": "relu", "LOGISTIC": "sigmoid", "HARD_SWISH": "hard_swish"}[operator.kind]
    return dataclasses.replace(_step("activate", operator), activation=name)


def _to_space(graph: TfliteGraph, operator: Operator) -> Step | None:
    return _step("depth_to_space", operator, block=operator.options["BlockSize"])


_MAKERS: dict[str, Callable[[TfliteGraph, Operator], Step | None]] = {
    "ADD": _sum, "AVERAGE_POOL_2D": _pool, "CONCATENATION": _concat, "CONV_2D": _conv,
    "Convolution2DTransposeBias": _transposed_conv, "DEPTHWISE_CONV_2D": _conv, "DEPTH_TO_SPACE": _to_space,
    "FULLY_CONNECTED": _linear, "HARD_SWISH": _activate, "LOGISTIC": _activate, "MAX_POOL_2D": _pool, "MEAN": _mean,
    "MUL": _product, "PAD": _pad, "PRELU": _prelu, "RELU": _activate, "RESHAPE": _reshape, "RESIZE_BILINEAR": _resize,
    "STRIDED_SLICE": _slice,
}  # fmt: skip


def _fold(steps: list[Step], outputs: set[int]) -> list[Step]:
    """Merge paddings into the convolutions behind them, added channels into sums, activations into what is before."""
    made = {step.output: step for step in steps}
    uses: dict[int, int] = {}
    for step in steps:
        for i in step.inputs:
            uses[i] = uses.get(i, 0) + 1

    def alone(i: int) -> bool:
        return uses[i] == 1 and i not in outputs

    for step in steps:
        before = made.get(step.inputs[0])
        if step.op == "activate" and before and before.activation == "none" and alone(before.output):
            made[step.output] = dataclasses.replace(
                before, output=step.output, activation=step.activation, weights={**before.weights, **step.weights}
            )
            del made[before.output]
        elif step.op == "conv" and before and before.op == "pad" and not before.options["channels"]:
            if alone(before.output):
                total = [a + b for a, b in zip(step.options["padding"], before.options["padding"], strict=True)]
                options = {**step.options, "padding": total}
                made[step.output] = dataclasses.replace(step, inputs=before.inputs, options=options)
                del made[before.output]
        elif step.op == "add":
            made[step.output] = _add_fewer_channels(step, made, alone)
    return sorted(made.values(), key=lambda step: next(i for i, s in enumerate(steps) if s.output == step.output))


def _add_fewer_channels(step: Step, made: dict[int, Step], alone: Callable[[int], bool]) -> Step:
    """Return the sum with an operand as it is before channels of zeros are added to it, as the second one."""
    for i in step.inputs:
        pad = made.get(i)
        if pad and pad.op == "pad" and pad.activation == "none" and not any(pad.options["padding"]) and alone(i):
            other = next(j for j in step.inputs if j != i)
            del made[i]
            return dataclasses.replace(step, inputs=(other, pad.inputs[0]))
    return step


def write_net(path: Path, graph: TfliteGraph, source: Source, origin: dict[str, str]) -> None:
    """Write one net. See `guava_aug.tracked.detect.nets` for the format."""
    names = {i: f"v{i}" for i in graph.shapes}
    if len(graph.inputs) != 1 or len(graph.outputs) != len(source.outputs):
        raise AssetError(f"{origin['file']}: {len(graph.inputs)} inputs, {len(graph.outputs)} outputs are unexpected")
    steps: list[dict[str, Any]] = []
    tensors: dict[str, NDArray[Any]] = {}
    for step in convert(graph, origin["file"]):
        output = names[step.output]
        weights = {}
        for kind, values in step.weights.items():
            weights[kind] = list(values.shape)
            half = source.half_from is not None and values.size >= source.half_from
            tensors |= _stored(f"{output}.{kind}", np.ascontiguousarray(values, np.float16 if half else None))
        inputs = [names[i] for i in step.inputs]
        steps.append({"op": step.op, "inputs": inputs, "output": output, "activation": step.activation,
                      **step.options, "weights": weights})  # fmt: skip
    described = {
        "input": {"name": names[graph.inputs[0]], "shape": graph.shapes[graph.inputs[0]][1:], "range": source.range},
        "outputs": {
            name: {"value": names[i], "shape": graph.shapes[i][1:]}
            for name, i in zip(source.outputs, graph.outputs, strict=True)
        },
        "steps": steps,
    }
    metadata = {"format": FORMAT, "graph": json.dumps(described), "origin": json.dumps(origin)}
    save_file(tensors, path, metadata)


def _stored(name: str, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the arrays that hold a weight: itself, or of one with many zeros which are others, as bits, and these."""
    nonzero = values != 0
    if values.ndim < 2 or nonzero.mean() > 1 - MIN_ZEROS:
        return {name: values}
    return {f"{name}.bits": np.packbits(nonzero), f"{name}.values": values[nonzero]}


def main() -> int:
    """Convert all nets and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m guava_aug.apps.nets.convert", description="convert MediaPipe's nets to safetensors"
    )
    parser.add_argument("wheel", type=Path, metavar="WHEEL")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(args.wheel) as wheel:
        for name, source in SOURCES.items():
            file = f"mediapipe/modules/{source.folder}/{name}.tflite"
            content = wheel.read(file)
            origin = {"wheel": args.wheel.name, "file": file, "sha256": hashlib.sha256(content).hexdigest(),
                      "license": LICENSE}  # fmt: skip
            path = args.out / f"{name}.safetensors"
            write_net(path, read_tflite(content, file), source, origin)
            log.info("%s %.2f MB, of %.2f MB", path, path.stat().st_size / 1e6, len(content) / 1e6)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
