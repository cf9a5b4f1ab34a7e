"""Warm-up of slow libraries in threads while the model is being read."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import numpy as np
import torch

from guava_aug.avatar.visibility import rasterize_mesh
from guava_aug.runtime import triton_support

THREADS = "guava-aug-warmup"


def warm_up(device: torch.device | str, with_triton: bool = True) -> None:
    """Start CUDA and its libraries, Triton, and numba in threads: together 2 s, while the model is being read.

    Return at once. A failure here occurs again where the library is used, and is reported there. Does nothing for a
    CPU, where only numba would be left: compiling and reading are both Python and would only alternate.
    """
    gpu = torch.device(device)
    if gpu.type != "cuda":
        return
    if gpu.index is None and torch.cuda.is_initialized():
        gpu = torch.device("cuda", torch.cuda.current_device())  # which every thread has its own of
    tasks: list[Callable[[], object]] = [lambda: _start_cuda(gpu), _start_numba]
    if with_triton:
        tasks.append(lambda: triton_support.is_usable(gpu))
    for task in tasks:
        threading.Thread(target=_quietly, args=(task,), name=THREADS).start()


def _quietly(task: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        task()


@torch.no_grad()
def _start_cuda(device: torch.device) -> None:
    x = torch.zeros(1, 16, 32, 32, device=device)
    torch.nn.functional.conv2d(x, x.new_zeros(16, 16, 3, 3))
    torch.nn.functional.scaled_dot_product_attention(x, x, x)
    torch.nn.functional.linear(x, x.new_zeros(32, 32))


def _start_numba() -> None:
    rasterize_mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.int32), 8)
