"""How near the tracker comes to the truth, on generated people that were never used to calibrate it.

`python benchmarks/tracking.py [--clips N] [--frames N] [--bank BANK.npz] [--near SHARE] [--estimate_lens]
[--photometric]`

Generated people, seeds of their own, are detected and fitted, and the poses are compared with those they were made
from: millimetres with the necks on each other, also after one scale per clip (one camera does not show how large a
person is), pixels of a picture of 1024, and how much the joints jitter against the truth. The three bundled clips of
dressed people come first. `--near`: that share of the clips is seen by a near camera, whose lens is given, or estimated
with `--estimate_lens`. `--photometric`: every clip once more after the fit to its pictures, and dB on the person and
IoU of an avatar of one frame on the landmark fit, on the refined fit and on the true parameters.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import setting
from guava_aug.apps.synthetic import default_body_path, demo_root
from guava_aug.apps.synthetic.bank import Bank
from guava_aug.apps.synthetic.scene import make_scene, scene_pictures
from guava_aug.avatar.model import load_model
from guava_aug.avatar.personalize.photometric import PhotometricFitter
from guava_aug.body import EhmModel, Identity, Motion, load_body_file
from guava_aug.body.joints import INDEX
from guava_aug.tracked import TrackedVideo
from guava_aug.tracked.detect.detect import detect
from guava_aug.tracked.fit import ClipFit, ClipFitter, Crop, Lens
from guava_aug.tracked.write import write_tracked
from guava_aug.views.cameras import Cameras, intrinsics

FIRST_SEED = 9100  # calibration begins at 3000
SIZE = 512
UPPER = [INDEX[f"{side}_{n}"] for side in ("left", "right") for n in ("shoulder", "elbow")]
HANDS = list(range(25, 55))
TIPS = [INDEX[f"{s}_{f}3"] for s in ("left", "right") for f in ("thumb", "index", "middle", "ring", "pinky")]
HEAD = [INDEX[n] for n in ("head", "left_eye", "right_eye")]
COLUMNS = (
    "clip", "upper mm", "hands mm", "tips mm", "head mm", "scaled hands", "depth mm", "hand px", "head px",
    "jitter hands", "jitter upper", "word", "s/frame", "dB", "IoU", "true dB", "given up",
)  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """A clip whose parameters are known."""

    name: str
    pictures: list[np.ndarray]
    masks: list[np.ndarray]
    identity: Identity
    motion: Motion
    viewmats: Tensor
    K: Tensor
    near: bool


def bundled(frames: int) -> Iterator[Truth]:
    for name in ("signer_a", "signer_b", "signer_c"):
        video = TrackedVideo.open(demo_root(), name)
        n = min(frames, video.num_frames)
        pictures, masks = zip(*(video.read_frame(i) for i in range(n)), strict=True)
        K = intrinsics(video.image_size, video.image_size)
        yield Truth(name, list(pictures), list(masks), video.identity, video.motion[:n], video.viewmats[:n], K, False)


def generated(bank: Bank, seed: int, frames: int, near: bool) -> Truth:
    scene = make_scene(bank, seed, frames + 10, SIZE)
    motion, K, viewmat = scene.motion[10:], intrinsics(SIZE, SIZE), scene.viewmat.clone()
    if near:
        focal = SIZE * float(np.random.default_rng([seed, 1]).uniform(0.9, 1.6))
        viewmat[2, 3] *= focal / float(K[0, 0])
        K = torch.tensor([[focal, 0, (SIZE - 1) / 2], [0, focal, (SIZE - 1) / 2], [0, 0, 1]])
    cameras = Cameras(viewmat[None], K, SIZE, SIZE)
    pictures, masks = [], []
    for i in range(frames):
        picture, alpha = scene_pictures(bank, scene, cameras, slice(10 + i, 11 + i), supersample=2)
        pictures.append((picture[0].permute(1, 2, 0).clamp(0, 1) * 255 + 0.5).byte().numpy())
        masks.append((alpha[0, 0].clamp(0, 1) * 255 + 0.5).byte().numpy())
    name = f"seed {seed}{' near' if near else ''}"
    return Truth(name, pictures, masks, scene.person.identity, motion, viewmat.expand(frames, 4, 4), K, near)


def compare(model: EhmModel, truth: Truth, fit: ClipFit, seconds: float) -> dict[str, float | str]:
    def joints(identity: Identity, motion: Motion, viewmats: Tensor) -> Tensor:
        return model(identity, motion).joints + viewmats[:, None, :3, 3]

    with torch.no_grad():
        a = joints(truth.identity, truth.motion, truth.viewmats)
        b = joints(fit.identity, fit.motion, fit.viewmats)
    neck = INDEX["neck"]
    p, q = (1e3 * (x - x[:, neck, None]) for x in (a, b))
    scale = (p * q).sum() / (q * q).sum()
    size = truth.pictures[0].shape[0]

    def mm(ids: list[int], factor: Tensor | float = 1.0) -> float:
        return float((p - factor * q)[:, ids].norm(dim=-1).mean())

    def pixels(x: Tensor, K: Tensor) -> Tensor:
        return (x[..., :2] / x[..., 2:] * K[0, 0] + K[:2, 2] + 0.5) / size * 1024

    K = intrinsics(size, size) if fit.K is None else fit.K
    off = (pixels(a, truth.K) - pixels(b, K)).norm(dim=-1)

    def jitter(ids: list[int]) -> float:
        bend = [(x[2:] - 2 * x[1:-1] + x[:-2])[:, ids].norm(dim=-1).mean() for x in (q, p)]
        return float(bend[0] / bend[1])

    return {
        "clip": truth.name, "upper mm": mm(UPPER), "hands mm": mm(HANDS), "tips mm": mm(TIPS), "head mm": mm(HEAD),
        "scaled hands": mm(HANDS, scale), "depth mm": float((p - q)[:, HANDS, 2].abs().mean()),
        "hand px": float(off[:, HANDS].mean()), "head px": float(off[:, HEAD].mean()), "jitter hands": jitter(HANDS),
        "jitter upper": jitter(UPPER), "word": fit.quality.word, "s/frame": seconds / len(truth.pictures),
    }  # fmt: skip


def refined_row(fitter: PhotometricFitter, truth: Truth, fit: ClipFit) -> Iterator[dict[str, float | str | None]]:
    """The figures of pictures on a landmark fit, and all figures of the clip after the fit to its pictures."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = zip(truth.pictures, truth.masks, strict=True)
        write_tracked(folder, "clip", fit.identity, fit.motion, fit.viewmats, pairs, fps=25, K=fit.K)
        video = TrackedVideo.open(folder, "clip")
        true_video = replace(video, K=truth.K if truth.near else None)
        best = fitter.figures(true_video, fit, truth.identity, truth.motion, truth.viewmats)
        start = time.perf_counter()
        found = fitter.refine(video, fit)
        seconds = time.perf_counter() - start
    after = replace(
        fit, identity=found.identity, motion=found.motion, viewmats=found.viewmats, quality=found.quality
    )  # fmt: skip
    report: Any = found.report
    for when, row in (("before", {}), ("after", compare(fitter.model.body.to("cpu"), truth, after, seconds))):
        given_up = len(after.motion) if not report["used"] else sum(map(len, _numbers(report["frames_given_up"])))
        yield {
            **row, "dB": report["psnr_on_person"][when], "IoU": report["iou"][when], "true dB": best.psnr,
            **({"clip": f"{truth.name}, refined", "given up": float(given_up)} if row else {}),
        }  # fmt: skip


def _numbers(ranges: str) -> list[range]:
    """The frames in "3,7-9"."""
    ends = [part.split("-") for part in ranges.split(",") if part]
    return [range(int(e[0]), int(e[-1]) + 1) for e in ends]


def main() -> None:
    parser = setting.flags(__doc__, repeats=None)
    parser.add_argument("--clips", type=int, default=4, help="generated clips; the bundled ones come on top")
    parser.add_argument("--frames", type=setting.count, default=40)
    parser.add_argument("--bank", help="picture bank of `guava_aug.apps.synthetic.bake.pack_bank`; else painted people")
    parser.add_argument("--near", type=float, default=0.25, help="share of generated clips from a near camera")
    parser.add_argument("--estimate_lens", action="store_true")
    parser.add_argument("--photometric", action="store_true", help="also after the fit to the pictures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = EhmModel(load_body_file(default_body_path(), 64))
    fitter = ClipFitter(model)
    bank = Bank.load(args.bank) if args.bank else Bank.bare()
    refiner = PhotometricFitter(load_model("embedded", args.device, precision="fp32")) if args.photometric else None
    rows: list[dict[str, Any]] = []

    def clips() -> Iterator[Truth]:
        yield from bundled(args.frames)
        for k in range(args.clips):
            yield generated(bank, FIRST_SEED + k, args.frames, (k + 1) * args.near % 1 < args.near)

    for truth in clips():
        landmarks = detect(truth.pictures, device=args.device, fps=25.0)
        size = truth.pictures[0].shape[0]
        K = truth.K
        lens = Lens(float(K[0, 0]), (float(K[0, 2]), float(K[1, 2]))) if truth.near and not args.estimate_lens else None
        start = time.process_time()
        fit = fitter.fit(
            landmarks, crop=Crop(0, 0, size), lens=lens, estimate_lens=truth.near and args.estimate_lens, size=size
        )
        rows.append(compare(model, truth, fit, time.process_time() - start))
        if refiner is not None:
            before, after = refined_row(refiner, truth, fit)
            rows[-1].update(before)
            rows.append(after)
    means = []
    for ending in ("", ", refined") if args.photometric else ("",):
        some = [r for r in rows if r["clip"].endswith(", refined") == bool(ending)]
        named = [k for k in COLUMNS if k in some[0] and not isinstance(some[0][k], str)]
        means.append({"clip": f"mean{ending}", **{k: float(np.mean([r[k] for r in some])) for k in named}})
    setting.report(args, "Tracking against the truth", COLUMNS, [*rows, *means])


if __name__ == "__main__":
    setting.guarded(main)
