"""One video from file to tracked folders: read, detect, fit, separate from the background, write, judge."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from guava_aug.body import EhmModel
from guava_aug.errors import InputError, OutputError, annotate
from guava_aug.runtime.atomic import temporary_path
from guava_aug.runtime.frame_rate import Rate
from guava_aug.runtime.presence import is_there
from guava_aug.runtime.steps import Tick, in_steps
from guava_aug.runtime.text import pluralize
from guava_aug.runtime.timing import StageTimer
from guava_aug.tracked.detect import Landmarks, detect
from guava_aug.tracked.detect.pose import Person
from guava_aug.tracked.fit.clip import ClipFit, ClipFitter, Lens
from guava_aug.tracked.fit.clip import Crop as FitCrop
from guava_aug.tracked.layout import INFO, SKIPPED
from guava_aug.tracked.lens import Calibration, lens_of_crop, lens_of_focal_35mm, lens_of_fov, load_calibration
from guava_aug.tracked.outline import BodyOutline, spread_frames
from guava_aug.tracked.overlay import draw_fit, fit_sheet
from guava_aug.tracked.reading import Crop, Shot, Source, choose_crop, extract_audio, find_shots, open_source
from guava_aug.tracked.report import QUALITIES, REPORT, Quality, TrackingReport, clip_names, read_report
from guava_aug.tracked.write import write_tracked

READING, DETECTION, FIT, WRITING = "reading", "detection", "fit", "masks and writing"
SHEET = "tracking.png"
OVERLAY = "overlay.mp4"
AUDIO = "audio.m4a"
_SHEET_PICTURES = 12
_LARGE, _SMALL = 1024, 512  # pixels; side of the stored pictures
_UPSCALED = 0.75  # of the large side: a smaller square of the video is stored at the small one
_BATCH = 16  # frames that the detector reads together


@dataclass(frozen=True)
class TrackOptions:
    """What decides how a video is tracked."""

    source_signature: str  # of the video's content, for the report
    fingerprint: str  # of these options, for the report
    person: Person = None  # whom to follow: a number from the left, or a point of the first frame
    on_cut: str = "split"
    fov: str | None = None  # field of view as `lens_of_fov` takes it; "auto": estimated, whatever the file says
    calibration: tuple[Path, str | None] | None = None  # file, and name of the camera in it
    keep_audio: bool = True
    overlay: bool = False  # also write the overlay video
    overwrite: bool = False


@dataclass(frozen=True)
class Step:
    """Work that was done on a video, in frames; every frame is detected, fitted and written."""

    frames: int
    total: int


@dataclass(frozen=True)
class TrackedClip:
    """A clip that was tracked."""

    name: str
    num_frames: int
    fps: Rate
    size: int  # pixels, side of the stored pictures
    quality: Quality

    @property
    def rank(self) -> int:
        """Return the place of the quality: 0 for the best."""
        return QUALITIES.index(self.quality)


@dataclass(frozen=True)
class _Seen:
    """A shot with a person in it."""

    shot: Shot
    landmarks: Landmarks
    crop: Crop


class Tracker:
    """Nets and a body, ready to track any number of videos.

    Args:
        body: the body that is fitted.
        device: of torch, for the nets.
        body_name: what the record of a run says of the body.
    """

    def __init__(self, body: EhmModel, device: torch.device | str, *, body_name: str = "embedded") -> None:
        self.device, self.body_name = torch.device(device), body_name
        self.body = body.to("cpu")
        self.outline = BodyOutline(self.body)
        self.fitter = ClipFitter(self.body)

    def track(
        self, path: Path, root: Path, name: str, options: TrackOptions, stages: StageTimer | None = None
    ) -> Generator[Step, None, list[TrackedClip]]:
        """Track the person of a video, give the steps of the work, and return its clips.

        The folders of all clips appear together when everything is done; what was there of the same video is replaced.

        Args:
            path: the video, or a folder of pictures.
            root: the tracked root.
            name: of the folder; several clips get numbers.
            options: what decides how.
            stages: gets the time that the stages took.

        Raises:
            InputError: the video cannot be read, or nobody in it can be tracked; says why.
            OutputError: a folder of that name is something else, or cannot be written.
        """
        work = _Work(self, path, root, name, options, stages or StageTimer())
        staging = temporary_path(root / name)
        try:
            staging.mkdir(parents=True)
            clips = yield from work.clips(staging)
            _publish(staging, root, name, clips, overwrite=options.overwrite)
        except OSError as error:
            raise OutputError(f"{root / name} could not be written ({error.strerror or error})") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return clips


class _Work:
    """The tracking of one video."""

    def __init__(
        self, tracker: Tracker, path: Path, root: Path, name: str, options: TrackOptions, stages: StageTimer
    ) -> None:
        self.tracker, self.path, self.root, self.name = tracker, path, root, name
        self.options, self.stages = options, stages
        self.total = 1

    def clips(self, staging: Path) -> Generator[Step, None, list[TrackedClip]]:
        """Write all clips below `staging`, and return them."""
        with self.stages(READING):
            source = open_source(self.path)
            shots = find_shots(source, on_cut=self.options.on_cut).shots  # type: ignore[arg-type]
        self.total = 3 * sum(map(len, shots))
        found: list[_Seen] = []
        refused: list[str] = []
        for shot in shots:
            landmarks = yield from self._detect(source, shot)
            try:
                found.append(_Seen(shot, landmarks, _framing(landmarks)))
            except InputError as error:
                where = "" if len(shots) == 1 else f"frames {shot.start} to {shot.stop - 1}: "
                refused.append(f"{where}{error}")
                yield Step(2 * len(shot), self.total)
        if not found:
            raise annotate(InputError(f"{self.path}: {'; '.join(refused)}"), stage=DETECTION)
        names = clip_names(self.name, len(found))
        clips = []
        for number, (clip, seen) in enumerate(zip(names, found, strict=True)):
            clips.append((yield from self._clip(source, staging, seen, clip, number, len(found), refused)))
        return clips

    def _detect(self, source: Source, shot: Shot) -> Generator[Step, None, Landmarks]:
        def work(tick: Tick) -> Landmarks:
            def pictures() -> Iterator[np.ndarray]:
                for frame in source.frames(shot.start, shot.stop):
                    yield frame.rgb
                    tick(1)

            return detect(
                pictures(), device=self.tracker.device, batch=_BATCH, person=self.options.person, fps=float(source.fps)
            )

        return (yield from self._steps(DETECTION, work))

    def _steps(self, stage: str, work: Callable[[Tick], T]) -> Generator[Step, None, T]:
        """Give the steps of work in a thread, and return what it returns."""
        with self.stages(stage), contextlib.closing(in_steps(work)) as steps:
            while True:
                try:
                    done = next(steps)
                except StopIteration as end:
                    return end.value
                yield Step(done, self.total)

    def _clip(
        self, source: Source, staging: Path, seen: _Seen, name: str, number: int, count: int, notes: Sequence[str]
    ) -> Generator[Step, None, TrackedClip]:
        """Fit a shot and write its folder below `staging`."""
        shot, landmarks, crop = seen.shot, seen.landmarks, seen.crop
        size = _LARGE if crop.side >= _UPSCALED * _LARGE else _SMALL
        axis = source.axis.of(shot.frames)
        given = self._lens(source)

        def fit(tick: Tick) -> ClipFit:
            lens = None if given is None else _lens_of_fit(given.K)
            found = self.tracker.fitter.fit(
                landmarks, fps=float(axis.fps), crop=FitCrop(crop.left, crop.top, crop.side), lens=lens,
                estimate_lens=given is None, tick=tick,
            )  # fmt: skip
            return found

        fitted = yield from self._steps(FIT, fit)
        K = None if fitted.K is None else _in_pixels(fitted.K, size)
        report = TrackingReport(
            source_path=str(self.path.absolute()), source_signature=self.options.source_signature,
            fingerprint=self.options.fingerprint, clip=number, num_clips=count, num_frames=len(shot),
            quality=fitted.quality.word, reasons=(*fitted.quality.reasons, *notes), lens=_lens_facts(K, size, given),
            parts=fitted.quality.parts, frames=fitted.quality.frames,
        )  # fmt: skip
        pictures = _Overlay(self.tracker, fitted, landmarks, crop, size, K)

        def write(tick: Tick) -> None:
            matting = Matting(source, shot, landmarks, crop, size)

            def frames() -> Iterator[tuple[np.ndarray, np.ndarray]]:
                for i, (picture, mask) in enumerate(matting):
                    pictures.take(i, picture)
                    yield picture, mask
                    tick(1)

            with contextlib.ExitStack() as stack:
                extra = stack.enter_context(_ExtraFiles(staging))
                write_tracked(
                    staging, name, fitted.identity, fitted.motion, fitted.viewmats, frames(), fps=axis.fps,
                    source_frames=shot.frames, K=K, known=crop.known(size), extra=extra,
                )  # fmt: skip

        yield from self._steps(WRITING, write)
        return TrackedClip(name, len(shot), axis.fps, size, report.quality)
