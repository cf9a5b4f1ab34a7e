"""One video from file to tracked folders: read, detect, fit, separate from the background, write, judge."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from guava_aug.body import EhmModel, Identity, Motion
from guava_aug.body.joints import JOINTS
from guava_aug.errors import InputError, OutputError, annotate
from guava_aug.runtime.atomic import temporary_path
from guava_aug.runtime.files import is_there
from guava_aug.runtime.frame_rate import Rate
from guava_aug.runtime.steps import Tick, in_steps
from guava_aug.runtime.text import pluralize
from guava_aug.runtime.timing import StageTimer
from guava_aug.tracked.detect import Landmarks, detect
from guava_aug.tracked.detect.pose import Person
from guava_aug.tracked.fit.clip import ClipFit, ClipFitter
from guava_aug.tracked.fit.clip import Crop as FitCrop
from guava_aug.tracked.fit.problem import Lens
from guava_aug.tracked.fit.quality import FitQuality
from guava_aug.tracked.layout import INFO, SKIPPED, FrameTimes
from guava_aug.tracked.lens import Calibration, lens_of_focal_35mm, lens_of_fov, load_calibration
from guava_aug.tracked.matting import coarse_masks, refine_masks
from guava_aug.tracked.outline import BodyOutline, spread_frames
from guava_aug.tracked.overlay import draw_fit, fit_sheet, write_video
from guava_aug.tracked.quality import frame_figures, part_figures, why_not_good
from guava_aug.tracked.reading import Crop, Shot, Source, choose_crop, extract_audio, find_shots, open_source
from guava_aug.tracked.reading.shots import OnCut
from guava_aug.tracked.reading.undistorted import Undistorted
from guava_aug.tracked.report import (
    QUALITIES,
    REPORT,
    Quality,
    TrackingReport,
    clip_names,
    first_clip_names,
    read_report,
)
from guava_aug.tracked.video import TrackedVideo
from guava_aug.tracked.write import rewrite_parameters, write_tracked
from guava_aug.views.cameras import resized_K

T = TypeVar("T")
READING, DETECTION, FIT, WRITING = "reading", "detection", "fit", "masks and writing"
PHOTOMETRIC = "photometric refinement"
SHEET = "tracking.png"
OVERLAY = "overlay.mp4"
_SHEET_PICTURES = 12
_LARGE, _SMALL = 1024, 512  # pixels; side of the stored pictures
_UPSCALED = 0.75  # of the large side: a smaller square of the video is stored at the small one
_BATCH = 16  # frames that the detector reads together
_OUTLINE_SIZE = 256  # pixels; side of the silhouettes that are drawn
_SEEN = 0.5  # score of what counts
_DRAWN = 0.6  # flatness of a face in the median frame; on film at most 0.27, whatever its compression, light and blur
_LEAST_FOUND, _LEAST_FACE = 0.3, 0.2  # share of the frames: with a person, and of these with the face
_DEFAULT_RATE = 25


@dataclass(frozen=True)
class TrackOptions:
    """What decides how a video is tracked."""

    source_signature: str  # of the video's content, for the report
    fingerprint: str  # of these options, for the report
    person: Person = None  # whom to follow: a number from the left, or a point of the first frame
    on_cut: OnCut = "split"
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


class Posed(Protocol):
    """A body over T frames."""

    @property
    def identity(self) -> Identity:
        """Return what is constant."""

    @property
    def motion(self) -> Motion:
        """Return T frames of pose."""

    @property
    def viewmats(self) -> Tensor:
        """Return [T, 4, 4] world to camera."""


class RefinedFit(Posed, Protocol):
    """The same, fitted to the pictures of these frames."""

    @property
    def quality(self) -> FitQuality:
        """Return how well it agrees with the landmarks."""

    @property
    def report(self) -> Mapping[str, object]:
        """Return what `tracking.json` says of it."""


class Refiner(Protocol):
    """Fits a tracked clip to its pictures: `avatar.personalize.photometric`, which `tracked` must not import."""

    def refine(self, video: TrackedVideo, fitted: ClipFit, tick: Tick) -> RefinedFit:
        """Return the better fit, or the same. `tick` hears of all frames of the clip, and raises to stop."""


class Tracker:
    """Nets and a body, ready to track any number of videos.

    Args:
        body: the body that is fitted.
        device: of torch, for the nets.
        body_name: what the record of a run says of the body.
        refiner: fits the clips to their pictures, after the landmarks; None: nothing does.
    """

    def __init__(
        self, body: EhmModel, device: torch.device | str, *, body_name: str = "embedded",
        refiner: Refiner | None = None,
    ) -> None:  # fmt: skip
        self.device, self.body_name, self.refiner = torch.device(device), body_name, refiner
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
        self.notes: tuple[str, ...] = ()
        self.lens_origin = "estimate"

    def clips(self, staging: Path) -> Generator[Step, None, list[TrackedClip]]:
        """Write all clips below `staging`, and return them."""
        with self.stages(READING):
            source = open_source(self.path)
            lens, self.lens_origin = self._lens(source)
            if lens is not None and lens.distortion:
                source = Undistorted(source, lens)
            found_shots = find_shots(source, on_cut=self.options.on_cut)
            shots, self.notes = found_shots.shots, found_shots.notes
        self.total = (3 if self.tracker.refiner is None else 4) * sum(map(len, shots))
        found: list[_Seen] = []
        refused: list[str] = []
        for shot in shots:
            landmarks = yield from self._detect(source, shot)
            try:
                found.append(_Seen(shot, landmarks, _framing(landmarks)))
            except InputError as error:
                where = "" if len(shots) == 1 else f"frames {shot.start} to {shot.stop - 1}: "
                refused.append(f"{where}{error}")
                yield Step(self.total // sum(map(len, shots)) * len(shot) - len(shot), self.total)
        if not found:
            raise annotate(InputError(f"{self.path}: {'; '.join(refused)}"), stage=DETECTION)
        names = clip_names(self.name, len(found))
        clips = []
        for number, (clip, seen) in enumerate(zip(names, found, strict=True)):
            clips.append((yield from self._clip(source, lens, staging, seen, clip, number, len(found), refused)))
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
                    result: T = end.value
                    return result
                yield Step(done, self.total)

    def _clip(
        self,
        source: Source,
        given: Calibration | None,
        staging: Path,
        seen: _Seen,
        name: str,
        number: int,
        count: int,
        refused: Sequence[str],
    ) -> Generator[Step, None, TrackedClip]:
        """Fit a shot and write its folder below `staging`."""
        shot, landmarks, crop = seen.shot, seen.landmarks, seen.crop
        size = stored_size(crop)
        axis = source.axis.of(shot.frames)

        def fit(tick: Tick) -> ClipFit:
            return self.tracker.fitter.fit(
                landmarks, fps=float(axis.fps), crop=FitCrop(crop.left, crop.top, crop.side),
                lens=None if given is None else _lens_of_fit(given.K), estimate_lens=given is None, size=size,
                done=tick,
            )  # fmt: skip

        fitted = yield from self._steps(FIT, fit)
        K = fitted.K
        overlay = FitOverlay(self.tracker.outline, fitted, landmarks, crop, size, K)
        times = None if axis.constant else FrameTimes(axis.time_base, tuple(int(tick) for tick in axis.ticks))

        known = crop.known(size, source.valid if isinstance(source, Undistorted) else None)

        shown: list[int] = []  # the first frame whose mask shows the person

        def clip() -> TrackedVideo:
            return TrackedVideo.open(staging, name, source_frame=shown[0] if shown else 0)

        def write(tick: Tick) -> Path:
            def frames() -> Iterator[tuple[np.ndarray, np.ndarray]]:
                for i, pair in enumerate(_with_masks(source, seen, size, known)):
                    overlay.take(i, pair[0])
                    if not shown and (pair[1] > 127).any():
                        shown.append(i)
                    yield pair
                    tick(1)

            sound = staging / f"{name}.m4a"
            has_sound = self.options.keep_audio and extract_sound(source, shot.start, shot.stop, sound)
            folder = write_tracked(
                staging, name, fitted.identity, fitted.motion, fitted.viewmats, frames(), fps=axis.fps,
                source_frames=shot.frames, K=K, known=known, times=times, sound=sound if has_sound else None,
            )  # fmt: skip
            sound.unlink(missing_ok=True)
            return folder

        folder = yield from self._steps(WRITING, write)
        found, photometric = fitted.quality, {}
        if (refiner := self.tracker.refiner) is not None:
            refined = yield from self._steps(PHOTOMETRIC, lambda tick: refiner.refine(clip(), fitted, tick))
            rewrite_parameters(folder, refined.identity, refined.motion, refined.viewmats)
            overlay.fitted(refined)
            found, photometric = refined.quality, dict(refined.report)
        report = TrackingReport(
            source_path=str(self.path.absolute()), source_signature=self.options.source_signature,
            fingerprint=self.options.fingerprint, clip=number, num_clips=count, num_frames=len(shot),
            quality=found.word, reasons=tuple(why_not_good(found, landmarks)),
            notes=(*refused, *self.notes, *source.notes),
            lens=_lens_facts(K, size, self.lens_origin), parts=part_figures(found),
            frames=frame_figures(found, landmarks), photometric=photometric,
        )  # fmt: skip
        (folder / REPORT).write_text(report.to_text(), encoding="utf-8")
        with self.stages(WRITING):
            (folder / SHEET).write_bytes(overlay.sheet())
            if self.options.overlay:
                overlay.video(folder / OVERLAY, clip())
        return TrackedClip(name, len(shot), axis.fps, size, report.quality)

    def _lens(self, source: Source) -> tuple[Calibration | None, str]:
        """Return the lens of the whole picture, if it is known, and where it is known from."""
        options, size = self.options, source.size
        if options.calibration is not None:
            return load_calibration(*options.calibration).at(
                size, f"--calibration {options.calibration[0]}"
            ), "calibration"
        if options.fov is not None and options.fov != "auto":
            return Calibration(lens_of_fov(options.fov, size), size), "fov"
        if options.fov is None and source.focal_35mm is not None:
            return Calibration(lens_of_focal_35mm(source.focal_35mm, size), size), "metadata"
        return None, "estimate"


class FitOverlay:
    """Draws the fit over the pictures of a clip; those of the sheet are kept.

    Args:
        outline: of the body.
        fitted: the fit.
        landmarks: what the detector saw; None: nothing is drawn of it.
        crop: the square of the video's pictures.
        size: side of the stored pictures, pixels.
        K: the lens of these; None: the format's own.
    """

    def __init__(
        self, outline: BodyOutline, fitted: Posed, landmarks: Landmarks | None, crop: Crop, size: int, K: Tensor | None
    ) -> None:
        self._outline, self._crop, self._size, self._K = outline, crop, size, K
        self._landmarks = landmarks
        self.fitted(fitted)
        self._parents = outline.body.assets.body.parents.tolist()
        self._sides = [1 if n.startswith("left") else 2 if n.startswith("right") else 0 for n in JOINTS]
        self._chosen = set(spread_frames(len(fitted.motion), _SHEET_PICTURES))
        self._kept: dict[int, np.ndarray] = {}

    def fitted(self, fitted: Posed) -> None:
        """Take another fit of the same frames."""
        self._fitted, self._rest = fitted, self._outline.rest(fitted.identity)

    def take(self, frame: int, picture: np.ndarray) -> None:
        """Keep a picture [S, S, 3] if the sheet shows it."""
        if frame in self._chosen:
            self._kept[frame] = picture

    def draw(self, frame: int, picture: np.ndarray) -> np.ndarray:
        """Return a picture with the fit drawn over it."""
        motion, viewmats = self._fitted.motion[frame : frame + 1], self._fitted.viewmats[frame : frame + 1]
        K = self._K
        joints = self._outline.joints(self._rest, motion, viewmats, self._size, K)[0]
        small = None if K is None else resized_K(K, (self._size, self._size), (_OUTLINE_SIZE, _OUTLINE_SIZE))
        silhouette = self._outline.silhouettes(self._rest, motion, viewmats, _OUTLINE_SIZE, small)[0]
        return draw_fit(picture, joints, self._parents, silhouette, self._marks(frame), self._sides)

    def _marks(self, frame: int) -> list[np.ndarray]:
        """Return what the detector saw, pixels of the crop."""
        seen = self._landmarks  # whose 0, 0 is the corner of the first pixel
        if seen is None:
            return []
        marks = [seen.hands[frame, k, :, :2] for k in range(2) if seen.hand_score[frame, k] > _SEEN]
        if seen.face_score[frame] > _SEEN:
            marks.append(seen.face[frame, ::4, :2])
        return [self._crop.points(points - 0.5, self._size) for points in marks]

    def sheet(self) -> bytes:
        """Return the sheet as a PNG."""
        frames = sorted(self._kept)
        picture = fit_sheet([self.draw(i, self._kept[i]) for i in frames], [f"frame {i}" for i in frames])
        good, data = cv2.imencode(".png", picture[..., ::-1])
        if not good:
            raise OutputError("the picture of the fit cannot be encoded")
        return data.tobytes()

    def video(self, path: Path, clip: TrackedVideo) -> None:
        """Write the fit over all frames of a clip as an MP4. Raises OutputError."""
        write_video(
            path, (self.draw(i, clip.read_frame(i)[0]) for i in range(clip.num_frames)), clip.fps or _DEFAULT_RATE
        )


def _with_masks(
    source: Source, seen: _Seen, size: int, known: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give picture [S, S, 3] and mask [S, S], uint8, of every frame of a shot."""
    shot, landmarks, crop = seen.shot, seen.landmarks, seen.crop
    latest = [np.zeros(0)]  # the picture that the next mask is of, so that it need not be decoded again

    def pictures() -> Iterator[np.ndarray]:
        for frame in source.frames(shot.start, shot.stop):
            latest[0] = crop.take(frame.rgb, size)
            yield latest[0]

    coarse = coarse_masks(landmarks.person_mask, landmarks.mask_region, crop)
    for mask in refine_masks(pictures, coarse, len(shot), known):
        yield latest[0], mask


def stored_size(crop: Crop) -> int:
    """Return the side of the stored pictures, pixels."""
    return _LARGE if crop.side >= _UPSCALED * _LARGE else _SMALL


def _framing(landmarks: Landmarks) -> Crop:
    """Return the square of the picture that is tracked.

    Raises:
        InputError: there is nobody who could be tracked; says why.
    """
    count, found = len(landmarks), int(landmarks.found.sum())
    if not found:
        raise InputError("nobody is in the picture")
    if found < _LEAST_FOUND * count:
        raise InputError(f"a person is found in only {found} of {pluralize(count, 'frame')}")
    faces = int((landmarks.face_score > _SEEN).sum())
    if faces < _LEAST_FACE * found:
        raise InputError(
            f"the face is seen in only {faces} of {pluralize(found, 'frame')} with a person: the person is seen from "
            "behind or from the side, or is too small, or is no person"
        )
    flatness = landmarks.face_flatness
    measured = np.zeros(0) if flatness is None else flatness[np.isfinite(flatness)]
    share = float(np.median(measured)) if len(measured) else 0.0
    if share > _DRAWN:
        raise InputError(
            f"the person is drawn, not filmed: three flat colours make up {share:.0%} of the face (of a "
            f"filmed one: less than {_DRAWN:.0%}). If it was filmed, a filter has flattened its colours: give the "
            "video without it"
        )
    if not (landmarks.hand_score > _SEEN).any():
        raise InputError("no hand is ever in the picture")
    crop = choose_crop(landmarks)
    if crop is None:
        raise InputError("the shoulders are never in the picture")
    return crop


def _lens_of_fit(K: Tensor) -> Lens:
    """Return a lens, pixels of the whole picture, as the fit takes it."""
    return Lens(float(K[0, 0] + K[1, 1]) / 2, (float(K[0, 2]), float(K[1, 2])))


def _lens_facts(K: Tensor | None, size: int, origin: str) -> dict[str, object]:
    """Return what the report says of the lens: the field of view of the crop, and where it is known from."""
    if K is None:
        return {"from": origin}
    return {"from": origin, "fov_of_crop_degrees": round(math.degrees(2 * math.atan(size / 2 / float(K[0, 0]))), 2)}


def extract_sound(source: Source, start: int, stop: int, target: Path) -> bool:
    """Write the sound of the frames from `start` to `stop` (exclusive); return whether they have any."""
    if not source.audio:
        return False
    axis = source.axis
    end = axis.seconds(stop) if stop < len(axis) else axis.seconds(stop - 1) + 1 / Fraction(axis.fps)
    return extract_audio(source.path, axis.start + axis.seconds(start), axis.start + end, target)


def _publish(staging: Path, root: Path, name: str, clips: Sequence[TrackedClip], *, overwrite: bool) -> None:
    """Move the folders of a video's clips to their places, and remove those that it had before.

    Raises:
        OutputError: a folder of that name holds something else.
    """
    for clip in clips:
        target = root / clip.name
        if is_there(target) and not overwrite and not _is_own(target, root, name):
            raise OutputError(f"{target} is there already. Remove it, or give --overwrite.")
    old = staging / "old"
    old.mkdir()
    before = _clips_before(root, name)
    try:
        for folder in {*(root / clip.name for clip in clips), *before}:
            if is_there(folder):
                os.replace(folder, old / folder.name)
        for clip in clips:
            os.replace(staging / clip.name, root / clip.name)
    except BaseException:  # also Ctrl-C: what was there must not be lost with the staging folder
        for folder in old.iterdir():
            if not is_there(root / folder.name):
                os.replace(folder, root / folder.name)
        raise


def _is_own(folder: Path, root: Path, name: str) -> bool:
    """Return whether a folder holds nothing but a refusal, or a part of what was tracked of the same video."""
    return folder in _clips_before(root, name) or {entry.name for entry in folder.iterdir()} <= {SKIPPED}


def _clips_before(root: Path, name: str) -> list[Path]:
    """Return the folders of a video that were tracked before, as their reports say."""
    for first in first_clip_names(name):
        folder = root / first
        if is_there(folder / INFO):
            try:
                report = read_report(folder)
            except InputError:
                return [folder]
            return [] if report is None else [root / clip for clip in clip_names(name, report.num_clips)]
    return []
