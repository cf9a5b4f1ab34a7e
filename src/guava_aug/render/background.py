"""The background behind the person: one clean plate per video, or a fill of every frame.

The tracker's crop is fixed for a video, so parts of the background become visible as the person moves: the plate is the
median over time of the pixels that do not belong to the person. Areas that are never visible are continued smoothly
from their surroundings (`smooth_fill`). A static plate cannot flicker.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from guava_aug.errors import InputError, UsageError
from guava_aug.render.inpaint import grow, onion_peel_fill, smooth_fill
from guava_aug.render.plate import THREADS, temporal_plate
from guava_aug.runtime.files import is_file
from guava_aug.tracked.masks import MASK_LEVEL, masks_that_miss, plate_frames, ranges, small_mask
from guava_aug.tracked.outline import SIZE

log = logging.getLogger(__name__)

MODES = ("plate", "original", "black")
# Margin around the person, in pixels of a 512 image. It must cover the soft matte of hair and motion blur (about 4),
# colour bleeding of the stored 4:2:0 JPEGs (a 16-pixel block at 1024 is 8), and a contact shadow.
MARGIN = 12
GRAIN_LIMIT = 3 / 255  # strongest grain added to a filled area
FRAMES_JUDGED = 512  # at a time, of a video whose background moves: their small masks are 8 MB


class VideoFrames(Protocol):
    """The part of a TrackedVideo that a background needs."""

    @property
    def name(self) -> str:
        """Return the name of the video."""

    @property
    def num_frames(self) -> int:
        """Return the number of frames."""

    def read_frame(self, i: int, /) -> tuple[np.ndarray, np.ndarray]:
        """Return rgb uint8 [H, W, 3] and mask uint8 [H, W]; called from several threads at once."""


class FrameChunk(Protocol):
    """The part of a chunk that a background needs: frames start .. stop - 1."""

    @property
    def start(self) -> int:
        """Return the number of the first frame."""

    @property
    def stop(self) -> int:
        """Return the number after the last frame."""

    @property
    def images(self) -> Tensor:
        """Return the images [T, 3, H, W], float 0..1."""
        ...  # [T, 3, H, W] float 0..1

    @property
    def masks(self) -> Tensor:
        """Return the masks [T, 1, H, W], float 0..1."""
        ...  # [T, 1, H, W] float 0..1


# (the video, numbers of T frames, their small masks [T, S, S]) -> those of the frames whose masks miss the person
MasksThatMiss = Callable[[Any, Sequence[int], np.ndarray], tuple[int, ...]]


@dataclass(frozen=True)
class Background:
    """The background of every frame of one video.

    One picture for all frames (`plate`), or one made from each frame (`fill`).
    """

    mode: str  # as requested
    note: str = ""  # the result, or why another mode than the requested one was used; for the run's record
    plate: Tensor | None = None  # [1, 3, H, W] float 0..1 on the CPU
    fill: Callable[[Tensor, Tensor], Tensor] | None = None  # images, masks -> [T, 3, H, W]
    left_out: tuple[int, ...] = ()  # frames, from 0, whose masks miss the person: no background is taken from them
    replacement: Callable[[int, int], tuple[Tensor, Tensor]] | None = (
        None  # frame, size -> the picture and mask instead
    )
    _placed: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def kind(self) -> Literal["static", "per-frame"]:
        """Return "static" if one picture is for all frames."""
        return "static" if self.fill is None else "per-frame"

    @property
    def needs_images(self) -> bool:
        """Return whether `frames` uses the images of its chunk."""
        return self.fill is not None

    def frames(self, chunk: FrameChunk, device: torch.device | str = "cpu") -> Tensor:
        """Return the background of each frame of the chunk, [T or 1, 3, H, W] float 0..1 on `device`."""
        device = torch.device(device)
        if self.fill is not None:
            return self.fill(*self._valid_images(chunk)).to(device)
        assert self.plate is not None
        if device not in self._placed:
            self._placed[device] = self.plate.to(device)
        return self._placed[device]

    def _valid_images(self, chunk: FrameChunk) -> tuple[Tensor, Tensor]:
        """Return images and masks of the chunk; frames whose masks miss the person are replaced by a valid frame."""
        images, masks = chunk.images, chunk.masks
        replaced = sorted(set(self.left_out) & set(range(chunk.start, chunk.stop)))
        if self.replacement is not None and replaced:
            images, masks = images.clone(), masks.clone()
            for i in replaced:
                images[i - chunk.start], masks[i - chunk.start] = self.replacement(i, images.shape[-1])
        return images, masks


def background_for(
    video: VideoFrames, mode: str = "plate", size: int = 512, *, missing: MasksThatMiss | None = None
) -> Background:
    """Return the background of a video, `size` x `size` pixels.

    Reads at most 64 frames, or all frames if the background moves.

    Args:
        video: The video.
        mode: "plate" (clean plate over time; per frame if the background itself moves), "original" (the original's fill
            of each frame, with its remains of the person), "black", "#rrggbb", or the path of a picture (cropped to
            cover the square).
        size: Side of the square in pixels.
        missing: Returns the frames whose masks miss the person, which are left out; None: those whose mask is empty or
            suddenly small. A run also compares masks with the posed body: `tracked.masks.left_out`.

    Raises:
        UsageError: Unknown mode.
        InputError: A picture or frame cannot be read.
    """
    if mode == "plate":
        return _plate_background(video, size, missing or _by_area)
    if mode == "original":
        return Background(mode, "the original's fill; its inner part is the original person", fill=onion_peel_fill)
    if mode == "black":
        return Background(mode, plate=torch.zeros(1, 3, size, size))
    if mode.startswith("#"):
        return Background(mode, plate=_colour(mode).expand(1, 3, size, size).contiguous())
    return Background(mode, plate=_picture(mode, size))


def smooth_background(images: Tensor, masks: Tensor, unknown: np.ndarray | None = None) -> Tensor:
    """Return each frame with the person and a margin replaced by a smooth fill, [T, 3, H, W] 0..1.

    `images` are [T, 3, H, W] 0..1, `masks` [T, 1, H, W]; `unknown` [H, W] bool is filled likewise.
    """
    pictures = images.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    soft = masks.detach().float().cpu()[:, 0].numpy()
    margin = scaled_margin(images.shape[-1])

    def fill(t: int) -> np.ndarray:
        hole = grow(soft[t] > MASK_LEVEL, margin)
        if unknown is not None:
            hole |= unknown
        return add_grain(smooth_fill(pictures[t], hole), hole)

    with ThreadPoolExecutor(THREADS) as pool:
        filled = np.stack(list(pool.map(fill, range(len(pictures)))))
    return torch.from_numpy(filled).permute(0, 3, 1, 2).contiguous().to(images.device)


def scaled_margin(size: int) -> int:
    """Return MARGIN in pixels of a picture of this size."""
    return max(1, round(MARGIN * size / 512))


def add_grain(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return the picture [H, W, 3] float32 with grain in the hole like that around it; always the same grain.

    Without it a filled area is conspicuously flat, and shows bands after 8-bit rounding.
    """
    ring = grow(hole, 4 * scaled_margin(hole.shape[1])) & ~grow(hole, 2)
    if not hole.any() or ring.sum() < 64:
        return picture
    fine = picture - cv2.GaussianBlur(picture, (0, 0), 1.5)
    # The median of |fine| sees grain and ignores edges; 1.48 makes it a standard deviation.
    sigma = np.minimum(1.4826 * np.median(np.abs(fine[ring]), axis=0), GRAIN_LIMIT)
    grained: np.ndarray = np.clip(picture + _noise(*hole.shape) * (sigma * hole[..., None]), 0, 1)
    return grained.astype(np.float32)


@functools.lru_cache(maxsize=2)
def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((height, width, 3), dtype=np.float32)


def _by_area(video: VideoFrames, frames: Sequence[int], masks: np.ndarray) -> tuple[int, ...]:
    return tuple(frames[i] for i in np.flatnonzero(masks_that_miss(masks, None)).tolist())


def _plate_background(video: VideoFrames, size: int, missing: MasksThatMiss) -> Background:
    pictures, people, masks = _sample(video, size)
    unknown = _unknown(video, size)
    margin = scaled_margin(size)
    sampled = plate_frames(video.num_frames)
    left_out = missing(video, sampled, masks)
    if left_out:
        kept = ~np.isin(sampled, left_out)
        pictures, people = pictures[kept], people[kept]
    # where so many masks missed the person, as many others may have missed a part of it
    found = temporal_plate(pictures, people, margin, doubtful=len(left_out), unknown=unknown)
    if found.moving:
        note = f"the background moves ({found.describe()}): filled per frame"
        log.info("%s: %s", video.name, note)
        if len(sampled) < video.num_frames:
            left_out = _missing_of_all(video, missing)
        replacement = _replacements(video, left_out) if left_out else None
        fill = smooth_background if unknown is None else functools.partial(smooth_background, unknown=unknown)
        return Background("plate", note, fill=fill, left_out=left_out, replacement=replacement)
    plate = add_grain(smooth_fill(found.picture, found.hole), found.hole)
    without = f", without frames {ranges(left_out)} whose masks miss the person" if left_out else ""
    note = f"clean plate ({found.describe()}{without})"
    log.info("%s: %s", video.name, note)
    tensor = torch.from_numpy(plate).permute(2, 0, 1)[None].contiguous()
    return Background("plate", note, tensor, left_out=left_out)


def _unknown(video: VideoFrames, size: int) -> np.ndarray | None:
    """Return what the video does not show of its square, [size, size] bool; None: it shows all of it."""
    known_at = getattr(video, "known_at", None)  # only a TrackedVideo may have such a part
    known = None if known_at is None else known_at(size)
    return None if known is None else ~known


def _missing_of_all(video: VideoFrames, missing: MasksThatMiss) -> tuple[int, ...]:
    """Return the frames of the whole video that are left out; only small masks of a limited number are in memory."""
    found: list[int] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for frames in np.array_split(np.arange(video.num_frames), -(-video.num_frames // FRAMES_JUDGED)):
            chosen = frames.tolist()
            masks = np.stack(list(pool.map(lambda i: small_mask(video.read_frame(i)[1]), chosen)))
            found += missing(video, chosen, masks)
    return tuple(found)


def _replacements(video: VideoFrames, left_out: tuple[int, ...]) -> Callable[[int, int], tuple[Tensor, Tensor]]:
    """Return the function of a frame's number and a size that gives the nearest valid frame of that size.

    It gives a picture [3, size, size] and a mask [1, size, size], float 0..1, which are not to be changed.
    """
    good = np.setdiff1d(np.arange(video.num_frames), left_out)

    @functools.lru_cache(maxsize=2)  # frames that are left out in a row have two such neighbours
    def read(frame: int, size: int) -> tuple[Tensor, Tensor]:
        rgb, mask = video.read_frame(frame)
        rgb, mask = (cv2.resize(a, (size, size), interpolation=cv2.INTER_AREA) for a in (rgb, mask))
        return torch.from_numpy(rgb).permute(2, 0, 1).float() / 255, torch.from_numpy(mask)[None].float() / 255

    def nearest(frame: int, size: int) -> tuple[Tensor, Tensor]:
        return read(int(good[np.abs(good - frame).argmin()]) if len(good) else frame, size)

    return nearest


def _sample(video: VideoFrames, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return T <= 64 frames spread over the video.

    These are pictures uint8 [T, size, size, 3], people without margin bool [T, size, size], and their small masks.
    """
    if video.num_frames < 1:
        raise InputError(f"{video.name}: expected at least one frame, found none; track the video again")
    indices = plate_frames(video.num_frames)
    pictures = np.empty((len(indices), size, size, 3), np.uint8)
    people = np.empty((len(indices), size, size), bool)
    small = np.empty((len(indices), SIZE, SIZE), bool)

    def read(slot: int) -> None:
        rgb, mask = video.read_frame(indices[slot])
        pictures[slot] = cv2.resize(rgb, (size, size), interpolation=cv2.INTER_AREA)
        people[slot] = small_mask(mask, size)
        small[slot] = small_mask(mask)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(read, range(len(indices))))
    return pictures, people, small


def _colour(text: str) -> Tensor:
    """Return "#rrggbb" as [1, 3, 1, 1] float 0..1."""
    try:
        if len(text) != 7:
            raise ValueError
        values: Sequence[int] = bytes.fromhex(text[1:])
    except ValueError:
        raise UsageError(f"--background: expected a colour as #rrggbb, for example #00b140, found {text!r}") from None
    return torch.tensor([v / 255 for v in values]).view(1, 3, 1, 1)


def _picture(text: str, size: int) -> Tensor:
    """Return a picture file, scaled and centre-cropped to cover the square, as [1, 3, size, size] float 0..1."""
    path = Path(text).expanduser()
    if not is_file(path, InputError):
        if not path.suffix and path.name == text:
            raise UsageError(f"--background: expected {', '.join(MODES)}, #rrggbb or a picture file, found {text!r}")
        raise InputError(f"--background: there is no picture file {path}; check the path")
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error) as error:
        raise InputError(f"--background: {path} cannot be read ({error}); give a PNG or JPEG picture") from error
    if bgr is None:
        raise InputError(f"--background: {path} is not a picture that can be decoded; give a PNG or JPEG picture")
    height, width = bgr.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(bgr[top : top + side, left : left + side, ::-1])
    way = cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC
    rgb = cv2.resize(square, (size, size), interpolation=way)
    return torch.from_numpy(rgb).permute(2, 0, 1)[None].float().div(255).contiguous()


def composite(
    rgb: Tensor,  # [T, 3, H, W] 0..1
    alpha: Tensor,  # [T, 1, H, W]
    background: Tensor,  # [T or 1, 3, H, W] 0..1
) -> Tensor:
    """Return rgb * alpha + background * (1 - alpha), [T, 3, H, W] 0..1."""
    alpha = alpha.clamp(0, 1)
    return rgb * alpha + background * (1 - alpha)
