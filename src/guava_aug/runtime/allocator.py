"""A setting of the C library's allocator that makes CPU runs faster."""

from __future__ import annotations

import ctypes
import platform

# of <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for reuse instead of returning them to the system; elsewhere do nothing.

    A refined frame makes hundreds of temporaries of 4 to 33 MB. By default each is mapped, zeroed page by page and
    unmapped again, which costs a tenth to a half of the time. Call it once at the start of a program.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
