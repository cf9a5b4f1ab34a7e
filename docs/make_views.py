"""Draws docs/views.webp, the moving picture of the README, from the demo's videos.

    guava-aug demo --output demo_output --clips signer_a
    python docs/make_views.py demo_output

Input, easy, medium, hard, side by side; every second frame, half size.
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw

from guava_aug import TrackedVideo
from guava_aug.assets import embedded_path
from guava_aug.output.tree import video_path

CLIP, SIZE, STEP, FRAMES, BORDER = "signer_a", 224, 2, 36, 2
TITLES = ("input", "easy", "medium", "hard")


def frames_of(path: Path) -> list[np.ndarray]:
    """Return all frames of a video, uint8 [H, W, 3]."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def main() -> None:
    """Write the picture."""
    root = Path(sys.argv[1])
    source = TrackedVideo.open(embedded_path("clips"), CLIP)
    views = [frames_of(video_path(root, name, CLIP)) for name in TITLES[1:]]
    pictures = []
    for i in range(0, min(FRAMES * STEP, source.num_frames), STEP):
        row = [source.read_frame(i)[0], *(frames[i] for frames in views)]
        cells = [cv2.resize(cell, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for cell in row]
        gap = np.full((SIZE, BORDER, 3), 255, np.uint8)
        joined = np.concatenate([part for cell in cells for part in (cell, gap)][:-1], axis=1)
        picture = Image.fromarray(joined)
        draw = ImageDraw.Draw(picture)
        for column, title in enumerate(TITLES):
            x = column * (SIZE + BORDER) + 6
            draw.text((x + 1, 5), title, fill=(0, 0, 0))
            draw.text((x, 4), title, fill=(255, 255, 255))
        pictures.append(picture)
    out = Path(__file__).parent / "views.webp"
    duration = round(1000 * STEP / (source.fps or 30))
    pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=duration, loop=0, quality=60, method=6)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, {len(pictures)} frames")


if __name__ == "__main__":
    main()
