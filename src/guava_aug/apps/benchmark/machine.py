"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from guava_aug.batch.journal import run_record
from guava_aug.runtime.cpus import usable_cpus
from guava_aug.runtime.text import pluralize


def describe_machine(device: str) -> dict[str, Any]:
    """Return `record.machine`, and the processor, its usable cores, torch's threads, memory in GB, and all GPUs."""
    found = run_record.machine(device)
    found |= {"cpu": _processor(), "usable_cpus": usable_cpus(), "torch_threads": torch.get_num_threads()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def in_words(machine: dict[str, Any]) -> str:
    """Return one line: what renders, the processor, and the number of its cores."""
    gpu = f"{machine['gpu']}, " if machine.get("gpu") else "no GPU in use, "
    return f"{gpu}{pluralize(machine['usable_cpus'], 'core')} of {machine['cpu']}"


def _processor() -> str:
    """Return the processor's name, family and model of /proc/cpuinfo (a virtual machine may hide the name)."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        pairs = (
            line.split(":", 1)
            for line in info.read_text(encoding="utf-8", errors="replace").splitlines()
            if ":" in line
        )
        fields = {key.strip(): value.strip() for key, value in pairs}
        if "model name" in fields:
            name = " ".join(fields["model name"].split())
            return f"{name} (family {fields.get('cpu family')}, model {fields.get('model')})"
    return platform.processor() or platform.machine()
