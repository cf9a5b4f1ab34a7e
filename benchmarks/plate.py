"""What is done once per video beside the avatar: `python benchmarks/plate.py [--json FILE]`.

Opening the video, decoding all frames, and each kind of background, for a whole video; milliseconds in all.
"""

from __future__ import annotations

import setting
from guava_aug.apps.benchmark.clock import time_calls
from guava_aug.batch.config import FRAMES_PER_CHUNK_GPU
from guava_aug.render.background import MODES, background_for
from guava_aug.tracked import TrackedVideo

SIZE = 512


def main() -> None:
    parser = setting.flags(__doc__, repeats=5)
    setting.video_flags(parser)
    parser.add_argument("--size", type=int, default=SIZE, help="pixels of the rendered pictures, square")
    parser.add_argument("--modes", nargs="+", default=list(MODES), help="kinds of background")
    args = parser.parse_args()
    setting.speak()
    root, (name,) = setting.video_root(args)
    video = TrackedVideo.open(root, name)

    def decode() -> None:
        for _ in video.chunks(FRAMES_PER_CHUNK_GPU, args.size):
            pass

    def backgrounds(mode: str) -> None:
        """The background of every frame: a plate is made once, other kinds frame by frame."""
        background = background_for(video, mode, args.size)
        if background.fill is None:
            return
        for chunk in video.chunks(FRAMES_PER_CHUNK_GPU, args.size):
            background.frames(chunk)

    calls = {"open": lambda: TrackedVideo.open(root, name), "decode": decode}
    calls |= {f"background {mode}": lambda mode=mode: backgrounds(mode) for mode in args.modes}
    rows = [{"what": what, **time_calls(call, args.repeats, args.device).to_json()} for what, call in calls.items()]
    setting.report(
        args, f"{video.num_frames} frames stored at {video.image_size}, used at {args.size}; milliseconds for all",
        ["what", "ms", "ms_min", "ms_max"], rows,
        ["a background that is made of every frame includes decoding them"],
        frames=video.num_frames, stored_size=video.image_size,
    )  # fmt: skip


if __name__ == "__main__":
    setting.guarded(main)
