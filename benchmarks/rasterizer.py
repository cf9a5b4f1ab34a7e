"""How long the rasteriser takes, backend by backend: `python benchmarks/rasterizer.py [--device cuda] [--json FILE]`.

With `--gradients`: there and back, from the picture to every tensor of the splats; `x torch` is the ratio to the
reference, which keeps every pair of a splat and a pixel (`--gaussians 20000` takes it some gigabytes).

The scene is made up but shaped like the job: 209,000 splats of 3 to 9 mm on an upper body, opacity 0.47 in the mean,
32 channels, the camera 22 m away behind a lens of tangent 1/24, 512 x 512. Every backend that works on the device, and
gsplat where it is installed; batches of frames, each frame with Gaussians of its own. Errors are those of one frame
against the reference in float64.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import setting
from guava_aug.apps.benchmark.clock import time_calls
from guava_aug.errors import DeviceError
from guava_aug.render.rasterize import BACKENDS, rasterize
from guava_aug.runtime.device import triton_usable
from guava_aug.views.cameras import intrinsics

HALF = "triton fp16"
HALF_CHANNELS = 16
SLOW = "torch"  # the reference: one frame at a time, few repeats
Draw = Callable[[int], tuple[Tensor, Tensor]]  # frames -> image [T, C, H, W], alpha [T, 1, H, W]

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


def backend_draw(scene: dict[str, Any], size: int, backend: str) -> Draw:
    """Draws the first frames of the scene by the package's door."""
    K = intrinsics(size, size).to(scene["means"].device)

    @torch.inference_mode()
    def draw(frames: int) -> tuple[Tensor, Tensor]:
        raster = rasterize(
            scene["means"][:frames], scene["quats"][:frames], scene["scales"][:frames], scene["opacities"],
            scene["features"], scene["viewmats"][:frames], K, size, size, backend=backend,
        )  # fmt: skip
        return raster.image, raster.alpha

    return draw


def gradient_draw(scene: dict[str, Any], size: int, backend: str) -> Draw:
    """Draws the first frames and goes the way back to all tensors of the splats."""
    K = intrinsics(size, size).to(scene["means"].device)

    def draw(frames: int) -> tuple[Tensor, Tensor]:
        per_frame, shared = (scene["means"], scene["quats"], scene["scales"]), (scene["opacities"], scene["features"])
        leaves = [x.detach().requires_grad_() for x in (*(x[:frames] for x in per_frame), *shared)]
        raster = rasterize(*leaves, scene["viewmats"][:frames], K, size, size, backend=backend)
        torch.autograd.grad(raster.image.square().sum() + raster.alpha.sum(), leaves)
        return raster.image.detach(), raster.alpha.detach()

    return draw


def half_draw(scene: dict[str, Any], size: int) -> Draw | None:
    """What runs on a GPU draw: the first 16 channels in half precision, the first layer of the refiner in the end.

    Without depth. None where it cannot be.
    """
    if not triton_usable(scene["means"].device):
        return None
    from guava_aug.render.rasterize_triton import draw as draw_half

    K, features = intrinsics(size, size), scene["features"][:, :HALF_CHANNELS].half().contiguous()
    bias = torch.zeros(HALF_CHANNELS, device=features.device)

    @torch.inference_mode()
    def draw(frames: int) -> tuple[Tensor, Tensor]:
        drawn = draw_half(
            scene["means"][:frames], scene["quats"][:frames], scene["scales"][:frames], scene["opacities"], features,
            scene["viewmats"][:frames], K, size, size, channels_last=True, bias=bias,
        )  # fmt: skip
        if frames > 1:
            return drawn.image, drawn.alpha
        return torch.where(drawn.image < 0, 5 * drawn.image, drawn.image), drawn.alpha  # for the errors: no leaky ReLU

    return draw


def gsplat_draw(scene: dict[str, Any], size: int) -> Draw | None:
    """The same by gsplat (colours and alpha; depth would cost it more), or None where it is not installed."""
    try:
        from gsplat import rasterization  # type: ignore[import-not-found]
    except ImportError:
        return None
    K = intrinsics(size, size).to(scene["means"].device)
    K[:2, 2] += 0.5  # its pixel centres are at half numbers

    @functools.lru_cache(maxsize=1)  # it wants them for every frame: not in the time
    def shared(frames: int) -> tuple[Tensor, Tensor, Tensor]:
        one = scene["opacities"], scene["features"], K[None]
        opacities, features, cameras = (x.expand(frames, *x.shape).contiguous() for x in one)
        return opacities, features, cameras

    @torch.inference_mode()
    def draw(frames: int) -> tuple[Tensor, Tensor]:
        opacities, features, cameras = shared(frames)
        image, alpha, _ = rasterization(
            scene["means"][:frames], scene["quats"][:frames], scene["scales"][:frames], opacities, features,
            scene["viewmats"][:frames, None], cameras, size, size, near_plane=0.2, packed=False, render_mode="RGB",
        )  # fmt: skip
        return image[:, 0].movedim(-1, 1), alpha[:, 0].movedim(-1, 1)

    return draw


def yardstick(scene: dict[str, Any], size: int) -> tuple[Tensor, Tensor]:
    """Image and alpha of the first frame in float64."""
    from guava_aug.render import rasterize_torch

    names = ("means", "quats", "scales", "opacities", "features", "viewmats")
    one = [scene[n][:1] if n in ("means", "quats", "scales", "viewmats") else scene[n] for n in names]
    K, black = intrinsics(size, size).to(one[0].device), one[4].new_zeros(one[4].shape[1])
    with torch.inference_mode():
        image, alpha, _, _ = rasterize_torch.rasterize_frames(
            *(x.double() for x in (*one, K, black)), width=size, height=size, scale_modifier=1.0, antialias=False
        )
    return image, alpha


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def errors(found: tuple[Tensor, Tensor], true: tuple[Tensor, Tensor]) -> dict[str, float | None]:
    """Relative errors of the image: root mean square, and the largest but one in a thousand; the alpha's largest."""
    difference, scale = found[0].double() - true[0], rms(true[0])
    return {
        "relative_error": rms(difference) / scale,
        "error_999": float(difference.abs().flatten()[:: max(1, difference.numel() // 2**23)].quantile(0.999) / scale),
        "alpha_error": float((found[1].double() - true[1]).abs().max()),
    }


def main() -> None:
    parser = setting.flags(__doc__, repeats=9)
    parser.add_argument("--gaussians", type=int, default=209_000)
    parser.add_argument("--channels", type=int, nargs="+", default=[32])
    parser.add_argument("--size", type=int, default=512, help="pixels, square")
    parser.add_argument("--batches", type=int, nargs="+", help="frames a call; default: 1 on a CPU, 1 8 32 on a GPU")
    parser.add_argument(
        "--backends", nargs="+", help=f"default: all that work of {', '.join(BACKENDS[1:])}, gsplat, {HALF}"
    )
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gradients", action="store_true", help="there and back; of the package's backends alone")
    parser.add_argument("--cold", action="store_true", help="compile anew, in a cache folder of its own")
    args = parser.parse_args()
    setting.speak()
    if args.cold:
        for variable in ("NUMBA_CACHE_DIR", "TRITON_CACHE_DIR"):  # before they are imported
            os.environ[variable] = tempfile.mkdtemp(prefix="guava-aug-bench-")
    if args.threads:
        torch.set_num_threads(args.threads)
    batches = args.batches or ([1] if args.device == "cpu" else [1, 8, 32])

    rows: list[dict[str, Any]] = []
    for channels in args.channels:
        scene = avatar_like_scene(args.gaussians, channels, max(batches), args.seed)
        scene = {key: value.to(args.device) for key, value in scene.items()}
        rows += measure(scene, args, channels, batches)
    setting.report(
        args, f"{args.gaussians} Gaussians, {args.size} x {args.size}, with alpha and depth; milliseconds a frame",
        ["backend", "channels", "batch", "ms", "gpu_ms", "x torch", "x gsplat", "first_call_s", "relative_error",
         "error_999", "alpha_error", "to torch"],
        rows,
        ["first call: with what is compiled then. Errors against float64: image / its root mean square; alpha absolute",
         "The reference in float32 has such errors too, where nearly equal depths change places: see `to torch`, the",
         "root mean square of the difference to it, / that of the image."],
    )  # fmt: skip


def measure(scene: dict[str, Any], args: argparse.Namespace, channels: int, batches: list[int]) -> list[dict[str, Any]]:
    """A row for every backend and batch."""
    true, reference = yardstick(scene, args.size), None
    rows: list[dict[str, Any]] = []
    special = {} if args.gradients else {"gsplat": gsplat_draw, HALF: half_draw}
    plain = gradient_draw if args.gradients else backend_draw
    for backend in args.backends or [*BACKENDS[1:], *special]:
        draw = special[backend](scene, args.size) if backend in special else plain(scene, args.size, backend)
        if draw is None:
            continue
        begun = time.perf_counter()
        try:
            drawn = draw(1)
        except DeviceError as error:  # not on this device, or what it needs is not installed
            print(f"{backend} is left out: {error}", file=sys.stderr)
            continue
        drawn_channels = drawn[0].shape[1]
        wanted = true[0][:, :drawn_channels], true[1]
        accuracy = errors(drawn, wanted)  # waits for a GPU
        first = time.perf_counter() - begun
        if backend == SLOW:
            reference = drawn[0]
        accuracy["to torch"] = None
        if reference is not None:
            accuracy["to torch"] = rms(drawn[0].double() - reference[:, :drawn_channels]) / rms(wanted[0])
        for batch in batches if backend != SLOW else [1]:
            repeats = min(args.repeats, 3) if backend == SLOW else args.repeats
            times = time_calls(lambda draw=draw, batch=batch: draw(batch), repeats, args.device)
            about = {"backend": backend, "channels": drawn_channels, "batch": batch}
            rows.append({**about, **times.to_json(per=batch), "first_call_s": first, **accuracy})
    for row in rows:
        for other in (SLOW, "gsplat"):  # of the same batch; the reference has only one
            there = [r for r in rows if r["backend"] == other and (other == SLOW or r["batch"] == row["batch"])]
            row[f"x {other}"] = there[0]["ms"] / row["ms"] if there else None
    return rows


if __name__ == "__main__":
    setting.guarded(main)
