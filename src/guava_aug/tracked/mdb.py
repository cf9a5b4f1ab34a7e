"""Reading of an LMDB data file without mapping it: damage gives an error, where the C library gives SIGBUS.

LMDB maps its file and trusts every number in it. A truncated or damaged `data.mdb` therefore kills the process, and
with it a run over thousands of videos. Tracked data are read-only here, so plain file reads with bounds checks are
enough. They need no lock file and no open handle between reads, and work across threads and forks.

Format (LMDB 0.9, 64 bit, little endian): pages of a fixed size. Page: number u64, pad u16, flags u16, then either lower
u16 and upper u16 (branch, leaf) or page count u32 (overflow), then offsets u16 of the nodes. Node: lo u16, hi u16,
flags u16, key size u16, key, data. A branch node's child page is lo | hi << 16 | flags << 32; a leaf node's data size
is lo | hi << 16, and with flag 1 its data are the number of the first overflow page.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from guava_aug.errors import InputError

_HEADER = 16  # bytes before the nodes' offsets, and before the data of an overflow page
_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
_TRANSIENT = 0x10 | 0x4000 | 0x8000  # page flags that are used only during a write
_BIG_DATA = 1
_MAGIC = 0xBEEFC0DE
_NO_PAGE = 2**64 - 1
_DEEPEST = 32  # pages from the root to a leaf; the C library's CURSOR_STACK
_LONGEST_VALUE = 2**28  # bytes; a picture of 8192 x 8192 pixels without compression has 0.2 GB


@dataclass(frozen=True)
class Slot:
    """The position of a value in the file."""

    offset: int  # bytes, of the value itself
    size: int  # bytes
    page: int  # number of its first overflow page; -1 when it lies within a leaf


class MdbFile:
    """The main database of an LMDB data file.

    Raises:
        InputError: From every method, if the file is missing, truncated or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as file:
            self._file_size = os.fstat(file.fileno()).st_size
            if self._file_size == 0:
                raise InputError(f"{path} is empty: expected an LMDB data file. Track the video again.")
            first = self._meta(file, 0)
            self._page_size = first[0]
            self._root, self._last_page = max(first, self._meta(file, self._page_size), key=lambda m: m[3])[1:3]

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, Slot]]:
        """Yield every key that starts with `prefix`, in order, with the position of its value."""
        if self._root == _NO_PAGE:
            return
        before = None
        with self._open() as file:
            for key, slot in self._walk(file, self._root, prefix, set()):
                if before is not None and key <= before:
                    raise self._damaged(f"its keys are not in order: {before[:80]!r}, then {key[:80]!r}")
                before = key
                yield key, slot

    def read(self, slot: Slot) -> bytes:
        """Return the value at `slot`."""
        if slot.size > _LONGEST_VALUE:
            raise self._damaged(f"it has a value of {slot.size} bytes, expected at most {_LONGEST_VALUE}")
        with self._open() as file:
            if slot.page >= 0:
                number, _, flags, count = struct.unpack("<QHHI", self._bytes(file, slot.offset - _HEADER, _HEADER))
                room = count * self._page_size - _HEADER
                if number != slot.page or flags & ~_TRANSIENT != _OVERFLOW or room < slot.size:
                    raise self._damaged(f"page {slot.page} is not the overflow page it should be")
            return self._bytes(file, slot.offset, slot.size)

    def _open(self) -> BinaryIO:
        try:  # without O_NONBLOCK, opening a FIFO would wait without limit
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            file = os.fdopen(descriptor, "rb", buffering=0)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                file.close()
                raise InputError(f"{self.path} is not a regular file: expected an LMDB data file.")
            return file
        except OSError as e:
            raise InputError(f"{self.path} cannot be read: {e.strerror or e}") from e

    def _damaged(self, reason: str) -> InputError:
        return InputError(f"{self.path} is damaged: {reason}. Copy it again, or track the video again.")

    def _bytes(self, file: BinaryIO, offset: int, size: int) -> bytes:
        self.check_inside(offset, size)
        try:
            file.seek(offset)
            data = file.read(size)
            while len(data) < size and (more := file.read(size - len(data))):
                data += more
        except OSError as e:
            raise InputError(f"{self.path} cannot be read: {e.strerror or e}") from e
        if len(data) != size:
            raise self._damaged("it became shorter while it was read")
        return data

    def check_inside(self, offset: int, size: int) -> None:
        """Check that the file has these bytes."""
        if offset + size > self._file_size:
            raise InputError(
                f"{self.path} is truncated: expected at least {offset + size} bytes, found {self._file_size}. "
                "Copy it again, or track the video again."
            )

    def _meta(self, file: BinaryIO, offset: int) -> tuple[int, int, int, int]:
        """Return page size, root page, last page and transaction number of one of the two meta pages."""
        page = self._bytes(file, offset, 152)
        (flags,) = struct.unpack_from("<H", page, 10)
        magic, version = struct.unpack_from("<II", page, 16)
        (page_size,) = struct.unpack_from("<I", page, 40)
        (db_flags,) = struct.unpack_from("<H", page, 92)
        root, last_page, transaction = struct.unpack_from("<QQQ", page, 128)
        if magic != _MAGIC or version != 1 or not flags & _META:
            raise InputError(f"{self.path} is not an LMDB data file (or is damaged): no LMDB header at byte {offset}.")
        if page_size not in (512, 1024, 2048, 4096, 8192, 16384, 32768):
            raise self._damaged(f"its page size is {page_size}")
        if db_flags:
            raise InputError(f"{self.path} is an LMDB file of another kind (flags {db_flags:#x}): expected plain keys.")
        return page_size, root, last_page, transaction

    def _page(self, file: BinaryIO, number: int) -> tuple[bytes, int, tuple[int, ...]]:
        """Return a page, its flags and the offsets of its nodes."""
        if number > self._last_page:
            raise self._damaged(f"it refers to page {number} beyond the last page {self._last_page}")
        page = self._bytes(file, number * self._page_size, self._page_size)
        found, _, flags, lower, upper = struct.unpack_from("<QHHHH", page)
        flags &= ~_TRANSIENT
        if found != number or flags not in (_BRANCH, _LEAF):
            raise self._damaged(f"page {number} is neither a branch nor a leaf")
        if not _HEADER <= lower <= upper <= self._page_size:
            raise self._damaged(f"page {number} has wrong bounds")
        return page, flags, struct.unpack_from(f"<{(lower - _HEADER) // 2}H", page, _HEADER)

    def _walk(
        self, file: BinaryIO, number: int, prefix: bytes, seen: set[int], depth: int = 1
    ) -> Iterator[tuple[bytes, Slot]]:
        if number in seen:
            raise self._damaged(f"page {number} occurs twice in the tree")
        if depth > _DEEPEST:
            raise self._damaged(f"its tree is deeper than {_DEEPEST} pages")
        seen.add(number)
        page, flags, offsets = self._page(file, number)
        nodes = [self._node(page, number, at) for at in offsets]
        used = sum(8 + len(key) for *_, key in nodes)
        if used > len(page) - _HEADER - 2 * len(nodes):  # 32 KiB could hold 16,000 keys of 16 KiB
            raise self._damaged(f"page {number} has nodes that overlap")
        if flags == _LEAF:
            for (lo, hi, node_flags, key), at in zip(nodes, offsets, strict=True):
                if key.startswith(prefix):
                    yield key, self._slot(page, number, at + 8 + len(key), lo | hi << 16, node_flags)
            return
        for i, (lo, hi, node_flags, key) in enumerate(nodes):
            # child i holds the keys from its own (the first: from the start) up to the next one's
            if i + 1 < len(nodes) and nodes[i + 1][3] <= prefix:
                continue
            if i > 0 and key > prefix and not key.startswith(prefix):
                break
            yield from self._walk(file, lo | hi << 16 | node_flags << 32, prefix, seen, depth + 1)

    def _node(self, page: bytes, number: int, at: int) -> tuple[int, int, int, bytes]:
        if at + 8 > len(page):
            raise self._damaged(f"page {number} has a node outside of it")
        lo, hi, flags, key_size = struct.unpack_from("<HHHH", page, at)
        if at + 8 + key_size > len(page):
            raise self._damaged(f"page {number} has a key outside of it")
        return lo, hi, flags, page[at + 8 : at + 8 + key_size]

    def _slot(self, page: bytes, number: int, at: int, size: int, flags: int) -> Slot:
        if flags == _BIG_DATA and at + 8 <= len(page):
            (first,) = struct.unpack_from("<Q", page, at)
            pages = -(-(size + _HEADER) // self._page_size)
            if not 2 <= first <= first + pages - 1 <= self._last_page:
                raise self._damaged(f"page {number} refers to overflow pages beyond the last page")
            return Slot(first * self._page_size + _HEADER, size, first)
        if flags == 0 and at + size <= len(page):
            return Slot(number * self._page_size + at, size, -1)
        raise self._damaged(f"page {number} has a value outside of it, or of an unknown kind")
