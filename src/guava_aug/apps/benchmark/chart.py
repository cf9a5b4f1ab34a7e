"""The utilisation chart: one strip per kind of work, its height the number that are busy at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from guava_aug.apps.benchmark.lanes import Lane
from guava_aug.errors import OutputError
from guava_aug.output.pngs import write_png

WIDTH = 1400  # pixels of the picture
LEFT, RIGHT, TOP, BOTTOM = 210, 150, 92, 62
STRIP, GAP = 46, 16
SCALE = 2  # drawn so much larger, then averaged down: smooth letters and edges
PAPER, INK, FAINT, TRACK = (255, 255, 255), (38, 40, 46), (128, 132, 142), (242, 243, 246)
COLOURS = (  # RGB, one a lane, readable in grey and to the colour-blind
    (0, 114, 178), (86, 180, 233), (0, 158, 115), (230, 159, 0), (148, 103, 189), (213, 94, 0), (204, 121, 167),
    (120, 124, 134),
)  # fmt: skip


def draw_chart(lanes: Sequence[Lane], title: str, subtitle: str, path: Path) -> None:
    """Write the PNG. Raises OutputError when there is nothing to show or the file cannot be written."""
    if not lanes or lanes[0].total <= 0:
        raise OutputError(f"{path}: nothing was recorded, so there is no chart to draw")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    write_png(path, chart(lanes, title, subtitle))


def chart(lanes: Sequence[Lane], title: str, subtitle: str) -> np.ndarray:
    """Return [H, W, 3] uint8 RGB."""
    height = TOP + len(lanes) * (STRIP + GAP) + BOTTOM
    canvas = _Canvas(WIDTH, height)
    right, bottom = WIDTH - RIGHT, height - BOTTOM
    canvas.text(title, 28, 38, 0.72, INK, bold=True)
    canvas.text(subtitle, 28, 64, 0.44, FAINT)
    canvas.text("busy", right + 22, TOP - 8, 0.42, FAINT)
    canvas.text("at most", right + 78, TOP - 8, 0.42, FAINT)
    total = lanes[0].total
    for tick, label in ticks(total):
        x = LEFT + tick / total * (right - LEFT)
        canvas.box(x, TOP, x + 1, bottom, (226, 228, 233))
        canvas.text(label, x, bottom + 22, 0.44, FAINT, centred=True)
    canvas.text("seconds", (LEFT + right) / 2, bottom + 46, 0.44, FAINT, centred=True)
    for i, lane in enumerate(lanes):
        _strip(canvas, lane, COLOURS[i % len(COLOURS)], TOP + i * (STRIP + GAP) + GAP // 2, right)
    return canvas.picture()


def _strip(canvas: _Canvas, lane: Lane, colour: tuple[int, int, int], top: float, right: float) -> None:
    bottom = top + STRIP
    canvas.box(LEFT, top, right, bottom, TRACK, blend=0.75)
    canvas.text(lane.name, LEFT - 14, top + STRIP / 2 + 5, 0.48, INK, to_the_left=True)
    profile = lane.profile(round(right - LEFT) * SCALE)
    canvas.columns(LEFT, bottom, profile / max(lane.most, 1) * STRIP, colour)
    share = f"{lane.busy_share:.0%}" if lane.busy_share >= 0.005 else "<1%"
    canvas.text(share, right + 22, top + STRIP / 2 + 5, 0.5, colour, bold=True)
    if lane.most > 1:
        canvas.text(f"{lane.most} at once", right + 78, top + STRIP / 2 + 5, 0.38, FAINT)


def ticks(total: float) -> list[tuple[float, str]]:
    """Return round times from 0 to `total` seconds, 5 to 12 of them, with their labels."""
    power = 10.0 ** math.floor(math.log10(total / 5))
    step = next(m * power for m in (1, 2, 5, 10) if total / (m * power) <= 11)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(i * step, f"{i * step:.{digits}f}") for i in range(int(total / step + 1e-9) + 1)]


class _Canvas:
    """A picture in units of its final pixels, drawn `SCALE` times larger."""

    def __init__(self, width: int, height: int) -> None:
        self._pixels = np.full((height * SCALE, width * SCALE, 3), PAPER, np.uint8)

    def box(
        self, left: float, top: float, right: float, bottom: float, colour: tuple[int, int, int], blend: float = 1.0
    ) -> None:
        a, b, c, d = (round(v * SCALE) for v in (top, bottom, left, right))
        area = self._pixels[a:b, c:d]
        area[:] = (area * (1 - blend) + np.array(colour) * blend).astype(np.uint8)

    def columns(self, left: float, bottom: float, heights: np.ndarray, colour: tuple[int, int, int]) -> None:
        """Draw one column per pixel from `bottom` upwards; heights in final pixels, one value per large pixel."""
        rows = np.arange(1, STRIP * SCALE + 1)[::-1, None]  # from the top: distance to the bottom
        filled = rows <= heights[None] * SCALE
        y, x = round(bottom * SCALE), round(left * SCALE)
        self._pixels[y - len(rows) : y, x : x + len(heights)][filled] = colour

    def text(
        self, words: str, x: float, y: float, size: float, colour: tuple[int, int, int], *, bold: bool = False,
        centred: bool = False, to_the_left: bool = False,
    ) -> None:  # fmt: skip
        font = cv2.FONT_HERSHEY_DUPLEX if bold else cv2.FONT_HERSHEY_SIMPLEX
        words = words.encode("ascii", "replace").decode()  # the font has nothing else
        width = cv2.getTextSize(words, font, size * SCALE, SCALE)[0][0] / SCALE
        x -= width / 2 if centred else width if to_the_left else 0
        at = round(x * SCALE), round(y * SCALE)
        cv2.putText(self._pixels, words, at, font, size * SCALE, colour, SCALE, cv2.LINE_AA)

    def picture(self) -> np.ndarray:
        height, width = self._pixels.shape[:2]
        return cv2.resize(self._pixels, (width // SCALE, height // SCALE), interpolation=cv2.INTER_AREA)
