"""How long posing the Gaussians takes a frame, in batches: `python benchmarks/deform.py [--json FILE]`.

The body model alone, and body model + Gaussians (`Avatar.pose`), for every batch size; then the whole video in chunks
as a run does it.
"""

from __future__ import annotations

import torch

import setting
from guava_aug.apps.benchmark.clock import time_calls
from guava_aug.batch.config import FRAMES_PER_CHUNK_CPU, FRAMES_PER_CHUNK_GPU
from guava_aug.body import Motion


@torch.inference_mode()
def main() -> None:
    parser = setting.flags(__doc__)
    setting.model_flags(parser)
    setting.video_flags(parser)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    args = parser.parse_args()
    setting.speak()
    model, video = setting.open_model(args), setting.open_video(args)
    avatar = model.reconstruct(video.source_at(model.config.feature_img_size))
    identity, motion = video.identity.to(args.device), video.motion.to(args.device)

    rows = []
    for batch in args.batches:
        some = Motion.cat([motion] * (batch // len(motion) + 1))[:batch]
        for name, call in (
            ("body model", lambda some=some: model.body(identity, some)),
            ("body model + Gaussians", lambda some=some: avatar.pose(some)),
        ):
            times = time_calls(call, args.repeats, args.device, warm_up=2)
            rows.append({"what": name, "batch": batch, **times.to_json(per=batch)})

    chunk = FRAMES_PER_CHUNK_CPU if args.device == "cpu" else FRAMES_PER_CHUNK_GPU

    def whole() -> None:
        for start in range(0, len(motion), chunk):
            avatar.pose(motion[start : start + chunk])

    times = time_calls(whole, 1 if args.device == "cpu" else args.repeats, args.device, warm_up=0)
    rows.append({"what": f"all {len(motion)} frames, in all", "batch": chunk, **times.to_json()})
    setting.report(
        args, f"posing {avatar.num_gaussians} Gaussians; milliseconds a frame",
        ["what", "batch", "ms", "gpu_ms", "ms_min", "ms_max"], rows, model=model.source, gaussians=avatar.num_gaussians,
    )  # fmt: skip


if __name__ == "__main__":
    setting.guarded(main)
