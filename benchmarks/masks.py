"""Masks of generated people against the truth: of the person net alone, and refined.

`python benchmarks/masks.py [--clips N] [--frames N] [--size N] [--seed N] [--json FILE]`

The bundled clips, then N people of the generator that nothing was tuned on, at another size. Each is detected, cropped
and refined as `guava-aug track` does it. IoU: intersection over union at one half, mean and worst frame; flicker: mean
change of the mask between frames, of 255, where the truth stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import cv2
import numpy as np
import torch

import setting
from guava_aug.apps.synthetic import demo_root
from guava_aug.apps.synthetic.bank import Bank
from guava_aug.apps.synthetic.scene import make_scene, scene_pictures
from guava_aug.tracked import TrackedVideo, list_videos
from guava_aug.tracked.detect import detect
from guava_aug.tracked.matting import coarse_masks, refine_masks
from guava_aug.tracked.reading import Crop
from guava_aug.views.cameras import Cameras, intrinsics

Clip = tuple[str, np.ndarray, np.ndarray]  # name, pictures [T, S, S, 3], true masks [T, S, S], uint8


def bundled(frames: int) -> Iterator[Clip]:
    for name in list_videos(demo_root()):
        video = TrackedVideo.open(demo_root(), name)
        pairs = [video.read_frame(i) for i in range(min(frames, video.num_frames))]
        yield name, np.stack([rgb for rgb, _ in pairs]), np.stack([mask for _, mask in pairs])


def generated(count: int, frames: int, size: int, seed: int) -> Iterator[Clip]:
    bank, K = Bank.bare(), intrinsics(size, size)
    to_byte = lambda x: (x.clamp(0, 1) * 255 + 0.5).byte().numpy()
    for s in range(seed, seed + count):
        scene = make_scene(bank, s, frames, size)
        pictures, masks = [], []
        for i in range(frames):
            rgb, mask = scene_pictures(bank, scene, Cameras(scene.viewmat[None], K, size, size), slice(i, i + 1))
            pictures.append(to_byte(rgb[0].permute(1, 2, 0)))
            masks.append(to_byte(mask[0, 0]))
        yield f"seed {s}", np.stack(pictures), np.stack(masks)


def measure(clip: Clip, device: torch.device | str) -> dict[str, float | str]:
    name, pictures, truth = clip
    size = pictures.shape[1]
    landmarks = detect(pictures, device=device)
    coarse = coarse_masks(landmarks.person_mask, landmarks.mask_region, Crop(0, 0, size, (size, size)))
    start = time.perf_counter()
    found = np.stack(list(refine_masks(lambda: pictures, coarse, len(pictures))))
    seconds = (time.perf_counter() - start) / len(pictures)
    net = np.stack([cv2.resize(coarse(i), (size, size)) > 0.5 for i in range(len(pictures))])
    iou = lambda a, b: (a & b).sum((1, 2)) / (a | b).sum((1, 2))
    before, after = iou(net, truth > 127), iou(found > 127, truth > 127)
    still = np.abs(np.diff(truth.astype(np.int16), axis=0)) < 3
    flicker = np.abs(np.diff(found.astype(np.int16), axis=0))[still].mean()
    return {
        "clip": name, "size": size, "frames": len(pictures), "iou_net": float(before.mean()),
        "iou": float(after.mean()), "iou_worst": float(after.min()), "flicker": float(flicker), "s_frame": seconds,
    }  # fmt: skip


def main() -> None:
    parser = setting.flags(__doc__, repeats=None)
    parser.add_argument("--clips", type=setting.count, default=3, help="generated people")
    parser.add_argument("--frames", type=setting.count, default=24)
    parser.add_argument("--size", type=setting.count, default=1024)
    parser.add_argument("--seed", type=int, default=9101)
    args = parser.parse_args()
    setting.speak()
    rows = []
    for source in (bundled(args.frames), generated(args.clips, args.frames, args.size, args.seed)):
        rows += [measure(clip, setting.device(args)) for clip in source]
    columns = ["clip", "size", "frames", "iou_net", "iou", "iou_worst", "flicker", "s_frame"]
    setting.report(args, "masks of generated people", columns, rows, ["s_frame: refining alone, without detection"])


if __name__ == "__main__":
    setting.guarded(main)
