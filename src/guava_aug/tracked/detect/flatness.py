"""How flat the colours of a face are: those of a drawing are, those that a camera sees are not.

A drawn face consists of areas of one colour each. On a filmed one the light changes from pixel to pixel, and however
dim, hazy, blurred or compressed a film is, few of its pixels have the very colours that are the most frequent there.
Drawings with soft shading, and people rendered by a computer, are like films in this.
"""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 64  # pixels, of the face as it is looked at: details of pictures of any size become alike
_LEAST_SIDE = 40  # pixels, of a face in the picture; in smaller ones compression leaves nothing but flat areas
_LEAST_RANGE = 40.0  # of 255: between the darkest and the brightest of the face; in less, all colours are close
_TOLERANCE = 0.012  # of that range: colours that differ by less count as one, as the noise of compression is this large
_COLOURS = 3  # skin, skin in the shadow, and one more
_CANDIDATES = 32  # pixels whose colours are tried
_LEAST_CHROMA = 8.0  # of 255: mean difference of a pixel's channels; without colours, shades fall together
_DARKEST, _BRIGHTEST = 4, 251  # beyond these a camera sees no colours
_LEAST_SEEN = 0.5  # share of the face that is within them


def face_flatness(picture: np.ndarray, face: np.ndarray) -> float:
    """Return the share, 0..1, of a face's pixels that have one of its three most frequent colours.

    Not a number where that would say nothing: the face is small, without contrast or colours, or mostly white or black.

    Args:
        picture: [H, W, 3] uint8 RGB.
        face: [N, 2 or more] px, landmarks; what is between them is looked at.
    """
    points = np.asarray(face)[:, :2]
    limits = np.array(picture.shape[1::-1])
    low = np.clip(np.floor(points.min(0)), 0, limits).astype(int)
    high = np.clip(np.ceil(points.max(0)), 0, limits).astype(int)
    if (high - low).min() < _LEAST_SIDE:
        return float("nan")
    part = picture[low[1] : high[1], low[0] : high[0]]
    way = cv2.INTER_AREA if max(part.shape) > SIDE else cv2.INTER_LINEAR
    small = cv2.resize(part, (SIDE, SIDE), interpolation=way)
    inside = np.zeros((SIDE, SIDE), np.uint8)
    hull = cv2.convexHull(((points - low) * SIDE / (high - low)).astype(np.int32))
    cv2.fillConvexPoly(inside, hull, 1)
    colours = small[inside > 0][::2].astype(np.int16)
    brightness = colours @ np.array([0.299, 0.587, 0.114])
    darkest, brightest = np.percentile(brightness, (1, 99))
    seen = colours[(colours.max(1) > _DARKEST) & (colours.min(1) < _BRIGHTEST)]
    chroma = float((colours.max(1) - colours.min(1)).mean())
    if brightest - darkest < _LEAST_RANGE or chroma < _LEAST_CHROMA or len(seen) < _LEAST_SEEN * len(colours):
        return float("nan")
    tolerance = max(1, round(_TOLERANCE * (brightest - darkest)))
    tried = seen[:: max(1, len(seen) // _CANDIDATES)]
    alike = (np.abs(seen[:, None] - tried) <= tolerance).all(2)  # [pixels, candidates]
    common = 0
    for _ in range(_COLOURS):
        most = alike.sum(0).argmax()
        common += int(alike[:, most].sum())
        alike &= ~alike[:, most, None]
    return common / len(seen)
