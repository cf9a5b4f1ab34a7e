"""The record of a run: with what it was made, on what, and where the time went."""

from __future__ import annotations

import json
import math
import os
import platform
import socket
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from guava_aug.errors import OutputError
from guava_aug.output.tree import RUN_FOLDER
from guava_aug.runtime.atomic import atomic_write
from guava_aug.runtime.text import printable_json
from guava_aug.runtime.version import __version__

PACKAGES = ("torch", "numpy", "numba", "av", "lmdb", "opencv-python-headless", "triton")


def record_path(output_root: Path, part_id: str | None) -> Path:
    """Where the record of the latest run lies; each part of a cluster job has its own."""
    return output_root / RUN_FOLDER / ("last_run.json" if part_id is None else f"last_run_part_{part_id}.json")


def debug_log_path(output_root: Path, part_id: str | None) -> Path:
    """Where the tracebacks go."""
    return output_root / RUN_FOLDER / ("debug.log" if part_id is None else f"debug_part_{part_id}.log")


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of what decides the pixels."""
    found = {"guava_aug": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine(device: str) -> dict[str, Any]:
    """Host, system, processor count and the device that renders."""
    import torch  # noqa: PLC0415 - slow to load, and not always needed

    found = {"host": socket.gethostname(), "system": platform.platform(), "cpus": os.cpu_count(), "device": device}
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return found


def _standard(value: Any) -> Any:
    """Return `value` with every float that JSON has no number for (infinite or not a number) as None."""
    if isinstance(value, dict):
        return {key: _standard(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_standard(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Write the record in one step: readers see the old one or the new one, whole.

    A float without a JSON number (no time limit, the PSNR of equal pictures) is written as null.

    Raises:
        OutputError: the folder or the file cannot be written.
    """
    dated = {"finished": datetime.now(timezone.utc).isoformat(timespec="seconds"), "command": sys.argv, **content}
    text = json.dumps(_standard(dated), indent=2, ensure_ascii=False, default=str, allow_nan=False)
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(printable_json(text) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: the run record cannot be written ({error.strerror or error})") from error
