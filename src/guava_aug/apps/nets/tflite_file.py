"""Reads a `.tflite` file: operators with their options, shapes, and constants as numpy arrays.

Needs the package tflite (Python classes of the format's flatbuffer schema). Half-precision constants stay what they are
in the file: DEQUANTIZE and DENSIFY, which a TFLite runtime executes once, are resolved here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guava_aug.errors import AssetError

ACTIVATIONS = {0: "none", 1: "relu", 3: "relu6"}  # ActivationFunctionType
SAME, VALID = 0, 1  # Padding
_OPTIONS = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "MAX_POOL_2D": "Pool2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions", "ADD": "AddOptions", "MUL": "MulOptions", "MEAN": "ReducerOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions", "CONCATENATION": "ConcatenationOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions", "STRIDED_SLICE": "StridedSliceOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
}  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """One operator. Inputs and outputs are indices of tensors."""

    kind: str  # name of the schema's BuiltinOperator, or the code of a custom operator
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]  # as the schema names them; of a custom operator `bytes`


@dataclass(frozen=True)
class TfliteGraph:
    """The only subgraph of a file."""

    operators: tuple[Operator, ...]  # in the order of execution, without DEQUANTIZE and DENSIFY
    shapes: dict[int, tuple[int, ...]]  # of every tensor
    names: dict[int, str]
    constants: dict[int, NDArray[Any]]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_tflite(content: bytes, where: str) -> TfliteGraph:
    """Return the graph of a `.tflite` file.

    Args:
        content: The file.
        where: How messages call it.

    Raises:
        AssetError: The file has several subgraphs or something that is not known here.
    """
    import tflite  # noqa: PLC0415 - only the conversion needs it

    model = tflite.Model.GetRootAsModel(content, 0)
    if model.SubgraphsLength() != 1:
        raise AssetError(f"{where} has {model.SubgraphsLength()} subgraphs; expected 1")
    graph = model.Subgraphs(0)
    shapes: dict[int, tuple[int, ...]] = {}
    constants: dict[int, NDArray[Any]] = {}
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        shapes[i] = tuple(tensor.Shape(k) for k in range(tensor.ShapeLength()))
        buffer = model.Buffers(tensor.Buffer())
        if buffer.DataLength():
            constants[i] = _constant(tflite, tensor, buffer.DataAsNumpy(), shapes[i], where)
    codes = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}
    operators = []
    for i in range(graph.OperatorsLength()):
        operator = _operator(tflite, model, graph.Operators(i), codes)
        if operator.kind in ("DEQUANTIZE", "DENSIFY"):
            if operator.inputs[0] not in constants:
                raise AssetError(f"{where}: {operator.kind} of a tensor that is no constant")
            constants[operator.outputs[0]] = constants[operator.inputs[0]]
        else:
            operators.append(operator)
    return TfliteGraph(
        operators=tuple(operators),
        shapes=shapes,
        names={i: graph.Tensors(i).Name().decode() for i in range(graph.TensorsLength())},
        constants=constants,
        inputs=tuple(graph.Inputs(i) for i in range(graph.InputsLength())),
        outputs=tuple(graph.Outputs(i) for i in range(graph.OutputsLength())),
    )


def _operator(tflite: Any, model: Any, raw: Any, names: dict[int, str]) -> Operator:
    code = model.OperatorCodes(raw.OpcodeIndex())
    kind = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]  # which of both counts depends on the version
    options: dict[str, Any] = {}
    if kind == "CUSTOM":
        kind = code.CustomCode().decode()
        options["bytes"] = bytes(raw.CustomOptionsAsNumpy())
    elif kind in _OPTIONS:
        table = getattr(tflite, _OPTIONS[kind])()
        table.Init(raw.BuiltinOptions().Bytes, raw.BuiltinOptions().Pos)
        options = {name: getattr(table, name)() for name in vars(type(table)) if _is_field(type(table), name)}
    return Operator(
        kind=kind,
        inputs=tuple(raw.Inputs(i) for i in range(raw.InputsLength())),
        outputs=tuple(raw.Outputs(i) for i in range(raw.OutputsLength())),
        options=options,
    )


def _is_field(table: type, name: str) -> bool:
    """Return whether a method of a generated class reads a field that is a number."""
    method = getattr(table, name)
    return name[0].isupper() and name != "Init" and callable(method) and method.__code__.co_argcount == 1


def _constant(tflite: Any, tensor: Any, raw: NDArray[np.uint8], shape: tuple[int, ...], where: str) -> NDArray[Any]:
    kinds = tflite.TensorType
    dtypes = {kinds.FLOAT32: np.float32, kinds.FLOAT16: np.float16, kinds.INT32: np.int32}
    if tensor.Type() not in dtypes:
        raise AssetError(f"{where}: constant {tensor.Name().decode()} of type {tensor.Type()}, no float or int32")
    values = raw.view(dtypes[tensor.Type()])
    sparsity = tensor.Sparsity()
    return values.reshape(shape) if sparsity is None else _dense(sparsity, values, shape)


def _dense(sparsity: Any, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a tensor that is stored level by level, each level dense or as compressed rows."""
    position = np.zeros(1, np.int64)  # of every entry found so far, within its level
    entries = np.zeros((1, 0), np.int64)  # and its coordinates, in the order of the levels
    for level in range(sparsity.DimMetadataLength()):
        dimension = sparsity.DimMetadata(level)
        if dimension.Format() == 0:
            starts, counts = position * dimension.DenseSize(), np.full(len(position), dimension.DenseSize())
            index = None
        else:
            segments = _index_vector(dimension.ArraySegmentsType(), dimension.ArraySegments())
            index = _index_vector(dimension.ArrayIndicesType(), dimension.ArrayIndices())
            starts, counts = segments[position], segments[position + 1] - segments[position]
        parent = np.repeat(np.arange(len(position)), counts)
        within = np.arange(len(parent)) - np.repeat(np.cumsum(counts) - counts, counts)
        position = starts[parent] + within
        coordinate = within if index is None else index[position]
        entries = np.concatenate([entries[parent], coordinate[:, None]], 1)
    order = [sparsity.TraversalOrder(i) for i in range(sparsity.TraversalOrderLength())]
    at = [entries[:, order.index(d)] for d in range(len(shape))]
    for block in range(sparsity.BlockMapLength() if len(order) > len(shape) else 0):
        level = order.index(len(shape) + block)
        dimension = sparsity.BlockMap(block)
        at[dimension] = at[dimension] * sparsity.DimMetadata(level).DenseSize() + entries[:, level]
    out = np.zeros(math.prod(shape), values.dtype)
    out[np.ravel_multi_index(at, shape)] = values
    return out.reshape(shape)


def _index_vector(kind: int, table: Any) -> NDArray[np.int64]:
    """Return a vector of the union SparseIndexVector: 1 int32, 2 uint16, 3 uint8."""
    import tflite  # noqa: PLC0415

    vector = (tflite.Int32Vector, tflite.Uint16Vector, tflite.Uint8Vector)[kind - 1]()
    vector.Init(table.Bytes, table.Pos)
    return np.asarray(vector.ValuesAsNumpy(), np.int64)
