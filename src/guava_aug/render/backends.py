"""Names of the rendering backends and precisions. Imports nothing, so that the command line may use it."""

from __future__ import annotations

from typing import Literal, get_args

Backend = Literal["auto", "torch", "numba", "triton"]  # rasterisers
Precision = Literal["auto", "fp16", "fp32"]  # of rasterising and refining
BACKENDS: tuple[Backend, ...] = get_args(Backend)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
