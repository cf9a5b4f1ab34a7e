"""A tracked folder from a video and the SMPL-X parameters that another tool found in it.

The world of the tracked format is that of its camera: x right, y down, z forward, moved so that the body stays where
its rest pose is. So rotations are taken as they are, and the translation becomes the camera's.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from guava_aug.body import EhmModel, Identity, Motion
from guava_aug.body.joints import INDEX
from guava_aug.body.teeth import NUM_TEETH
from guava_aug.errors import InputError, OutputError
from guava_aug.runtime.atomic import temporary_path
from guava_aug.runtime.files import is_there
from guava_aug.runtime.frame_rate import Rate
from guava_aug.runtime.text import pluralize
from guava_aug.tracked.detect import Landmarks, detect
from guava_aug.tracked.layout import SKIPPED, FrameTimes, check_name
from guava_aug.tracked.lens import Calibration, lens_of_crop
from guava_aug.tracked.matting import coarse_masks, refine_masks
from guava_aug.tracked.outline import BodyOutline
from guava_aug.tracked.plausibility import refuse_impossible
from guava_aug.tracked.projected import ProjectedBody, project_body
from guava_aug.tracked.reading import Crop, Source, choose_crop, open_source
from guava_aug.tracked.smplx_file import BodyKind, SmplxParameters, read_smplx
from guava_aug.tracked.tracking import SHEET, FitOverlay, extract_sound, stored_size
from guava_aug.tracked.video import TrackedVideo
from guava_aug.tracked.write import write_tracked

log = logging.getLogger(__name__)

_SMPLX_VERTICES = 10475
_ON = 127  # of 255: a mask above it shows the person
_BATCH = 16  # frames that the detector reads together
_HEAD_BETAS = 20  # of the embedded body: its head has the same first shape components

Step = Callable[[int, int], None]  # hears of frames that were done, and of how many there are


@dataclass(frozen=True)
class ImportedClip:
    """A tracked folder that was made."""

    path: Path
    num_frames: int
    fps: Rate
    size: int  # pixels, side of the stored pictures


@dataclass(frozen=True)
class _Posed:
    """The body in the tracked format; see `FitOverlay`."""

    identity: Identity
    motion: Motion
    viewmats: Tensor  # [T, 4, 4]


@dataclass(frozen=True)
class _Clip:
    """What is to be written."""

    source: Source
    numbers: tuple[int, ...]  # of the T frames in the source
    crop: Crop
    size: int  # pixels, side of the stored pictures


def import_video(
    video: str | Path,
    parameters: str | Path,
    tracked_root: str | Path,
    body: EhmModel,
    *,
    name: str | None = None,
    masks: str | Path | None = None,
    keep_audio: bool = True,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
    step: Step = lambda done, total: None,
) -> ImportedClip:
    """Write the tracked folder of a video whose SMPL-X parameters are known; it appears complete or not at all.

    Args:
        video: The video, or a folder of pictures.
        parameters: An `.npz`; docs/own_video.md has its keys.
        tracked_root: Where the folder is made.
        body: The body of the model that will render it.
        name: Of the folder; None: that of the video without its suffix.
        masks: A folder of pictures or a video, of the size of the video's pictures, white where the person is, one
            for every frame of the video or of the parameters; None: they are found by the nets of the package.
        keep_audio: Keep the sound of the video.
        overwrite: Replace a folder of that name.
        device: For the nets.
        step: Called with the work done.

    Raises:
        InputError: A file cannot be read, does not fit the others, or shows no person.
        OutputError: The folder is there already, or cannot be written.
    """
    source, root = open_source(video), Path(tracked_root)
    name = check_name(source.name if name is None else name)
    target = root / name
    _check_free(target, overwrite)
    found = read_smplx(Path(parameters))
    numbers = _frame_numbers(source, found, Path(parameters))
    outline = BodyOutline(body)
    posed = _posed(found, outline)
    size = found.image_size or source.size
    K = Calibration(found.K, size).at(source.size, f"parameters {parameters}").K
    seen = project_body(outline, posed.identity, posed.motion, posed.viewmats, K, source.size)
    crop = choose_crop(seen)
    if crop is None:
        raise InputError(
            f"{parameters}: the body is outside of the picture in all frames; expected transl in metres, and K (or "
            f"focal and princpt) in pixels of the whole picture, which has {source.size[1]} x {source.size[0]}"
        )
    clip = _Clip(source, numbers, crop, stored_size(crop))
    steps = _Steps(step, len(numbers) * (1 if masks is not None else 2))
    pictures = _with_given_masks(clip, open_source(masks)) if masks is not None else _with_own(
        clip, seen, device, steps
    )  # fmt: skip
    staging = temporary_path(target)
    try:
        staging.mkdir(parents=True)
        _write(staging, name, clip, outline, posed, lens_of_crop(K, crop.left, crop.top, crop.side, clip.size),
               pictures, keep_audio, steps)  # fmt: skip
        refuse_impossible(TrackedVideo.open(staging, name), outline, accept=True)  # says what is odd
        _publish(staging, target)
    except OSError as error:
        raise OutputError(f"{target} could not be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return ImportedClip(target, len(numbers), source.axis.of(numbers).fps, clip.size)


class _Steps:
    """Counts the frames done."""

    def __init__(self, step: Step, total: int) -> None:
        self._step, self._total = step, total

    def one(self) -> None:
        self._step(1, self._total)


def body_kind(body: EhmModel) -> BodyKind:
    """Return which body a model has: its shape coefficients belong to it."""
    is_smplx = len(body.assets.body.v_template) in (_SMPLX_VERTICES, _SMPLX_VERTICES + NUM_TEETH)
    return "smplx" if is_smplx else "embedded"


def _viewmats(found: SmplxParameters, pelvis: Tensor) -> Tensor:
    """Return the cameras [T, 4, 4], world to camera, of parameters.

    The body is turned about its pelvis [3] at rest, metres, and then moved. The format has no such movement: it is the
    camera's.
    """
    viewmats = torch.eye(4).repeat(len(found), 1, 1)
    viewmats[:, :3, 3] = found.translation - pelvis if found.of_pelvis else found.translation
    return viewmats


def _posed(found: SmplxParameters, outline: BodyOutline) -> _Posed:
    """Return the body of a model in the poses of a file."""
    kind, motion, betas = body_kind(outline.body), found.motion, found.betas
    if found.body != kind:
        log.warning(
            "shape and expression are left out: they belong to %s, and the model has another body (%s); rotations and "
            "place are kept. With the official model and its assets (--model_path, --guava_root) all is used",
            "SMPL-X" if found.body == "smplx" else "the embedded body",
            "the embedded one" if kind == "embedded" else "SMPL-X",
        )
        betas = torch.zeros(1)
        nothing = torch.zeros_like(motion.expression)
        fields = {name: getattr(motion, name) for name in motion.__dataclass_fields__}
        motion = Motion(**{**fields, "expression": nothing, "flame_expression": nothing})
    elif kind == "smplx" and found.gender != "neutral" and bool(betas.any()):
        log.warning("the shape is that of a %s body; it is used with the neutral one", found.gender)
    identity = Identity(
        betas=betas,
        flame_betas=betas[:_HEAD_BETAS] if kind == "embedded" else torch.zeros(1),
        head_scale=torch.ones(3), hand_scale=torch.ones(3),
        joints_offset=torch.zeros(outline.body.assets.body.J_regressor.shape[0], 3),
    )  # fmt: skip
    pelvis = outline.rest(identity)[1][INDEX["pelvis"]]
    return _Posed(identity, motion, _viewmats(found, pelvis))


def _frame_numbers(source: Source, found: SmplxParameters, path: Path) -> tuple[int, ...]:
    """Return the frames of the video that the parameters are of."""
    numbers = found.frames
    if numbers is None:
        if len(found) != len(source):
            raise InputError(
                f"{path}: has {pluralize(len(found), 'frame')}, {source.path} has {len(source)}; expected as many, or "
                "`frames`: the number in the video, from 0, of each"
            )
        return tuple(range(len(source)))
    if numbers[-1] >= len(source):
        raise InputError(
            f"{path}, frames: has frame {numbers[-1]}, and the last one of {source.path} is {len(source) - 1}"
        )
    return numbers


def _with_given_masks(clip: _Clip, masks: Source) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give picture [S, S, 3] and mask [S, S], uint8, of every frame.

    Raises:
        InputError: The masks are of another number or size, or show no person.
    """
    source, numbers, count = clip.source, clip.numbers, len(clip.numbers)
    if masks.size != source.size:
        (h, w), (mask_h, mask_w) = source.size, masks.size
        raise InputError(f"masks {masks.path}: expected {w} x {h} pixels as {source.path}, found {mask_w} x {mask_h}")
    if len(masks) not in (count, len(source)):
        others = f" or {len(source)}" if count != len(source) else ""
        raise InputError(f"masks {masks.path}: expected {count}{others}, one for each frame, found {len(masks)}")
    places = numbers if len(masks) == len(source) else range(count)
    empty = True
    for picture, mask in zip(_frames_of(source, numbers), _frames_of(masks, places), strict=True):
        square = clip.crop.take(np.ascontiguousarray(mask.max(-1)), clip.size, unknown=0)
        empty = empty and not (square > _ON).any()
        yield clip.crop.take(picture, clip.size), square
    if empty:
        raise InputError(
            f"masks {masks.path}: none shows the person; expected white (255) on the person and black elsewhere"
        )


def _with_own(
    clip: _Clip, seen: ProjectedBody, device: torch.device | str, steps: _Steps
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give picture and mask as `_with_given_masks`, the masks by the nets of the package.

    Raises:
        InputError: The nets find no person.
    """
    source, numbers, crop = clip.source, clip.numbers, clip.crop

    def pictures() -> Iterator[np.ndarray]:
        for picture in _frames_of(source, numbers):
            yield picture
            steps.one()

    landmarks = detect(
        pictures(), device=device, batch=_BATCH, person=seen.person_in_first, fps=float(source.axis.of(numbers).fps)
    )
    _check_found(landmarks, source)
    latest = [np.zeros(0)]  # the picture that the next mask is of, so that it need not be decoded again

    def crops() -> Iterator[np.ndarray]:
        for picture in _frames_of(source, numbers):
            latest[0] = crop.take(picture, clip.size)
            yield latest[0]

    coarse = coarse_masks(landmarks.person_mask, landmarks.mask_region, crop)
    for mask in refine_masks(crops, coarse, len(numbers), crop.known(clip.size)):
        yield latest[0], mask


def _check_found(landmarks: Landmarks, source: Source) -> None:
    if not landmarks.found.any():
        raise InputError(f"{source.path}: nobody is found in it, so there are no masks; give them with --masks")
    if missing := len(landmarks.frames_without_person):
        log.warning(
            "%s: the person is not found in %s: their masks are empty; see --masks",
            source.path, pluralize(missing, "frame"),
        )  # fmt: skip


def _frames_of(source: Source, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Give the pictures of some frames, in ascending order.

    Raises:
        InputError: One of them cannot be decoded.
    """
    wanted = iter(numbers)
    due = next(wanted, None)
    for frame in source.frames(numbers[0], numbers[-1] + 1):
        if frame.number == due:
            yield frame.rgb
            due = next(wanted, None)
        elif due is None or frame.number > due:
            break
    if due is not None:
        raise InputError(
            f"{source.path}: frame {due} cannot be decoded; leave it out with `frames`, or repair the file"
        )


def _write(
    staging: Path,
    name: str,
    clip: _Clip,
    outline: BodyOutline,
    posed: _Posed,
    K: Tensor,
    pictures: Iterator[tuple[np.ndarray, np.ndarray]],
    keep_audio: bool,
    steps: _Steps,
) -> None:
    """Write the folder below `staging`."""
    source, numbers = clip.source, clip.numbers
    axis = source.axis.of(numbers)
    overlay = FitOverlay(outline, posed, None, clip.crop, clip.size, K)

    def frames() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i, pair in enumerate(pictures):
            overlay.take(i, pair[0])
            yield pair
            steps.one()

    sound = staging / f"{name}.m4a"
    has_sound = keep_audio and extract_sound(source, numbers[0], numbers[-1] + 1, sound)
    times = None if axis.constant else FrameTimes(axis.time_base, tuple(int(tick) for tick in axis.ticks))
    folder = write_tracked(
        staging, name, posed.identity, posed.motion, posed.viewmats, frames(), fps=axis.fps, source_frames=numbers,
        K=K, known=clip.crop.known(clip.size), times=times, sound=sound if has_sound else None,
    )  # fmt: skip
    (folder / SHEET).write_bytes(overlay.sheet())
    for note in source.notes:
        log.warning("%s: %s", source.path, note)


def _check_free(target: Path, overwrite: bool) -> None:
    """Raise OutputError if a folder is there that must stay."""
    try:
        is_free = overwrite or not is_there(target) or set(os.listdir(target)) <= {SKIPPED}
    except OSError:
        is_free = False
    if not is_free:
        raise OutputError(f"{target} is there already. Remove it, choose another --name, or give --overwrite.")


def _publish(staging: Path, target: Path) -> None:
    """Move the folder of a clip to its place; what was there goes."""
    if is_there(target):
        os.replace(target, staging / "old")
    os.replace(staging / target.name, target)
