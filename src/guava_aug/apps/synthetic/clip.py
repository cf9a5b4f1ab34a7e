"""A tracked clip of a synthetic signer: pictures and the exact parameters behind them, in the tracker's own format.

python -m guava_aug.apps.synthetic.clip --bank BANK.npz --seed 7 --name signer_a --frames 100 --out ROOT
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from guava_aug.apps.synthetic.bank import Bank
from guava_aug.apps.synthetic.motion import FPS
from guava_aug.apps.synthetic.render import project
from guava_aug.apps.synthetic.scene import make_scene, scene_pictures
from guava_aug.body.joints import INDEX
from guava_aug.body.params import Identity, Motion
from guava_aug.tracked.write import write_tracked
from guava_aug.views.cameras import Cameras, intrinsics

log = logging.getLogger(__name__)
_BOX_MARGIN = {"head": 1.9, "left_hand": 1.7, "right_hand": 1.7}


def write_clip(
    bank: Bank, root: Path, name: str, seed: int, frames: int, size: int = 512, quality: int = 90, fps: float = FPS
) -> Path:
    """Return the directory of the clip that was written: stored size `size`, exact parameters, part boxes."""
    scene = make_scene(bank, seed, frames, size, fps)
    log.info("%s: %s, %s", name, scene.person.outfit, scene.person.hair)
    viewmats = scene.viewmat.expand(frames, 4, 4)

    def pictures() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i in range(frames):
            camera = Cameras(viewmats[i : i + 1], intrinsics(size, size), size, size)
            picture, mask = scene_pictures(bank, scene, camera, slice(i, i + 1))
            to_byte = lambda x: (x.clamp(0, 1) * 255 + 0.5).byte().numpy()
            yield to_byte(picture[0].permute(1, 2, 0)), to_byte(mask[0, 0])

    return write_tracked(
        root, name, scene.person.identity, scene.motion, viewmats, pictures(), fps=fps, quality=quality,
        part_crops=part_crops(bank, scene.person.identity, scene.motion, viewmats),
    )  # fmt: skip


def part_crops(bank: Bank, identity: Identity, motion: Motion, viewmats: Tensor) -> dict[str, np.ndarray]:
    """Return [T, 3, 3] per part: affine map from the part's 512 crop to the body picture in 1024 units."""
    joints = bank.model(identity, motion).joints
    screen = project(joints, Cameras(viewmats, intrinsics(1024, 1024), 1024, 1024), 1)[..., :2].numpy()
    hand = lambda side: [
        INDEX[f"{side}_wrist"],
        *(INDEX[f"{side}_{f}3"] for f in ("index", "middle", "pinky", "thumb")),
    ]
    parts = {
        "head": [INDEX[n] for n in ("head", "left_eye", "right_eye", "neck")],
        "left_hand": hand("left"),
        "right_hand": hand("right"),
    }
    out = {}
    for part, ids in parts.items():
        p = screen[:, ids]
        low, high = p.min(1), p.max(1)
        center = (low + high) / 2
        side = (high - low).max(1) * _BOX_MARGIN[part]
        m = np.zeros((len(p), 3, 3), np.float32)
        m[:, 0, 0] = m[:, 1, 1] = side / 512
        m[:, :2, 2] = center - side[:, None] / 2
        m[:, 2, 2] = 1
        out[part] = m
    return out


def main() -> int:
    """Write the clip and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m guava_aug.apps.synthetic.clip", description="write a synthetic tracked clip"
    )
    parser.add_argument(
        "--bank", type=Path, help="bundle of guava_aug.apps.synthetic.bake.pack_bank; without it the person is painted"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="signer")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs")
    parser.add_argument("--out", type=Path, required=True, help="tracked root")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    bank = Bank.load(args.bank) if args.bank else Bank.bare()
    path = write_clip(bank, args.out, args.name, args.seed, args.frames, args.size, args.quality)
    log.info("wrote %s, %.2f MB", path, sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1e6)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
