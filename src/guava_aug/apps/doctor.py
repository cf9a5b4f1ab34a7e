"""Whether this machine can do the work: one finding per thing that is needed, with what to do when it is missing."""

from __future__ import annotations

import io
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from guava_aug.batch.config import RunConfig
from guava_aug.batch.validate import model_source
from guava_aug.errors import GuavaAugError
from guava_aug.runtime.cpus import usable_cpus
from guava_aug.runtime.dependencies import CPU_FIRST, lacking
from guava_aug.runtime.files import nearest_existing
from guava_aug.runtime.text import in_short, one_line, pluralize
from guava_aug.runtime.version import __version__

Level = Literal["ok", "warn", "fail"]
LITTLE_DISK, LITTLE_MEMORY = 10 * 2**30, 4 * 2**30  # bytes
CLIP_FRAMES = 4


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Level
    what: str
    text: str  # what was found
    advice: str = ""  # what to do about it


def examine(config: RunConfig) -> Iterator[Finding]:
    """Yield a finding per check, as they are made. Nothing raises: what breaks a check is its finding.

    config: model_path, guava_root, device and output_root count.
    """
    checks: tuple[tuple[str, Callable[[RunConfig], Iterator[Finding]]], ...] = (
        ("packages", _versions), ("packages", _packages), ("GPU", _gpu), ("triton", _triton), ("encoders", _encoders),
        ("model", _model), ("disk", _disk), ("memory", _memory), ("end to end", _clip),
    )  # fmt: skip
    for what, check in checks:
        try:
            yield from check(config)
        except Exception as error:
            yield Finding("fail", what, in_short(error, 500), "")


def examine_without_flags() -> bool:
    """Print the report for a run without any flag, and return whether something fails.

    For a machine on which the packages that read flags and draw tables may be the ones that are missing or too old.
    """
    failed = False
    for finding in examine(RunConfig(tracked_root=Path(), output_root=Path())):
        failed |= finding.level == "fail"
        print(f"{finding.level:<5}{finding.what}: {finding.text}" + (f"; {finding.advice}" if finding.advice else ""))
    return failed


def _versions(config: RunConfig) -> Iterator[Finding]:
    for lack in lacking():
        yield Finding("fail", "packages", str(lack), lack.advice)


def _packages(config: RunConfig) -> Iterator[Finding]:
    import torch  # noqa: PLC0415 - the report is made also where it is missing

    cuda = f", CUDA {torch.version.cuda}" if torch.version.cuda else ", built without CUDA"
    yield Finding(
        "ok",
        "packages",
        f"guava-aug {__version__}, Python {platform.python_version()}, torch {torch.__version__}{cuda}",
        f"a third of the size would do here: {CPU_FIRST}" if torch.version.cuda and not _has_gpu() else "",
    )
    try:
        yield Finding("ok", "ray", f"{version('ray')} (--engine ray)")
    except PackageNotFoundError:
        yield Finding("ok", "ray", "not installed; only --engine ray needs it (pip install 'guava-aug[ray]')")


def _gpu(config: RunConfig) -> Iterator[Finding]:
    import torch  # noqa: PLC0415 - the report is made also where it is missing

    from guava_aug.runtime import device  # noqa: PLC0415 - the report is made also where it is missing

    there = _nvidia_smi()
    asked_cpu = config.device.strip().lower() == "cpu"
    if not device.gpu_usable():
        why = there[0] if there else device.why_expected(os.environ, device.ROOT)
        if why is not None:
            text = f"{why}, but torch cannot use it ({device.why_unusable()})"
            yield Finding("warn" if asked_cpu else "fail", "GPU", text, f"{device.advice()}; or use --device cpu")
        else:
            advice = "" if asked_cpu else "a CPU works too, slower; see `guava-aug estimate`"
            yield Finding("ok" if asked_cpu else "warn", "GPU", "there is none", advice)
        return
    drivers = {line.rpartition(", ")[2] for line in there}
    for index in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(index)
        major, minor = torch.cuda.get_device_capability(index)
        free, total = torch.cuda.mem_get_info(index)
        text = f"{index}: {name}, compute {major}.{minor}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        if free < LITTLE_MEMORY:
            yield Finding("warn", "GPU", text, "another program uses it; end it, or choose another --device")
        elif (major, minor) < (7, 0):
            yield Finding(
                "warn", "GPU", text, "older than compute 7.0: Triton kernels will not run, a slower way is used"
            )
        else:
            driver = f", driver {', '.join(sorted(drivers))}" if drivers else ""
            yield Finding("ok", "GPU", text + driver)
        torch.ones(8, device=f"cuda:{index}").sum().item()


def _has_gpu() -> bool:
    """Return whether there is a GPU for torch, also one that it cannot use as it is."""
    from guava_aug.runtime import device  # noqa: PLC0415 - the report is made also where it is missing

    return device.gpu_usable() or bool(_nvidia_smi()) or device.why_expected(os.environ, device.ROOT) is not None


def _nvidia_smi() -> list[str]:
    """Return `name, driver` of every GPU that the driver knows."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=30, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def _triton(config: RunConfig) -> Iterator[Finding]:
    import torch  # noqa: PLC0415 - the report is made also where it is missing

    if not torch.cuda.is_available():
        yield Finding("ok", "triton", "not needed without a GPU")
        return
    try:
        found = version("triton")
    except PackageNotFoundError:
        yield Finding("warn", "triton", "not installed", "pip install triton; without it a slower way is used")
        return
    compiler = next((c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)), None)
    if compiler is None:
        advice = "apt-get install gcc (or set CC): Triton compiles its launchers once; without it a slower way is used"
        yield Finding("warn", "triton", f"{found}, but there is no C compiler", advice)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "a.c"
        source.write_text("#include <stdint.h>\n#include <Python.h>\nint main(void) { return 0; }\n", encoding="ascii")
        done = subprocess.run(
            [compiler, "-I", sysconfig.get_paths()["include"], "-c", str(source), "-o", os.devnull],
            capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=60, check=False,
        )  # fmt: skip
    if done.returncode:
        advice = "install the headers of Python (apt-get install python3-dev) and of C (libc6-dev)"
        yield Finding(
            "warn", "triton", f"{found}, but {compiler} cannot compile for this Python: {one_line(done.stderr)}", advice
        )
    else:
        yield Finding("ok", "triton", f"{found}, C compiler {compiler}")


def _encoders(config: RunConfig) -> Iterator[Finding]:
    import av  # noqa: PLC0415 - the report is made also where it is missing

    problem = _encode_problem("libx264")
    if problem is None:
        yield Finding("ok", "libx264", f"encodes, on the CPU (PyAV {av.__version__}); all videos are made with it")
    else:
        advice = "install the wheel of PyAV, which brings it: pip install --force-reinstall av"
        yield Finding("fail", "libx264", problem, advice)
    there = "not here" if _encode_problem("h264_nvenc") else "works here"
    yield Finding("ok", "h264_nvenc", f"the GPU's encoder, {there}; guava-aug does not use it")


def _encode_problem(codec: str) -> str | None:
    """Return why a codec cannot encode a few frames; None when it can."""
    import av  # noqa: PLC0415 - the report is made also where it is missing
    import numpy as np  # noqa: PLC0415 - the report is made also where it is missing

    try:
        with av.open(io.BytesIO(), "w", format="mp4") as container:
            stream = container.add_stream(codec, rate=30)
            stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
            for _ in range(3):
                picture = av.VideoFrame.from_ndarray(np.zeros((256, 256, 3), np.uint8), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
    except Exception as error:
        return one_line(error, 120) or type(error).__name__
    return None


def _model(config: RunConfig) -> Iterator[Finding]:
    from guava_aug.avatar.model import EMBEDDED, load_model  # noqa: PLC0415 - the report is made also where it is missing

    source = model_source(config)
    if source == EMBEDDED:
        yield Finding("ok", "model", "embedded (no --model_path, and no assets/GUAVA here)")
        return
    model = load_model(source, "cpu", guava_root=config.guava_root)
    yield Finding("ok", "model", f"{source} loads; pictures of {model.config.image_size} pixels")


def _disk(config: RunConfig) -> Iterator[Finding]:
    for what, folder in (("disk", config.output_root), ("temporary", Path(tempfile.gettempdir()))):
        there = nearest_existing(folder)
        free, total = shutil.disk_usage(there).free, shutil.disk_usage(there).total
        text = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free in {there}"
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            yield Finding("fail", what, f"{there} cannot be written ({error.strerror})", "choose another folder")
            continue
        little = free < (LITTLE_DISK if what == "disk" else 2**30)
        yield Finding(
            "warn" if little else "ok", what, text, "see `guava-aug estimate` for what a run needs" if little else ""
        )


def _memory(config: RunConfig) -> Iterator[Finding]:
    found = pluralize(usable_cpus(), "core")
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        found += f", {total / 2**30:.1f} GiB"
        if total < LITTLE_MEMORY:
            yield Finding("warn", "machine", found, "use a small --frames_per_chunk and --views_in_flight")
            return
    yield Finding("ok", "machine", found)


def _clip(config: RunConfig) -> Iterator[Finding]:
    """Make an MP4 of some frames of a bundled clip, with the model and device of the run, and decode it."""
    from guava_aug.apps.benchmark.clips import clip_of_length  # noqa: PLC0415 - the report is made also where it is missing
    from guava_aug.apps.synthetic import demo_root  # noqa: PLC0415 - the report is made also where it is missing
    from guava_aug.apps.timed_views import make_views  # noqa: PLC0415 - the report is made also where it is missing
    from guava_aug.batch.executors.in_process import InProcessExecutor  # noqa: PLC0415 - the report is made also where it is missing
    from guava_aug.tracked import list_videos  # noqa: PLC0415 - the report is made also where it is missing
    from guava_aug.views import plan_views  # noqa: PLC0415 - the report is made also where it is missing

    name = list_videos(demo_root())[0]
    with tempfile.TemporaryDirectory(prefix="guava-aug-doctor-") as folder:
        root = Path(folder)
        clip_of_length(demo_root(), name, CLIP_FRAMES, root / "tracked")
        small = replace(config, tracked_root=root / "tracked", output_root=root / "out", videos=(name,), time_map=None)
        executor = InProcessExecutor(small)
        try:
            executor.check()
            executor.start()
            made = make_views(executor, name, plan_views(name, ["easy"], 42, 1))
        except GuavaAugError as error:
            yield Finding("fail", "end to end", str(error), "see the lines above")
            return
        used = executor.describe()
    if made.error is not None:
        yield Finding("fail", "end to end", made.error, "see the lines above; --verbose has the traceback")
    else:
        machine = used["machine"]
        where = f"{machine.get('gpu', 'CPU')}, rasteriser {used['rasteriser']}"
        yield Finding("ok", "end to end", f"{CLIP_FRAMES} frames of {name} in {made.seconds:.1f} s on {where}")
