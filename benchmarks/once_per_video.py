"""What a video costs whatever the number of views: `python benchmarks/once_per_video.py [--json FILE]`.

Each step alone; `as a run does it`: open, background (which decodes at most 64 frames, all where it moves), pose.
"""

from __future__ import annotations

import torch

import setting
from guava_aug.apps.benchmark.clock import time_calls
from guava_aug.batch.config import RunConfig
from guava_aug.render.background import background_for
from guava_aug.tracked import TrackedVideo


def main() -> None:
    parser = setting.flags(__doc__, repeats=5)
    setting.model_flags(parser)
    setting.video_flags(parser)
    parser.add_argument("--background", default="plate")
    args = parser.parse_args()
    setting.speak()
    model = setting.open_model(args)
    root, (name,) = setting.video_root(args)
    video, size = TrackedVideo.open(root, name), model.config.image_size
    chunk = RunConfig(root, root).chunk_length(args.device)
    source = video.source_at(model.config.feature_img_size)
    avatar = model.reconstruct(source)

    def decode() -> None:
        for _ in video.chunks(chunk, size):
            pass

    def pose() -> None:
        for start in range(0, video.num_frames, chunk):
            avatar.pose(video.motion[start : start + chunk].to(args.device))

    def together() -> None:
        """The loop of a run without its views."""
        video = TrackedVideo.open(root, name)
        background = background_for(video, args.background, size)
        for part in video.chunks(chunk, size, images=background.needs_images):  # a still background needs no more
            posed = avatar.pose(part.motion.to(args.device))
            bool(torch.isfinite(posed.means).all())
            background.frames(part)

    calls = {
        "open": lambda: TrackedVideo.open(root, name),
        "decode": decode,
        f"background ({args.background})": lambda: background_for(video, args.background, size),
        "pose": pose,
        "as a run does it": together,
        "source frame": lambda: video.source_at(model.config.feature_img_size),
        "avatar": lambda: model.reconstruct(source),
    }
    rows = []
    for what, call in calls.items():
        rows.append({"what": what, **time_calls(call, args.repeats, args.device).to_json()})
    setting.report(
        args, f"{video.num_frames} frames, {avatar.num_gaussians} Gaussians; milliseconds for all",
        ["what", "ms", "gpu_ms", "ms_min", "ms_max"], rows, model=model.source, frames=video.num_frames,
    )  # fmt: skip


if __name__ == "__main__":
    setting.guarded(main)
