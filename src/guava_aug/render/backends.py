"""The ways of rendering that can be asked for, by name. Imports nothing, so that the command line can."""

from __future__ import annotations

from typing import Literal, get_args

Backend = Literal["auto", "torch", "numba", "triton"]  # rasterisers
Precision = Literal["auto", "fp16", "fp32"]  # of rasterising and refining
BACKENDS: tuple[Backend, ...] = get_args(Backend)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
