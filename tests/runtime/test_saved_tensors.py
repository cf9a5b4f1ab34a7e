"""Files of torch.save: what they hold comes out, and no more than they hold."""

from __future__ import annotations

import collections
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from guava_aug.runtime.saved_tensors import SavedTensorsError, load_tensors


def test_what_torch_saves_is_read(tmp_path: Path) -> None:
    shared = torch.arange(12.0)
    value = {
        "state": collections.OrderedDict(a=shared[2:8].view(2, 3), b=shared.view(3, 4).T, c=torch.ones(3).half()),
        "expanded": torch.zeros(1).expand(5, 2),
        "kinds": [torch.tensor(k) for k in (True, 3, 2.5)] + [torch.ones(2, dtype=torch.bfloat16)],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "plain": (1, "x", None, torch.Size([2, 3]), torch.float16),
        "empty": torch.empty(0, 3),
    }
    torch.save(value, tmp_path / "a.pt")
    for found in (load_tensors(tmp_path / "a.pt"), load_tensors((tmp_path / "a.pt").read_bytes())):
        for name, tensor in value["state"].items():
            assert torch.equal(found["state"][name], tensor) and found["state"][name].dtype == tensor.dtype
            assert found["state"][name].stride() == tensor.stride()
        assert found["state"]["a"].untyped_storage().data_ptr() == found["state"]["b"].untyped_storage().data_ptr()
        assert all(torch.equal(x, y) for x, y in zip(found["kinds"], value["kinds"], strict=True))
        assert torch.equal(found["expanded"], value["expanded"]) and torch.equal(found["parameter"], torch.ones(2))
        assert found["plain"] == value["plain"] and found["empty"].shape == (0, 3)


def _archive(path: Path, data: bytes, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {"a/data.pkl": data, **members}.items():
            archive.writestr(name, content)
    return path


def _rebuild(size: tuple, stride: tuple, offset: int = 0, count: int = 1) -> bytes:
    """data.pkl of one float tensor in a storage that is said to have `count` numbers."""
    put = lambda value: (
        pickle.dumps(value, 2)[2:-1].replace(b"q\x00", b"").replace(b"q\x01", b"").replace(b"q\x02", b"")
    )
    pid = b"(" + put("storage") + b"ctorch\nFloatStorage\n" + put("0") + put("cpu") + put(count) + b"tQ"
    rest = put(offset) + put(size) + put(stride) + b"\x89}"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + pid + rest + b"tR."


def test_the_writer_of_this_test_is_right(tmp_path: Path) -> None:
    path = _archive(tmp_path / "a.pt", _rebuild((2,), (1,), 1, 3), {"a/data/0": bytes(8) + b"\0\0\x80\x3f"})
    assert load_tensors(path).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("data", "members", "reason"),
    [
        (_rebuild((2**31, 2), (0, 0)), {"a/data/0": bytes(4)}, "4294967296 elements in a storage of 1"),
        (_rebuild((2,), (1,)), {"a/data/0": bytes(4)}, "in a storage of 1 numbers"),
        (_rebuild((1,), (1,), 1), {"a/data/0": bytes(4)}, "in a storage of 1 numbers"),
        (_rebuild((-1,), (1,)), {"a/data/0": bytes(4)}, "unknown storage or shape"),
        (_rebuild((1,), (1,), 0, 2**40), {"a/data/0": bytes(4)}, "has 4 bytes for 1099511627776 numbers"),
        (_rebuild((1,), (1,)), {}, "without data/0"),
        (b"\x80\x02cos\nsystem\n(S'x'\ntR.", {}, r"names os\.system"),
        (b"\x80\x02ctorch._utils\n_rebuild_qtensor\n.", {}, "_rebuild_qtensor"),
        (b"\x80\x04}K\x01" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(60)) + b"Ns.", {}, "tuple as key"),
        (b"N.", {"a/byteorder": b"big"}, "big-endian"),
        (b"N.", {"b/data.pkl": b"N."}, "torch.save has not written"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_believed(tmp_path: Path, data: bytes, members: dict, reason: str) -> None:
    with pytest.raises(SavedTensorsError, match=reason):
        load_tensors(_archive(tmp_path / "a.pt", data, members))


def test_archives_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with pytest.raises(SavedTensorsError, match="compressed"):
        load_tensors(_archive(path, b"N" * 10**6 + b".", {}, zipfile.ZIP_DEFLATED))
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/data.pkl", b"N.")
    with pytest.raises(SavedTensorsError, match="two members of one name"):
        load_tensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/b", b"N.")
        archive.filelist[1].header_offset = 0
    with pytest.raises(SavedTensorsError, match="overlaps"):
        load_tensors(path)
    whole = _archive(path, b"N.", {}).read_bytes()
    at = whole.rfind(b"PK\5\6")
    path.write_bytes(whole[: at + 8] + b"\xfe\xff\xfe\xff\xff\xff\xff\x7f" + whole[at + 16 :])
    with pytest.raises(SavedTensorsError, match="archive of 65534 members"):
        load_tensors(path)
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(SavedTensorsError, match=r"no whole file of torch\.save"):
        load_tensors(path)
    torch.save({"a": torch.ones(2000)}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 997):
        with pytest.raises(SavedTensorsError):
            load_tensors(whole[:length])
