"""How near the tracker comes to the truth, on generated people that were never used to calibrate it.

`python benchmarks/tracking.py [--clips N] [--frames N] [--seed SEED] [--bank BANK.npz] [--near SHARE]
[--estimate_lens] [--spoil] [--photometric]`
`python benchmarks/tracking.py --calibrated PACK [--estimate_lens]`

Generated people, seeds of their own, are detected and fitted, and the poses are compared with those they were made
from: millimetres with the necks on each other, also after one scale per clip (one camera does not show how large a
person is), pixels of a picture of 1024, and how much the joints jitter against the truth. The three bundled clips of
dressed people come first. `--near`: that share of the clips is seen by a near camera, whose lens is given, or estimated
with `--estimate_lens`. `--spoil`: of each three generated clips one is blurred by movement (the mean of the frame and
its neighbours in time), one is compressed (JPEG, quality 25), one is noisy (8 of 255). `--photometric`: every clip once
more after the fit to its pictures, and dB on the person and IoU of an avatar of one frame on the landmark fit, on the
refined fit and on the true parameters.

`--calibrated`: instead, a real person seen by several calibrated cameras. PACK is a folder as in
`guava_aug.apps.evaluation.real`, of which pack.json and the pictures of the source camera are used, and landmarks.npz,
which holds the detector's landmarks triangulated over all cameras, metres, NaN where too few cameras saw one:
`pose` [T, 33, 3], `hands` [T, 2, 21, 3], `face` [T, 468, 3]. The clip is fitted from the source camera alone. The error
of each part is after one similarity for the whole clip, of the frames in which both hands are known.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
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
from guava_aug.tracked.fit.calibration import Calibration
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


SPOILS = ("blur", "jpeg", "noise")


def spoiled(truth: Truth, how: str) -> Truth:
    """Return a clip whose pictures are worse."""
    pictures = np.stack(truth.pictures).astype(np.float32)
    if how == "blur":
        beside = np.concatenate([pictures[:1], pictures, pictures[-1:]])
        pictures = (beside[:-2] + 2 * pictures + beside[2:]) / 4
    if how == "noise":
        pictures = pictures + np.random.default_rng(7).normal(0, 8, pictures.shape).astype(np.float32)
    out = list(pictures.round().clip(0, 255).astype(np.uint8))
    if how == "jpeg":
        out = [cv2.imdecode(cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, 25])[1], 1) for p in out]
    return replace(truth, name=f"{truth.name} {how}", pictures=out)


# ---- a real person in front of calibrated cameras

PALM = [0, 5, 9, 13, 17]
CALIBRATED_COLUMNS = ("part", "mm", "across mm", "depth mm")
_OUTLIER = 0.06  # metres: what the similarity lets go


def landmarks_in_space(model: EhmModel, c: Calibration, fit: ClipFit) -> dict[str, np.ndarray]:
    """Return where the detector's landmarks are on the fitted body, camera axes, metres."""
    joints = torch.cat([c.pose_joints, c.hand_joints.flatten()])
    offsets = torch.cat([c.pose_offsets, c.hand_offsets.flatten(0, 1)]).float()
    with torch.no_grad():
        posed = model(fit.identity, fit.motion)
        place = fit.viewmats[:, None, :3, 3]
        at = posed.joints[:, joints] + (posed.joint_transforms[:, joints, :3, :3] @ offsets[..., None])[..., 0] + place
        corners = posed.vertices[:, model.assets.head_to_body[c.face_vertices]]
        face = (corners * c.face_weights.float()[..., None]).sum(2) + place
    hands = at[:, 33:].unflatten(1, (2, 21))
    return {"pose": at[:, :33].numpy(), "hands": hands.numpy(), "face": face.numpy()}


def similarity(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return points a [N, 3] moved, turned and scaled to b [N, 3], outliers let go (Umeyama, 1991)."""
    w, moved = weights, a
    for _ in range(10):
        w = w / w.sum()
        middle_a, middle_b = w @ a, w @ b
        x, y = a - middle_a, b - middle_b
        U, D, Vt = np.linalg.svd((y * w[:, None]).T @ x)
        signs = np.array([1, 1, np.sign(np.linalg.det(U @ Vt))])
        R = (U * signs) @ Vt
        scale = (D * signs).sum() / (w @ (x**2).sum(1))
        moved = scale * x @ R.T + middle_b
        w = weights / (1 + (np.linalg.norm(moved - b, axis=1) / _OUTLIER) ** 2)
    return moved


def calibrated(
    model: EhmModel, fitter: ClipFitter, folder: Path, device: str, *, estimate: bool
) -> tuple[list[dict[str, float | str]], str]:
    """Return the errors of a pack, part by part, and what is to be said of the lens."""
    pack = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    source = pack["source"]
    pictures = [
        cv2.imread(str(path))[..., ::-1].copy()
        for path in sorted((folder / source).iterdir())
        if path.stem.isdigit() and path.suffix in (".png", ".jpg")
    ]
    truth = np.load(folder / "landmarks.npz")
    K, size = np.array(pack["cameras"][source]["K"]), pictures[0].shape[0]
    found = detect(pictures, device=device, fps=25.0)
    lens = None if estimate else Lens(float(K[0, 0]), (float(K[0, 2]), float(K[1, 2])))
    fit = fitter.fit(found, crop=Crop(0, 0, size), lens=lens, estimate_lens=estimate, size=size)
    at = landmarks_in_space(model, fitter.body.calibration, fit)
    known = np.isfinite(truth["hands"][..., 0]).all((1, 2))
    rest = [k for k in range(21) if k not in PALM]
    # weights as one point of each part would have: fingers only count in the result
    parts = {
        "face": ("face", slice(None), 2.0), "shoulders": ("pose", [11, 12], 2.0), "elbows": ("pose", [13, 14], 1.0),
        "palms": ("hands", PALM, 1.2), "fingers": ("hands", rest, 1e-6),
    }  # fmt: skip
    a, b, w, name = [], [], [], []
    for part, (kind, ids, weight) in parts.items():
        x, y = (np.asarray(p[kind])[known][..., ids, :].reshape(-1, 3) for p in (at, truth))
        ok = np.isfinite(y).all(1)
        a.append(x[ok])
        b.append(y[ok])
        w.append(np.full(ok.sum(), weight / max(1, ok.sum())))
        name += [part] * int(ok.sum())
    target = np.concatenate(b)
    error = (similarity(np.concatenate(a).astype(np.float64), target, np.concatenate(w)) - target) * 1e3
    rows: list[dict[str, float | str]] = []
    for part in parts:
        e = error[np.array(name) == part]
        across, depth = np.linalg.norm(e[:, :2], axis=1), np.abs(e[:, 2])
        apart = float(np.linalg.norm(e, axis=1).mean())
        rows.append({"part": part, "mm": apart, "across mm": float(across.mean()), "depth mm": float(depth.mean())})
    return rows, f"focal length {'found' if estimate else 'given'}: {fit.lens.focal / K[0, 0]:.2f} of the true one"


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
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="of the first generated clip")
    parser.add_argument("--bank", help="picture bank of `guava_aug.apps.synthetic.bake.pack_bank`; else painted people")
    parser.add_argument("--near", type=float, default=0.25, help="share of generated clips from a near camera")
    parser.add_argument("--estimate_lens", action="store_true")
    parser.add_argument("--photometric", action="store_true", help="also after the fit to the pictures")
    parser.add_argument("--spoil", action="store_true", help="blur, compress or add noise to the generated clips")
    parser.add_argument("--calibrated", type=Path, help="a real person in front of calibrated cameras, see above")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = EhmModel(load_body_file(default_body_path(), 64))
    fitter = ClipFitter(model)
    if args.calibrated:
        rows, note = calibrated(model, fitter, args.calibrated, args.device, estimate=args.estimate_lens)
        setting.report(args, "Tracking against calibrated cameras", CALIBRATED_COLUMNS, rows, [note])
        return
    bank = Bank.load(args.bank) if args.bank else Bank.bare()
    refiner = PhotometricFitter(load_model("embedded", args.device, precision="fp32")) if args.photometric else None
    rows: list[dict[str, Any]] = []

    def clips() -> Iterator[Truth]:
        yield from bundled(args.frames)
        for k in range(args.clips):
            truth = generated(bank, args.seed + k, args.frames, (k + 1) * args.near % 1 < args.near)
            yield spoiled(truth, SPOILS[k % 3]) if args.spoil else truth

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
