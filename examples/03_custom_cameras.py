"""A camera path of your own: `Cameras` has one matrix per frame, so the camera may move while the person does.

Here it swings from the person's right to the left and comes nearer. `look_at` takes angles as the original counts
them; any world-to-camera matrices (x right, y down, z forward) do as well.

python examples/03_custom_cameras.py --frames 60 --output swing
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro

from guava_aug import TrackedVideo, load_model
from guava_aug.apps.synthetic import demo_root
from guava_aug.output import VideoWriter, to_video_bytes
from guava_aug.render.background import background_for
from guava_aug.tracked import list_videos
from guava_aug.views import Cameras, camera_center, look_at
from guava_aug.views.cameras import BASE_PITCH, BASE_YAW, LOOK_AT, intrinsics

CLIPS = demo_root()


def swing(source_viewmat: torch.Tensor, num_frames: int, size: int) -> Cameras:
    """Cameras of `num_frames` frames around the person of the source frame."""
    t = torch.linspace(0, 1, num_frames, dtype=torch.float64)
    radius = camera_center(source_viewmat).norm()  # metres
    viewmats = look_at(
        yaw=BASE_YAW + 0.4 * (2 * t - 1),  # radians
        pitch=torch.full_like(t, BASE_PITCH),
        radius=radius * (1.1 - 0.3 * t).float(),
        target=torch.tensor(LOOK_AT).expand(num_frames, 3),
    )
    return Cameras(viewmats, intrinsics(size, size), size, size)


def main(
    tracked_root: Path = CLIPS,
    video: str | None = None,
    output: Path = Path("custom_cameras"),
    frames: int | None = None,
    model_path: Path | None = None,
    device: str = "cpu",
) -> None:
    model = load_model(model_path, device)
    size = model.config.image_size
    clip = TrackedVideo.open(tracked_root, video or list_videos(tracked_root)[0])
    count = min(frames or clip.num_frames, clip.num_frames)
    source = clip.source_at(model.config.feature_img_size)
    avatar = model.reconstruct(source)
    plate = background_for(clip, "plate", size)
    cameras = swing(source.viewmat, count, size)

    path = output / f"{clip.name}_swing.mp4"
    with VideoWriter(path, size, size, clip.fps or 30) as writer:
        for chunk in clip.chunks(4, size):
            n = min(len(chunk), count - chunk.start)
            if n <= 0:
                break
            posed = avatar.pose(chunk.motion[:n].to(device))
            rgb = model.render(posed, cameras[chunk.start : chunk.start + n], plate.frames(chunk)[:n])
            writer.write(to_video_bytes(rgb))
    print(f"{writer.frames} frames in {path}")


if __name__ == "__main__":
    tyro.cli(main)
