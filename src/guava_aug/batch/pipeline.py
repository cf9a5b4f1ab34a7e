"""The steps of one video: reconstruct once, pose once per frame, render per view."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guava_aug.batch.executors.base import FramesDone
from guava_aug.errors import InputError
from guava_aug.output.frames import PendingFrames, to_png_bytes, to_video_bytes
from guava_aug.output.sinks import FrameBatch, Need, needs_of
from guava_aug.output.view_writer import ViewEnd, ViewWriter, ViewWriters
from guava_aug.render.background import Background, background_for, composite
from guava_aug.runtime import timing
from guava_aug.runtime.text import pluralize
from guava_aug.runtime.timing import StageTimer
from guava_aug.tracked.masks import left_out
from guava_aug.tracked.plausibility import source_fault

if TYPE_CHECKING:
    from guava_aug.avatar import Avatar, PosedGaussians
    from guava_aug.avatar.model import GuavaModel
    from guava_aug.tracked import BodyOutline, Chunk, Source, TrackedVideo
    from guava_aug.views import Cameras, View

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PipelineSettings:
    """What the loop needs beside the model, the clip and the views."""

    background: str  # see `background_for`
    frames_per_chunk: int  # frames posed at a time and rendered in one call
    views_in_flight: int  # views written at once; more than that go through the video in groups
    sinks: tuple[str, ...] = ("mp4",)  # names of what is written of each view


@dataclass(frozen=True)
class ClipVideos:
    """The opened videos of a clip's three roles; usually one and the same."""

    identity: TrackedVideo  # whose avatar is made
    motion: TrackedVideo  # whose poses it takes, frame by frame
    background: TrackedVideo  # what is seen behind it, without the person

    @classmethod
    def of(cls, video: TrackedVideo) -> ClipVideos:
        """Return a clip whose three roles are one video."""
        return cls(video, video, video)


def augment_video(
    model: GuavaModel,
    clip: ClipVideos,
    views: Sequence[View],
    open_writer: Callable[[View], ViewWriter],
    settings: PipelineSettings,
    stages: StageTimer,
    outline: BodyOutline | None = None,
    avatar: Avatar | None = None,
) -> Generator[Background | FramesDone | ViewEnd, None, None]:
    """Render a clip through every view, and report the progress.

    Gives the background that is used, once, before any file is begun; `FramesDone` after every chunk of a view; and one
    `ViewEnd` per view, as soon as its files are complete or it has failed. A view that fails does not stop the others.
    What all views share (reading, reconstructing, posing) raises. Files in flight are removed by any exception, and
    when the generator is closed.

    Args:
        model: reconstructs, poses and renders.
        clip: whose avatar, whose poses, before which background.
        views: of the clip, all of them.
        open_writer: begins the files of a view.
        settings: background, length of chunks, group size and sinks.
        stages: gets the time of every stage.
        outline: of the body model in use: frames whose masks are far from the posed body give nothing to the plate.
        avatar: to be rendered; None: the one that the source frame of the identity's video gives.

    Raises:
        InputError: a video cannot be read or rendered.
    """
    size, needs = model.config.image_size, needs_of(settings.sinks)
    source: Source | None = None
    if avatar is None:
        with stages(timing.DATA):
            source = clip.identity.source_at(model.config.feature_img_size)
            fault = source_fault(source.image, clip.identity.name)
            if fault is not None:
                raise InputError(fault)
    with ThreadPoolExecutor(1) as beside:  # the plate needs no GPU, and is ready when the avatar is
        missing = partial(left_out, outline=outline)
        plate_of = beside.submit(background_for, clip.background, settings.background, size, missing=missing)  # image
        if source is not None:
            with stages(timing.SOURCE, sync=True):
                raw = model.infer(source)  # identity
            with stages(timing.GAUSSIAN_SETUP, sync=True):
                avatar = model.avatar(raw, source.identity)
                del raw  # some hundred MB at official size
        with stages(timing.PRECOMPUTE):
            behind = plate_of.result()
    yield behind

    assert avatar is not None
    placed_by = clip.identity.viewmats[clip.identity.source_frame]
    lens = clip.identity.lens_at(size)  # of the source camera, which views are placed by
    length = _even_length(clip.motion.num_frames, settings.frames_per_chunk)
    for group in _groups(views, settings.views_in_flight):
        paths: dict[str, Cameras] = {}  # of the whole video: a sampler may need as long for one chunk as for all
        with ViewWriters(group, open_writer, stages) as writers:
            yield from writers.ended()  # files that could not be begun
            for chunk in _timed(clip.motion.chunks(length, size, images=behind.needs_images), stages):  # bounded memory
                with stages(timing.PRECOMPUTE, sync=True):
                    posed = avatar.pose(chunk.motion.to(model.device))  # identity x motion, batched over frames
                    _refuse_non_finite(posed.means, clip.motion.name, chunk.start)
                    plate = behind.frames(chunk, model.device)
                for view in writers.active():  # camera
                    with writers.guard(view):
                        if view.label not in paths:
                            paths[view.label] = view.cameras(placed_by, clip.motion.num_frames, size, K=lens)
                        cameras = paths[view.label][chunk.start : chunk.start + len(chunk)]
                        for batch in _render(model, posed, cameras, plate, needs):
                            writers.write(view, batch)
                    if writers.is_active(view):
                        yield FramesDone(len(chunk), clip.motion.num_frames)
                    yield from writers.ended()
                if not writers.active():
                    break
            yield from writers.complete()


def _groups(views: Sequence[View], size: int) -> Iterator[Sequence[View]]:
    for start in range(0, len(views), size):
        yield views[start : start + size]


def _even_length(frames: int, most: int) -> int:
    """Return frames per chunk, at most `most`, so that the last chunk is not much shorter: short ones are slow."""
    return -(-frames // -(-frames // most)) if frames else most


def _timed(chunks: Iterable[Chunk], stages: StageTimer) -> Iterator[Chunk]:
    """Yield the same chunks; the time spent waiting for them is the stage `data`."""
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
    needs: frozenset[Need],
) -> Iterator[FrameBatch]:
    """Yield the frames in order, with what the sinks need; in smaller parts when the GPU lacks memory.

    From a fast GPU the pictures are planes whose transfer has begun, so that it can render the next view meanwhile.
    """
    T, start = len(posed), 0
    while start < T:
        part = min(T - start, model.most_frames or T)
        s = slice(start, start + part)
        part_cameras = cameras[s] if len(cameras) > 1 else cameras
        part_plate = plate[s] if len(plate) > 1 else plate
        batch = None
        try:
            batch = _render_part(model, posed[s], part_cameras, part_plate, needs)
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


def _render_part(
    model: GuavaModel, posed: PosedGaussians, cameras: Cameras, plate: Tensor, needs: frozenset[Need]
) -> FrameBatch:
    """Render frames in one call. What no sink needs is not computed."""
    extras: dict[str, Any] = {}
    if "cameras" in needs:
        viewmats = cameras.viewmats.expand(len(posed), -1, -1)
        extras["cameras"] = cameras.K.cpu().numpy(), viewmats.cpu().numpy()
    if "joints" in needs:
        assert posed.joints is not None, "given by Avatar.pose"
        extras["joints"] = posed.joints.float().cpu().numpy()
    frames: Tensor | None = None
    if layers := needs & {"alpha", "inverse_depth"}:
        if model.fast:  # half precision gives no depth
            raster = model.rasterize(posed, cameras)
        else:
            rendered = model.render_layers(posed, cameras)
            raster, frames = rendered.raster, composite(rendered.rgb, rendered.alpha, plate.to(model.device))
        extras |= {name: getattr(raster, name).float().cpu().numpy() for name in layers}
    if model.fast and "rgb8" not in needs:
        return FrameBatch(PendingFrames(*model.render_planes(posed, cameras, plate)), **extras)
    if frames is None:
        frames = model.render(posed, cameras, plate)
    return FrameBatch(to_video_bytes(frames), to_png_bytes(frames) if "rgb8" in needs else None, **extras)


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
