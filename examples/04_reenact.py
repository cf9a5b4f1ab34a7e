"""The person of one clip moves as the person of another: identity and motion are separate things.

The appearance and the body shape come from `--identity` (default: the first clip), motion, cameras and background from
`--motion` (default: the last). `--other-shape` takes the body shape of `--motion` as well.

python examples/04_reenact.py --identity clip_a --motion clip_b
"""

from __future__ import annotations

from pathlib import Path

import tyro

from guava_aug import TrackedVideo, load_model
from guava_aug.apps.synthetic import demo_root
from guava_aug.output import VideoWriter, to_video_bytes
from guava_aug.render.background import background_for
from guava_aug.tracked import list_videos
from guava_aug.views import tracked_cameras

CLIPS = demo_root()


def main(
    tracked_root: Path = CLIPS,
    identity: str | None = None,
    motion: str | None = None,
    output: Path = Path("reenacted"),
    frames: int | None = None,
    other_shape: bool = False,
    model_path: Path | None = None,
    device: str = "cpu",
) -> None:
    names = list_videos(tracked_root)
    who = TrackedVideo.open(tracked_root, identity or names[0])
    how = TrackedVideo.open(tracked_root, motion or names[-1])
    model = load_model(model_path, device)
    size = model.config.image_size
    count = min(frames or how.num_frames, how.num_frames)

    avatar = model.reconstruct(who.source_at(model.config.feature_img_size))
    if other_shape:  # the clothes and the face of one, the proportions of the other
        avatar = avatar.with_identity(how.identity.to(device))
    background = background_for(how, "plate", size)

    path = output / f"{who.name}_as_{how.name}.mp4"
    with VideoWriter(path, size, size, how.fps or 30) as writer:
        for chunk in how.chunks(4, size):
            n = min(len(chunk), count - chunk.start)
            if n <= 0:
                break
            posed = avatar.pose(chunk.motion[:n].to(device))
            cameras = tracked_cameras(chunk.viewmats[:n], size)  # or any view: View(...).cameras(...)
            rgb = model.render(posed, cameras, background.frames(chunk)[:n])
            writer.write(to_video_bytes(rgb))
    print(f"{writer.frames} frames in {path}")


if __name__ == "__main__":
    tyro.cli(main)
