"""Reading of untrusted `torch.save` files: only tensors and plain containers, no larger than the file."""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from guava_aug.runtime.pickle_reader import PickleReader, RefusedError
from guava_aug.runtime.safe_pickle import ARRAY_NAMES, Token, find_name, make_array, read_values
from guava_aug.runtime.text import in_short

_MAX_MEMBERS = 100_000  # an official checkpoint has 1,500
_MAX_DIRECTORY = 2**25  # bytes of the list of members
_MAX_DIMENSIONS = 16
_MAX_EXPANDED = 2**28  # elements of a tensor of which several share one place; the largest known has 1.1e8
_LOCAL_HEADER = 30  # bytes, and the name and extra field
_END = struct.Struct("<4s4H2LH")  # of the list of members
_END64 = struct.Struct("<4sQ2H2L4Q")
_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
}  # fmt: skip


class SavedTensorsError(Exception):
    """The file is not an archive of `torch.save`, damaged, or refused; the message has the reason."""


def load_tensors(source: Path | bytes) -> Any:
    """Return the content of a `torch.save` file: dictionaries, lists, numbers, arrays and tensors on the CPU.

    Tensors of a file are memory-mapped; nothing is copied yet. Only the zip archives written since torch 1.6 are read,
    not the older formats, whose sizes cannot be checked before use.

    Raises:
        OSError: The file cannot be read.
        SavedTensorsError: The file is not such an archive, damaged, or refused.
    """
    try:
        if isinstance(source, bytes):
            return _Archive(io.BytesIO(source), len(source), source).load()
        with source.open("rb") as file:
            return _Archive(file, os.fstat(file.fileno()).st_size, source).load()
    except (OSError, SavedTensorsError):
        raise
    except RefusedError as e:
        raise SavedTensorsError(f"refused: {e}") from e
    except Exception as e:  # damaged archives and pickles can raise nearly anything
        raise SavedTensorsError(f"damaged: {in_short(e)}") from e


def check_members(file: BinaryIO, size: int, what: str = "zip archive") -> list[zipfile.ZipInfo]:
    """Return the members of a zip archive after checking that they lie one behind the other within the file.

    Args:
        file: The open file.
        size: Its size in bytes.
        what: The kind of file, for messages.

    Raises:
        SavedTensorsError: It is not such an archive.
    """
    _check_directory(file, size, what)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, ValueError, struct.error) as e:
        raise SavedTensorsError(f"a damaged archive ({e})") from e
    if len({member.filename for member in members}) < len(members):
        raise SavedTensorsError("an archive with two members of one name")
    end = 0
    for member in sorted(members, key=lambda m: m.header_offset):
        if member.header_offset < end or member.file_size < 0:
            raise SavedTensorsError(f"an archive whose member {member.filename[:100]!r} overlaps another one")
        end = member.header_offset + _LOCAL_HEADER + member.compress_size
        if end > size:
            raise SavedTensorsError(f"an archive whose member {member.filename[:100]!r} is cut off")
    return members


def _check_directory(file: BinaryIO, size: int, what: str) -> None:
    """Check the end of the archive before all members are listed: the list may not fit into memory."""
    tail = min(size, 2**16 + _END.size)
    file.seek(size - tail)
    end = file.read(tail)
    at = end.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(end):
        raise SavedTensorsError(
            f"its {size} bytes are no whole {what}: probably an interrupted download, a web page or a Git LFS pointer"
        )
    count, directory = _END.unpack_from(end, at)[4:6]
    at64 = end.rfind(b"PK\6\6", 0, at)
    if at64 >= 0 and at64 + _END64.size <= len(end):
        values = _END64.unpack_from(end, at64)
        count, directory = max(count, values[7]) if count != 0xFFFF else values[7], max(directory, values[8])
        directory = values[8] if directory == 0xFFFFFFFF else directory
    if count > _MAX_MEMBERS or directory > _MAX_DIRECTORY:
        raise SavedTensorsError(f"an archive of {count} members, expected at most {_MAX_MEMBERS}")


class _Archive:
    def __init__(self, file: BinaryIO, size: int, source: Path | bytes) -> None:
        self._file, self._size, self._source = file, size, source
        self._bytes: Any = None  # of the whole file, as a storage
        self._storages: dict[str, Tensor] = {}  # storage key -> its bytes
        self._members = {}
        for member in check_members(file, size, "file of torch.save (of torch 1.6 or later)"):
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise SavedTensorsError(f"an archive whose member {member.filename[:100]!r} is compressed")
            if member.compress_size != member.file_size:
                raise SavedTensorsError(f"an archive whose member {member.filename[:100]!r} has two sizes")
            self._members[member.filename] = member
        tops = {name.split("/", 1)[0] for name in self._members}
        if len(tops) != 1:
            raise SavedTensorsError("an archive that torch.save has not written")
        self._top = tops.pop()
        order = self._members.get(f"{self._top}/byteorder")
        if order is not None and self._content(order, 16) != b"little":
            raise SavedTensorsError("written on a big-endian machine")

    def load(self) -> Any:
        member = self._members.get(f"{self._top}/data.pkl")
        if member is None:
            raise SavedTensorsError("an archive without data.pkl, which torch.save writes")
        data = self._content(member)
        return read_values(PickleReader(data, self._find, make_array, ARRAY_NAMES, self._storage))

    def _content(self, member: zipfile.ZipInfo, most: int | None = None) -> bytes:
        if most is not None and member.file_size > most:
            return b""
        self._file.seek(self._offset(member))
        return self._file.read(member.file_size)

    def _offset(self, member: zipfile.ZipInfo) -> int:
        """Return the offset of a member's content in the file."""
        self._file.seek(member.header_offset)
        header = self._file.read(_LOCAL_HEADER)
        if header[:4] != b"PK\3\4":
            raise SavedTensorsError(f"a damaged archive (no header of {member.filename[:100]!r})")
        name, extra = struct.unpack_from("<2H", header, 26)
        begin = member.header_offset + _LOCAL_HEADER + name + extra
        if begin + member.file_size > self._size:
            raise SavedTensorsError(f"an archive whose member {member.filename[:100]!r} is cut off")
        return int(begin)

    def _find(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return Token(f"torch.{name}")
        known = _NAMES.get((module, name))
        if known is not None:
            return known
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        return find_name(module, name)

    def _storage(self, pid: Any) -> tuple[Tensor, torch.dtype]:
        """Return the bytes and the dtype of a storage, found by the persistent id in the pickle."""
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage" or type(pid[1]) is not Token:
            raise RefusedError("a reference to something other than a storage")
        dtype, key, count = _DTYPES.get(pid[1].name.removeprefix("torch.")), pid[2], pid[4]
        if dtype is None or type(key) is not str or type(count) is not int or count < 0:
            raise RefusedError("a reference to an unknown storage")
        if key not in self._storages:
            member = self._members.get(f"{self._top}/data/{key}")
            if member is None:
                raise SavedTensorsError(f"an archive without data/{key[:100]}, to which its data.pkl refers")
            self._storages[key] = self._map(self._offset(member), member.file_size)
        raw = self._storages[key]
        if len(raw) != count * dtype.itemsize:
            raise SavedTensorsError(f"damaged: data/{key[:100]} has {len(raw)} bytes for {count} numbers ({dtype})")
        return _Storage((raw, dtype))

    def _map(self, offset: int, count: int) -> Tensor:
        if count == 0:
            return torch.empty(0, dtype=torch.uint8)
        if isinstance(self._source, bytes):
            return torch.frombuffer(bytearray(self._source[offset : offset + count]), dtype=torch.uint8)
        if self._bytes is None:
            self._bytes = torch.UntypedStorage.from_file(str(self._source), False, self._size)
        part = self._bytes[offset : offset + count]
        return torch.empty(0, dtype=torch.uint8).set_(part, 0, (count,), (1,))


class _Storage(tuple[Tensor, torch.dtype]):
    """(bytes, dtype), from which only tensors can be made."""

    __slots__ = ()


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, more: Any = None) -> Tensor:
    whole = all(type(x) is tuple and all(type(n) is int and n >= 0 for n in x) for x in (size, stride))
    if type(storage) is not _Storage or type(offset) is not int or offset < 0 or not whole:
        raise RefusedError("a tensor with an unknown storage or shape")
    if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS:
        raise RefusedError("a tensor with an unknown shape")
    raw, dtype = storage
    count, numbers = math.prod(size), len(raw) // dtype.itemsize
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if count and last >= numbers:
        raise RefusedError(f"a tensor of shape {size} in a storage of {numbers} numbers")
    if count > max(numbers, _MAX_EXPANDED):
        raise RefusedError(f"a tensor of {count} elements in a storage of {numbers} numbers")
    made = torch.empty(0, dtype=dtype)
    return made.set_(raw.untyped_storage(), offset, size, stride)


def _parameter(data: Any, grad: Any, hooks: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise RefusedError("a parameter that is not a tensor")
    return data


def _shape(sides: Any = ()) -> tuple[int, ...]:
    if type(sides) is not tuple or not all(type(n) is int for n in sides):
        raise RefusedError("torch.Size of something other than integers")
    return sides


_NAMES = {
    ("torch._utils", "_rebuild_tensor_v2"): Token("_rebuild_tensor_v2", _tensor),
    ("torch._utils", "_rebuild_parameter"): Token("_rebuild_parameter", _parameter),
    ("torch", "Size"): Token("torch.Size", _shape),
}
