#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records what LiteRT computes with MediaPipe's detection nets: nets.npz beside this file.

    pip install ai-edge-litert==2.3.0
    python tests/golden/record_nets.py mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl

Inputs are noise and crops of one frame of a bundled clip, which is stored with the numbers. Of every output up to
`KEPT` values are recorded, evenly spaced, and its least and largest value.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np

KEPT = 400
CLIP, FRAME = "signer_a", 40
BOXES = {  # x, y, side in the picture of 256: what the net is made for
    "face_landmark": (86, 27, 70), "hand_landmark_full": (62, 104, 56), "hand_recrop": (52, 94, 76),
    "iris_landmark": (119, 49, 20),
}  # fmt: skip


def inputs(name, size, input_range, picture):
    """[3, *size, 3] float32: noise, the picture (or the box of it), and the same upside down and darker."""
    height, width = size
    x, y, side = BOXES.get(name, (0, 0, len(picture)))
    rows = y + np.arange(height) * side // height
    columns = x + np.arange(width) * side // width
    crop = picture[rows[:, None], columns].astype(np.float32) / 255
    noise = np.random.RandomState(sum(name.encode())).uniform(size=(height, width, 3)).astype(np.float32)
    low, high = input_range
    return np.stack([noise, crop, crop[::-1] / 2]) * np.float32(high - low) + np.float32(low)


def kept(values):
    """[3, n]: evenly spaced values of an output [3, ...]."""
    flat = values.reshape(len(values), -1)
    return flat[:, np.linspace(0, flat.shape[1] - 1, min(KEPT, flat.shape[1])).round().astype(int)]


def main():
    from ai_edge_litert.interpreter import Interpreter
    from guava_aug.apps.nets.convert import SOURCES
    from guava_aug.assets import embedded_path
    from guava_aug.tracked import TrackedVideo

    frame, _ = TrackedVideo.open(embedded_path("clips"), CLIP).read_frame(FRAME)
    picture = np.ascontiguousarray(frame[::2, ::2])
    out = {"picture": picture}
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        for name, source in SOURCES.items():
            content = wheel.read(f"mediapipe/modules/{source.folder}/{name}.tflite")
            net = Interpreter(model_content=content, num_threads=1)
            net.allocate_tensors()
            (entry,) = net.get_input_details()
            outputs = [[] for _ in source.outputs]
            for x in inputs(name, entry["shape"][1:3].tolist(), source.range, picture):
                net.set_tensor(entry["index"], x[None])
                net.invoke()
                for values, detail in zip(outputs, net.get_output_details(), strict=True):
                    values.append(net.get_tensor(detail["index"])[0])
            for key, values in zip(source.outputs, outputs, strict=True):
                values = np.stack(values)
                out[f"{name}/{key}"] = kept(values)
                out[f"{name}/{key}/range"] = np.array([values.min(), values.max()])
    np.savez_compressed(Path(__file__).parent / "nets.npz", **out)


if __name__ == "__main__":
    main()
