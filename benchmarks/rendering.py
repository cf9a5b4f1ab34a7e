"""Rendering without encoding: `python benchmarks/rendering.py [--engine reference] [--json FILE]`.

Rasterise, refine, composite, uint8 on the host; milliseconds a frame.

doors      `model.render` and the conversion to bytes, one batch at a time: the latency of a batch
pipeline   the loop that runs use, into a file that throws frames away: (T(11 views) - T(1 view)) / 10
reference  our own modules driven as the original drives its own: frame by frame, rasterised twice (colours, then
           alpha), float32 refiner, a copy to the host for every frame
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import setting
from guava_aug.apps.benchmark.clock import time_calls, union_seconds
from guava_aug.apps.benchmark.gpu_trace import COPIES, KERNELS, gpu_trace
from guava_aug.avatar.model import GuavaModel
from guava_aug.batch.config import RunConfig
from guava_aug.batch.pipeline import ClipVideos, PipelineSettings, augment_video
from guava_aug.body import Motion
from guava_aug.output import to_video_bytes
from guava_aug.output.frames import PendingFrames
from guava_aug.output.view_writer import ViewEnd
from guava_aug.render.background import composite
from guava_aug.render.rasterize import rasterize
from guava_aug.runtime.timing import StageTimer
from guava_aug.tracked import TrackedVideo
from guava_aug.views import plan_views


class Nowhere:
    """A view's file that only counts."""

    def write(self, batch: Any) -> None:
        self.last = batch.video

    def close(self) -> None:
        if isinstance(self.last, PendingFrames):
            self.last.planes()  # the GPU and the copies are done

    def abort(self) -> None: ...


@dataclass
class Scene:
    """A model and an avatar that are ready, and the camera and background of a view."""

    model: GuavaModel
    video: TrackedVideo
    motion: Motion  # as many frames as the largest batch
    plate: Tensor  # [1, 3, H, W]

    def __post_init__(self) -> None:
        self.source = self.video.source_at(self.model.config.feature_img_size)
        self.avatar = self.model.reconstruct(self.source)
        self.view = plan_views(self.video.name, ["medium"])[0]


def by_doors(scene: Scene, batch: int) -> Callable[[], Tensor]:
    """Renders one batch of posed frames: [T, 3, H, W]."""
    with torch.inference_mode():
        posed = scene.avatar.pose(scene.motion[:batch])
    cameras = scene.view.cameras(scene.source.viewmat, batch, scene.model.config.image_size)
    return lambda: scene.model.render(posed, cameras, scene.plate)


def to_host(scene: Scene, batch: int) -> Callable[[], np.ndarray]:
    """The same on the fast GPU path: the encoder's planes on the host."""
    posed = scene.avatar.pose(scene.motion[:batch])
    size = scene.model.config.image_size
    cameras = plan_views(scene.video.name, ["hard"])[0].cameras(scene.source.viewmat, batch, size)
    return lambda: PendingFrames(*scene.model.render_planes(posed, cameras, scene.plate)).planes()


def exact(scene: Scene, refiner: Callable[[Tensor], Tensor]) -> Tensor:
    """The first frame by the reference rasteriser and the float32 `refiner`, without TF32: [1, 3, H, W]."""
    size = scene.model.config.image_size
    camera = scene.view.cameras(scene.source.viewmat, 1, size).to(scene.model.device)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        p = scene.avatar.pose(scene.motion[:1])
        raster = rasterize(
            p.means, p.quats, p.scales, p.opacities, p.features, camera.viewmats, camera.K, size, size, backend="torch"
        )
        return composite(refiner(raster.image), raster.alpha, scene.plate)


def difference(found: Tensor, true: Tensor, alone: Tensor) -> dict[str, float]:
    """PSNR and errors in levels of 255 of a picture; and the largest difference to the same frame rendered alone."""
    error = 255 * (found.double() - true.double()).abs()
    return {
        "psnr_db": float(20 * torch.log10(255 / error.square().mean().sqrt().clamp_min(1e-9))),
        "max_255": float(error.max()),
        "999_255": float(error.flatten().quantile(0.999)),
        "batch_255": float(255 * (found.double() - alone.double()).abs().max()),
    }


def as_the_original(scene: Scene, frames: int, refiner: Callable[[Tensor], Tensor]) -> Callable[[], object]:
    """Renders frames one by one: two passes of the rasteriser, float32 `refiner`, a copy each."""
    size, device = scene.model.config.image_size, scene.model.device
    camera = scene.view.cameras(scene.source.viewmat, 1, size).to(device)
    with torch.inference_mode():
        posed = [scene.avatar.pose(scene.motion[i : i + 1]) for i in range(frames)]
        ones = torch.ones_like(posed[0].features)

    @torch.inference_mode()
    def call() -> list[np.ndarray]:
        out = []
        for p in posed:
            colours, alphas = (
                rasterize(
                    p.means, p.quats, p.scales, p.opacities, features, camera.viewmats, camera.K, size, size,
                    backend=scene.model.backend,
                ).image
                for features in (p.features, ones)
            )  # fmt: skip
            out.append(to_video_bytes(composite(refiner(colours), alphas[:, :1].clamp(0, 1), scene.plate)))
        return out

    return call


def through_the_pipeline(scene: Scene, views: int, chunk: int) -> float:
    """Wall seconds of the video with so many views, frames thrown away."""
    plan = plan_views(scene.video.name, ["medium"], 42, views)
    settings = PipelineSettings("black", chunk, RunConfig.views_in_flight)
    begun = time.perf_counter()
    events = augment_video(
        scene.model, ClipVideos.of(scene.video), plan, lambda view: Nowhere(), settings,  # type: ignore[arg-type,return-value]
        StageTimer(str(scene.model.device)),
    )  # fmt: skip
    failed = [event.error for event in events if isinstance(event, ViewEnd) and event.error is not None]
    seconds = time.perf_counter() - begun
    if failed:
        raise failed[0]
    return seconds


def gpu_busy(call: Callable[[], object], device: str, frames: int) -> dict[str, float]:
    """Milliseconds in which the GPU computed, and copied, and the number of kernels, a frame; empty on a CPU."""
    with gpu_trace(device) as intervals:
        call()
    spans = {work: [(i.start, i.end) for i in intervals if i.work == work] for work in (KERNELS, COPIES)}
    if not intervals:
        return {}
    return {
        "busy_ms": 1000 * union_seconds(spans[KERNELS]) / frames,
        "copy_ms": 1000 * union_seconds(spans[COPIES]) / frames,
        "kernels": len(spans[KERNELS]) / frames,
    }


def main() -> None:
    parser = setting.flags(__doc__, repeats=9)
    setting.model_flags(parser)
    setting.video_flags(parser)
    parser.add_argument("--engine", nargs="+", default=["doors"], choices=["doors", "pipeline", "reference"])
    parser.add_argument("--views", type=int, default=11, help="of pipeline: the larger number")
    parser.add_argument("--batches", type=int, nargs="+", help="of doors; default: 1 4 on a CPU, 1 2 4 8 32 on a GPU")
    args = parser.parse_args()
    setting.speak()
    on_cpu = args.device == "cpu"
    batches = args.batches or ([1, 4] if on_cpu else [1, 2, 4, 8, 32])
    model, video = setting.open_model(args), setting.open_video(args)
    size = model.config.image_size
    motion = Motion.cat([video.motion] * (max(batches) // len(video.motion) + 1)).to(args.device)
    scene = Scene(model, video, motion, torch.full((1, 3, size, size), 0.5, device=args.device))

    float32 = setting.plain_refiner(args, torch.float32)
    rows: list[dict[str, Any]] = []
    if "doors" in args.engine:
        true, alone = exact(scene, float32), by_doors(scene, 1)()
        for batch in batches:
            render = by_doors(scene, batch)
            call = to_host(scene, batch) if scene.model.fast else lambda render=render: to_video_bytes(render())
            times = time_calls(call, args.repeats, args.device, warm_up=1 if on_cpu else 5)
            row = {"engine": "doors", "batch": batch, **times.to_json(per=batch), "latency_ms": times.ms}
            rows.append({**row, **gpu_busy(call, args.device, batch), **difference(render()[:1], true, alone)})
    if "reference" in args.engine:
        frames = 1 if on_cpu else 8
        call = as_the_original(scene, frames, float32)
        times = time_calls(call, max(1, args.repeats // 3), args.device)
        busy = gpu_busy(call, args.device, frames)
        rows.append({"engine": "reference", "batch": 1, **times.to_json(per=frames), **busy})
    if "pipeline" in args.engine:
        chunk = RunConfig(video.path, video.path).chunk_length(args.device)
        through_the_pipeline(scene, 1, chunk)
        runs = range(max(1, args.repeats // 3))
        few, many = (statistics.median(through_the_pipeline(scene, n, chunk) for _ in runs) for n in (1, args.views))
        ms = 1000 * (many - few) / (args.views - 1) / video.num_frames
        rows.append({"engine": "pipeline", "batch": chunk, "ms": ms, "T(1)_s": few, f"T({args.views})_s": many})
    columns = ["engine", "batch", "ms", "gpu_ms", "busy_ms", "copy_ms", "kernels", "latency_ms", "psnr_db", "max_255"]
    columns += ["999_255", "batch_255", "T(1)_s", f"T({args.views})_s"]
    setting.report(
        args, f"{scene.avatar.num_gaussians} Gaussians, {size} x {size}; milliseconds a frame", columns, rows,
        ["gpu_ms: between two events around a batch; busy_ms: in kernels, by the driver's record; kernels: a frame",
         "psnr, max, 999: the picture against the float32 reference, errors in levels of 255 (largest; of 99.9 %);",
         "batch: against the same frame rendered alone"],
        model=model.source, gaussians=scene.avatar.num_gaussians,
    )  # fmt: skip


if __name__ == "__main__":
    setting.guarded(main)
