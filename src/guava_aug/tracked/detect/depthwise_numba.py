"""Depthwise convolution of small maps on a CPU: `torch` spends more time on preparing such a call than on its sums.

numba does not turn loops like these into vector instructions by itself; `_Lanes` are eight floats as a type of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from guava_aug.runtime.numba_cache import cached_njit

_intrinsic: Any = intrinsic  # its type does not say that the context is passed by numba
LANES = 8  # the least number of channels
_VECTOR = ir.VectorType(ir.FloatType(), LANES)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Lanes")


_lanes = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _address(context: Any, builder: Any, kind: Any, array: Any, offset: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), _VECTOR.as_pointer())


@_intrinsic
def _load(typing: Any, array: Any, offset: Any) -> Any:
    """Return eight values of a flat array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(_address(context, builder, signature.args[0], args[0], args[1]))
        value.align = 4
        return value

    return _lanes(array, types.intp), generate


@_intrinsic
def _store(typing: Any, array: Any, offset: Any, value: Any) -> Any:
    """Write eight values into a flat array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, signature.args[0], args[0], args[1])).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, _lanes), generate


@_intrinsic
def _add_product(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once where the processor can."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32"), args)

    return _lanes(_lanes, _lanes, _lanes), generate


@cached_njit(nogil=True, error_model="numpy")
def depthwise(  # pragma: no cover - compiled
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: tuple[int, int], padding: tuple[int, int],
    out: np.ndarray,
) -> None:  # fmt: skip
    """Write the convolution of every channel of `x` with its own kernel to `out`; thread-safe.

    Args:
        x: [N, H, W, C] float32, C-contiguous, C of at least `LANES`.
        weight: [kh, kw, C] float32, C-contiguous.
        bias: [C] float32.
        stride: Down and across.
        padding: Rows of zeros above, columns of zeros to the left; there may be others below and to the right.
        out: [N, H', W', C] float32, C-contiguous.
    """
    batch, height, width, channels = x.shape
    tall, wide = weight.shape[:2]
    source, kernel, target = x.reshape(-1), weight.reshape(-1), out.reshape(-1)
    for n in range(batch):
        for i in range(out.shape[1]):
            y = i * stride[0] - padding[0]
            rows = max(0, -y), min(tall, height - y)
            j = 0
            while j < out.shape[2]:
                left = j * stride[1] - padding[1]
                first = ((n * height + y) * width + left) * channels
                begin = ((n * out.shape[1] + i) * out.shape[2] + j) * channels
                step = stride[1] * channels
                inside = left >= 0 and left + 3 * stride[1] + wide <= width and j + 4 <= out.shape[2]
                columns = max(0, -left), min(wide, width - left)
                for c0 in range(0, channels, LANES):
                    c = min(c0, channels - LANES)  # the last eight may overlap those before
                    s0 = _load(bias, c)
                    if inside:  # four pixels share the weights
                        s1, s2, s3 = s0, s0, s0
                        for r in range(rows[0], rows[1]):
                            for k in range(wide):
                                at = first + (r * width + k) * channels + c
                                w = _load(kernel, (r * wide + k) * channels + c)
                                s0 = _add_product(_load(source, at), w, s0)
                                s1 = _add_product(_load(source, at + step), w, s1)
                                s2 = _add_product(_load(source, at + 2 * step), w, s2)
                                s3 = _add_product(_load(source, at + 3 * step), w, s3)
                        _store(target, begin + channels + c, s1)
                        _store(target, begin + 2 * channels + c, s2)
                        _store(target, begin + 3 * channels + c, s3)
                    else:
                        for r in range(rows[0], rows[1]):
                            for k in range(columns[0], columns[1]):
                                w = _load(kernel, (r * wide + k) * channels + c)
                                s0 = _add_product(_load(source, first + (r * width + k) * channels + c), w, s0)
                    _store(target, begin + c, s0)
                j += 4 if inside else 1
