"""What each stage of one frame costs: `python benchmarks/stages.py [--json FILE]`.

Without `--model_path` it takes random weights of official size on the free body (168k Gaussians), and the bundled clip;
with it, and `--tracked_root`, any model and any tracked video. Ratios: the body model of 64 frames in one batch against
one by one, and every stage's share of a whole frame.
"""

from __future__ import annotations

import torch

import setting
from guava_aug.apps.benchmark.clock import time_calls
from guava_aug.avatar.model import GuavaModel
from guava_aug.body import Motion
from guava_aug.output import to_video_bytes
from guava_aug.render.background import composite
from guava_aug.tracked import TrackedVideo
from guava_aug.views import plan_views

WHOLE = "whole frame"
PARTS = ("pose", "rasterise", "refine", "composite, to bytes")


@torch.inference_mode()
def measure(model: GuavaModel, video: TrackedVideo, repeats: int, device: str) -> tuple[dict[str, float], int]:
    """Milliseconds of every stage, and the number of Gaussians."""
    median = lambda call, times: time_calls(call, times, device).ms
    source = video.source_at(model.config.feature_img_size)
    ms = {"reconstruct (once per video)": median(lambda: model.reconstruct(source), max(1, repeats // 3))}
    avatar = model.reconstruct(source)
    motion = video.motion.to(device)
    motion = Motion.cat([motion] * (64 // len(motion) + 1))[:64]
    one, identity = motion[:1], video.identity.to(device)
    ms["body, one frame alone"] = median(lambda: model.body(identity, one), 3 * repeats)
    ms["body, per frame of a batch of 64"] = median(lambda: model.body(identity, motion), repeats) / 64

    posed = avatar.pose(one)
    size = model.config.image_size
    cameras = plan_views(video.name, ["medium"])[0].cameras(source.viewmat, 1, size)
    layers = model.render_layers(posed, cameras)
    plate = torch.full((1, 3, size, size), 0.5, device=device)
    stages = {
        "pose": lambda: avatar.pose(one),
        "rasterise": lambda: model.rasterize(posed, cameras),
        "refine": lambda: model.refine(layers.raster.image),
        "composite, to bytes": lambda: to_video_bytes(composite(layers.rgb, layers.alpha, plate)),
        WHOLE: lambda: to_video_bytes(model.render(avatar.pose(one), cameras, plate)),
    }
    for name, call in stages.items():
        ms[name] = median(call, repeats)
    return ms, avatar.num_gaussians


def main() -> None:
    parser = setting.flags(__doc__)
    setting.model_flags(parser)
    setting.video_flags(parser, frames=100)
    args = parser.parse_args()
    setting.speak()
    model = setting.open_model(args)
    ms, gaussians = measure(model, setting.open_video(args), args.repeats, args.device)
    rows = [
        {"stage": stage, "ms": value, "percent": 100 * value / ms[WHOLE] if stage in PARTS else None}
        for stage, value in ms.items()
    ]
    ratio = ms["body, one frame alone"] / ms["body, per frame of a batch of 64"]
    setting.report(
        args, f"{gaussians} Gaussians, one frame at a time; milliseconds", ["stage", "ms", "percent"], rows,
        [f"body in a batch of 64: {ratio:.1f} times faster per frame than alone"],
        model=model.source, gaussians=gaussians, body_ratio=ratio,
    )  # fmt: skip


if __name__ == "__main__":
    setting.guarded(main)
