"""Pictures of a fit over the video: the outline and the skeleton of the posed body, and what the detector saw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.error import FFmpegError

from guava_aug.errors import OutputError
from guava_aug.runtime.atomic import atomic_write
from guava_aug.runtime.frame_rate import Rate

CELL = 384  # pixels; side of a picture of the sheet
COLUMNS = 6
_BODY = (255, 190, 60)  # RGB
_LEFT, _RIGHT = (90, 200, 255), (255, 110, 110)  # the person's own sides
_OUTLINE = (255, 255, 255)
_SEEN = (120, 255, 120)
_INK, _PAPER = 30, 255
_TEXT_HEIGHT = 22  # pixels


def draw_fit(
    picture: np.ndarray,
    joints: np.ndarray,
    parents: Sequence[int],
    silhouette: np.ndarray,
    seen: Sequence[np.ndarray],
    sides: Sequence[int],
    size: int = CELL,
) -> np.ndarray:
    """Return a picture [size, size, 3] uint8 RGB with the posed body drawn over it.

    Args:
        picture: [S, S, 3] uint8 RGB, the crop of the video.
        joints: [J, 2 or more] posed joints, pixels of the crop.
        parents: number of each joint's parent; -1 for the root.
        silhouette: [n, n] bool, what the posed body covers of the crop.
        seen: landmarks of the detector, [N, 2] pixels of the crop each.
        sides: per joint 0 for the middle, 1 for the person's left, 2 for the right.
        size: side of the result, pixels.
    """
    scale = size / picture.shape[0]
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out = np.ascontiguousarray(cv2.resize(picture, (size, size), interpolation=way))
    grown = cv2.resize(silhouette.astype(np.uint8), (size, size), interpolation=cv2.INTER_LINEAR)
    contours, _ = cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(out, contours, -1, _OUTLINE, 1, cv2.LINE_AA)
    for points in seen:
        for x, y in points[:, :2] * scale:
            _dot(out, x, y, _SEEN, 1)
    at = joints[:, :2] * scale
    for j, parent in enumerate(parents):
        if parent >= 0:
            colour = (_BODY, _LEFT, _RIGHT)[sides[j]]
            _line(out, at[parent], at[j], colour)
    return out


def fit_sheet(pictures: Sequence[np.ndarray], labels: Sequence[str], columns: int = COLUMNS) -> np.ndarray:
    """Return one picture [H, W, 3] uint8 of several of one size, in rows, each with its label below."""
    size = pictures[0].shape[0]
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (size + _TEXT_HEIGHT), min(columns, len(pictures)) * size, 3), _PAPER, np.uint8)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        top, left = i // columns * (size + _TEXT_HEIGHT), i % columns * size
        sheet[top : top + size, left : left + size] = picture
        text = label.encode("ascii", "replace").decode()  # OpenCV's font has no other characters
        cv2.putText(
            sheet, text, (left + 4, top + size + 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (_INK, _INK, _INK), 1, cv2.LINE_AA
        )
    return sheet


def write_video(path: Path, pictures: Iterable[np.ndarray], fps: Rate) -> None:
    """Write pictures [S, S, 3] uint8 RGB, S even, as an MP4.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with atomic_write(path, durable=False) as temporary, av.open(f"file:{temporary}", "w", format="mp4") as out:
            stream = out.add_stream("libx264", rate=Fraction(fps).limit_denominator(100_000))
            stream.options = {"crf": "20", "preset": "veryfast"}
            stream.pix_fmt = "yuv420p"
            for i, picture in enumerate(pictures):
                if i == 0:
                    stream.height, stream.width = picture.shape[:2]
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            out.mux(stream.encode(None))
    except (FFmpegError, OSError) as error:
        raise OutputError(f"{path}: cannot be written ({error})") from error


def _dot(picture: np.ndarray, x: float, y: float, colour: tuple[int, int, int], radius: int) -> None:
    if np.isfinite([x, y]).all() and abs(x) < 1e5 and abs(y) < 1e5:
        cv2.circle(picture, (round(float(x)), round(float(y))), radius, colour, -1, cv2.LINE_AA)


def _line(picture: np.ndarray, a: np.ndarray, b: np.ndarray, colour: tuple[int, int, int]) -> None:
    if np.isfinite([a, b]).all() and np.abs([a, b]).max() < 1e5:
        ends = [(round(float(p[0])), round(float(p[1]))) for p in (a, b)]
        cv2.line(picture, ends[0], ends[1], colour, 1, cv2.LINE_AA)
