"""LMDB files without the LMDB library, held to what the library says."""

from __future__ import annotations

import os
import random
import struct
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guava_aug.errors import InputError
from guava_aug.tracked.mdb import MdbFile


def _store(folder: Path, content: dict[bytes, bytes], batches: int = 1, delete: tuple[bytes, ...] = ()) -> Path:
    env = lmdb.open(str(folder), map_size=2**26)
    items = list(content.items())
    for i in range(batches):
        with env.begin(write=True) as transaction:
            for key, value in items[i::batches]:
                transaction.put(key, value)
    with env.begin(write=True) as transaction:
        for key in delete:
            transaction.delete(key)
    env.close()
    return folder / "data.mdb"


def _all(path: Path, prefix: bytes = b"") -> dict[bytes, bytes]:
    file = MdbFile(path)
    return {key: file.read(slot) for key, slot in file.scan(prefix)}


def _frames(count: int, video: str = "", size: int = 3000) -> dict[bytes, bytes]:
    r = random.Random(count)
    return {
        f"{video}frame_{i:06d}/body_{k}".encode(): r.randbytes(size) for i in range(count) for k in ("image", "mask")
    }


@settings(max_examples=40, deadline=None)
@given(
    content=st.dictionaries(st.binary(min_size=1, max_size=200), st.binary(max_size=300) | st.just(b"x" * 9000)),
    batches=st.integers(1, 4),
    prefix=st.binary(max_size=2),
)  # fmt: skip
def test_any_content(tmp_path_factory, content: dict[bytes, bytes], batches: int, prefix: bytes) -> None:
    delete = tuple(sorted(content))[::5]
    path = _store(tmp_path_factory.mktemp("db"), content, batches, delete)
    kept = {k: v for k, v in content.items() if k not in delete}
    assert _all(path) == kept
    assert list(_all(path, prefix)) == sorted(k for k in kept if k.startswith(prefix))


def test_a_tree_of_many_levels(tmp_path: Path) -> None:
    content = {}
    for video in ("a", "ab", "b/", "z"):
        content |= _frames(2000, video + "/", size=20)
    path = _store(tmp_path, content, batches=3)
    assert _all(path) == content
    for video in ("a", "ab", "b/", "z"):
        prefix = f"{video}/".encode()
        assert _all(path, prefix) == {k: v for k, v in content.items() if k.startswith(prefix)}
    assert _all(path, b"c") == {} and _all(path, b"\xff") == {}


def test_a_prefix_reads_few_pages(tmp_path: Path, monkeypatch) -> None:
    """One video of a large set is found without walking through the set."""
    content = {}
    for video in range(60):
        content |= _frames(100, f"{video:03d}/", size=20)
    file, pages = MdbFile(_store(tmp_path, content)), []
    read = MdbFile._page
    monkeypatch.setattr(MdbFile, "_page", lambda self, f, n: pages.append(n) or read(self, f, n))
    assert len(list(file.scan(b"031/"))) == 200
    assert len(pages) < 12


def test_no_lock_file_and_no_entries(tmp_path: Path) -> None:
    path = _store(tmp_path, {})
    (tmp_path / "lock.mdb").unlink()
    assert _all(path) == {}


def test_truncated_anywhere(tmp_path: Path) -> None:
    """The library dies of SIGBUS on these files."""
    whole = _store(tmp_path, _frames(12))
    data, end = whole.read_bytes(), max(slot.offset + slot.size for _, slot in MdbFile(whole).scan())
    path = tmp_path / "cut.mdb"
    for length in [*range(1, end, 5000), end - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut\.mdb is truncated"):
            _all(path)


def test_cut_while_open(tmp_path: Path) -> None:
    path = _store(tmp_path, _frames(12))
    file = MdbFile(path)
    slots = [slot for _, slot in file.scan()]
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(InputError, match="shorter"):
        [file.read(slot) for slot in slots]


@pytest.mark.parametrize("data", [b"", b"\0" * 20000, b"SQLite format 3\0" * 1000, b"short"])
def test_other_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "data.mdb"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"data\.mdb"):
        MdbFile(path)


def test_a_page_of_zeros(tmp_path: Path) -> None:
    """What an interrupted copy of a sparse file leaves."""
    path = _store(tmp_path, _frames(12, size=9000))
    data = bytearray(path.read_bytes())
    first = MdbFile(path)
    slot = dict(first.scan())[b"frame_000003/body_image"]
    data[slot.offset - 16 : slot.offset + 4080] = b"\0" * 4096
    path.write_bytes(data)
    with pytest.raises(InputError, match="overflow page"):
        MdbFile(path).read(slot)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_an_input_error_or_harmless(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.getbasetemp() / "damage"
    if not folder.exists():
        folder.mkdir()
        _store(folder, _frames(150, size=30))
    bad = bytearray((folder / "data.mdb").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        page = data.draw(st.integers(0, len(bad) // 4096 - 1))
        bad[page * 4096 + data.draw(st.integers(0, 4095) | st.integers(0, 200))] = data.draw(st.integers(0, 255))
    (folder / "bad.mdb").write_bytes(bytes(bad))
    try:
        _all(folder / "bad.mdb")
    except InputError as e:
        assert "bad.mdb" in str(e)


def test_a_tree_that_bites_its_tail(tmp_path: Path) -> None:
    path = _store(tmp_path, _frames(400, size=30))
    data = bytearray(path.read_bytes())
    branches = [p for p in range(2, len(data) // 4096) if data[p * 4096 + 10] == 1]
    root = branches[0]
    for at in range(root * 4096 + 16, root * 4096 + 16 + 2 * 3, 2):  # the first children of the root become the root
        node = root * 4096 + int.from_bytes(data[at : at + 2], "little")
        data[node : node + 6] = root.to_bytes(4, "little") + b"\0\0"
    path.write_bytes(data)
    with pytest.raises(InputError, match="twice"):
        _all(path)


def test_other_kinds_of_lmdb_files(tmp_path: Path) -> None:
    env = lmdb.open(str(tmp_path), map_size=2**20, max_dbs=1)
    sub = env.open_db(b"sub")
    with env.begin(write=True) as transaction:
        transaction.put(b"a", b"b", db=sub)
    env.close()
    with pytest.raises(InputError, match="unknown kind"):
        _all(tmp_path / "data.mdb")


def _forged(path: Path, pages: dict[int, bytes], root: int, last: int) -> Path:
    """An LMDB file of pages of 4096 bytes with a real header."""
    header = bytearray(_store(path, {b"a": b"b"}).read_bytes()[:8192])
    for meta in (0, 4096):
        header[meta + 128 : meta + 144] = struct.pack("<QQ", root, last)
    data = header + b"".join(pages[n] for n in range(2, last + 1))
    (path / "forged.mdb").write_bytes(data)
    return path / "forged.mdb"


def _page_of(number: int, flags: int, nodes: list[bytes], offsets: list[int] | None = None) -> bytes:
    page, upper, places = bytearray(4096), 4096, []
    for node in nodes:
        upper -= len(node)
        page[upper : upper + len(node)] = node
        places.append(upper)
    offsets = offsets or places
    page[:16] = struct.pack("<QHHHH", number, 0, flags, 16 + 2 * len(offsets), upper)
    page[16 : 16 + 2 * len(offsets)] = struct.pack(f"<{len(offsets)}H", *offsets)
    return bytes(page)


def _leaf(key: bytes, value: bytes = b"v") -> bytes:
    return struct.pack("<HHHH", len(value), 0, 0, len(key)) + key + value


def _branch(child: int, key: bytes = b"") -> bytes:
    return struct.pack("<HHHH", child & 0xFFFF, child >> 16, 0, len(key)) + key


def test_a_chain_of_branch_pages(tmp_path: Path) -> None:
    """Deeper than Python's stack; the C library's own limit is 32 pages."""
    last = 3002
    pages = {n: _page_of(n, 1, [_branch(n + 1)]) for n in range(2, last)} | {last: _page_of(last, 2, [_leaf(b"k")])}
    with pytest.raises(InputError, match="its tree is deeper than 32 pages"):
        _all(_forged(tmp_path, pages, 2, last))
    short = {n: _page_of(n, 1, [_branch(n + 1)]) for n in range(2, 33)} | {33: _page_of(33, 2, [_leaf(b"k")])}
    assert _all(_forged(tmp_path / "short", short, 2, 33)) == {b"k": b"v"}


def test_keys_that_overlap_or_come_again(tmp_path: Path) -> None:
    """Without the check a file of 8 MB would become keys of 1 GB."""
    key = b"k" * 2000
    node = _leaf(key)
    at = 4096 - len(node)
    over = _page_of(2, 2, [node], [at] * 500)
    with pytest.raises(InputError, match="page 2 has nodes that overlap"):
        _all(_forged(tmp_path / "a", {2: over}, 2, 2))
    with pytest.raises(InputError, match="its keys are not in order: b'k', then b'k'"):
        _all(_forged(tmp_path / "b", {2: _page_of(2, 2, [_leaf(b"k"), _leaf(b"k")])}, 2, 2))
    twice = {2: _page_of(2, 1, [_branch(3), _branch(4, b"k")])} | {n: _page_of(n, 2, [_leaf(b"k")]) for n in (3, 4)}
    with pytest.raises(InputError, match="not in order"):
        _all(_forged(tmp_path / "c", twice, 2, 4))


def test_a_value_too_long_for_any_picture(tmp_path: Path) -> None:
    """A hole of 8 GiB is no reason to read four of them."""
    path = _store(tmp_path, {b"k": b"x" * 9000})
    os.truncate(path, 2**33)
    file = MdbFile(path)
    ((_, slot),) = file.scan()
    assert file.read(slot) == b"x" * 9000
    with pytest.raises(InputError, match="a value of 4294967295 bytes, expected at most"):
        file.read(replace(slot, size=2**32 - 1))
