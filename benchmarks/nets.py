"""Speed of the detection nets, and how far from LiteRT they are: `python benchmarks/nets.py [--wheel FILE]`.

The comparison needs `pip install ai-edge-litert` and the wheel that the nets come from, which
`pip download --no-deps mediapipe==0.10.21` fetches (it is not installed). Without --wheel only the nets are timed.
Times are of batches, per picture; on a CPU the least processor time. Pictures are noise, frames of the bundled clips,
and those of --pictures, whole and in crops. Errors are the largest over all of them, as shares of the output's range,
the pose's mask as a probability: of the nets against LiteRT, with --float64 of both against the nets in float64.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import setting
from guava_aug.apps.benchmark.clock import time_calls
from guava_aug.apps.nets.convert import SOURCES
from guava_aug.assets import embedded_path
from guava_aug.errors import InputError
from guava_aug.runtime.cpus import keep_freed_memory
from guava_aug.tracked import TrackedVideo, list_videos
from guava_aug.tracked.detect.nets import NETS, Net, load_net

Outputs = dict[str, torch.Tensor]


def pictures(files: list[Path]) -> list[np.ndarray]:
    """RGB uint8."""
    root = embedded_path("clips")
    out = [TrackedVideo.open(root, name).read_frame(index)[0] for name in list_videos(root) for index in (0, 50)]
    for file in files:
        image = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise InputError(f"--pictures {file} cannot be read; expected a JPEG or PNG")
        out.append(image)
    return out


def inputs(net: Net, images: list[np.ndarray], num_crops: int) -> torch.Tensor:
    """[N, H, W, 3]: noise, whole pictures, and crops of random place and size."""
    random, (height, width) = np.random.default_rng(0), net.size
    crops: list[np.ndarray] = [random.integers(0, 256, (height, width, 3), np.uint8)]
    for image in images:
        crops.append(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
        for _ in range(num_crops):
            side = int(min(image.shape[:2]) * random.uniform(0.15, 0.6))
            y, x = (int(random.integers(0, n - side)) for n in image.shape[:2])
            crops.append(cv2.resize(image[y : y + side, x : x + side], (width, height)))
    low, high = net.input_range
    return torch.from_numpy(np.stack(crops)).float() * ((high - low) / 255) + low


class LiteRT:
    """A net of the wheel in LiteRT, one picture at a time."""

    def __init__(self, wheel: zipfile.ZipFile, name: str, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        source = SOURCES[name]
        content = wheel.read(f"mediapipe/modules/{source.folder}/{name}.tflite")
        self._net = Interpreter(model_content=content, num_threads=threads)
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        self._outputs = {
            key: detail["index"] for key, detail in zip(source.outputs, self._net.get_output_details(), strict=True)
        }

    def __call__(self, picture: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of [H, W, 3]."""
        self._net.set_tensor(self._input, picture[None])
        self._net.invoke()
        return {key: self._net.get_tensor(index)[0] for key, index in self._outputs.items()}


def error(name: str, outputs: Outputs, wanted: Outputs) -> dict[str, float]:
    """The largest difference of each output over all pictures, as a share of its range over all of them."""
    found = {}
    for key in outputs:
        a, b = outputs[key].cpu().double().flatten(1), wanted[key].double().flatten(1)
        if (name, key) == ("pose_landmark_full", "mask"):
            a, b = a.sigmoid(), b.sigmoid()
        found[key] = float((a - b).abs().max() / (b.max() - b.min()))
    return found


def compare(name: str, net: Net, x: torch.Tensor, litert: LiteRT, in_float64: bool) -> dict[str, Any]:
    """Columns of a row: the largest error of the outputs, and the errors of each."""
    one_by_one = [litert(picture) for picture in x.numpy()]
    theirs = {key: torch.from_numpy(np.stack([one[key] for one in one_by_one])) for key in one_by_one[0]}
    ours = net(x.to(next(net.buffers()).device))
    pairs = {"error": (ours, theirs)}
    if in_float64:
        precise = load_net(name).double()(x.double())
        pairs |= {"error_f64": (ours, precise), "litert_f64": (theirs, precise)}
    row: dict[str, Any] = {}
    for column, (a, b) in pairs.items():
        row[f"{column}_by_output"] = error(name, a, b)
        row[column] = max(row[f"{column}_by_output"].values())
    return row


def milliseconds(call: Callable[[], object], repeats: int, device: str) -> float:
    """Median wall time on a GPU; on a CPU the least processor time, which other programs disturb less."""
    if torch.device(device).type == "cuda":
        return time_calls(call, repeats, device, warm_up=2).ms
    times = []
    for _ in range(repeats + 2):
        begun = time.process_time()
        call()
        times.append(1000 * (time.process_time() - begun))
    return min(times[2:])


def main() -> None:
    parser = setting.flags(__doc__)
    parser.add_argument("--wheel", type=Path, help="mediapipe-0.10.21-*.whl")
    parser.add_argument("--pictures", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--crops", type=setting.count, default=6, help="of every picture, beside itself")
    parser.add_argument("--float64", action="store_true", help="compare both also with the nets in float64; slow")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), metavar="NET")
    parser.add_argument("--batches", type=setting.count, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=setting.count, default=1, help="of torch and of LiteRT, on a CPU")
    args = parser.parse_args()
    setting.speak()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    images = pictures(args.pictures)
    rows = []
    for name in args.nets:
        net = load_net(name, args.device)
        x = inputs(net, images, args.crops)
        row: dict[str, Any] = {"net": name}
        if args.wheel:
            with zipfile.ZipFile(args.wheel) as wheel:
                litert = LiteRT(wheel, name, args.threads)
            one = x[1].numpy()
            row["litert_ms"] = milliseconds(lambda litert=litert, one=one: litert(one), args.repeats, "cpu")
            row |= compare(name, net, x, litert, args.float64)
        for batch in args.batches:
            some = x[torch.arange(batch) % len(x)].to(args.device)
            row[f"ms_batch_{batch}"] = (
                milliseconds(lambda net=net, some=some: net(some), args.repeats, args.device) / batch
            )
        rows.append(row)
    columns = ["net", *(f"ms_batch_{batch}" for batch in args.batches), "litert_ms", "error"]
    columns += ["error_f64", "litert_f64"] if args.float64 else []
    setting.report(args, "detection nets; milliseconds a picture", columns, rows)


if __name__ == "__main__":
    setting.guarded(main)
