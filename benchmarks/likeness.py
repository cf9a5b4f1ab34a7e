"""How near an avatar comes to the real person, in cameras it was not fitted to.

`python benchmarks/likeness.py PACK [--fit NAME] [--cameras CAM ...] [--steps N] [--device cuda] [--json FILE]`

PACK is a folder of calibrated, synchronised views of a person (`guava_aug.apps.evaluation.real` says what it holds;
none comes with the project). The avatar is made from the source camera's video, measured in every camera, fitted to the
frames of `--cameras` (default: the source camera alone), every fourth frame kept back, and measured again. With all
cameras given it tells the upper bound: what this avatar, these poses and these masks allow at all; read it in the rows
of the frames kept back. The figures are those of `guava-aug evaluate --real PACK`, in single precision.
"""

from __future__ import annotations

from pathlib import Path

import setting
from guava_aug.apps.evaluation.calibrated import measure_calibrated
from guava_aug.apps.evaluation.real import CalibratedPack
from guava_aug.avatar.model import load_model
from guava_aug.avatar.personalize import PersonalizeConfig, Personalized, write_avatar_file

COLUMNS = (
    "frames of", "camera", "psnr", "psnr_matched", "overlap_matched", "iou", "missed", "extra", "ncc", "ssim", "flip",
)  # fmt: skip


def main() -> None:
    parser = setting.flags(__doc__, repeats=None)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--model_path", default="embedded", help="a GUAVA model, or `embedded`")
    parser.add_argument("--fit", default="multi", help="which fit of the body: PACK/fits/NAME.npz")
    parser.add_argument("--cameras", nargs="+", help="fitted to; the source camera first")
    parser.add_argument("--steps", type=setting.count, default=PersonalizeConfig.steps)
    parser.add_argument("--avatar", type=Path, help="also write the fitted avatar to this file")
    args = parser.parse_args()

    model = load_model(args.model_path, args.device, precision="fp32")

    def keep(found: Personalized) -> None:
        if args.avatar:
            write_avatar_file(args.avatar, found.avatar, found.motion, found.viewmats, {"model": model.source})

    found = measure_calibrated(
        model, CalibratedPack(args.pack), PersonalizeConfig(steps=args.steps), personalize_name="full",
        fit_name=args.fit, cameras=args.cameras or (), landmarks=False, on_fit=keep,
    )  # fmt: skip
    rows = [{"frames of": f"{r.state}, {r.frames_of}", "camera": r.where, **r.scores} for r in found.rows]
    facts = found.facts
    notes = [
        f"fitted to {', '.join(found.fitted_to)} in {facts['seconds_of_fit']} s, {args.steps} steps; own view, frames "
        f"kept back: {facts['grey_before']:.2f} dB before, {facts['grey_after']:.2f} after"
    ]
    setting.report(args, "Likeness in calibrated cameras", COLUMNS, rows, notes)


if __name__ == "__main__":
    setting.speak()
    setting.guarded(main)
