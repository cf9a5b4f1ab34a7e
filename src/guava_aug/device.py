"""Which device a run uses."""

from __future__ import annotations

import logging
import os

import torch

from .cpus import usable_cpus
from .errors import DeviceError, UsageError

log = logging.getLogger(__name__)


def choose_device(asked: str) -> str:
    """The torch device for `--device`: a GPU number, `cpu`, `cuda`, `cuda:1`, or another torch device.

    Without any GPU the CPU is taken, and said once in the log.

    Raises:
        DeviceError: there are GPUs, but not this one; or torch has no such device on this machine.
        UsageError: that is not the name of a device.
    """
    text = asked.strip().lower()
    number = text.removeprefix("cuda").removeprefix(":") if text.startswith("cuda") else text
    if text == "cuda":
        number = "0"
    if number.isdecimal():
        return _gpu(int(number))
    try:
        device = torch.device(text)
        if device.type != "cpu":
            torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "Expected one of" in reason or "Invalid device" in reason:
            raise UsageError(f"--device {asked}: expected a GPU number such as 0, cpu, or cuda:1") from None
        raise DeviceError(f"--device {asked}: torch cannot use it here ({reason}); use a GPU number or cpu") from None
    return str(device)


def keep_threads_within_quota() -> None:
    """Let torch use no more threads than this process has processors, unless the user says how many.

    It counts those the process is bound to, but does not know the quota of a container or a cluster's job.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > usable_cpus():
        torch.set_num_threads(usable_cpus())


def _gpu(index: int) -> str:
    if not torch.cuda.is_available():
        log.warning("no GPU that torch can use is on this machine; running on the CPU")
        return "cpu"
    if index and index >= (count := torch.cuda.device_count()):  # which takes 0.2 s and is not asked for the first
        there = "0" if count == 1 else f"0 to {count - 1}"
        raise DeviceError(f"--device {index}: there is no such GPU; this machine has {there} (or use --device cpu)")
    return f"cuda:{index}"
