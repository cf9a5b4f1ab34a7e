"""numba with its machine code kept on disk where that is possible."""

from __future__ import annotations

import logging
from typing import Any

from numba import njit
from numba.core import event

log = logging.getLogger(__name__)


def cached_njit(**options: Any) -> Any:
    """Return a decorator: `njit` with `options` whose code is cached; where no cache folder is writable, compiled anew.

    Compiling takes long enough for a user to wonder, so that it is said in the log, once in a process.
    """

    def wrap(function: Any) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # numba: "no locator available"
            _Compiling.is_kept = False
            return njit(**options)(function)

    return wrap


class _Compiling(event.Listener):
    """Says that numba compiles; it does not hear of code that comes out of the cache."""

    is_kept = True
    _said = False

    def on_start(self, event: Any) -> None:
        """Say so, the first time."""
        if self._said:
            return
        self._said = True
        if self.is_kept:
            log.info("compiling for this CPU, once on this machine: up to a minute")
        else:
            log.info(
                "compiling for this CPU: up to a minute, in every run (set NUMBA_CACHE_DIR to a folder to keep it)"
            )

    def on_end(self, event: Any) -> None:
        """Nothing: the next lines of the log say that it goes on."""


event.register("numba:compile", _Compiling())
