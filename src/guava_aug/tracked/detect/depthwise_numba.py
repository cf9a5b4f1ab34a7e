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


def _extremum(name: str) -> Any:
    """Return the function of two vectors that LLVM calls `name`."""

    @_intrinsic
    def extremum(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(_VECTOR, [_VECTOR] * 2)
            called = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
            return builder.call(called, args)

        return _lanes(_lanes, _lanes), generate

    return extremum


_least, _most = _extremum("minnum"), _extremum("maxnum")


@_intrinsic
def _spread(typing: Any, value: Any) -> Any:
    """Return eight times a float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = ir.IntType(32)
        empty = ir.Constant(_VECTOR, ir.Undefined)
        first = builder.insert_element(empty, args[0], ir.Constant(number, 0))
        places = ir.Constant(ir.VectorType(number, LANES), [0] * LANES)
        return builder.shuffle_vector(first, empty, places)

    return _lanes(types.float32), generate


@cached_njit(nogil=True, error_model="numpy")
def depthwise(  # noqa: C901 - one compiled loop  # pragma: no cover - compiled
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: tuple[int, int], padding: tuple[int, int],
    low: Any, high: Any, out: np.ndarray,
) -> None:  # fmt: skip
    """Write the convolution of every channel of `x` with its own kernel, clamped, to `out`; thread-safe.

    Args:
        x: [N, H, W, C] float32, C-contiguous, C of at least `LANES`.
        weight: [kh, kw, C] float32, C-contiguous.
        bias: [C] float32.
        stride: Down and across.
        padding: Rows of zeros above, columns of zeros to the left; there may be others below and to the right.
        low: float32, the least value of a result.
        high: float32, the highest.
        out: [N, H', W', C] float32, C-contiguous.
    """
    batch, height, width, channels = x.shape
    tall, wide = weight.shape[:2]
    source, kernel, target = x.reshape(-1), weight.reshape(-1), out.reshape(-1)
    least, most = _spread(low), _spread(high)
    step = stride[1] * channels
    pair = channels >= 2 * LANES  # sixteen channels at a time, a line of the cache
    block = 2 * LANES if pair else LANES
    for n in range(batch):
        for i in range(out.shape[1]):
            y = i * stride[0] - padding[0]
            rows = max(0, -y), min(tall, height - y)
            for c0 in range(0, channels, block):
                c = min(c0, channels - block)  # the last ones may overlap those before
                j = 0
                while j < out.shape[2]:
                    left = j * stride[1] - padding[1]
                    first = ((n * height + y) * width + left) * channels + c
                    begin = ((n * out.shape[1] + i) * out.shape[2] + j) * channels + c
                    inside = left >= 0 and left + 3 * stride[1] + wide <= width and j + 4 <= out.shape[2]
                    columns = max(0, -left), min(wide, width - left)
                    s0 = _load(bias, c)
                    if inside:  # four pixels share the weights
                        s1, s2, s3 = s0, s0, s0
                        if pair:
                            t0 = _load(bias, c + LANES)
                            t1, t2, t3 = t0, t0, t0
                            for r in range(rows[0], rows[1]):
                                for k in range(wide):
                                    at = first + (r * width + k) * channels
                                    of = (r * wide + k) * channels + c
                                    v, w = _load(kernel, of), _load(kernel, of + LANES)
                                    s0 = _add_product(_load(source, at), v, s0)
                                    t0 = _add_product(_load(source, at + LANES), w, t0)
                                    s1 = _add_product(_load(source, at + step), v, s1)
                                    t1 = _add_product(_load(source, at + step + LANES), w, t1)
                                    s2 = _add_product(_load(source, at + 2 * step), v, s2)
                                    t2 = _add_product(_load(source, at + 2 * step + LANES), w, t2)
                                    s3 = _add_product(_load(source, at + 3 * step), v, s3)
                                    t3 = _add_product(_load(source, at + 3 * step + LANES), w, t3)
                            _store(target, begin + LANES, _least(_most(t0, least), most))
                            _store(target, begin + channels + LANES, _least(_most(t1, least), most))
                            _store(target, begin + 2 * channels + LANES, _least(_most(t2, least), most))
                            _store(target, begin + 3 * channels + LANES, _least(_most(t3, least), most))
                        else:
                            for r in range(rows[0], rows[1]):
                                for k in range(wide):
                                    at = first + (r * width + k) * channels
                                    v = _load(kernel, (r * wide + k) * channels + c)
                                    s0 = _add_product(_load(source, at), v, s0)
                                    s1 = _add_product(_load(source, at + step), v, s1)
                                    s2 = _add_product(_load(source, at + 2 * step), v, s2)
                                    s3 = _add_product(_load(source, at + 3 * step), v, s3)
                        _store(target, begin + channels, _least(_most(s1, least), most))
                        _store(target, begin + 2 * channels, _least(_most(s2, least), most))
                        _store(target, begin + 3 * channels, _least(_most(s3, least), most))
                    elif pair:
                        t0 = _load(bias, c + LANES)
                        for r in range(rows[0], rows[1]):
                            for k in range(columns[0], columns[1]):
                                at = first + (r * width + k) * channels
                                of = (r * wide + k) * channels + c
                                s0 = _add_product(_load(source, at), _load(kernel, of), s0)
                                t0 = _add_product(_load(source, at + LANES), _load(kernel, of + LANES), t0)
                        _store(target, begin + LANES, _least(_most(t0, least), most))
                    else:
                        for r in range(rows[0], rows[1]):
                            for k in range(columns[0], columns[1]):
                                v = _load(kernel, (r * wide + k) * channels + c)
                                s0 = _add_product(_load(source, first + (r * width + k) * channels), v, s0)
                    _store(target, begin, _least(_most(s0, least), most))
                    j += 4 if inside else 1
