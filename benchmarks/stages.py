"""What each stage of one frame costs at official size: `python benchmarks/stages.py [--json FILE]`.

Without `--model_path` it builds the official configuration with seeded random weights on the free body that ships
with the package (168k Gaussians) and reads the bundled clip; with it, and `--tracked_root`, any model and any tracked
video.
Ratios: the body model of 64 frames in one batch against one by one, and every stage's share of a whole frame.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from guava_aug.avatar import ModelConfig, ReconstructionNetwork, StyleUNet
from guava_aug.body import EhmModel, Motion, load_body_file
from guava_aug.malloc import keep_freed_memory
from guava_aug.model import BODY_FILE, EMBEDDED_DIR, GuavaModel, load_model
from guava_aug.output import to_video_bytes
from guava_aug.render.composite import composite
from guava_aug.tracked import TrackedVideo, list_videos
from guava_aug.views import plan_views
from rasterizer import machine

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "golden"))


def official_size_model(device: str) -> GuavaModel:
    """The official configuration on the free body, weights by the rule of the reference data."""
    from golden_weights import fill_array  # type: ignore[import-not-found]

    config = ModelConfig()
    assets = load_body_file(EMBEDDED_DIR / BODY_FILE, config.uvmap_size)
    network = ReconstructionNetwork(config, len(assets.body.v_template))
    refiner = StyleUNet(config.refiner)
    for module, prefix in ((network, ""), (refiner, "nerual_refiner.")):
        state = {k: torch.from_numpy(fill_array(prefix + k, v.shape)) for k, v in module.state_dict().items()}
        module.load_state_dict(state)
        module.to(device)
    return GuavaModel(config, network, refiner, EhmModel(assets.to(device)), source="seeded random weights")


def median_ms(call: Callable[[], object], repeats: int, device: str) -> float:
    """Median wall time of `call` in milliseconds, after one call that does not count."""
    times = []
    for i in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        if i:
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


@torch.inference_mode()
def measure(model: GuavaModel, video: TrackedVideo, repeats: int, device: str) -> dict[str, float]:
    """Milliseconds of every stage."""
    source = video.source_at(model.config.feature_img_size)
    ms = {"reconstruct (once per video)": median_ms(lambda: model.reconstruct(source), max(1, repeats // 3), device)}
    avatar = model.reconstruct(source)
    motion = video.motion.to(device)
    motion = Motion.cat([motion] * (64 // len(motion) + 1))[:64]
    one = motion[:1]
    identity = video.identity.to(device)
    ms["body, one frame alone"] = median_ms(lambda: model.body(identity, one), 3 * repeats, device)
    ms["body, per frame of a batch of 64"] = median_ms(lambda: model.body(identity, motion), repeats, device) / 64

    posed = avatar.pose(one)
    size = model.config.image_size
    cameras = plan_views(video.name, ["medium"])[0].cameras(source.viewmat, 1, size)
    layers = model.render_layers(posed, cameras)
    plate = torch.full((1, 3, size, size), 0.5, device=device)
    finish = lambda: to_video_bytes(composite(layers.rgb, layers.alpha, plate))
    stages = {
        "pose": lambda: avatar.pose(one),
        "rasterise": lambda: model.rasterize(posed, cameras),
        "refine": lambda: model.refine(layers.raster.image),
        "composite, to bytes": finish,
        "whole frame": lambda: (model.render(avatar.pose(one), cameras, plate), finish()),
    }
    for name, call in stages.items():
        ms[name] = median_ms(call, repeats, device)
    ms["gaussians"] = avatar.num_gaussians
    return ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", help="a GUAVA model directory or file")
    parser.add_argument("--tracked_root", type=Path, default=EMBEDDED_DIR / "clips")
    parser.add_argument("--video", help="default: the first below --tracked_root")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    keep_freed_memory()
    model = load_model(args.model_path, args.device) if args.model_path else official_size_model(args.device)
    name = args.video or list_videos(args.tracked_root)[0]
    ms = measure(model, TrackedVideo.open(args.tracked_root, name), args.repeats, args.device)
    gaussians = int(ms.pop("gaussians"))
    info = machine()
    print(f"{info['cpu']}, {info['threads']} threads, gpu {info['gpu']}, torch {info['torch']}; {gaussians} Gaussians")
    whole = ms["whole frame"]
    for stage, value in ms.items():
        share = (
            f"{100 * value / whole:5.0f} %" if stage in ("pose", "rasterise", "refine", "composite, to bytes") else ""
        )
        print(f"{stage:36s} {value:10.1f} ms {share}")
    ratio = ms["body, one frame alone"] / ms["body, per frame of a batch of 64"]
    print(f"body in a batch of 64: {ratio:.1f} times faster per frame than alone")
    if args.json:
        args.json.write_text(
            json.dumps({"machine": info, "gaussians": gaussians, "ms": ms, "body_ratio": ratio}, indent=2)
        )


if __name__ == "__main__":
    main()
