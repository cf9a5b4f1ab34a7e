"""The device of a run: its choice, errors of a GPU that cannot be used, its start, and whether Triton works on it."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import logging
import os
import re
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from guava_aug.errors import DeviceError, UsageError
from guava_aug.runtime.cpus import usable_cpus
from guava_aug.runtime.dependencies import INSTALL_TORCH
from guava_aug.runtime.text import in_short

log = logging.getLogger(__name__)

ROOT = Path("/")  # of the device nodes and of /proc
_GIVEN = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "GPU_DEVICE_ORDINAL")  # lists of GPUs; schedulers alone set them
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")  # users set them too
_JOB = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "SGE_TASK_ID", "FLUX_JOB_ID", "_CONDOR_SLOT")  # set within a job
_NO_DEVICE = ("", "-1", "none", "void", "nodevfiles")  # values of the above that name no GPU
_OF_GPU = re.compile(r"CUDA|cuDNN|CUBLAS|\bHIP\b|NVIDIA|no kernel image", re.IGNORECASE)
_SHORT = re.compile(r"out of memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE)
_REASON = 400  # characters of torch's message
WARM_UP = "guava-aug-warmup"  # name of the threads of `warm_up`
_probing = threading.Lock()


def choose_device(asked: str, *, required: bool = False) -> str:
    """Return the torch device for `--device`: a GPU number, `cpu`, `cuda`, `cuda:1`, or another torch device.

    On a machine without a GPU the CPU is used, and this is logged once. If there is a GPU, or the scheduler assigned
    one to this job, and torch cannot use it, that is an error: the work would silently take days on a CPU.

    Args:
        asked: The value of `--device`.
        required: A GPU was requested by name, so that a CPU is never used instead.

    Raises:
        DeviceError: There are GPUs, but not this one; torch cannot use the GPU of this machine or job; or torch has no
            such device on this machine.
        UsageError: The value is not the name of a device, or a GPU is required and the value names a CPU.
    """
    text = asked.strip().lower()
    number = text.removeprefix("cuda").removeprefix(":") if text.startswith("cuda") else text
    if text == "cuda":
        number = "0"
    if number.isdecimal():
        return _gpu(int(number), asked, required)
    try:
        device = torch.device(text)
        if device.type != "cpu":
            torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = _first_line(error)
        if "Expected one of" in reason or "Invalid device" in reason:
            raise UsageError(f"--device {asked}: expected a GPU number such as 0, cpu, or cuda:1") from None
        raise DeviceError(f"--device {asked}: torch cannot use it here ({reason}); use a GPU number or cpu") from None
    return str(device)


def keep_threads_within_quota() -> None:
    """Limit torch's threads to the number of processors of this process, unless the user has set OMP_NUM_THREADS.

    By default torch counts the processors the process is bound to, but ignores the quota of a container or a cluster
    job.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > usable_cpus():
        torch.set_num_threads(usable_cpus())


def _gpu(index: int, asked: str, required: bool) -> str:
    if not gpu_usable():
        why = "a GPU is required" if required else why_expected(os.environ, ROOT)
        if why is not None:
            raise DeviceError(
                f"--device {asked}: {why}, but torch cannot use any ({why_unusable()}); {advice()}; `guava-aug doctor` "
                "shows details; to use the CPU, give --device cpu"
            )
        hidden = next((name for name in _VISIBLE if name in os.environ and not _names_gpu(os.environ[name])), None)
        if hidden is not None:
            log.warning("no GPU is visible (%s is %r); running on the CPU", hidden, os.environ[hidden])
        else:
            log.warning("no GPU that torch can use is on this machine; running on the CPU")
        return "cpu"
    if index and index >= (count := torch.cuda.device_count()):  # takes 0.2 s and is not needed for the first
        there = "0" if count == 1 else f"0 to {count - 1}"
        raise DeviceError(f"--device {index}: there is no such GPU; this machine has {there} (or use --device cpu)")
    return f"cuda:{index}"


def gpu_usable() -> bool:
    """Return whether torch finds a GPU. Its warnings are suppressed: `why_unusable` has the reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def why_expected(environment: Mapping[str, str], root: Path) -> str | None:
    """Return why a GPU is expected here, as text; None if it is not.

    The scheduler's variables come first, then an explicit CUDA_VISIBLE_DEVICES without a GPU, then the device nodes.

    Args:
        environment: Environment variables.
        root: Folder that contains `dev` and `proc`.
    """
    given = [name for name in _GIVEN if _names_gpu(environment.get(name, ""))]
    job = next((name for name in _JOB if environment.get(name)), None)
    if job is not None:
        given += [name for name in _VISIBLE if _names_gpu(environment.get(name, ""))]
    if given:
        return f"the scheduler gave this job a GPU ({given[0]}={environment[given[0]]})"
    if any(name in environment and not _names_gpu(environment[name]) for name in _VISIBLE):
        return None
    nodes = _device_nodes(root)
    if nodes and not (job is not None and all(_is_denied(node) for node in nodes)):
        return f"this machine has a GPU or its driver ({nodes[0]})"
    return None


def _names_gpu(value: str) -> bool:
    """Return whether the value of such a variable names a GPU."""
    return value.split(",")[0].strip().lower() not in _NO_DEVICE


def _device_nodes(root: Path) -> list[Path]:
    """Return the files created by GPU drivers, those of single GPUs first."""
    found = sorted((root / "dev").glob("nvidia[0-9]*")) + sorted((root / "dev").glob("nvidia[!0-9]*"))
    found.append(root / "proc/driver/nvidia")
    if getattr(torch.version, "hip", None) is not None:
        found.append(root / "dev/kfd")
    return [path for path in found if os.path.lexists(path)]


def _is_denied(node: Path) -> bool:
    """Return whether a device belongs to another job: the scheduler's cgroup does not permit opening it."""
    if node.is_dir():
        return True  # of the driver, which is there for all jobs
    try:
        os.close(os.open(node, os.O_RDWR | os.O_NONBLOCK))
    except OSError as error:
        return error.errno == errno.EPERM  # EACCES is the mode of the file: an error that can be fixed
    return node.name.removeprefix("nvidia")[:1].isalpha()  # nvidiactl, nvidia-uvm: for all jobs too


def why_unusable() -> str:
    """Return torch's error message when it tries to use a GPU."""
    try:
        torch.cuda.init()
        torch.empty(1, device="cuda")
    except Exception as error:  # whatever torch, CUDA and the driver raise
        return _first_line(error)
    return "it finds no GPU"


def advice() -> str:
    """Return what to do about a GPU that torch cannot use."""
    hip = getattr(torch.version, "hip", None)
    if torch.version.cuda is None and hip is None:
        return f"torch {torch.__version__} is built for CPUs only: install the build for your GPU ({INSTALL_TORCH})"
    if hip is not None:
        return f"see rocm-smi: the driver may be missing, or not fit torch's ROCm {hip}"
    return f"see nvidia-smi: the driver may be missing, or older than torch's CUDA {torch.version.cuda}"


@contextmanager
def device_errors(device: str) -> Iterator[None]:
    """Raise CUDA's errors on the first use of a GPU as DeviceError."""
    try:
        yield
    except RuntimeError as error:  # also torch.OutOfMemoryError
        if not device.startswith("cuda") or not _OF_GPU.search(str(error)):
            raise
        raise DeviceError(
            f"{device}: this GPU cannot be used ({_first_line(error)}); see nvidia-smi for other programs that use it, "
            "and `guava-aug doctor`; choose another --device, or --device cpu"
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:_REASON].rstrip(" .") if text else type(error).__name__


def warm_up(device: torch.device | str, *others: Callable[[], object], with_triton: bool = True) -> None:
    """Start CUDA and its libraries, Triton, and `others` in threads: together 2 s, while a model is being read.

    Return at once. A failure here occurs again where the library is used, and is reported there. Does nothing for a
    CPU, where only numba would be left: compiling and reading are both Python and would only alternate.
    """
    gpu = torch.device(device)
    if gpu.type != "cuda":
        return
    if gpu.index is None and torch.cuda.is_initialized():
        gpu = torch.device("cuda", torch.cuda.current_device())  # which every thread has its own of
    tasks: list[Callable[[], object]] = [lambda: _start_cuda(gpu), *others]
    if with_triton:
        tasks.append(lambda: triton_usable(gpu))
    for task in tasks:
        threading.Thread(target=_quietly, args=(task,), name=WARM_UP).start()


def _quietly(task: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        task()


@torch.no_grad()
def _start_cuda(device: torch.device) -> None:
    x = torch.zeros(1, 16, 32, 32, device=device)
    torch.nn.functional.conv2d(x, x.new_zeros(16, 16, 3, 3))
    torch.nn.functional.scaled_dot_product_attention(x, x, x)
    torch.nn.functional.linear(x, x.new_zeros(32, 32))


def triton_usable(device: torch.device | str) -> bool:
    """Return whether Triton kernels can be used on `device`; on a GPU where they cannot, the reason is logged once."""
    device = torch.device(device)
    return device.type == "cuda" and why_triton_unusable(device.index or 0) is None


def why_triton_unusable(index: int = 0) -> str | None:
    """Return why GPU `index` cannot run Triton kernels, None if it can. Compile a tiny kernel once.

    Triton is part of torch's CUDA builds; it needs a C compiler.
    """
    with _probing:
        return _cached_why(index)


@functools.cache
def _cached_why(index: int) -> str | None:
    reason = _try_triton(index)
    if reason is not None:
        log.warning("Triton cannot be used (%s); plain torch renders the same pictures, but slowly", reason)
    return reason


def _try_triton(index: int) -> str | None:
    try:
        import triton  # noqa: F401, PLC0415 - optional
    except ImportError:
        return "Triton is not installed: pip install triton"
    if torch.cuda.get_device_capability(index) < (7, 0):
        return f"{torch.cuda.get_device_name(index)} is older than compute capability 7.0"
    try:
        from guava_aug.runtime.triton_probe import double  # noqa: PLC0415 - needs Triton

        with torch.cuda.device(index):
            x = torch.ones(16, device="cuda")
            double(x)
            return None if bool((x == 2).all()) else "a test kernel gave a wrong result"
    except Exception as error:  # whatever Triton, its compilers and the driver raise
        if not any(shutil.which(c) for c in ("cc", "gcc", "clang")):
            return "Triton needs a C compiler; install gcc, or set CC"
        return f"Triton cannot compile: {in_short(error)}"


@contextmanager
def lack_of_memory_as_such() -> Iterator[None]:
    """Raise `torch.cuda.OutOfMemoryError` within the block for every error that a lack of GPU memory led to.

    A capture of kernels that runs out of memory ends with a CUDA error, as if the GPU were lost; libraries have errors
    of their own.
    """
    short = None
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.cuda.OutOfMemoryError) or not (short := _lack_of_memory(error)):
            raise
    if short:
        raise torch.cuda.OutOfMemoryError(short)


def _lack_of_memory(error: BaseException) -> str | None:
    """Return what an error says of too little memory, or the error it was raised while handling; None: nothing."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.cuda.OutOfMemoryError) or _SHORT.search(str(seen)) is not None:
            return str(seen) or type(seen).__name__
        seen = seen.__cause__ or seen.__context__
    return None


def release_memory(device: torch.device) -> None:
    """Give the memory of a GPU that nothing refers to any more back to other programs; on a CPU do nothing.

    What refers to itself, as graphs and closures of a fit do, has to be found first.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
