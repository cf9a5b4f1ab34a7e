"""How near an avatar comes to the real person, in cameras it was not fitted to.

`python benchmarks/likeness.py PACK [--fit NAME] [--cameras CAM ...] [--steps N] [--device cuda] [--json FILE]`

PACK is a folder of calibrated, synchronised views of a person (`guava_aug.apps.evaluation.real` says what it holds;
none comes with the project). The avatar is made from the source camera's video, measured in every camera, fitted to the
frames of `--cameras` (default: the source camera alone), every fourth frame kept back, and measured again. With all
cameras given it tells the ceiling: what this avatar, these poses and these masks allow at all; read it in the rows of
the held-out frames.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import setting
from guava_aug.apps.evaluation.real import BodyFit, CalibratedPack, Draw, evaluate_pack, observe
from guava_aug.avatar import Avatar
from guava_aug.avatar.model import GuavaModel, load_model
from guava_aug.avatar.personalize import PersonalizeConfig, personalize, write_avatar_file
from guava_aug.body import Motion
from guava_aug.tracked import TrackedVideo
from guava_aug.views.cameras import Cameras

COLUMNS = ("frames of", "camera", "psnr", "psnr_matched", "overlap_matched", "iou", "missed", "extra", "ncc")


def drawing(model: GuavaModel, avatar: Avatar, motion: Motion) -> Draw:
    """Pictures of an avatar, as `evaluate_pack` wants them."""

    def draw(frame: int, camera: Cameras) -> tuple[Tensor, Tensor]:
        layers = model.render_layers(avatar.pose(motion[frame : frame + 1]), camera)
        return layers.rgb[0], layers.alpha[0]

    return draw


def main() -> None:
    parser = setting.flags(__doc__, repeats=None)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--model_path", default="embedded", help="a GUAVA model, or `embedded`")
    parser.add_argument("--fit", default="multi", help="which fit of the body: PACK/fits/NAME.npz")
    parser.add_argument("--cameras", nargs="+", help="fitted to; the source camera first")
    parser.add_argument("--steps", type=setting.count, default=PersonalizeConfig.steps)
    parser.add_argument("--avatar", type=Path, help="also write the fitted avatar to this file")
    args = parser.parse_args()

    pack = CalibratedPack(args.pack)
    body, cameras = pack.fit(args.fit), args.cameras or [pack.source]
    model = load_model(args.model_path, args.device, precision="fp32")
    video = TrackedVideo.open(pack.folder / "tracked", pack.video)
    avatar = model.reconstruct(video.source_at(model.config.feature_img_size))
    avatar = avatar.with_identity(body.identity.to(args.device))
    config = PersonalizeConfig(steps=args.steps, match_colors=len(cameras) > 1)
    held = [i for i in pack.scored if i % config.held_out_every == config.held_out_every // 2]

    rows = []

    def measure(stage: str, draw: Draw, fit: BodyFit) -> None:
        for title, frames in (("all", pack.scored), ("held-out", held)):
            for name, found in evaluate_pack(pack, fit, draw, frames).items():
                rows.append({"frames of": f"{stage}, {title}", "camera": name, **found})

    measure("before", drawing(model, avatar, body.motion.to(args.device)), body)
    noise = [n.clone() for n in model.refiner_noise]
    refine = lambda features: torch.sigmoid(model.refiner(features, noise))
    seen = observe(pack, body, cameras)
    found = personalize(
        avatar, body.motion, body.viewmats, seen, model.network, model.config, refine, config
    )  # fmt: skip
    after = replace(body, motion=found.motion, viewmats=found.viewmats)
    measure("after", drawing(model, found.avatar, found.motion), after)
    notes = [
        f"fitted to {', '.join(cameras)} in {found.seconds:.1f} s, {config.steps} steps; own view, frames kept back: "
        f"{found.before:.2f} dB before, {found.after:.2f} after"
    ]
    if args.avatar:
        write_avatar_file(args.avatar, found.avatar, found.motion, found.viewmats, {"model": model.source})
    setting.report(args, "Likeness in calibrated cameras", COLUMNS, rows, notes)


if __name__ == "__main__":
    setting.speak()
    setting.guarded(main)
