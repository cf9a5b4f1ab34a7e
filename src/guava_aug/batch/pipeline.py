"""The way of one video through the program: reconstruct once, pose once per frame, render per view."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guava_aug.errors import InputError
from guava_aug.output.gpu_frames import PendingFrames
from guava_aug.output.quantize import to_png_bytes, to_video_bytes
from guava_aug.output.view_writer import FrameBatch, Outcome, ViewWriter, ViewWriters
from guava_aug.render.background import Background, background_for
from guava_aug.runtime import timing
from guava_aug.runtime.progress import Progress
from guava_aug.runtime.text import pluralize
from guava_aug.runtime.timing import StageTimer
from guava_aug.tracked.masks import left_out
from guava_aug.tracked.plausibility import source_fault

if TYPE_CHECKING:
    from guava_aug.avatar import PosedGaussians
    from guava_aug.avatar.model import GuavaModel
    from guava_aug.tracked import BodyOutline, TrackedVideo
    from guava_aug.views import Cameras, View

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What the loop needs beside the model, the video and the views."""

    background: str  # see `background_for`
    frames_per_chunk: int  # frames posed at a time and rendered in one call
    views_in_flight: int  # files open at once; more views than that go through the video in groups


def augment_video(
    model: GuavaModel,
    video: TrackedVideo,
    views: Sequence[View],
    open_file: Callable[[View], ViewWriter],
    on_view: Callable[[Outcome], None],
    settings: Settings,
    *,
    want_png: bool = False,
    stages: StageTimer,
    progress: Progress,
    outline: BodyOutline | None = None,
    on_background: Callable[[Background], None] = lambda background: None,
) -> Background:
    """The background that was used, after `video` was rendered through every view.

    Each view ends in one call of `on_view`, as soon as its file is complete. A view that
    fails does not stop the others. What all views share (reading, reconstructing, posing) raises.

    Args:
        open_file: begins the file of a view.
        on_view: called in the caller's thread.
        outline: of the body model in use: frames whose masks are far from the posed body give nothing to the plate.
        on_background: told of the background before any file is opened.

    Raises:
        InputError: the video cannot be read or rendered. Files in flight are removed, as with any other exception.
    """
    size = model.config.image_size
    with stages(timing.DATA):
        source = video.source_at(model.config.feature_img_size)
        fault = source_fault(source.image, video.name)
        if fault is not None:
            raise InputError(fault)
    with ThreadPoolExecutor(1) as beside:  # the plate needs no GPU, and is ready when the avatar is
        missing = partial(left_out, outline=outline)
        plate_of = beside.submit(background_for, video, settings.background, size, missing=missing)  # image
        with stages(timing.SOURCE, sync=True):
            raw = model.infer(source)  # identity
        with stages(timing.GAUSSIAN_SETUP, sync=True):
            avatar = model.avatar(raw, source.identity)
            del raw  # some hundred MB at official size
        with stages(timing.PRECOMPUTE):
            background = plate_of.result()
    on_background(background)

    lens = video.lens_at(size)
    length = _even_length(video.num_frames, settings.frames_per_chunk)
    for group in _groups(views, settings.views_in_flight):
        with ViewWriters(group, open_file, on_view, stages) as files:
            chunks = video.chunks(length, size, images=background.needs_images)
            for chunk in _timed(chunks, stages):  # bounded memory
                with stages(timing.PRECOMPUTE, sync=True):
                    posed = avatar.pose(chunk.motion.to(model.device))  # identity x motion, batched over frames
                    _refuse_non_finite(posed.means, video.name, chunk.start)
                    plate = background.frames(chunk, model.device)
                for view in files.well():  # camera
                    with files.rendering(view):
                        cameras = view.cameras(source.viewmat, len(chunk), size, start=chunk.start, K=lens)
                        for batch in _render(model, posed, cameras, plate, want_png):
                            files.write(view, batch)
                        progress.frames(len(chunk), video.num_frames)
                if not files.well():
                    break
    return background


def _groups(views: Sequence[View], size: int) -> Iterator[Sequence[View]]:
    for start in range(0, len(views), size):
        yield views[start : start + size]


def _even_length(frames: int, most: int) -> int:
    """Frames per chunk, at most `most`, so that the last chunk is about as long as the others: short ones are slow."""
    return -(-frames // -(-frames // most)) if frames else most


def _timed(chunks: Iterable, stages: StageTimer) -> Iterator:
    """The same chunks; the time spent waiting for them is the stage `data`."""
    iterator = iter(chunks)
    while True:
        with stages(timing.DATA):
            chunk = next(iterator, None)
        if chunk is None:
            return
        yield chunk


def _render(
    model: GuavaModel,
    posed: PosedGaussians,  # T frames
    cameras: Cameras,  # T or one
    plate: Tensor,  # [T or 1, 3, H, W]
    want_png: bool,
) -> Iterator[FrameBatch]:
    """The frames as bytes, in order; in smaller and smaller parts while the GPU has too little memory.

    From a fast GPU they come as planes that are still on their way, so that it can go on with the next view.
    """
    T, start = len(posed), 0
    while start < T:
        part = min(T - start, model.most_frames or T)
        s = slice(start, start + part)
        part_cameras = cameras[s] if len(cameras) > 1 else cameras
        part_plate = plate[s] if len(plate) > 1 else plate
        batch = None
        try:
            if model.fast and not want_png:
                batch = FrameBatch(PendingFrames(*model.render_planes(posed[s], part_cameras, part_plate)), None)
            else:
                frames = model.render(posed[s], part_cameras, part_plate)
                batch = FrameBatch(to_video_bytes(frames), to_png_bytes(frames) if want_png else None)
        except torch.OutOfMemoryError:
            if part == 1 and not model.keeps_memory:
                raise
        if batch is None:  # outside of `except`, whose traceback keeps what was computed
            model.save_memory(part)
            now = min(part, model.most_frames or part)
            log.warning(
                "the GPU has too little memory for %s at a time; going on with %d", pluralize(part, "frame"), now
            )
            continue
        yield batch
        start += part


def _refuse_non_finite(
    means: Tensor,  # [T, N, 3]
    name: str,
    start: int,
) -> None:
    bad = (~torch.isfinite(means)).flatten(1).any(dim=1)  # [T]
    if bool(bad.any()):
        frame = start + int(bad.nonzero()[0])
        raise InputError(
            f"{name}: frame {frame} gives an avatar that is not finite (NaN or infinity); expected finite pose "
            f"parameters; look at this frame with `guava-aug check`, or track the video again"
        )
