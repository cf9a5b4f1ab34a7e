"""What fitting an avatar to its own video costs and gains: the presets of `--personalize`.

`python benchmarks/personalize.py [--presets fast full] [--device cuda] [--model_path embedded] [--frames 137]`
`python benchmarks/personalize.py --person 9001 [--bank BANK.npz] --model_path embedded`

Times whole fits of a clip (reading, guess, steps, judging); on a GPU after a first one of three steps that pays for
what is compiled. PSNR and IoU are of the person in the frames kept back from the fit, in the video's own camera:
before, as the model sees the person from one frame; after, as fitted. PSNR is over the true mask, the render over the
mean colour of what surrounds it. With --person the clip is of a generated person (dressed with --bank, see
`guava-aug evaluate --help`; else painted), stored as a tracker would, and the medium view is scored too, whose truth is
known; 9101 with the bank is the bundled signer_a.
Without a --model_path the model is of official size with seeded weights: its times count, its pictures mean nothing.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import setting
from guava_aug.apps.evaluation.measure import person_name
from guava_aug.apps.evaluation.metrics import psnr
from guava_aug.apps.synthetic.bank import Bank
from guava_aug.apps.synthetic.clip import write_clip
from guava_aug.apps.synthetic.scene import Scene, make_scene, scene_pictures
from guava_aug.avatar import Avatar
from guava_aug.avatar.model import GuavaModel, load_model
from guava_aug.avatar.personalize import PRESETS, PersonalizeConfig, personalize_video, write_avatar_file
from guava_aug.avatar.personalize.fit import held_out
from guava_aug.body import Motion
from guava_aug.runtime.cpus import keep_freed_memory
from guava_aug.runtime.device import keep_threads_within_quota
from guava_aug.tracked import BodyOutline, TrackedVideo
from guava_aug.views import plan_views
from guava_aug.views.cameras import Cameras, tracked_cameras
from guava_aug.views.difficulty import DIFFICULTIES

COLUMNS = (
    "preset", "frames", "steps", "seconds", "of_fit", "ms_step", "gpu_gb", "before_db", "after_db",
    "iou_before", "iou_after", "medium_before", "medium_after", "medium_iou_before", "medium_iou_after",
)  # fmt: skip
WARM = PersonalizeConfig(steps=3, guess_frames=1, most_frames=8)
MOST_SCORED = 12  # frames


@dataclass(frozen=True)
class Stand:
    """A clip, and what it would look like from elsewhere where that is known."""

    video: TrackedVideo
    scene: Scene | None = None
    bank: Bank | None = None
    seed: int = 0

    def medium(self, size: int) -> Cameras | None:
        """The camera of the medium view."""
        if self.scene is None:
            return None
        planned = {v.difficulty: v for v in plan_views(person_name(self.seed), tuple(DIFFICULTIES), 42)}
        return planned["medium"].cameras(self.scene.viewmat, 1, size)


def main() -> None:
    parser = setting.flags(__doc__, repeats=1)
    setting.model_flags(parser)
    setting.video_flags(parser)
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--person", type=int, metavar="SEED", help="a generated person instead of a clip that is there")
    parser.add_argument("--bank", type=Path, help="with --person: clothes and hair")
    parser.add_argument("--steps", type=setting.count, help="instead of the preset's")
    parser.add_argument("--frames_per_step", type=setting.count, help="instead of the preset's")
    parser.add_argument("--warmup", type=setting.count, help="instead of the preset's")
    parser.add_argument("--most_frames", type=setting.count, help="instead of the preset's")
    parser.add_argument("--avatar", type=Path, help="also write the last fitted avatar to this file")
    parser.add_argument("--pictures", type=Path, help="folder for truth, before and after of the scored frames")
    args = parser.parse_args()
    keep_freed_memory()
    keep_threads_within_quota()

    with tempfile.TemporaryDirectory(prefix="guava-aug-bench-") as folder:
        stand = _stand(args, Path(folder))
        model = load_model(setting.model_path(args), args.device, guava_root=args.guava_root)
        outline = BodyOutline(model.body)
        notes = []
        if model.device.type == "cuda":
            begun = time.perf_counter()
            personalize_video(model, stand.video, WARM, outline=outline)
            notes.append(f"first fit of this process, of {WARM.steps} steps: {time.perf_counter() - begun:.1f} s")
        original = model.reconstruct(stand.video.source_at(model.config.feature_img_size))
        rows: list[dict[str, Any]] = []
        for name in args.presets:
            asked = {key: getattr(args, key) for key in ("steps", "frames_per_step", "warmup", "most_frames")}
            config = replace(PRESETS[name], **{k: v for k, v in asked.items() if v is not None})
            for _ in range(args.repeats):
                rows.append(_measure(model, outline, original, stand, name, config, args))
        setting.report(args, f"Fitting an avatar to {stand.video.num_frames} frames", COLUMNS, rows, notes)


def _stand(args: Any, folder: Path) -> Stand:
    if args.person is None:
        return Stand(setting.open_video(args))
    bank = Bank.load(args.bank) if args.bank else Bank.bare()
    write_clip(bank, folder, "person", args.person, args.frames)
    scene = make_scene(bank, args.person, args.frames)
    return Stand(TrackedVideo.open(folder, "person"), scene, bank, args.person)


def _measure(
    model: GuavaModel, outline: BodyOutline, original: Avatar, stand: Stand, name: str, config: PersonalizeConfig,
    args: Any,
) -> dict[str, Any]:  # fmt: skip
    video, cuda = stand.video, model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    found = personalize_video(model, video, config, outline=outline)
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    row: dict[str, Any] = {
        "preset": name, "frames": len(found.frames), "steps": config.steps, "seconds": seconds,
        "of_fit": found.fit.seconds, "ms_step": 1000 * found.fit.seconds / config.steps,
        "gpu_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
        "grey_before_db": found.fit.before, "grey_after_db": found.fit.after, "used": found.fit.better,
    }  # fmt: skip
    kept = [found.frames[i] for i in torch.nonzero(held_out(torch.arange(len(found.frames)), config.held_out_every))]
    scored = kept[:: max(1, math.ceil(len(kept) / MOST_SCORED))]
    states = {
        "before": (original, video.motion, video.viewmats),
        "after": (found.fit.avatar, found.motion, found.viewmats),
    }
    for state, of in states.items():
        own = _score(model, stand, *of, scored, None, args.pictures, f"{name}_own_{state}")
        row |= {f"{state}_db": own[0], f"iou_{state}": own[1]}
        medium = stand.medium(model.config.image_size)
        if medium is not None:
            other = _score(model, stand, *of, scored, medium, args.pictures, f"{name}_medium_{state}")
            row |= {f"medium_{state}": other[0], f"medium_iou_{state}": other[1]}
    if args.avatar:
        write_avatar_file(args.avatar, found.fit.avatar, found.motion, found.viewmats, {"model": model.source})
    return row


def _score(
    model: GuavaModel, stand: Stand, avatar: Avatar, motion: Motion, viewmats: Tensor, frames: list[int],
    camera: Cameras | None, pictures: Path | None, title: str,
) -> tuple[float, float]:  # fmt: skip
    """PSNR on the true mask, and IoU, means over frames; through the video's own camera, or through `camera`.

    `camera` stands by the true source camera; where a fit has moved that, it goes with it.
    """
    size, video = model.config.image_size, stand.video
    found = []
    for i in frames:
        true, mask = _truth(stand, i, size, camera)
        view = viewmats[i]
        if camera is not None:
            assert stand.scene is not None
            view = camera.viewmats[0] @ torch.linalg.inv(stand.scene.viewmat) @ view
        seen_by = tracked_cameras(view, size, K=video.lens_at(size) if camera is None else camera.K)
        layers = model.render_layers(avatar.pose(motion[i : i + 1].to(model.device)), seen_by)
        rgb, alpha = layers.rgb[0].float().cpu(), layers.alpha[0].float().cpu()
        person = mask[0] > 0.5
        around = true[:, ~person].mean(1)[:, None, None]
        ours = rgb * alpha + around * (1 - alpha)
        known = video.known_at(size) if camera is None else None
        inside = person if known is None else person & torch.from_numpy(known)
        covered = alpha[0] > 0.5 if known is None else (alpha[0] > 0.5) & torch.from_numpy(known)
        found.append(
            (psnr(ours, true, inside), float((covered & inside).sum() / (covered | inside).sum().clamp(min=1)))
        )
        if pictures is not None:
            _write(pictures / f"{title}_{i:04d}.png", torch.cat([true, ours.clamp(0, 1)], 2))
    return sum(p for p, _ in found) / len(found), sum(u for _, u in found) / len(found)


def _truth(stand: Stand, frame: int, size: int, camera: Cameras | None) -> tuple[Tensor, Tensor]:
    """Picture [3, size, size] and mask [1, size, size] of a frame: as stored, or as the generator draws it."""
    if camera is not None:
        assert stand.scene is not None and stand.bank is not None
        picture, mask = scene_pictures(stand.bank, stand.scene, camera, slice(frame, frame + 1))
        return picture[0], mask[0]
    rgb, mask = (torch.from_numpy(a.copy()).float() / 255 for a in stand.video.read_frame(frame))
    planes = torch.cat([rgb.permute(2, 0, 1), mask[None]])[None]
    small = torch.nn.functional.interpolate(planes, (size, size), mode="bilinear", antialias=True)[0]
    return small[:3], small[3:]


def _write(path: Path, picture: Tensor) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = (picture * 255 + 0.5).byte().permute(1, 2, 0).numpy()
    cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    setting.speak()
    setting.guarded(main)
