"""How long one frame of the rasteriser takes on this machine: `python benchmarks/rasterizer.py [--json FILE]`.

The scene is made up but shaped like the job: 209,000 splats of 3 to 9 mm on an upper body, opacity 0.47 in the mean,
32 channels, the camera 22 m away behind a lens of tangent 1/24, 512 x 512.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guava_aug.render.rasterize import Raster, rasterize
from guava_aug.views.cameras import intrinsics

# centre, half axes in metres (tracked world: y down, the person faces -z)
BODY_PARTS = [
    ((0.00, -0.62, 0.00), (0.085, 0.125, 0.105)),  # head
    ((0.00, -0.45, 0.01), (0.055, 0.080, 0.055)),  # neck
    ((0.00, -0.15, 0.00), (0.185, 0.280, 0.115)),  # chest
    ((0.00, 0.20, 0.00), (0.170, 0.220, 0.110)),  # hips
    ((-0.24, -0.15, 0.00), (0.055, 0.190, 0.055)),  # upper arms
    ((0.24, -0.15, 0.00), (0.055, 0.190, 0.055)),
    ((-0.20, 0.08, -0.14), (0.110, 0.045, 0.120)),  # forearms
    ((0.20, 0.08, -0.14), (0.110, 0.045, 0.120)),
    ((-0.10, 0.02, -0.26), (0.050, 0.085, 0.030)),  # hands
    ((0.10, 0.02, -0.26), (0.050, 0.085, 0.030)),
]


def avatar_like_scene(num_gaussians: int, channels: int, frames: int, seed: int = 0) -> dict[str, Any]:
    """Arguments of `rasterize`: splats on ellipsoids of an upper body that sways a little from frame to frame."""
    rng = np.random.default_rng(seed)
    areas = np.array([(a * b + b * c + a * c) for _, (a, b, c) in BODY_PARTS])
    part = rng.choice(len(BODY_PARTS), size=num_gaussians, p=areas / areas.sum())
    direction = rng.normal(size=(num_gaussians, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    centers = np.array([c for c, _ in BODY_PARTS])[part]
    means = centers + direction * np.array([r for _, r in BODY_PARTS])[part] + rng.normal(0, 0.002, (num_gaussians, 3))
    quats = rng.normal(size=(num_gaussians, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    scales = rng.uniform(0.003, 0.009, (num_gaussians, 3))
    opacities = 1 / (1 + np.exp(-rng.normal(-0.15, 1.2, num_gaussians)))
    features = rng.normal(0, 1, (num_gaussians, channels))
    sway = 0.03 * np.sin(np.linspace(0, 2 * math.pi, frames, endpoint=False))[:, None, None] * np.array([1.0, 0.0, 0.5])

    def float32(x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x, np.float32))

    viewmat = torch.eye(4)
    viewmat[:3, 3] = torch.tensor([0.0, 0.1, 22.0])
    return {
        "means": float32(means[None] + sway),
        "quats": float32(np.broadcast_to(quats, (frames, num_gaussians, 4))),
        "scales": float32(np.broadcast_to(scales, (frames, num_gaussians, 3))),
        "opacities": float32(opacities),
        "features": float32(features),
        "viewmats": viewmat.expand(frames, 4, 4).contiguous(),
    }


def frame_times(scene: dict[str, Any], size: int, backend: str, frames: int) -> tuple[float, list[float], Raster]:
    """(seconds of the first call, milliseconds of each of `frames` calls after it, the last frame)."""
    K = intrinsics(size, size).to(scene["means"].device)

    def draw(i: int) -> Raster:
        t = slice(i % scene["means"].shape[0], i % scene["means"].shape[0] + 1)
        raster = rasterize(
            scene["means"][t], scene["quats"][t], scene["scales"][t], scene["opacities"], scene["features"],
            scene["viewmats"][t], K, size, size, backend=backend,
        )  # fmt: skip
        if raster.image.is_cuda:
            torch.cuda.synchronize()
        return raster

    start = time.perf_counter()
    raster = draw(0)
    first = time.perf_counter() - start
    times = []
    for i in range(frames):
        start = time.perf_counter()
        raster = draw(i)
        times.append(1000 * (time.perf_counter() - start))
    return first, times, raster


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        if "model name" in fields:
            cpu = f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')})"
    import numba

    return {
        "cpu": cpu,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numba": numba.__version__,
        "numpy": np.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=209_000)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--size", type=int, default=512, help="pixels, square")
    parser.add_argument("--frames", type=int, default=9, help="timed frames a backend, after one for warming up")
    parser.add_argument("--device", default="cpu", help="of the tensors: cpu, cuda")
    parser.add_argument("--backends", nargs="+", default=None, help="default: torch, and numba on the cpu")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's own choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cold", action="store_true", help="compile anew, in a cache folder of its own")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures to this file")
    args = parser.parse_args()
    if args.cold:
        os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="rasterizer_bench_")  # before numba is imported
    if args.threads:
        torch.set_num_threads(args.threads)
    backends = args.backends or (["torch", "numba"] if args.device == "cpu" else ["torch"])
    scene = avatar_like_scene(args.gaussians, args.channels, args.frames, args.seed)
    scene = {key: value.to(args.device) for key, value in scene.items()}

    info, rows, reference = machine(), [], None
    for backend in backends:
        frames = min(args.frames, 5) if backend == "torch" else args.frames
        first, times, raster = frame_times(scene, args.size, backend, frames)
        median = statistics.median(times)
        if backend == "torch":
            reference = median
        rows.append(
            {
                "backend": backend,
                "ms_per_frame": median,
                "ms_min": min(times),
                "ms_max": max(times),
                "frames": len(times),
                "speedup_over_torch": reference / median if reference else None,
                "first_call_s": first,
                "mean_alpha": float(raster.alpha.mean()),
                "visible": int((raster.radii > 0).sum()),
            }
        )

    print(f"{args.gaussians} Gaussians, {args.size} x {args.size}, {args.channels} channels + alpha + inverse depth")
    print(", ".join(f"{key} {value}" for key, value in info.items() if value is not None))
    print(f"{'backend':8s} {'ms/frame':>9s} {'min':>8s} {'max':>8s} {'x torch':>8s} {'first call s':>13s}")
    for row in rows:
        ratio = f"{row['speedup_over_torch']:.1f}" if row["speedup_over_torch"] else "-"
        print(
            f"{row['backend']:8s} {row['ms_per_frame']:9.1f} {row['ms_min']:8.1f} {row['ms_max']:8.1f} {ratio:>8s} "
            f"{row['first_call_s']:13.2f}"
        )
    compiling = (
        "compiled anew (--cold)" if args.cold else "read from its cache, if it ran here before (--cold compiles)"
    )
    print(f"median of the timed frames; the first call is apart: numba's code is {compiling}")
    print(f"scene: {rows[-1]['visible']} Gaussians visible, mean alpha {rows[-1]['mean_alpha']:.3f}")
    if args.json:
        args.json.write_text(
            json.dumps({"machine": info, "arguments": vars(args) | {"json": None}, "rows": rows}, indent=2)
        )


if __name__ == "__main__":
    main()
