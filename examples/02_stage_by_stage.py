"""One frame of a video from three cameras, one line per stage; the pictures go to PNG files.

python examples/02_stage_by_stage.py --frame 10
"""

from __future__ import annotations

from pathlib import Path

import tyro

from guava_aug import TrackedVideo, View, load_model
from guava_aug.apps.synthetic import demo_root
from guava_aug.output import PngWriter, to_png_bytes
from guava_aug.render.background import background_for
from guava_aug.tracked import list_videos

CLIPS = demo_root()


def main(
    tracked_root: Path = CLIPS,
    video: str | None = None,
    output: Path = Path("stages"),
    frame: int = 0,
    model_path: Path | None = None,
    device: str = "cpu",
) -> None:
    model = load_model(model_path, device)
    size = model.config.image_size
    clip = TrackedVideo.open(tracked_root, video or list_videos(tracked_root)[0])
    source = clip.source_at(model.config.feature_img_size)  # frame 0 on black, who and how, camera

    avatar = model.reconstruct(source)  # identity and image: once per video
    posed = avatar.pose(clip.motion[frame : frame + 1].to(device))  # motion: once per frame
    plate = background_for(clip, "plate", size)  # image: once per video
    chunk = next(c for c in clip.chunks(1, size) if c.start == frame)
    print(f"{clip.name}: {clip.num_frames} frames, {avatar.num_gaussians} Gaussians; background {plate.kind}")

    writer = PngWriter(output)
    for i, yaw in enumerate((-0.4, 0.0, 0.4)):  # radians; positive goes towards the person's left
        view = View("easy", i, seed=0, yaw=yaw, pitch=0.0, zoom=1.0)
        cameras = view.cameras(source.viewmat, 1, size)
        rgb = model.render(posed, cameras, plate.frames(chunk))  # [1, 3, H, W] 0..1
        writer.write(to_png_bytes(rgb))
    print(f"{writer.frames} pictures in {output}")


if __name__ == "__main__":
    tyro.cli(main)
