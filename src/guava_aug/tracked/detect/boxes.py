"""Single-shot detection: anchors, boxes and keypoints from a net's raw output, weighted non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SCORE = 0.5
MAX_OVERLAP = 0.3  # intersection over union; boxes that overlap more are one detection
_PER_LAYER = 2  # anchors per cell and layer


@dataclass(frozen=True)
class Detection:
    """Something found, in fractions of the net's input."""

    box: np.ndarray  # [4] left, top, right, bottom
    keypoints: np.ndarray  # [K,2] x, y
    score: float  # 0..1


@dataclass(frozen=True)
class Detector:
    """The geometry of a single-shot detector's output.

    A grid has two anchors per cell for every layer of its stride. All anchors have the size of the whole input, so only
    their centres matter.
    """

    size: int  # pixels of the square input
    strides: tuple[int, ...]  # one per layer
    num_keypoints: int

    def anchors(self) -> np.ndarray:
        """Return the centres [A, 2] of all anchors, x and y in fractions of the input."""
        centres = []
        for stride in dict.fromkeys(self.strides):
            cells = -(-self.size // stride)
            axis = (np.arange(cells) + 0.5) / cells
            y, x = np.meshgrid(axis, axis, indexing="ij")
            per_cell = _PER_LAYER * self.strides.count(stride)
            centres.append(np.repeat(np.stack([x.ravel(), y.ravel()], -1), per_cell, 0))
        return np.concatenate(centres)

    def decode(self, raw: np.ndarray, logits: np.ndarray, anchors: np.ndarray) -> list[Detection]:
        """Return the detections of one picture, the surest first.

        Args:
            raw: [A, 4 + 2K]: centre x, y, width, height, then the keypoints, in pixels from the anchors.
            logits: [A] or [A, 1].
            anchors: [A, 2], from `anchors`.
        """
        scores = sigmoid(logits.reshape(-1))
        keep = np.flatnonzero((scores >= MIN_SCORE) & (raw[:, 2:4] >= 0).all(1))
        points = raw[keep].reshape(len(keep), 2 + self.num_keypoints, 2).astype(np.float64) / self.size
        centre = points[:, 0] + anchors[keep]
        boxes = np.concatenate([centre - points[:, 1] / 2, centre + points[:, 1] / 2], 1)
        keypoints = points[:, 2:] + anchors[keep, None]
        return suppress(boxes, keypoints, scores[keep])


def suppress(boxes: np.ndarray, keypoints: np.ndarray, scores: np.ndarray) -> list[Detection]:
    """Return one detection for every group of overlapping boxes: the mean weighted by score, the surest group first.

    Args:
        boxes: [N, 4] left, top, right, bottom.
        keypoints: [N, K, 2].
        scores: [N]; a group gets its highest.
    """
    found = []
    rest: Sequence[int] | np.ndarray = np.argsort(-scores, kind="stable")
    while len(rest):
        rest = np.asarray(rest)
        overlap = intersection_over_union(boxes[rest], boxes[rest[0]])
        group = rest[(overlap > MAX_OVERLAP) | (np.arange(len(rest)) == 0)]
        weights = scores[group] / scores[group].sum()
        box = np.einsum("n,nk->k", weights, boxes[group])
        found.append(Detection(box, np.einsum("n,nkc->kc", weights, keypoints[group]), float(scores[rest[0]])))
        rest = np.setdiff1d(rest, group, assume_unique=True)
        rest = rest[np.argsort(-scores[rest], kind="stable")]
    return found


def intersection_over_union(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return [N] in 0..1 for boxes [N, 4] and one box [4]."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    common = np.prod(np.maximum(high - low, 0), -1)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], -1) + np.prod(box[2:] - box[:2])
    return np.asarray(common / np.maximum(area - common, 1e-12))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))
