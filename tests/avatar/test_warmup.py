"""Libraries are started beside the reading of a model, and never in its way."""

import threading

import pytest

from guava_aug.avatar import warmup


def wait_for_wakers() -> int:
    """Their number."""
    wakers = [t for t in threading.enumerate() if t.name == warmup.THREADS]
    for thread in wakers:
        thread.join(60)
    return len(wakers)


def test_a_gpu_is_woken_by_all_threads_at_once(monkeypatch: pytest.MonkeyPatch):
    together, woken = threading.Barrier(3, timeout=60), []

    def waker(what: str):
        together.wait()
        woken.append(what)

    monkeypatch.setattr(warmup, "_start_cuda", lambda device: waker(str(device)))
    monkeypatch.setattr(warmup, "_start_numba", lambda: waker("numba"))
    monkeypatch.setattr("guava_aug.runtime.triton_support.is_usable", lambda device: waker("triton"))
    warmup.warm_up("cuda:1")
    assert wait_for_wakers() <= 3
    assert sorted(woken) == ["cuda:1", "numba", "triton"]


def test_what_fails_there_is_told_where_it_is_used(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    def fail(*_: object) -> None:
        raise RuntimeError("no driver")

    monkeypatch.setattr(warmup, "_start_cuda", fail)
    monkeypatch.setattr("guava_aug.runtime.triton_support.is_usable", fail)
    warmup.warm_up("cuda")
    wait_for_wakers()
    assert capfd.readouterr().err == ""


def test_triton_sleeps_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch):
    woken: list[str] = []
    monkeypatch.setattr(warmup, "_start_cuda", lambda device: woken.append("cuda"))
    monkeypatch.setattr(warmup, "_start_numba", lambda: woken.append("numba"))
    monkeypatch.setattr("guava_aug.runtime.triton_support.is_usable", lambda device: woken.append("triton"))
    warmup.warm_up("cuda", with_triton=False)
    wait_for_wakers()
    assert sorted(woken) == ["cuda", "numba"]


def test_a_cpu_has_nothing_to_wake():
    warmup.warm_up("cpu")
    assert wait_for_wakers() == 0


def test_numba_is_woken_by_what_the_first_video_asks_of_it():
    warmup._start_numba()
    from guava_aug.avatar.visibility import _rasterize

    float32, int64 = "array(float32, 2d, C)", "array(int64, 2d, C)"
    assert [str(kind) for kind in _rasterize.signatures[0][:2]] == [float32, int64]
    assert len(_rasterize.signatures) == 1
