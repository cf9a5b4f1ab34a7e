"""Masks at full resolution from the small ones of the person net.

The net says where the person is, 256 pixels for its whole region: a hand's edge is off by several pixels of the stored
picture. What tells the edge is the picture itself: the background that other frames show at the same place, the colours
of person and surroundings in this clip, and the edges of the picture (guided filter, He et al. 2013: the mask is a
linear function of the colours around each pixel). All of it is box filters and small tables; no further net.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from guava_aug.tracked.reading.crop import Crop

WORK = 512  # pixels; side at which masks are decided, before they are brought to the picture's own
SAMPLES = 48  # frames at most that the clip's colours and background are learnt from
_BINS = 24  # per channel of the colour tables
_SURE = 0.9  # probability of what colours are learnt from; 1 - _SURE for the background
_CORE = 5  # work pixels that colours are learnt from stay inside of the net's edge
_PLATE_CORE = 10  # work pixels that the background stays away from the net's person
_NEAR_CORE = 4  # likewise, of refined masks
_FEW = 3  # samples that a pixel of the background needs
_NOISE = 6.0  # of 255: what a still background differs by, beside its own spread
_BAND = 9  # work pixels around the net's edge in which colours decide
_UNSURE = 0.04  # probability up to which, or 1 minus it from which on, the net is sure
_REACH = 26  # work pixels around the net's person in which a difference from the background counts
_EVIDENCE = 4.0  # log-odds that a pixel's colours may say at most
_PLATE_EVIDENCE = 5.0  # where the background was seen
_PRIOR = 1.2  # weight of the net's log-odds
_STEPS = 2  # decisions, each followed by a guided filter
_RADIUS = 8  # work pixels of the guided filter
_EPS = 1e-3  # of its variance, for colours 0..1
_FINE_RADIUS = 3
_STILL = 5.0  # of 255: a pixel that changes less keeps its mask
_KEEP = 0.6  # of the mask of the frame before, where the picture is still
_CONTRAST = 1.35  # of the matte around one half: takes away the haze of the filter
_WEAK = 1e-3

Coarse = Callable[[int], np.ndarray]  # number of a frame -> [WORK, WORK] float32 probability of the person
Frames = Callable[[], Iterable[np.ndarray]]  # gives the frames from the beginning, uint8 [S, S, 3] RGB


def coarse_in_crop(mask: np.ndarray, region: np.ndarray, to_crop: np.ndarray, size: int = WORK) -> np.ndarray:
    """Return a small mask of the person net as [size, size] float32 0..1 in a crop of the picture.

    Args:
        mask: [h, w] uint8, probability * 255, in `region`.
        region: Centre x, y, width, height (pixels of the picture, 0, 0 = corner of the first pixel) and rotation
            (radians, clockwise); zero width: there is no person.
        to_crop: [3, 3] pixel x, y, 1 of the picture (integers are pixel centres) -> of a crop of `size`.
        size: Side of the crop.
    """
    x, y, width, height, turn = (float(v) for v in region)
    if width <= 0 or height <= 0:
        return np.zeros((size, size), np.float32)
    cos, sin = np.cos(turn), np.sin(turn)
    across, down = width / mask.shape[1], height / mask.shape[0]
    # pixel centres of the mask -> picture
    to_picture = np.array([[cos * across, -sin * down, 0], [sin * across, cos * down, 0], [0, 0, 1]])
    middle = np.array([(mask.shape[1] - 1) / 2, (mask.shape[0] - 1) / 2])
    to_picture[:2, 2] = (x - 0.5, y - 0.5) - to_picture[:2, :2] @ middle
    place = (to_crop @ to_picture)[:2]
    warped: np.ndarray = cv2.warpAffine(mask, place, (size, size), flags=cv2.INTER_CUBIC, borderValue=0)
    return warped.astype(np.float32) / 255


def coarse_masks(person_mask: np.ndarray, mask_region: np.ndarray, crop: Crop) -> Coarse:
    """Return the function that `refine_masks` takes, of a clip's landmarks.

    Args:
        person_mask: [T, h, w] uint8, may be a memory map.
        mask_region: [T, 5], see `coarse_in_crop`.
        crop: Of the clip.
    """
    to_crop = crop.matrix(WORK)
    return lambda index: coarse_in_crop(person_mask[index], mask_region[index], to_crop)


def refine_masks(frames: Frames, coarse: Coarse, count: int, known: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Give the mask of every frame, [S, S] uint8, 255 = person, 0 where nothing is known.

    The frames are gone through twice, one at a time: memory does not grow with the clip.

    Args:
        frames: Gives the frames of the clip, square, all of one size; called twice.
        coarse: Gives the net's probability of a frame by its number.
        count: Number of frames.
        known: [S, S] uint8, 255 where the video shows something; None: everywhere.
    """
    samples = list(_samples(frames(), coarse, count))
    model = ClipColours.learn(samples, known)
    # once more with what was found: nearer to the person, and where the net closes gaps
    samples = [(picture, decide(picture, probability, model)) for picture, probability in samples]
    model = ClipColours.learn(samples, known, _NEAR_CORE)
    before: tuple[np.ndarray, np.ndarray] | None = None  # picture and mask of the frame before
    for index, rgb in enumerate(itertools.islice(frames(), count)):
        probability = coarse(index)
        small = _small(rgb)
        mask = decide(small, probability, model)
        if before is not None:
            mask = _steady(small, mask, *before)
        before = small, mask
        yield _to_full(rgb, small, mask, known)


@dataclass(frozen=True)
class ClipColours:
    """What a clip shows of its background, and the colours of person and background."""

    plate: np.ndarray  # [W, W, 3] float32 0..255, the background where it was seen
    spread: np.ndarray  # [W, W] float32, how much it differs between frames
    seen: np.ndarray  # [W, W] bool
    ratio: np.ndarray  # [_BINS, _BINS, _BINS] float32, log of person's over background's share of a colour
    person: np.ndarray  # [_BINS, _BINS, _BINS] float32, log of a colour's density on the person, per unit of 255^3
    known: np.ndarray | None  # [W, W] bool

    @classmethod
    def learn(
        cls,
        samples: Iterable[tuple[np.ndarray, np.ndarray]],
        known: np.ndarray | None = None,
        core: int = _PLATE_CORE,
    ) -> ClipColours:
        """Return the colours of a clip.

        Args:
            samples: Up to SAMPLES pairs of a picture [W, W, 3] uint8 and the net's probability [W, W].
            known: [S, S] uint8 of the whole clip.
            core: Work pixels that the background stays away from the person.
        """
        inside = None if known is None else cv2.resize(known, (WORK, WORK), interpolation=cv2.INTER_AREA) >= 255
        pictures, free = [], []
        on = np.zeros((2, _BINS**3))
        for picture, probability in samples:
            there = np.ones((WORK, WORK), bool) if inside is None else inside
            person = (_eroded(probability > _SURE, _CORE)) & there
            ground = (_eroded(probability < 1 - _SURE, _CORE)) & there
            index = _bin(picture)
            for k, area in enumerate((person, ground)):
                on[k] += np.bincount(index[area], minlength=_BINS**3)
            pictures.append(picture)
            free.append(_eroded(probability < 0.5, core) & there)
        if not pictures:
            raise ValueError("no samples")
        plate, spread, seen = _median(np.stack(pictures), np.stack(free))
        shares = np.stack([_smoothed(c.reshape(_BINS, _BINS, _BINS)) for c in on])
        volume = (256 / _BINS) ** 3
        return cls(
            plate, spread, seen, np.log(shares[0] / shares[1]).astype(np.float32),
            np.log(shares[0] / volume).astype(np.float32), inside,
        )  # fmt: skip


def decide(picture: np.ndarray, probability: np.ndarray, model: ClipColours) -> np.ndarray:
    """Return the mask [W, W] float32 0..1 of one picture [W, W, 3] uint8."""
    prior = _PRIOR * _log_odds(probability)
    evidence = _evidence(picture, model)
    person = probability > 0.5
    unsure = cv2.blur(((probability > _UNSURE) & (probability < 1 - _UNSURE)).astype(np.float32), (5, 5)) > 0
    band = (_dilated(person, _BAND) & ~_eroded(person, _BAND)) | (unsure & _dilated(person, _REACH))
    reach = _dilated(person, _REACH)
    weight = cv2.GaussianBlur(band.astype(np.float32), (0, 0), 3)
    # away from the edge only a clear difference from a background that was seen may add what the net missed
    strange = np.where(model.seen & reach & ~person & ~band, np.maximum(evidence - 1.0, 0), 0)
    odds = prior + weight * evidence + strange
    guide = picture.astype(np.float32) / 255
    mask = _sigmoid(odds)
    for _ in range(_STEPS):
        mask = np.clip(guided(guide, mask, _RADIUS, _EPS), 0, 1)
        odds = 0.5 * odds + _log_odds(mask)
        mask = _sigmoid(odds)
    return mask.astype(np.float32)


def guided(guide: np.ndarray, values: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Return the guided filter of `values` [H, W] with the colours of `guide` [H, W, 3] float32 0..1."""
    a, b = _guided_coefficients(guide, values, radius, eps)
    out: np.ndarray = _dot(a, guide) + b
    return out


def _guided_coefficients(
    guide: np.ndarray, values: np.ndarray, radius: int, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return a [H, W, 3], b [H, W], so that a . guide + b is the filtered picture."""
    side = (2 * radius + 1, 2 * radius + 1)

    def mean(x: np.ndarray) -> np.ndarray:
        filtered: np.ndarray = cv2.boxFilter(x, cv2.CV_32F, side, borderType=cv2.BORDER_REFLECT)
        return filtered

    r, g, b = (np.ascontiguousarray(guide[..., k]) for k in range(3))
    m = mean(guide)
    mr, mg, mb = m[..., 0], m[..., 1], m[..., 2]
    mv = mean(values.astype(np.float32))
    crr, cgg, cbb = mean(r * r) - mr * mr + eps, mean(g * g) - mg * mg + eps, mean(b * b) - mb * mb + eps
    crg, crb, cgb = mean(r * g) - mr * mg, mean(r * b) - mr * mb, mean(g * b) - mg * mb
    vr, vg, vb = mean(r * values) - mr * mv, mean(g * values) - mg * mv, mean(b * values) - mb * mv
    # the symmetric 3 x 3 system by its cofactors
    i00, i01, i02 = cgg * cbb - cgb * cgb, crb * cgb - crg * cbb, crg * cgb - crb * cgg
    i11, i12, i22 = crr * cbb - crb * crb, crg * crb - crr * cgb, crr * cgg - crg * crg
    det = crr * i00 + crg * i01 + crb * i02
    a = np.stack([i00 * vr + i01 * vg + i02 * vb, i01 * vr + i11 * vg + i12 * vb, i02 * vr + i12 * vg + i22 * vb], -1)
    a /= np.maximum(det, 1e-12)[..., None]
    offset = mv - _dot(a, m)
    return mean(a), mean(offset)


def _evidence(picture: np.ndarray, model: ClipColours) -> np.ndarray:
    """Return the log-odds of the person by colours alone, [W, W] float32."""
    index = _bin(picture)
    by_colour = model.ratio.ravel()[index]
    away = picture.astype(np.float32) - model.plate
    difference = _dot(away, away)
    variance = (_NOISE + model.spread) ** 2
    ground = -0.5 * difference / variance - 1.5 * np.log(2 * np.pi * variance)
    by_plate = model.person.ravel()[index] - ground
    by_plate = cv2.blur(np.clip(by_plate, -_PLATE_EVIDENCE, _PLATE_EVIDENCE), (3, 3))
    by_colour = np.clip(by_colour, -_EVIDENCE, _EVIDENCE)
    evidence: np.ndarray = np.where(model.seen, by_plate, by_colour).astype(np.float32)
    return evidence


def _steady(picture: np.ndarray, mask: np.ndarray, last_picture: np.ndarray, last_mask: np.ndarray) -> np.ndarray:
    """Return the mask, nearer to that of the frame before where the picture has not changed."""
    change = cv2.absdiff(picture, last_picture)
    most = np.maximum(np.maximum(change[..., 0], change[..., 1]), change[..., 2]).astype(np.float32)
    still = _KEEP * np.exp(-((cv2.blur(most, (5, 5)) / _STILL) ** 2))
    out: np.ndarray = mask + still * (last_mask - mask)
    return out


def _to_full(rgb: np.ndarray, small: np.ndarray, mask: np.ndarray, known: np.ndarray | None) -> np.ndarray:
    """Return the mask at the picture's own size, uint8: the filter's coefficients are enlarged, not its result."""
    size = rgb.shape[0]
    a, b = _guided_coefficients(small.astype(np.float32) / 255, mask, _FINE_RADIUS, _EPS)
    if size != WORK:
        a, b = (cv2.resize(x, (size, size), interpolation=cv2.INTER_LINEAR) for x in (a, b))
    full = _dot(a, rgb.astype(np.float32)) + 255 * (b - 0.5)
    out: np.ndarray = np.clip(full * _CONTRAST + 128, 0, 255).astype(np.uint8)
    if known is not None:
        out[known < 255] = 0
    return out


def _samples(frames: Iterable[np.ndarray], coarse: Coarse, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    chosen = set(np.linspace(0, count - 1, min(count, SAMPLES)).round().astype(int).tolist())
    for index, rgb in enumerate(itertools.islice(frames, count)):
        if index in chosen:
            yield _small(rgb), coarse(index)


def _small(rgb: np.ndarray) -> np.ndarray:
    if rgb.shape[0] == WORK:
        return rgb
    way = cv2.INTER_AREA if rgb.shape[0] > WORK else cv2.INTER_LINEAR
    small: np.ndarray = cv2.resize(rgb, (WORK, WORK), interpolation=way)
    return small


def _median(pictures: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return median [W, W, 3] and spread [W, W] of the free pixels of T pictures, and whether they suffice."""
    plate, spread = np.zeros((WORK, WORK, 3), np.float32), np.zeros((WORK, WORK), np.float32)
    count = free.sum(0)
    seen = count >= min(_FEW, len(free))
    middle = np.maximum(count - 1, 0) // 2  # the rank of the median once what is not free is sorted behind
    for row in range(0, WORK, 64):
        part = slice(row, row + 64)
        hidden, rank = ~free[:, part], middle[None, part]
        ordered = np.sort(np.where(hidden[..., None], np.uint8(255), pictures[:, part]), 0)
        plate[part] = np.take_along_axis(ordered, rank[..., None], 0)[0]
        away = cv2.absdiff(pictures[:, part].reshape(-1, 3), _repeated(plate[part], len(free))).max(-1)
        ordered = np.sort(np.where(hidden, np.uint8(255), away.reshape(hidden.shape)), 0)
        spread[part] = 1.4826 * np.take_along_axis(ordered, rank, 0)[0]
    return plate, spread, seen


def _repeated(picture: np.ndarray, count: int) -> np.ndarray:
    """Return `count` copies of a picture below each other, [count * H * W, 3] uint8."""
    return np.tile(picture.astype(np.uint8).reshape(-1, 3), (count, 1))


def _bin(picture: np.ndarray) -> np.ndarray:
    """Return the number of each pixel's colour bin."""
    steps = (picture.astype(np.int32) * _BINS) >> 8
    index: np.ndarray = (steps[..., 0] * _BINS + steps[..., 1]) * _BINS + steps[..., 2]
    return index


def _smoothed(counts: np.ndarray) -> np.ndarray:
    """Return shares of colours, none of them zero, blurred over neighbouring bins."""
    for axis in range(3):
        padded = np.pad(counts, [(1, 1) if k == axis else (0, 0) for k in range(3)], mode="edge")
        low, high = (np.take(padded, range(k, k + _BINS), axis) for k in (0, 2))
        counts = 0.5 * counts + 0.25 * (low + high)
    total = counts.sum()
    shares: np.ndarray = (counts + _WEAK * max(total, 1) / _BINS**3) / (max(total, 1) * (1 + _WEAK))
    return shares


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sums [H, W] over three channels."""
    sums: np.ndarray = np.einsum("hwc,hwc->hw", a, b)
    return sums


def _log_odds(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 0.01, 0.99)
    odds: np.ndarray = np.log(p / (1 - p))
    return odds


def _sigmoid(x: np.ndarray) -> np.ndarray:
    y: np.ndarray = 1 / (1 + np.exp(-x))
    return y


def _eroded(area: np.ndarray, radius: int) -> np.ndarray:
    """Return the pixels farther than `radius` from those outside; the picture's rim is no edge."""
    return ~_dilated(~area, radius)


def _dilated(area: np.ndarray, radius: int) -> np.ndarray:
    """Return the pixels at most `radius` from the area."""
    if not area.any():
        return np.zeros_like(area)
    distance = cv2.distanceTransform((~area).astype(np.uint8), cv2.DIST_L2, 3)
    near: np.ndarray = distance <= radius
    return near
