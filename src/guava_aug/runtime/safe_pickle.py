"""Reading of untrusted pickles: only data are read, code is never executed."""

from __future__ import annotations

import gc
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from guava_aug.errors import InputError
from guava_aug.runtime.pickle_reader import Budget, PickleReader, RefusedError, Standin, check_key
from guava_aug.runtime.text import in_short

_MAX_DEPTH = 100  # real files nest about five levels
_MAX_DENSE = 2**26  # elements of a sparse matrix made dense (0.5 GB of float64)
_MAX_PATHS = 2**20  # ways to the values of a file, beyond a few for each of its bytes
_MAX_NUMBERS_IN_PAIRS = 100  # as keys of one OrderedDict of protocol 0 or 1
_NAME_SHOWN = 100  # characters
_LARGE = 2**28  # bytes; larger files are checked for being mostly holes
_NUMBER_KINDS = frozenset("biufcSU")


def load_pickle(path: str | Path, error: type[Exception] = InputError) -> Any:
    """Return the content of a pickle file: plain containers, numbers, strings and numpy arrays, nothing else.

    Reads protocols 0 to 5 and Python 2 files (strings as latin1). Old containers become plain arrays without their
    packages: `chumpy.*` objects become their values, `scipy.sparse` csc and csr matrices dense arrays; `OrderedDict`
    becomes `dict`.

    Every name in the pickle is looked up in the table of this module, which returns stand-ins that check their
    arguments: neither an unknown name nor a known callable with unexpected arguments runs code. Work and memory are
    bounded by the length of the file (`pickle_reader`); keys and members of sets are strings and plain numbers; no
    container holds itself, or is repeated to more values than the file has bytes.

    Args:
        path: The pickle file.
        error: Type of exception to raise.

    Raises:
        error: `InputError` by default: the file is missing, empty, truncated, contains any other name (the message has
            `module.name`), or makes more data than a file of its length can hold.
    """
    path, size, complete = Path(path), 0, False
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size == 0:
                raise error(f"{path} is empty: expected a pickle. Track the video (or fetch the file) again.")
            if _is_mostly_holes(file, size):
                raise error(f"{path} has {size} bytes of which most were never written. Copy it again.")
            file.seek(0)
            data = file.read()
        complete = data.endswith(pickle.STOP)
        return read_values(PickleReader(data, find_name, make_array, ARRAY_NAMES))
    except OSError as e:
        raise error(f"{path} cannot be read: {e.strerror or e}") from e
    except RefusedError as e:
        raise error(f"{path} is refused: {e}. Only numpy arrays and plain containers are read from a pickle.") from e
    except error:
        raise
    except Exception as e:  # a damaged pickle can raise nearly anything from within the reader
        what = "damaged" if complete else "truncated: it does not end with a pickle's STOP mark"
        raise error(f"{path} is {what} ({size} bytes; {in_short(e)}). Copy it again, or make it again.") from e


def _is_mostly_holes(file: BinaryIO, size: int) -> bool:
    """Return whether a large file is sparse: an interrupted copy can claim gigabytes that were never written."""
    written = getattr(os.fstat(file.fileno()), "st_blocks", None)  # of 512 bytes; Windows has none
    return size > _LARGE and written is not None and written * 512 < size // 8


def read_values(reader: PickleReader) -> Any:
    """Return the content of the reader's pickle, with values in place of stand-ins.

    Raises:
        RefusedError: The pickle is refused. Damage may raise nearly any other exception.
    """
    collecting = gc.isenabled()
    gc.disable()  # it would scan a million arrays repeatedly, and nothing here is garbage
    try:
        value = reader.load()
        return _Values(reader.budget, _MAX_PATHS + 4 * reader.size).resolve(value, 0)[0]
    finally:
        if collecting:
            gc.enable()


# --- stand-ins


class Token(Standin):
    """A name from the allow-list: can be passed on and, if it has a function, called; cannot be changed."""

    __slots__ = ("_call", "name")

    def __init__(self, name: str, call: Callable[..., Any] | None = None) -> None:
        self.name, self._call = name, call

    def __call__(self, *args: Any) -> Any:
        """See `Standin`."""
        if self._call is None:
            raise RefusedError(f"call of {self.name}")
        return self._call(*args)

    def set_state(self, state: Any) -> None:
        """See `Standin`."""
        raise RefusedError(f"change of {self.name}")


class _DType(Standin):
    """Stand-in for a dtype: numpy's type string, byte order from the state that follows."""

    __slots__ = ("_code", "_dtype", "_order")

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(code, str) or len(code) > 16:
            raise RefusedError(f"numpy.dtype of {type(code).__name__}")
        self._code, self._order = code, "="
        self._dtype: np.dtype | None = None

    def set_state(self, state: Any) -> None:
        """See `Standin`."""
        order = state[1] if isinstance(state, tuple) and len(state) >= 5 else None
        if not (isinstance(order, str) and order in ("<", ">", "|", "=")):
            raise RefusedError("numpy.dtype with an unknown state")
        if any(part is not None for part in state[2:5]):
            raise RefusedError("numpy.dtype with fields")
        self._order, self._dtype = order, None

    def build(self) -> np.dtype:
        """Return the dtype."""
        if self._dtype is not None:
            return self._dtype
        try:
            dtype = np.dtype(self._code)
        except TypeError as e:
            raise RefusedError(f"numpy.dtype({self._code!r})") from e
        if dtype.kind not in _NUMBER_KINDS and dtype.kind != "O":
            raise RefusedError(f"numpy.dtype({self._code!r})")
        if dtype.itemsize == 0:
            raise RefusedError("numpy.dtype of zero size")
        self._dtype = dtype.newbyteorder(self._order) if self._order in "<>" else dtype  # type: ignore[arg-type]
        return self._dtype


class _Array(Standin):
    """Stand-in for an ndarray: created empty by `_reconstruct`, filled by BUILD, and replaced by `_resolve`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | _Objects | None = None

    @property
    def nbytes(self) -> int:
        """Return the bytes of memory."""
        return 0 if self.value is None else self.value.nbytes

    def set_state(self, state: Any) -> None:
        """See `Standin`."""
        if not (isinstance(state, tuple) and len(state) in (4, 5)):
            raise RefusedError("numpy array with an unknown state")
        shape, dtype, fortran, raw = state[-4:]
        self.value = make_array(shape, dtype, "F" if fortran else "C", raw)


class _Objects(Standin):
    """Stand-in for an array of objects, which may be stand-ins."""

    __slots__ = ("items", "order", "shape")

    def __init__(self, items: list[Any], shape: tuple[int, ...], order: Literal["C", "F"]) -> None:
        self.items, self.shape, self.order = items, shape, order

    @property
    def nbytes(self) -> int:
        """Return the bytes of memory."""
        return 8 * len(self.items)


class _Sparse(Standin):
    """Stand-in for a scipy.sparse csc or csr matrix."""

    __slots__ = ("state",)

    columns_first = True
    wanted = ("_shape", "shape", "data", "indices", "indptr")

    def __init__(self, *args: Any) -> None:
        if args:
            raise RefusedError("scipy.sparse matrix with arguments")
        self.state: Any = None

    def set_state(self, state: Any) -> None:
        """See `Standin`."""
        self.state = state

    def dense(self, budget: Budget) -> np.ndarray:
        """Return the dense matrix.

        Raises:
            RefusedError: It is not a matrix, or too large.
        """
        state = self.state if isinstance(self.state, dict) else {}
        shape: Any = state.get("_shape", state.get("shape"))
        arrays: list[Any] = [state.get(k) for k in ("data", "indices", "indptr")]
        if isinstance(shape, tuple):
            shape = tuple(int(n) if isinstance(n, np.integer) else n for n in shape)
        if not (
            _is_shape(shape) and len(shape) == 2 and all(isinstance(a, np.ndarray) and a.ndim == 1 for a in arrays)
        ):
            raise RefusedError("scipy.sparse matrix without data, indices, indptr and shape")
        data, indices, indptr = arrays
        rows, columns = int(shape[0]), int(shape[1])
        major, minor = (columns, rows) if self.columns_first else (rows, columns)
        if major * minor > _MAX_DENSE:
            raise RefusedError(f"scipy.sparse matrix of {rows} x {columns}, more than {_MAX_DENSE} elements")
        if data.dtype.kind not in "biufc" or indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
            raise RefusedError("scipy.sparse matrix of odd dtypes")
        counts = np.diff(indptr.astype(np.int64))
        fits = len(indptr) == major + 1 and indptr[0] == 0 and len(data) == len(indices) == indptr[-1]
        if not fits or (counts < 0).any():
            raise RefusedError("scipy.sparse matrix with inconsistent indptr")
        if len(indices) and not 0 <= indices.min() <= indices.max() < minor:
            raise RefusedError("scipy.sparse matrix with indices out of range")
        budget.spend(major * minor * data.dtype.itemsize + data.nbytes + indices.nbytes + indptr.nbytes)
        out = np.zeros((major, minor), data.dtype)
        np.add.at(out, (np.repeat(np.arange(major), counts), indices), data)
        return np.ascontiguousarray(out.T) if self.columns_first else out


class _SparseRows(_Sparse):
    __slots__ = ()

    columns_first = False


class _Chumpy(Standin):
    """Stand-in for a chumpy object: only its numbers are used."""

    __slots__ = ("state",)

    wanted = ("x",)

    def __init__(self, *args: Any) -> None:
        if args:
            raise RefusedError("chumpy object with arguments")
        self.state: Any = None

    def set_state(self, state: Any) -> None:
        """See `Standin`."""
        self.state = state

    def values(self) -> np.ndarray:
        """Return the object's numbers."""
        value = self.state.get("x") if isinstance(self.state, dict) else None
        if not isinstance(value, np.ndarray):
            raise RefusedError("chumpy object without an array in its entry 'x'")
        return value


def _is_shape(shape: Any) -> bool:
    if type(shape) is not tuple or len(shape) > 32:
        return False
    return all(type(n) is int and 0 <= n < 2**48 for n in shape)


def make_array(shape: Any, dtype: Any, order: Literal["C", "F"], raw: Any) -> np.ndarray | _Objects:
    """Return an array that owns its numbers.

    Its size must be that of the data, so that a small file cannot create a large array.
    """
    if not _is_shape(shape) or not isinstance(dtype, _DType):
        raise RefusedError("numpy array with an unknown shape or dtype")
    count, kind = math.prod(shape), dtype.build()
    if kind.kind == "O":
        if not isinstance(raw, list) or len(raw) != count:
            raise RefusedError("numpy object array whose data do not fit its shape")
        return _Objects(raw, shape, order)
    if isinstance(raw, str):  # Python 2 str
        raw = raw.encode("latin1")
    if not isinstance(raw, (bytes, bytearray)) or len(raw) != count * kind.itemsize:
        raise RefusedError("numpy array whose data do not fit its shape")
    if count == 0:
        return np.empty(shape, kind.newbyteorder("="))
    array = np.ndarray(shape, kind, raw, 0, None, order)
    made: np.ndarray = array.copy("K") if kind.isnative else array.astype(kind.newbyteorder("="))
    return made


def _reconstruct(subtype: Any, shape: Any, kind: Any) -> _Array:
    if subtype is not _NDARRAY:
        raise RefusedError("numpy _reconstruct of something that is not an ndarray")
    return _Array()


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray | _Objects:
    if not isinstance(order, str) or order not in ("C", "F"):
        raise RefusedError("numpy array of an unknown order")
    return make_array(shape, dtype, "C" if order == "C" else "F", buffer)


def _scalar(dtype: Any, raw: Any = None) -> Any:
    value = make_array((), dtype, "C", raw)
    if isinstance(value, _Objects):
        raise RefusedError("numpy scalar of dtype object")
    return value[()]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Return text encoded to bytes, as protocol 2 stores bytes."""
    known = isinstance(encoding, str) and encoding in ("latin1", "latin-1", "iso-8859-1")
    if not isinstance(text, str) or not known:
        raise RefusedError("_codecs.encode to something other than latin1")
    return text.encode("latin1")


def _no_bytes(*args: Any) -> bytes:
    """Return b'', which protocol 2 stores as bytes()."""
    if args:
        raise RefusedError("bytes with arguments")
    return b""


def _new_object(cls: Any, base: Any, state: Any) -> Any:
    """Create an object as protocols 0 and 1 do through copyreg."""
    if base is not _OBJECT or state is not None or not any(cls is known for known in _CLASSES):
        raise RefusedError("copyreg._reconstructor of an unknown class")
    return cls()


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    """Return a dict from pairs, as protocols 0 and 1 store them; later ones set the items one by one."""
    if type(items) not in (list, tuple) or not all(type(p) in (list, tuple) and len(p) == 2 for p in items):
        raise RefusedError("OrderedDict of something other than pairs")
    if sum(check_key(key) for key, _ in items) > _MAX_NUMBERS_IN_PAIRS:
        raise RefusedError(f"OrderedDict with more than {_MAX_NUMBERS_IN_PAIRS} numbers as keys")
    return dict(items)


_NDARRAY = Token("numpy.ndarray")
_CLASSES = _CSC, _CSR, _CHUMPY = (
    Token("scipy.sparse.csc_matrix", _Sparse),
    Token("scipy.sparse.csr_matrix", _SparseRows),
    Token("chumpy object", _Chumpy),
)
_RECONSTRUCT = Token("_reconstruct", _reconstruct)
_FROMBUFFER = Token("_frombuffer", _frombuffer)
ARRAY_NAMES = (_RECONSTRUCT, _NDARRAY, _FROMBUFFER)
_OBJECT = Token("builtins.object")
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): Token("numpy.dtype", _DType),
    ("_codecs", "encode"): Token("_codecs.encode", _encode),
    ("collections", "OrderedDict"): Token("collections.OrderedDict", _ordered_dict),
    **{(m, "bytes"): Token("bytes", _no_bytes) for m in ("builtins", "__builtin__")},
    **{(m, "object"): _OBJECT for m in ("builtins", "__builtin__")},
    **{(m, "_reconstructor"): Token("_reconstructor", _new_object) for m in ("copyreg", "copy_reg")},
    **{(f"numpy.{c}.multiarray", "_reconstruct"): _RECONSTRUCT for c in ("core", "_core")},
    **{(f"numpy.{c}.multiarray", "scalar"): Token("scalar", _scalar) for c in ("core", "_core")},
    **{(f"numpy.{c}.numeric", "_frombuffer"): _FROMBUFFER for c in ("core", "_core")},
    **{(f"scipy.sparse{m}", "csc_matrix"): _CSC for m in ("", ".csc", "._csc")},
    **{(f"scipy.sparse{m}", "csr_matrix"): _CSR for m in ("", ".csr", "._csr")},
}


def find_name(module: str, name: str) -> Any:
    """Return the stand-in of an allowed name.

    Raises:
        RefusedError: The name is not allowed.
    """
    if module == "chumpy" or module.startswith("chumpy."):
        return _CHUMPY
    try:
        return _ALLOWED[module, name]
    except KeyError:
        asked = f"{module}.{name}"
        shown = f"{asked[:_NAME_SHOWN]}{'...' if len(asked) > _NAME_SHOWN else ''}"
        raise RefusedError(f"it names {shown}{_instead(module)}") from None


def _instead(module: str) -> str:
    """Return advice what to store instead of an object of `module`, if known."""
    package = module.partition(".")[0]
    advice = {
        "torch": "store tensors as numpy arrays: tensor.detach().cpu().numpy()",
        "pathlib": "store paths as text: str(path)",
        "collections": "store a plain dict: dict(value)",
        "pandas": "store numpy arrays: frame.to_numpy()",
    }.get(package)
    return f" ({advice})" if advice else ""


class _Values:
    """Replace stand-ins by values; containers are changed in place, each once."""

    def __init__(self, budget: Budget, most: int) -> None:
        self._budget, self._most = budget, most
        self._seen: dict[int, tuple[Any, tuple[Any, int] | None]] = {}  # holding a value keeps its id from reuse

    def resolve(self, value: Any, depth: int) -> tuple[Any, int]:
        """Return the value, and the number of values in it, counting shared ones every time."""
        kind = type(value)
        if kind not in _TO_RESOLVE:
            return value, 1
        if kind is _Array:
            if value.value is None:
                raise RefusedError("numpy array without data")
            if type(value.value) is not _Objects:
                return value.value, 1
            value, kind = value.value, _Objects
        if kind is Token:
            raise RefusedError("a bare class or function as a value")
        if kind is _DType:
            return value.build(), 1
        if (known := self._seen.get(id(value))) is not None:
            if known[1] is None:
                raise RefusedError("a container that holds itself")
            return known[1]
        if depth > _MAX_DEPTH:
            raise RefusedError(f"it nests deeper than {_MAX_DEPTH} levels")
        self._seen[id(value)] = (value, None)
        out, walk = self._container(kind, value, depth + 1)
        if walk > self._most:
            raise RefusedError(f"its containers repeat each other to more than {self._most} values")
        self._seen[id(value)] = (value, (out, walk))
        return out, walk

    def _container(self, kind: type, value: Any, depth: int) -> tuple[Any, int]:
        if kind is dict:
            walk = 1 + len(value)
            for key, item in value.items():
                if type(item) in _TO_RESOLVE:
                    value[key], within = self.resolve(item, depth)
                    walk += within
            return value, walk
        if kind in (list, tuple, _Objects):
            out, walk = list(value.items if kind is _Objects else value), 1
            if _TO_RESOLVE.isdisjoint(map(type, out)):  # a list of numbers
                walk += len(out)
            else:
                found = [self.resolve(item, depth) for item in out]
                out, walk = [item for item, _ in found], 1 + sum(within for _, within in found)
            if kind is list:
                value[:] = out
                return value, walk
            if kind is tuple:
                return tuple(out), walk
            flat = np.empty(len(out), object)
            for i, item in enumerate(out):
                flat[i] = item
            return flat.reshape(value.shape, order=value.order), walk
        if isinstance(value.state, dict):
            wanted = {k: v for k, v in value.state.items() if k in value.wanted}
            value.state, _ = self.resolve(wanted, depth)
        return (value.dense(self._budget) if isinstance(value, _Sparse) else value.values()), 1


_TO_RESOLVE = frozenset({dict, list, tuple, _Sparse, _SparseRows, _Chumpy, _Objects, _Array, Token, _DType})
