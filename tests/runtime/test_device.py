"""A GPU that is there, or was given by a scheduler, and cannot be used is an error; else a machine uses its CPU."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from fakes import FakeModel, write_clip
from guava_aug import RunConfig, augment
from guava_aug.avatar import visibility
from guava_aug.batch.executors.local_workers import worker_slots
from guava_aug.cli import main
from guava_aug.errors import DeviceError, UsageError
from guava_aug.runtime import device
from guava_aug.runtime.device import choose_device, device_errors, why_expected

TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)"
VARIABLES = (*device._GIVEN, *device._VISIBLE, *device._JOB)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine whose GPU, if it has one, torch cannot use; nothing is in it and no variable is set."""

    def fails(*args, **kwargs):
        raise RuntimeError(f"{TOO_OLD}\nsecond line")

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.init", fails)
    monkeypatch.setattr(device, "ROOT", tmp_path / "root")
    (tmp_path / "root" / "dev").mkdir(parents=True)
    return tmp_path / "root"


def node(root: Path, name: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize("asked", ["0", "1", "cuda", "cuda:0"])
def test_a_machine_without_a_gpu_uses_its_cpu(root: Path, asked: str, caplog: pytest.LogCaptureFixture):
    assert choose_device(asked) == "cpu"
    assert caplog.text.count("no GPU") == 1
    assert choose_device("cpu") == "cpu"
    assert caplog.text.count("no GPU") == 1


@pytest.mark.parametrize("name", ["dev/nvidia0", "dev/nvidiactl", "proc/driver/nvidia/version"])
def test_a_gpu_of_this_machine_that_cannot_be_used(root: Path, name: str):
    node(root, name)
    with pytest.raises(DeviceError, match=r"too old \(found version 11040\)\)") as caught:
        choose_device("0")
    assert "nvidia" in str(caught.value) and "--device cpu" in str(caught.value)
    assert "second line" not in str(caught.value)
    assert choose_device("cpu") == "cpu"


def test_a_gpu_of_amd_counts_where_torch_is_built_for_it(root: Path, monkeypatch: pytest.MonkeyPatch):
    node(root, "dev/kfd")
    monkeypatch.setattr(torch.version, "hip", None, raising=False)
    assert choose_device("0") == "cpu"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    with pytest.raises(DeviceError, match=r"kfd.*ROCm 6\.4"):
        choose_device("0")


def test_the_build_of_torch_is_told_apart_from_the_driver(root: Path, monkeypatch: pytest.MonkeyPatch):
    node(root, "dev/nvidia0")
    monkeypatch.setattr(torch.version, "hip", None, raising=False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match="built for CPUs only"):
        choose_device("0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(DeviceError, match=r"driver may be missing, or older than torch's CUDA 13\.0"):
        choose_device("0")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_JOB_GPUS": "0"}, True),
        ({"SLURM_STEP_GPUS": "2,3"}, True),
        ({"GPU_DEVICE_ORDINAL": "0"}, True),
        ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0"}, True),
        ({"PBS_JOBID": "7.host", "CUDA_VISIBLE_DEVICES": "GPU-1a2b"}, True),
        ({"SLURM_JOB_GPUS": "1", "CUDA_VISIBLE_DEVICES": ""}, True),  # given, and hidden by somebody else
        ({"SLURM_JOB_GPUS": "", "GPU_DEVICE_ORDINAL": ""}, False),
        ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, False),
        ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "-1"}, False),
        ({"SLURM_JOB_ID": "7"}, False),
        ({"CUDA_VISIBLE_DEVICES": "0"}, False),  # set by the user, perhaps for another machine
    ],
)
def test_a_gpu_that_the_scheduler_gave(root: Path, environment: dict[str, str], expected: bool):
    said = why_expected(environment, root)
    assert (said is not None) == expected
    assert said is None or "scheduler" in said


def test_hidden_gpus_are_not_expected(root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    node(root, "dev/nvidia0")
    assert why_expected({"CUDA_VISIBLE_DEVICES": "0"}, root) is not None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_device("0") == "cpu"
    assert "CUDA_VISIBLE_DEVICES is ''" in caplog.text


def test_gpus_of_another_job_are_not_expected(root: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("dev/nvidia0", "dev/nvidiactl", "proc/driver/nvidia/version"):
        node(root, name)
    job = {"SLURM_JOB_ID": "7"}
    assert why_expected(job, root) is not None
    reason = errno.EPERM

    def denied(path, flags):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr("os.open", denied)
    assert why_expected(job, root) is None  # the cgroup of a job without GPUs
    assert why_expected({}, root) is not None
    reason = errno.EACCES
    assert why_expected(job, root) is not None


def test_a_required_gpu(root: Path):
    with pytest.raises(DeviceError, match="a GPU is required"):
        choose_device("0", required=True)
    config = RunConfig(Path("t"), Path("o"), gpus=("GPU-1a2b",))
    with pytest.raises(DeviceError, match=r"--gpus GPU-1a2b.*too old"):
        worker_slots(config, 1)
    with pytest.raises(UsageError, match="--require_gpu and --device cpu"):
        RunConfig(Path("t"), Path("o"), device="cpu", require_gpu=True)


def test_the_commands_end_with_2(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_clip(tmp_path / "tracked", "one", frames=2)
    where = ["--tracked_root", str(tmp_path / "tracked"), "--output_root", str(tmp_path / "out")]
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *args, **kwargs: FakeModel())
    assert main(["run", *where, "--require_gpu"]) == 2
    assert main(["run", *where, "--gpus", "0"]) == 2
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    out = str(tmp_path / "other")
    for command in (
        ["run", *where], ["run", *where, "--mode", "subprocess"], ["estimate", *where],
        ["bench", "--output", out], ["evaluate", "--output", out], ["demo", "--output", out],
        ["train", "--tracked_root", str(tmp_path / "tracked"), "--out", out],
    ):  # fmt: skip
        capsys.readouterr()
        assert main(command) == 2, command
        said = capsys.readouterr().err
        assert "SLURM_JOB_GPUS=0" in said and "too old" in said, command
    with pytest.raises(DeviceError, match="SLURM_JOB_GPUS=0"):
        augment(tmp_path / "tracked", tmp_path / "out", device="0")


def test_what_cuda_says_of_a_gpu_that_is_there():
    with pytest.raises(DeviceError, match="busy or unavailable"), device_errors("cuda:0"):
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nCompile with TORCH_USE_CUDA")
    with pytest.raises(RuntimeError, match="sizes"), device_errors("cuda:0"):
        raise RuntimeError("sizes do not fit")
    with pytest.raises(RuntimeError, match="CUDA"), device_errors("cpu"):
        raise RuntimeError("CUDA error")


def test_doctor_says_why_a_gpu_cannot_be_used(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from guava_aug.apps import doctor

    monkeypatch.setattr(doctor, "_nvidia_smi", list)
    asked, cpu = RunConfig(tmp_path, tmp_path), RunConfig(tmp_path, tmp_path, device="cpu")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.version, "hip", None, raising=False)
    (found,) = doctor._gpu(asked)
    assert (found.level, found.text) == ("warn", "there is none")
    packages, _ = doctor._packages(asked)
    assert "1.6 GB" in packages.advice  # a build with CUDA is of no use here
    node(root, "dev/nvidia0")
    (found,) = doctor._gpu(asked)
    assert found.level == "fail" and "nvidia0" in found.text and TOO_OLD in found.text
    assert next(doctor._gpu(cpu)).level == "warn"
    packages, _ = doctor._packages(asked)
    assert packages.advice == ""
    monkeypatch.setattr(doctor, "_nvidia_smi", lambda: ["NVIDIA H100, 470.1"])
    assert "NVIDIA H100, 470.1, but torch cannot use it" in next(doctor._gpu(asked)).text


def join_warm_up() -> int:
    """Wait for the threads of a warm-up; return their number."""
    threads = [t for t in threading.enumerate() if t.name == device.WARM_UP]
    for thread in threads:
        thread.join(60)
    return len(threads)


def test_a_gpu_is_warmed_up_in_all_threads_at_once(monkeypatch: pytest.MonkeyPatch):
    together, done = threading.Barrier(3, timeout=60), []

    def task(what: str):
        together.wait()
        done.append(what)

    monkeypatch.setattr(device, "_start_cuda", lambda gpu: task(str(gpu)))
    monkeypatch.setattr(device, "triton_usable", lambda gpu: task("triton"))
    device.warm_up("cuda:1", lambda: task("numba"))
    assert join_warm_up() <= 3
    assert sorted(done) == ["cuda:1", "numba", "triton"]


def test_what_fails_in_a_warm_up_is_told_where_it_is_used(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def fail(*_: object) -> None:
        raise RuntimeError("no driver")

    monkeypatch.setattr(device, "_start_cuda", fail)
    monkeypatch.setattr(device, "triton_usable", fail)
    device.warm_up("cuda")
    join_warm_up()
    assert capfd.readouterr().err == ""


def test_triton_is_not_started_where_it_is_not_used(monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    monkeypatch.setattr(device, "_start_cuda", lambda gpu: done.append("cuda"))
    monkeypatch.setattr(device, "triton_usable", lambda gpu: done.append("triton"))
    device.warm_up("cuda", lambda: done.append("numba"), with_triton=False)
    join_warm_up()
    assert sorted(done) == ["cuda", "numba"]


def test_a_cpu_is_not_warmed_up():
    device.warm_up("cpu", lambda: pytest.fail("a CPU has nothing to start"))
    assert join_warm_up() == 0


def test_a_warm_up_compiles_what_the_first_video_calls():
    visibility.compile_kernel()
    float32, int64 = "array(float32, 2d, C)", "array(int64, 2d, C)"
    assert [str(kind) for kind in visibility._rasterize.signatures[0][:2]] == [float32, int64]
    assert len(visibility._rasterize.signatures) == 1


def test_a_lack_of_memory_is_told_as_such_whatever_it_led_to() -> None:
    """A capture that runs out of memory ends with a CUDA error while the first error is dealt with."""
    short = torch.cuda.OutOfMemoryError("tried to allocate 2 GiB")
    with pytest.raises(torch.cuda.OutOfMemoryError, match="2 GiB"), device.lack_of_memory_as_such():
        try:
            raise short
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
    with pytest.raises(torch.cuda.OutOfMemoryError) as same, device.lack_of_memory_as_such():
        raise short
    assert same.value is short
    for text in ("Triton Error [CUDA]: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"):
        with pytest.raises(torch.cuda.OutOfMemoryError), device.lack_of_memory_as_such():
            raise RuntimeError(text)
    for error in (
        RuntimeError("CUDA error: an illegal memory access"),
        KeyboardInterrupt(),
        ValueError("out of memory"),
    ):
        with pytest.raises(type(error)) as other, device.lack_of_memory_as_such():
            raise error
        assert other.value is error
