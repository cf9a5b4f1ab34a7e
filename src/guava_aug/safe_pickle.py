"""Reading pickles of unknown origin: numbers come out, code never runs."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from guava_aug.errors import InputError

_MAX_DEPTH = 100  # real files nest about five levels
_MAX_DENSE = 2**26  # elements of a sparse matrix made dense (0.5 GB of float64)
_SMALL = 2**20  # bytes; files up to here are read by the pure Python unpickler
_NUMBER_KINDS = frozenset("biufcSU")


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that is not on the allow-list, or misuses something that is."""


def load_pickle(path: str | Path, error: type[Exception] = InputError) -> Any:
    """What a pickle file holds: plain containers, numbers, strings and numpy arrays, nothing else.

    Reads protocols 0 to 5 and Python 2 files (strings as latin1). Old holders become plain arrays without
    their packages: `chumpy.*` objects their values, `scipy.sparse` csc and csr matrices dense arrays;
    `OrderedDict` becomes `dict`.

    Every name the pickle mentions is looked up in the table of this file, and what the table gives are stand-ins that
    check their arguments: neither an unknown name nor a known callable with odd arguments runs code.

    Raises:
        error: `InputError` unless told otherwise: missing, empty, truncated, or naming anything else
            (the message has `module.name`).
    """
    path, size, complete = Path(path), 0, False
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size == 0:
                raise error(f"{path} is empty: expected a pickle. Track the video (or fetch the file) again.")
            file.seek(size - 1)
            complete = file.read(1) == pickle.STOP
            file.seek(0)
            unpickler = _Unpickler(file, encoding="latin1") if size > _SMALL else _SmallUnpickler(file.read())
            return _resolve(unpickler.load(), {}, 0)
    except OSError as e:
        raise error(f"{path} cannot be read: {e.strerror or e}") from e
    except _Refused as e:
        raise error(f"{path} is refused: {e}. Only numpy arrays and plain containers are read from a pickle.") from e
    except error:
        raise
    except Exception as e:  # a damaged pickle can raise nearly anything from within the unpickler
        reason = f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
        what = "damaged" if complete else "truncated: it does not end with a pickle's STOP mark"
        raise error(f"{path} is {what} ({size} bytes; {reason}). Copy it again, or make it again.") from e


# --- stand-ins. Each has `__setstate__`, because BUILD on anything without one would set its attributes.


class _Token:
    """A name from the allow-list: can be passed on and, if it has a function, called; cannot be changed."""

    __slots__ = ("_call", "_name")
    __hash__ = None  # type: ignore[assignment]  # never a dict key or set member

    def __init__(self, name: str, call: Callable[..., Any] | None = None) -> None:
        self._name, self._call = name, call

    def __call__(self, *args: Any) -> Any:
        if self._call is None:
            raise _Refused(f"call of {self._name}")
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise _Refused(f"change of {self._name}")


class _DType:
    """A dtype on its way: numpy's type string, byte order from the state that follows."""

    __slots__ = ("_code", "_dtype", "_order")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(code, str) or len(code) > 16:
            raise _Refused(f"numpy.dtype of {type(code).__name__}")
        self._code, self._order = code, "="
        self._dtype: np.dtype | None = None

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) >= 5 and state[1] in ("<", ">", "|", "=")):
            raise _Refused("numpy.dtype with an unknown state")
        if any(part is not None for part in state[2:5]):
            raise _Refused("numpy.dtype with fields")
        self._order, self._dtype = state[1], None

    def build(self) -> np.dtype:
        if self._dtype is not None:
            return self._dtype
        try:
            dtype = np.dtype(self._code)
        except TypeError as e:
            raise _Refused(f"numpy.dtype({self._code!r})") from e
        if dtype.kind not in _NUMBER_KINDS and dtype.kind != "O":
            raise _Refused(f"numpy.dtype({self._code!r})")
        if dtype.itemsize == 0:
            raise _Refused("numpy.dtype of zero size")
        self._dtype = dtype.newbyteorder(self._order) if self._order in "<>" else dtype  # type: ignore[arg-type]
        return self._dtype


class _Array:
    """An ndarray on its way: `_reconstruct` makes it empty, BUILD fills it, `_resolve` puts it in place."""

    __slots__ = ("value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) in (4, 5)):
            raise _Refused("numpy array with an unknown state")
        shape, dtype, fortran, raw = state[-4:]
        self.value = _array(shape, dtype, "F" if fortran else "C", raw)


class _Sparse:
    """A scipy.sparse csc or csr matrix on its way."""

    __slots__ = ("state",)
    __hash__ = None  # type: ignore[assignment]

    columns_first = True
    wanted = ("_shape", "shape", "data", "indices", "indptr")

    def __init__(self, *args: Any) -> None:
        if args:
            raise _Refused("scipy.sparse matrix with arguments")
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def dense(self) -> np.ndarray:
        state = self.state if isinstance(self.state, dict) else {}
        shape: Any = state.get("_shape", state.get("shape"))
        arrays: list[Any] = [state.get(k) for k in ("data", "indices", "indptr")]
        if isinstance(shape, tuple):
            shape = tuple(int(n) if isinstance(n, np.integer) else n for n in shape)
        if not (
            _is_shape(shape) and len(shape) == 2 and all(isinstance(a, np.ndarray) and a.ndim == 1 for a in arrays)
        ):
            raise _Refused("scipy.sparse matrix without data, indices, indptr and shape")
        data, indices, indptr = arrays
        rows, columns = int(shape[0]), int(shape[1])
        major, minor = (columns, rows) if self.columns_first else (rows, columns)
        if major * minor > _MAX_DENSE:
            raise _Refused(f"scipy.sparse matrix of {rows} x {columns}, more than {_MAX_DENSE} elements")
        if data.dtype.kind not in "biufc" or indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
            raise _Refused("scipy.sparse matrix of odd dtypes")
        counts = np.diff(indptr.astype(np.int64))
        fits = len(indptr) == major + 1 and indptr[0] == 0 and len(data) == len(indices) == indptr[-1]
        if not fits or (counts < 0).any():
            raise _Refused("scipy.sparse matrix with inconsistent indptr")
        if len(indices) and not 0 <= indices.min() <= indices.max() < minor:
            raise _Refused("scipy.sparse matrix with indices out of range")
        out = np.zeros((major, minor), data.dtype)
        np.add.at(out, (np.repeat(np.arange(major), counts), indices), data)
        return np.ascontiguousarray(out.T) if self.columns_first else out


class _SparseRows(_Sparse):
    __slots__ = ()

    columns_first = False


class _Chumpy:
    """A chumpy object on its way: only the numbers it holds are of interest."""

    __slots__ = ("state",)
    __hash__ = None  # type: ignore[assignment]

    wanted = ("x",)

    def __init__(self, *args: Any) -> None:
        if args:
            raise _Refused("chumpy object with arguments")
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def values(self) -> np.ndarray:
        value = self.state.get("x") if isinstance(self.state, dict) else None
        if not isinstance(value, np.ndarray):
            raise _Refused("chumpy object without an array in its entry 'x'")
        return value


def _is_shape(shape: Any) -> bool:
    if type(shape) is not tuple or len(shape) > 32:
        return False
    for n in shape:  # noqa: SIM110 - half the time of all(): a long video has a million arrays
        if type(n) is not int or not 0 <= n < 2**48:
            return False
    return True


def _array(shape: Any, dtype: Any, order: Literal["C", "F"], raw: Any) -> np.ndarray:
    """An array that owns its numbers; its size must be that of the data, so a small file cannot ask for a large one."""
    if not _is_shape(shape) or not isinstance(dtype, _DType):
        raise _Refused("numpy array with an unknown shape or dtype")
    count, kind = math.prod(shape), dtype.build()
    if kind.kind == "O":
        if not isinstance(raw, list) or len(raw) != count:
            raise _Refused("numpy object array whose data do not fit its shape")
        flat = np.empty(count, object)
        for i, item in enumerate(raw):
            flat[i] = item
        return flat.reshape(shape, order=order)
    if isinstance(raw, str):  # Python 2 str
        raw = raw.encode("latin1")
    if not isinstance(raw, (bytes, bytearray)) or len(raw) != count * kind.itemsize:
        raise _Refused("numpy array whose data do not fit its shape")
    if count == 0:
        return np.empty(shape, kind.newbyteorder("="))
    array = np.ndarray(shape, kind, raw, 0, None, order)
    return array.copy("K") if kind.isnative else array.astype(kind.newbyteorder("="))


def _reconstruct(subtype: Any, shape: Any, kind: Any) -> _Array:
    if subtype is not _NDARRAY:
        raise _Refused("numpy _reconstruct of something that is no ndarray")
    return _Array()


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if order not in ("C", "F"):
        raise _Refused(f"numpy array of order {order!r}")
    return _array(shape, dtype, order, buffer)


def _scalar(dtype: Any, raw: Any = None) -> Any:
    value = _array((), dtype, "C", raw)
    if value.dtype == object:
        raise _Refused("numpy scalar of dtype object")
    return value[()]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Protocol 2 writes bytes as text to be encoded again."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "iso-8859-1"):
        raise _Refused(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


def _no_bytes(*args: Any) -> bytes:
    """Protocol 2 writes b'' as bytes()."""
    if args:
        raise _Refused("bytes with arguments")
    return b""


def _new_object(cls: Any, base: Any, state: Any) -> Any:
    """Protocols 0 and 1 make objects through copyreg."""
    if base is not _OBJECT or state is not None or cls not in (_Chumpy, _Sparse, _SparseRows):
        raise _Refused("copyreg._reconstructor of an unknown class")
    return cls()


def _ordered_dict(items: Any = ()) -> dict:
    return dict(items)


_NDARRAY = _Token("numpy.ndarray")
_OBJECT = _Token("builtins.object")
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Token("numpy.dtype", _DType),
    ("_codecs", "encode"): _Token("_codecs.encode", _encode),
    ("collections", "OrderedDict"): _Token("collections.OrderedDict", _ordered_dict),
    **{(m, "bytes"): _Token("bytes", _no_bytes) for m in ("builtins", "__builtin__")},
    **{(m, "object"): _OBJECT for m in ("builtins", "__builtin__")},
    **{(m, "_reconstructor"): _Token("_reconstructor", _new_object) for m in ("copyreg", "copy_reg")},
    **{(f"numpy.{c}.multiarray", "_reconstruct"): _Token("_reconstruct", _reconstruct) for c in ("core", "_core")},
    **{(f"numpy.{c}.multiarray", "scalar"): _Token("scalar", _scalar) for c in ("core", "_core")},
    **{(f"numpy.{c}.numeric", "_frombuffer"): _Token("_frombuffer", _frombuffer) for c in ("core", "_core")},
    **{(f"scipy.sparse{m}", "csc_matrix"): _Sparse for m in ("", ".csc", "._csc")},
    **{(f"scipy.sparse{m}", "csr_matrix"): _SparseRows for m in ("", ".csr", "._csr")},
}


def _find(module: str, name: str) -> Any:
    if module == "chumpy" or module.startswith("chumpy."):
        return _Chumpy
    try:
        return _ALLOWED[module, name]
    except KeyError:
        raise _Refused(f"it names {module}.{name}{_instead(module)}") from None


def _instead(module: str) -> str:
    """What to store instead of an object of `module`, where that is known."""
    package = module.partition(".")[0]
    advice = {
        "torch": "store tensors as numpy arrays: tensor.detach().cpu().numpy()",
        "pathlib": "store paths as text: str(path)",
        "collections": "store a plain dict: dict(value)",
        "pandas": "store numpy arrays: frame.to_numpy()",
    }.get(package)
    return f" ({advice})" if advice else ""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _find(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("it refers to an object outside the file")


class _SmallUnpickler(pickle._Unpickler):
    """For small files: twenty bytes can make the C unpickler fill the memory (a memo slot numbered 2**31)."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._size = len(data)

    def find_class(self, module: str, name: str) -> Any:
        return _find(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("it refers to an object outside the file")

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")  # type: ignore[attr-defined]
        if size > self._size:
            raise pickle.UnpicklingError("pickle data was truncated")
        self.append(bytearray(self.read(size)))  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def _resolve(value: Any, seen: dict[int, Any], depth: int) -> Any:
    """`value` with the arrays in place of their stand-ins; containers are changed in place, each once."""
    kind = type(value)
    if kind is _Array:
        value = value.value
        if value is None:
            raise _Refused("numpy array without data")
        if value.dtype != object:
            return value
        kind = np.ndarray
    if kind not in _CONTAINERS:
        if kind is _Token or kind is type:
            raise _Refused("a bare class or function as a value")
        return value.build() if kind is _DType else value
    if id(value) in seen:
        return seen[id(value)][1]
    if depth > _MAX_DEPTH:
        raise _Refused(f"it nests deeper than {_MAX_DEPTH} levels")
    out = value
    seen[id(value)] = (value, out)  # holding `value` keeps its id from being used again
    if kind is dict:
        for key, item in value.items():
            if type(item) in _TO_RESOLVE:
                value[key] = _resolve(item, seen, depth + 1)
    elif kind is list:
        value[:] = [_resolve(item, seen, depth + 1) for item in value]
    elif kind is tuple:
        out = tuple([_resolve(item, seen, depth + 1) for item in value])
    elif kind is np.ndarray:
        if value.dtype == object:
            flat = value.ravel(order="K")  # a view: these arrays are contiguous
            for i, item in enumerate(flat):
                flat[i] = _resolve(item, seen, depth + 1)
    else:
        if isinstance(value.state, dict):
            wanted = {k: v for k, v in value.state.items() if k in value.wanted}
            value.state = _resolve(wanted, seen, depth + 1)
        out = value.dense() if isinstance(value, _Sparse) else value.values()
    seen[id(value)] = (value, out)
    return out


_CONTAINERS = frozenset({dict, list, tuple, np.ndarray, _Sparse, _SparseRows, _Chumpy})
_TO_RESOLVE = _CONTAINERS | {_Array, _Token, _DType, type}
