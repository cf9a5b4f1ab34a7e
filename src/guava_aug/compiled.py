"""numba with its machine code kept on disk where that is possible."""

from __future__ import annotations

from typing import Any

from numba import njit


def compiled(**options: Any) -> Any:
    """A decorator: `njit` with `options` whose code is cached; where no cache folder is writable, compiled anew."""

    def wrap(function: Any) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # numba: "no locator available"
            return njit(**options)(function)

    return wrap
