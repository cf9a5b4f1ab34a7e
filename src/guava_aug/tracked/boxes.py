"""Pixel boxes of head and hands in the body image, from the tracker's crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from guava_aug.errors import InputError
from guava_aug.tracked.parameters import stack_frames

PARTS = ("head", "left_hand", "right_hand")
BODY_CROP = 1024  # side of the body crop that the matrices refer to, for any stored size
PART_CROP = 512  # side of the head and hand crops
BOX_IMAGE = 512  # side of the image the boxes are for


@dataclass(frozen=True)
class PartCrops:
    """Affine maps from each part's crop to the body crop; for a part without one, the reason."""

    to_body: Mapping[str, np.ndarray]  # part -> [T, 3, 3] float32, column vectors (x, y, 1)
    missing: Mapping[str, str]

    def boxes(self, index: int) -> dict[str, np.ndarray]:
        """Return part -> int64 [left, right, top, bottom] of frame `index` in a 512 image, within 0..511.

        An empty head box is the whole image, as in the original (`_load_source_info` of its data set).

        Raises:
            InputError: The tracked data have no usable crops. Rendering does not need them.
        """
        for reason in self.missing.values():
            raise InputError(reason)
        out = {}
        for part, maps in self.to_body.items():
            corners = maps[index] @ np.array([[0, PART_CROP], [0, PART_CROP], [1, 1]], np.float32)
            box = (corners[:2] * (BOX_IMAGE / BODY_CROP)).clip(0, BOX_IMAGE - 1).astype(np.int64).reshape(-1)
            if part == "head" and (box[0] >= box[1] or box[2] >= box[3]):
                box = np.array([0, BOX_IMAGE - 1, 0, BOX_IMAGE - 1], np.int64)
            out[part] = box
        return out


def read_crops(frames: Sequence[Mapping[str, Any]], frame_keys: Sequence[str], where: str) -> PartCrops:
    """Return the part crops of all frames. They are needed for training only, so their absence is not an error here."""
    to_body: dict[str, np.ndarray] = {}
    missing: dict[str, str] = {}
    for part in PARTS:
        try:
            body = stack_frames(frames, frame_keys, "body_crop", "M_o2c-hd", (3, 3), where)
            crop = stack_frames(frames, frame_keys, f"{part}_crop", "M_c2o", (3, 3), where)
            to_body[part] = body @ crop
        except InputError as e:
            missing[part] = str(e)
    return PartCrops(to_body, missing)
