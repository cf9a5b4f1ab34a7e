"""Pickles give numbers and never run code."""

from __future__ import annotations

import collections
import pickle
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from guava_aug.errors import AssetError, InputError
from guava_aug.runtime import pickle_reader
from guava_aug.runtime.safe_pickle import load_pickle

ARRAYS = {
    "floats": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big_endian": np.arange(5, dtype=">i4"),
    "bools": np.array([True, False]),
    "text": np.array(["a", "bcd", "ä"]),
    "bytes": np.array([b"a", b"bcd"]),
    "complex": np.array([1 + 2j]),
    "empty": np.zeros((0, 3), np.float32),
    "scalar_array": np.array(1.5),
    "uint8": np.arange(256, dtype=np.uint8),
    "objects": np.array([None, 1, "x", np.arange(3)], dtype=object),
}


@pytest.fixture(params=["as a whole", "by opcodes"])
def reader(request, monkeypatch):
    """Both ways to read arrays."""
    if request.param == "by opcodes":
        monkeypatch.setattr(pickle_reader, "_ARRAY", re.compile(rb"(?!)"))
        monkeypatch.setattr(pickle_reader, "_BUFFER", re.compile(rb"(?!)"))
    return load_pickle


# Not ru_maxrss: a child begins with that of its parent, pytest.
PEAK = (
    "def peak():\n"
    "    return next(int(x.split()[1]) for x in open('/proc/self/status') if x.startswith('VmHWM'))\n"  # KiB
)
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_reads_arrays_of_every_protocol(reader, tmp_path: Path, protocol: int) -> None:
    value = {
        "arrays": ARRAYS,
        "scalars": [np.float32(1.5), np.int64(7), np.bool_(True)],
        "plain": (1, 2.5, None, "ä", b"\x00\xff", b"", True, 2**80, {"a", "b"}),
        "ordered": collections.OrderedDict([("z", np.arange(2)), ("a", 1)]),
        "dtype": np.dtype(np.float32),
    }
    if protocol < 4:
        value["plain"] = value["plain"][:-1]  # sets are a named class there
    found = reader(_write(tmp_path / "p.pkl", pickle.dumps(value, protocol=protocol)))
    for name, array in ARRAYS.items():
        got = found["arrays"][name]
        assert type(got) is np.ndarray and got.shape == array.shape and got.flags.writeable
        if name != "objects":
            assert got.dtype == array.dtype.newbyteorder("=")
            np.testing.assert_array_equal(got, array)
    objects = found["arrays"]["objects"]
    assert list(objects[:3]) == [None, 1, "x"]
    np.testing.assert_array_equal(objects[3], np.arange(3))
    assert found["scalars"] == value["scalars"] and type(found["scalars"][0]) is np.float32
    assert found["plain"] == value["plain"] and found["dtype"] == np.float32
    assert type(found["ordered"]) is dict and list(found["ordered"]) == ["z", "a"]


def test_both_numpy_namings(reader, tmp_path: Path) -> None:
    data = pickle.dumps({"a": np.arange(3.0), "s": np.float64(2)}, protocol=2)
    old, new = b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"
    for variant in (data.replace(new, old), data.replace(old, new)):
        found = reader(_write(tmp_path / "p.pkl", variant))
        np.testing.assert_array_equal(found["a"], np.arange(3.0))


def test_shared_values_stay_shared_and_depth_ends(reader, tmp_path: Path) -> None:
    array = np.arange(3)
    found = reader(_write(tmp_path / "p.pkl", pickle.dumps([array, (array, [array])])))
    assert found[0] is found[1][0] is found[1][1][0]
    deep: list = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(InputError, match="nests deeper"):
        reader(_write(tmp_path / "deep.pkl", pickle.dumps(deep)))
    loop: list = []
    loop.append(loop)
    with pytest.raises(InputError, match="holds itself"):
        reader(_write(tmp_path / "loop.pkl", pickle.dumps(loop)))


def test_shared_lists_do_not_explode(reader, tmp_path: Path) -> None:
    """Whoever walks through it, such as numpy, would meet 2**60 arrays."""
    value: list = [np.arange(2)]
    for _ in range(60):
        value = [value, value]
    with pytest.raises(InputError, match="repeat each other"):
        reader(_write(tmp_path / "p.pkl", pickle.dumps(value)))
    shared = [np.arange(2)] * 1000
    found = reader(_write(tmp_path / "p.pkl", pickle.dumps([shared] * 100)))
    assert found[0] is found[99] and len(found[0]) == 1000


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
        | hnp.arrays(st.sampled_from([np.float32, np.int64, ">f8"]), hnp.array_shapes(min_dims=0, min_side=0)),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=12,
    ),
    st.integers(0, 5),
)  # fmt: skip
def test_agrees_with_pickle(tmp_path_factory, value, protocol: int) -> None:
    path = tmp_path_factory.mktemp("p") / "p.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    np.testing.assert_equal(load_pickle(path), value)


# --- hostile files


class _Call:
    def __init__(self, function, *args) -> None:
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def _os_system():
    import os

    return os.system


def _hostile() -> dict[str, tuple[bytes, str]]:
    """name -> (pickle, what the message must name)."""
    import builtins
    import functools
    import importlib

    import torch

    mark = "echo ran > ran"
    reduce = {
        "os.system": (_Call(_os_system(), mark), "system"),
        "nested in a dict": ({"frame_000000": {"smplx_coeffs": [1, (_Call(_os_system(), mark),)]}}, "system"),
        "eval": (_Call(eval, "open('ran', 'w')"), r"builtins\.eval|__builtin__\.eval"),
        "exec": (_Call(exec, "open('ran', 'w')"), "exec"),
        "getattr": (_Call(getattr, 1, "real"), "getattr"),
        "open": (_Call(open, "ran", "w"), "open"),
        "subprocess": (_Call(subprocess.call, mark), r"(subprocess|commands)\.call"),
        "import_module": (_Call(importlib.import_module, "antigravity"), r"importlib\.import_module"),
        "partial": (_Call(functools.partial, print), r"functools\.partial"),
        "numpy.load": (_Call(np.load, "ran"), r"numpy\S*\.load"),
        "numpy.fromfile": (_Call(np.fromfile, "ran"), "fromfile"),
        "torch.load": (_Call(torch.load, "ran"), r"torch\S*\.load"),
        "a class": (pickle.Pickler, "Pickler"),
        "unknown class": (collections.Counter("abc"), r"collections\.Counter"),
        "exception class": (ValueError("x"), "ValueError"),
        "object array": (np.array([_Call(_os_system(), mark)], dtype=object), "system"),
        "builtins.bytes of a number": (_Call(builtins.bytes, 2**40), "bytes"),
    }
    out = {f"{k}, protocol {p}": (pickle.dumps(v, p), m) for k, (v, m) in reduce.items() for p in (0, 2, 4)}
    raw = {
        "STACK_GLOBAL": (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0eecho ran > ran\x85R.", r"posix\.system"),
        "INST": (b"(S'echo ran > ran'\nios\nsystem\n.", r"os\.system"),
        "OBJ": (b"(cos\nsystem\nS'echo ran > ran'\no.", r"os\.system"),
        "dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x0flib.npyio.NpzFi\x93.", "numpy.lib.npyio"),
        "attribute of an allowed name": (b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", r"ndarray\.__init__"),
        "reconstruct a function": (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.", "not an ndarray"),
        "reconstruct os.system": (
            b"cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\n(I0\ntS'b'\ntR.", r"os\.system"),
        "codecs of another kind": (b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.", "encode"),
        "reconstructor": (b"ccopy_reg\n_reconstructor\n(cnumpy\nndarray\nc__builtin__\nobject\nNtR.", "_reconstructor"),
        "dtype of a class": (b"cnumpy\ndtype\n(c__builtin__\nobject\ntR.", "dtype"),
        "dtype with fields": (b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR(I3\nS'|'\nN(S'a'\ntNtb.", "dtype with fields"),
        "change of a function": (
            b"cnumpy.core.multiarray\n_reconstruct\n(N}S'__kwdefaults__'\n}stb.", "change of _reconstruct"),
        "change of a class": (b"cchumpy.ch\nCh\n(N}S'values'\ncnumpy\ndtype\nstb.", "damaged|refused"),
        "call of an array": (b"cnumpy\nndarray\n(I1\ntR.", "call of numpy.ndarray"),
        "bare function as value": (b"(lp0\ncnumpy\nndarray\na.", "bare class or function"),
        "chumpy with arguments": (b"cchumpy.ch\nCh\n(I1\ntR.", "chumpy"),
        "chumpy without values": (b"cchumpy.ch\nCh\n)\x81}S'y'\nI1\nsb.", "chumpy"),
        "persistent id": (b"Pabc\n.", "outside the file"),
        "extension": (b"\x80\x02\x82\x01.", "damaged"),
        "torch storage": (b"ctorch._utils\n_rebuild_tensor_v2\n.", r"torch\._utils\._rebuild_tensor_v2"),
        "joblib": (b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n.", "joblib"),
    }  # fmt: skip
    return {**out, **raw}


@pytest.mark.parametrize("case", _hostile())
def test_hostile_pickles_are_refused_by_name(reader, tmp_path: Path, monkeypatch, case: str) -> None:
    data, names = _hostile()[case]
    monkeypatch.chdir(tmp_path)
    path = _write(tmp_path / "hostile.pkl", data)
    with pytest.raises(InputError, match=names) as caught:
        reader(path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_the_stand_ins_are_unharmed_by_hostile_pickles(tmp_path: Path) -> None:
    """What one file tries to change must not show in the next one."""
    for i, (data, _) in enumerate(_hostile().values()):
        with pytest.raises(InputError):
            load_pickle(_write(tmp_path / f"{i}.pkl", data))
    test_reads_arrays_of_every_protocol(load_pickle, tmp_path, 2)


def _array_pickle(shape: tuple, code: str, raw: bytes | list) -> bytes:
    """A numpy array's pickle with contents of our choice."""
    good = pickle.dumps((shape, raw), protocol=2)
    body = good[2:-1]
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01" + body + b"0"  # placeholder tuple dropped again
        + pickle.dumps(shape, protocol=2)[2:-1]
        + b"cnumpy\ndtype\nU" + bytes([len(code)]) + code.encode() + b"K\x00K\x01\x87R"
        + b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + pickle.dumps(raw, protocol=3)[2:-1] + b"tb."
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "code", "raw", "reason"),
    [
        ((2**40,), "f4", b"", "do not fit"),
        ((2,), "f4", b"1234", "do not fit"),
        ((-1,), "f4", b"1234", "shape"),
        ((2**31, 2**31, 4), "f4", b"", "do not fit"),
        ((3,), "O", [1], "do not fit"),
        ((1,), "O", b"12345678", "do not fit"),
        ((2**40,), "S0", b"", "zero size"),
        ((1,), "M8", b"12345678", "dtype"),
        ((1,), "V8", b"12345678", "dtype"),
        ((1,), "f4,f4", b"12345678", "dtype"),
        ((1,), "nonsense", b"12345678", "dtype"),
        ((1,) * 40, "f4", b"1234", "shape"),
    ],
)
def test_impossible_arrays_are_refused(reader, tmp_path: Path, shape, code, raw, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        reader(_write(tmp_path / "p.pkl", _array_pickle(shape, code, raw)))


def test_the_array_writer_of_this_test_is_right(reader, tmp_path: Path) -> None:
    found = reader(_write(tmp_path / "p.pkl", _array_pickle((2,), "f4", struct.pack("<ff", 1, 2))))
    np.testing.assert_array_equal(found, np.array([1, 2], np.float32))


@needs_proc
def test_tiny_files_do_not_fill_the_memory(tmp_path: Path) -> None:
    """Each would take 1 to 2 GB (they could as well ask for 100)."""
    bombs = [
        b"\x80\x02Nr" + struct.pack("<I", 2**27) + b".",  # memo slot: the C unpickler fills 2 GB
        b"\x80\x02Np134217728\n.",
        b"\x80\x05\x96" + struct.pack("<Q", 2**31) + b".",  # bytearray
        b"\x80\x04\x8e" + struct.pack("<Q", 2**31) + b".",  # bytes
        b"\x80\x04\x95" + struct.pack("<Q", 2**31) + b".",  # frame
        b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b".",  # int
    ]
    paths = [_write(tmp_path / f"{i}.pkl", data) for i, data in enumerate(bombs)]
    code = (
        "import sys\n"
        "from guava_aug.runtime.safe_pickle import load_pickle\nfrom guava_aug.errors import InputError\n"
        f"{PEAK}"
        "before = peak()\n"
        "for path in sys.argv[1:]:\n"
        "    try: load_pickle(path)\n"
        "    except InputError: pass\n"
        "    assert peak() - before < 100_000, path\n"  # KiB
    )
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True)


def test_truncated_and_empty_files(reader, tmp_path: Path) -> None:
    data = pickle.dumps({"a": np.arange(100.0), "b": [1, 2, "x" * 50]}, protocol=4)
    for length in range(1, len(data), 7):
        with pytest.raises(InputError, match=r"cut\.pkl"):
            reader(_write(tmp_path / "cut.pkl", data[:length]))
    with pytest.raises(InputError, match="truncated"):
        reader(_write(tmp_path / "cut.pkl", data[: len(data) // 2]))
    with pytest.raises(InputError, match="empty"):
        reader(_write(tmp_path / "none.pkl", b""))
    with pytest.raises(InputError, match="No such file"):
        reader(tmp_path / "absent.pkl")
    with pytest.raises(InputError, match="directory"):
        reader(tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_an_input_error_or_harmless(tmp_path_factory, data) -> None:
    good = pickle.dumps(
        {"a": np.arange(6.0), "b": [1, "x", (np.float32(2), None)]}, protocol=data.draw(st.integers(0, 5))
    )
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(bytes(bad))
    try:
        load_pickle(path)
    except InputError as e:
        assert str(path) in str(e)


def test_the_error_class_is_the_callers(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"posix\.system|os\.system"):
        load_pickle(_write(tmp_path / "p.pkl", b"cos\nsystem\n."), error=AssetError)
    with pytest.raises(AssetError, match="empty"):
        load_pickle(_write(tmp_path / "p.pkl", b""), error=AssetError)


# --- model files


def _sparse_pickle(module: str, name: str, shape: tuple, data, indices, indptr) -> bytes:
    state = {"_shape": shape, "data": data, "indices": indices, "indptr": indptr, "format": name[:3], "maxprint": 50}
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b")\x81" + pickle.dumps(state, 2)[2:-1] + b"b."


@pytest.mark.parametrize("module", ["scipy.sparse.csc", "scipy.sparse._csc", "scipy.sparse"])
def test_sparse_matrices_become_dense(reader, tmp_path: Path, module: str) -> None:
    dense = np.array([[0, 1.5, 0], [2, 0, 3]])
    data, indices, indptr = np.array([2, 1.5, 3]), np.array([1, 0, 1], np.int32), np.array([0, 1, 2, 3], np.int32)
    got = reader(_write(tmp_path / "p", _sparse_pickle(module, "csc_matrix", (2, 3), data, indices, indptr)))
    np.testing.assert_array_equal(got, dense)
    rows = module.replace("csc", "csr")
    data, indices, indptr = np.array([1.5, 2, 3]), np.array([1, 0, 2], np.int32), np.array([0, 1, 3], np.int32)
    got = reader(_write(tmp_path / "p", _sparse_pickle(rows, "csr_matrix", (2, 3), data, indices, indptr)))
    np.testing.assert_array_equal(got, dense)


def test_sparse_matrices_of_scipy_itself(reader, tmp_path: Path) -> None:
    sparse = pytest.importorskip("scipy.sparse", reason="scipy is not needed, only compared with")
    dense = np.arange(12.0).reshape(3, 4) % 3
    for make in (sparse.csc_matrix, sparse.csr_matrix):
        for protocol in range(6):
            got = reader(_write(tmp_path / "p", pickle.dumps([make(dense)], protocol)))
            np.testing.assert_array_equal(got[0], dense)


@pytest.mark.parametrize(
    ("shape", "indices", "indptr"),
    [
        ((2, 3), [5], [0, 1, 1, 1]),
        ((2, 3), [-1], [0, 1, 1, 1]),
        ((2, 3), [0], [0, 2, 1, 1]),
        ((2, 3), [0], [0, 1]),
        ((2, 3), [0, 1], [0, 1, 1, 1]),
        ((2**20, 2**20), [0], [0, 1, 1, 1]),
        ((2,), [0], [0, 1, 1]),
    ],
)
def test_inconsistent_sparse_matrices_are_refused(tmp_path: Path, shape, indices, indptr) -> None:
    raw = _sparse_pickle("scipy.sparse.csc", "csc_matrix", shape, np.ones(1), np.array(indices), np.array(indptr))
    with pytest.raises(InputError, match="sparse"):
        load_pickle(_write(tmp_path / "p", raw))


def test_flame_files(official_assets: Path) -> None:
    """The licensed file's two ways of being written give the same numbers."""
    folder = official_assets / "FLAME" / "FLAME2020"
    plain = load_pickle(folder / "generic_model.pkl", error=AssetError)
    chumpy = load_pickle(folder / "generic_model_chumpy.pkl", error=AssetError)
    assert chumpy.keys() == plain.keys()
    assert chumpy["J_regressor"].shape == (5, 5023) and chumpy["shapedirs"].shape == (5023, 3, 400)
    for key, value in plain.items():
        assert type(chumpy[key]) is type(value)
        if key == "weights":  # the fixture swaps the two eyes' weights in the plain file
            np.testing.assert_array_equal(np.sort(chumpy[key]), np.sort(value))
        else:
            np.testing.assert_array_equal(chumpy[key], value)
    hands = load_pickle(official_assets / "SMPLX" / "MANO_SMPLX_vertex_ids.pkl")
    assert hands["left_hand"].shape == hands["right_hand"].shape == (778,)
    masks = load_pickle(official_assets / "FLAME" / "FLAME_masks" / "FLAME_masks.pkl")
    assert all(m.ndim == 1 and m.dtype.kind in "iu" for m in masks.values()) and "lips" in masks
    assert load_pickle(official_assets / "SMPLX" / "SMPLX_to_J14.pkl").shape == (14, 10475)


def test_python_2_text_is_latin1(reader, tmp_path: Path) -> None:
    assert reader(_write(tmp_path / "p", b"\x80\x02U\x03a\xe4\xff.")) == "aäÿ"
    assert reader(_write(tmp_path / "p", b"S'a\\xe4'\n.")) == "aä"
    dtype = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    raw = b"cnumpy.core.multiarray\nscalar\n(" + dtype + b"S'\\x00\\x00\\x80\\xbf'\ntR."
    assert reader(_write(tmp_path / "p", raw)) == -1.0


# --- bounded work


def _doubled(depth: int, leaf: bytes = b"K\x01", pair: bytes = b"\x86") -> bytes:
    """(x, x) of itself, `depth` times: 2**depth leaves."""
    return leaf + b"".join(b"\x94h" + bytes([i]) + pair for i in range(depth))


def _lists(depth: int) -> bytes:
    return b"K\x01" + b"".join(b"q%c0](h%ch%ce" % (i, i, i) for i in range(depth))


def _dtype(code: bytes) -> bytes:
    return b"cnumpy\ndtype\n(U" + bytes([len(code)]) + code + b"K\x00K\x01tR(K\x03U\x01<NNNK\x00K\x00K\x00tb"


_FROMBUFFER = b"cnumpy.core.numeric\n_frombuffer\n"
_P = b"\x80\x04"
_MEGABYTE = b"B" + struct.pack("<I", 2**20) + bytes(2**20)
BOMBS = {
    "tuple as key": (_P + b"}" + _doubled(60) + b"Ns.", "a tuple as key"),
    "tuple in a set": (_P + b"\x8f(" + _doubled(60) + b"\x90.", "a tuple as key"),
    "tuple in a frozenset": (_P + b"(" + _doubled(60) + b"\x91.", "a tuple as key"),
    "frozenset as key": (_P + b"}(K\x01\x91Ns.", "a frozenset as key"),
    "tuple as key of pairs": (b"ccollections\nOrderedDict\n(](" + _doubled(60) + b"N\x86etR.", "a tuple as key"),
    "lists as encoding": (_P + b"c_codecs\nencode\nU\x01a" + _lists(60) + b"\x86R.", "encode"),
    "lists as order": (_P + _FROMBUFFER + b"(C\x00" + _dtype(b"f8") + b"K\x00\x85" + _lists(60) + b"tR.", "order"),
    "lists as value": (_P + _lists(60) + b".", "repeat each other"),
    "tuples as value": (_P + _doubled(60) + b".", "repeat each other"),
    "wide tuples as value": (
        _P + b"K\x01" + b"".join(b"\x94(" + b"h%c" % i * 300 + b"t" for i in range(5)) + b".", "repeat each other"),
    "integers that collide": (
        _P + b"}(" + b"".join(b"\x8a\x09" + (i * (2**61 - 1)).to_bytes(9, "little") + b"N" for i in range(1, 100))
        + b"u.", "int as key"),
    "numbers as keys": (
        _P + b"}(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(20_000)) + b"u.", "numbers as keys"),
    "complex key": (
        _P + b"}cnumpy.core.multiarray\nscalar\n(" + _dtype(b"c16") + b"C\x10" + bytes(16) + b"tRNs.",
        "complex128 as key"),
    "long key": (_P + b"}X" + struct.pack("<I", 5000) + b"x" * 5000 + b"Ns.", "key of 5000"),
    "memo number": (_P + b"Nr\xff\xff\xff\x7f.", "memo number 2147483647"),
    "memo number as text": (_P + b"Np2000000000\n.", "memo number 2000000000"),
    "large integer": (_P + b"\x8b" + struct.pack("<I", 900_000) + b"\x7f" * 900_000 + b".", "integer of 900000 bytes"),
    "large integer as text": (_P + b"I" + b"9" * 300_000 + b"\n.", "number of 300000"),
    "marks": (_P + b"(" * 900_000 + b"N.", "marks"),
    "empty dictionaries": (_P + b"](" + b"}" * 3_000_000 + b"e.", "far more data"),
    "copies of one buffer": (
        _P + _MEGABYTE + b"q\x000" + _dtype(b"u1") + b"q\x010" + _FROMBUFFER + b"q\x020]("
        + (b"h\x02(h\x00h\x01J" + struct.pack("<I", 2**20) + b"\x85U\x01CtR") * 3000 + b"e.", "far more data"),
    "copies of one text": (
        _P + b"X" + struct.pack("<I", 2**20) + b"x" * 2**20 + b"q\x000](" + b"c_codecs\nencode\nh\x00\x85R" * 3000
        + b"e.", "far more data"),
    "sparse matrices of zeros": (
        _P + b"](" + _sparse_pickle("scipy.sparse", "csc_matrix", (2**12, 2**12), np.ones(0), np.ones(0, int),
                                    np.zeros(2**12 + 1, int))[2:-1] * 3 + b"e.", "far more data"),
    "an array of itself": (
        _P + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R\x94(K\x01K\x01\x85"
        + _dtype(b"O") + b"\x89]h\x00atb.", "holds itself"),
    "change of an array": (
        _P + _FROMBUFFER + b"(C\x08AAAAAAAA" + _dtype(b"f8") + b"K\x01\x85U\x01CtR}b.", "change of a ndarray"),
    "item in an array": (
        _P + _FROMBUFFER + b"(C\x08AAAAAAAA" + _dtype(b"f8") + b"K\x01\x85U\x01CtRK\x00K\x00s.", "entry in a ndarray"),
    "long name": (b"c" + b"a" * 10**6 + b"\nb\n.", r"it names a{100}\.\.\."),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_work_is_bounded(reader, tmp_path: Path, case: str) -> None:
    """In processor time: other programs may be busy."""
    data, reason = BOMBS[case]
    path, begun = _write(tmp_path / "bomb.pkl", data), time.process_time()
    with pytest.raises(InputError, match=reason) as caught:
        reader(path)
    assert time.process_time() - begun < 5
    assert len(str(caught.value)) < 600


@needs_proc
def test_memory_is_bounded(tmp_path: Path) -> None:
    """Of files that would make gigabytes out of kilobytes."""
    names = [name for name in BOMBS if name.startswith(("copies", "sparse", "memo", "empty"))]
    paths = [_write(tmp_path / f"{i}.pkl", BOMBS[name][0]) for i, name in enumerate(names)]
    code = (
        "import sys\n"
        "from guava_aug.runtime.safe_pickle import load_pickle\nfrom guava_aug.errors import InputError\n"
        f"{PEAK}"
        "for path in sys.argv[1:]:\n"
        "    try: load_pickle(path)\n"
        "    except InputError: pass\n"
        "    else: raise SystemExit('it loaded')\n"
        "    assert peak() < 700_000, path\n"  # KiB
    )
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True)


@pytest.mark.parametrize("protocol", [4, 5])
def test_arrays_are_read_as_a_whole_and_by_opcodes_alike(tmp_path: Path, monkeypatch, protocol: int) -> None:
    """The short cut is taken, and gives the same; parts of an array that are used again are read without it."""
    rng = np.random.default_rng(0)
    shapes = [(), (0,), (3,), (21, 3), (2, 3, 4), (2, 1, 3, 1, 2), (300,), (70_000,)]
    frames = {
        f"frame_{i}": {str(s): np.asarray(rng.random(s), k, order=o) for s in shapes}
        for i, (k, o) in enumerate([("f4", "C"), ("f8", "F"), ("i4", "C"), (">f4", "F"), ("f4", "C")])
    }
    shared = rng.random(5)
    path = _write(tmp_path / "p.pkl", pickle.dumps([frames, shared, {"again": shared}], protocol))
    taken: list[bool] = []
    for name in ("_array", "_buffer"):
        original = getattr(pickle_reader.PickleReader, name)
        monkeypatch.setattr(
            pickle_reader.PickleReader, name, lambda self, way=original: taken.append(way(self)) or taken[-1]
        )
    whole = load_pickle(path)
    assert sum(taken) >= 20
    assert whole[1] is whole[2]["again"]
    monkeypatch.setattr(pickle_reader, "_ARRAY", re.compile(rb"(?!)"))
    monkeypatch.setattr(pickle_reader, "_BUFFER", re.compile(rb"(?!)"))
    taken.clear()
    plain = load_pickle(path)
    assert not any(taken)
    for found in (whole, plain):
        for frame, arrays in frames.items():
            for name, array in arrays.items():
                got = found[0][frame][name]
                assert got.dtype == array.dtype.newbyteorder("=") and got.flags.writeable
                np.testing.assert_array_equal(got, array)


def test_lists_of_numbers(reader, tmp_path: Path) -> None:
    """Floating-point numbers in a row are read many at a time."""
    for length in (1, 9, 10, 11, 255, 256, 257, 1000):
        value = [[i / 7 for i in range(length)], "G", [float("inf"), 1, 0.5]]
        assert reader(_write(tmp_path / "p.pkl", pickle.dumps(value))) == value


def test_a_file_that_is_mostly_holes(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.pkl", pickle.dumps([1]))
    try:
        with path.open("r+b") as file:
            file.truncate(2**33)
    except OSError:
        pytest.skip("the file system has no sparse files of this size")
    if path.stat().st_blocks * 512 > 2**30:
        pytest.skip("the file system has no sparse files")
    with pytest.raises(InputError, match="never written"):
        load_pickle(path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_signal_is_answered_while_reading(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.pkl", _P + b"](" + b"N" * 20_000_000 + b"e.")
    code = (
        "import signal, sys\n"
        "from guava_aug.runtime.safe_pickle import load_pickle\n"
        "def came(*args): raise SystemExit(75)\n"
        "signal.signal(signal.SIGTERM, came)\n"
        "print('reads', flush=True)\n"
        "while True: load_pickle(sys.argv[1])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"reads\n"
    time.sleep(0.3)
    process.terminate()
    assert process.wait(300) == 75
