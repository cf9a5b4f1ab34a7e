"""numba with its machine code kept on disk where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """`function` as numba machine code that releases the GIL; where no cache folder is writable, compiled anew."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba: "no locator available"
        return njit(nogil=True)(function)
