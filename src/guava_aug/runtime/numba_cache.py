"""numba with its machine code cached on disk where possible."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit
from numba.core import event

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


def cached_njit(**options: Any) -> Callable[[F], F]:
    """Return a decorator: `njit` with `options` and a cache on disk.

    Without a writable cache folder the code is compiled in every process. Compiling takes so long that it is logged,
    once per process.
    """

    def wrap(function: F) -> F:
        try:
            compiled: F = njit(cache=True, **options)(function)
        except RuntimeError:  # numba: "no locator available"
            _Compiling.is_kept = False
            compiled = njit(**options)(function)
        return compiled

    return wrap


class _Compiling(event.Listener):
    """Log that numba compiles; code that is loaded from the cache causes no event."""

    is_kept = True
    _logged = False

    def on_start(self, event: Any) -> None:
        """Log the first compilation."""
        if self._logged:
            return
        self._logged = True
        if self.is_kept:
            log.info("compiling for this CPU, once on this machine: up to a minute")
        else:
            log.info(
                "compiling for this CPU: up to a minute, in every run (set NUMBA_CACHE_DIR to a folder to keep it)"
            )

    def on_end(self, event: Any) -> None:
        """Do nothing."""


event.register("numba:compile", _Compiling())
