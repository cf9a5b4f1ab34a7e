"""How long the refiner takes a frame, and how far it is from float64: `python benchmarks/refiner.py [--json FILE]`.

"model.refine" is what runs use, whatever precision it has; "plain, float32" is the bare module as torch runs it, whose
convolutions may use TF32 on a GPU. Features are drawn at random, as large as those of a splatted avatar.
"""

from __future__ import annotations

import torch
from torch import Tensor

import setting
from guava_aug.apps.benchmark.clock import time_calls
from guava_aug.avatar.model import GuavaModel


def features_like(model: GuavaModel, frames: int, seed: int = 0) -> Tensor:
    """[T, C, H, W] random features, smooth as splats are."""
    size, channels = model.config.image_size, model.config.refiner.in_dim
    coarse = torch.randn(frames, channels, size // 8, size // 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear").to(model.device)


@torch.inference_mode()
def main() -> None:
    parser = setting.flags(__doc__)
    setting.model_flags(parser)
    parser.add_argument("--batches", type=int, nargs="+", help="default: 1 on a CPU, 1 8 32 on a GPU")
    args = parser.parse_args()
    setting.speak()
    on_cpu = args.device == "cpu"
    model = setting.open_model(args)

    one = features_like(model, 1)
    yardstick = setting.plain_refiner(args, torch.float64)(one)
    ways = {"model.refine": model.refine, "plain, float32": setting.plain_refiner(args, torch.float32)}
    rows = []
    for name, way in ways.items():
        difference = (way(one).double() - yardstick).abs()
        error = {
            "max_error_255": 255 * float(difference.max()),
            "error_999_255": 255 * float(difference.flatten().quantile(0.999)),
            "psnr_db": -10 * float(torch.log10(difference.square().mean().clamp_min(1e-20))),
        }
        for batch in args.batches or ([1] if on_cpu else [1, 8, 32]):
            x = features_like(model, batch)
            times = time_calls(lambda way=way, x=x: way(x), args.repeats, args.device, warm_up=1 if on_cpu else 3)
            rows.append({"way": name, "batch": batch, **times.to_json(per=batch), **error})
    size, config = model.config.image_size, model.config.refiner
    title = f"refiner, {config.in_dim} channels to RGB, {size} x {size}; milliseconds a frame"
    setting.report(
        args, title, ["way", "batch", "ms", "gpu_ms", "ms_min", "ms_max", "psnr_db", "max_error_255", "error_999_255"],
        rows,
        ["errors of one frame against float64, in levels of 255: the largest, and that of 99.9 % of the values"],
        model=model.source,
    )  # fmt: skip


if __name__ == "__main__":
    setting.guarded(main)
