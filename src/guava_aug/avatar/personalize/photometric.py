"""Poses, shape and camera of a tracked clip against its own pictures, the avatar's appearance held.

1. The avatar is reconstructed from the frame that shows most, with the landmark fit's body.
2. Shape, and poses of frames spread over the clip, are fitted to the pictures. The avatar is reconstructed once more,
   on the better body, and the frames between take over the changes of their neighbours.
3. Poses of all frames are fitted, window after window, so that memory does not grow with the clip.
4. What is not better is given up: a frame whose picture or landmarks got worse goes back to the landmark fit, with some
   frames beside it; a clip that is not better as a whole stays as it was.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from guava_aug.avatar.avatar import Avatar
from guava_aug.avatar.model import GuavaModel
from guava_aug.avatar.personalize.config import FitConfig, Rates, Weights
from guava_aug.avatar.personalize.observations import Observations
from guava_aug.avatar.personalize.picture_fit import Refine, rasterize
from guava_aug.avatar.personalize.pose_fit import LandmarkTerm, PoseFit
from guava_aug.avatar.personalize.video import (
    TooFewFramesError,
    carry_over,
    choose_frames,
    observe_video,
    video_hand_speeds,
)
from guava_aug.body import Identity, Motion
from guava_aug.runtime.device import lack_of_memory_as_such, release_memory
from guava_aug.runtime.text import in_short
from guava_aug.tracked import TrackedVideo
from guava_aug.tracked.fit import ClipFit
from guava_aug.tracked.fit.landmark_points import LandmarkPoints, projected, quality_of
from guava_aug.tracked.fit.quality import PARTS, FitQuality
from guava_aug.tracked.masks import ranges

log = logging.getLogger(__name__)

_RATES = Rates(pose=2e-3, hands=3e-3, face=5e-3, camera=1e-3, shape=1e-2)
_WEIGHTS = Weights(pose=1.0, depth=0.1, raw=1.0)
_WINDOW_WARMUP = 10  # steps; what a window begins with is nearly right
_CHUNK = 8  # frames that are posed and measured together
_GREY = 0.5
_SOLID = 0.5  # mask and alpha from here on are person
_LEAST_CHANNELS = 16  # that the kernels draw
_RAMP = 4  # frames in which the changes begin and end beside a frame that is given up
_WORSE = (1.3, 1.0)  # times, and px of 1024 more: a frame's landmarks that are farther off than this are given up
_CLIP_WORSE = (1.15, 0.5)  # likewise of the median over the clip
_IOU_LOSS = 0.005
_JITTER_WORSE = (1.2, 0.3)  # times, and px of 1024 more


@dataclass(frozen=True)
class PhotometricConfig:
    """How the fit is done. Defaults were chosen on generated clips, by the distance of joints from the truth."""

    refined: bool = True  # the refined picture is compared; else the splatted colours alone, which is much faster
    size: int | None = None  # pixels of the pictures; None: the model's; only the splatted colours can be smaller
    shape_frames: int = 32  # that shape is fitted to
    window: int = 64  # frames whose poses are fitted together
    overlap: int = 8  # of two windows, over which one fades into the other
    visits: int = 12  # times that a frame of a window is looked at
    shape: FitConfig = field(default_factory=lambda: FitConfig(steps=200, warmup=20, rates=_RATES, weights=_WEIGHTS))
    landmarks: float = 0.3  # weight of the landmarks
    smooth: float = 10.0  # weight of second differences in time of the changes, radians and metres


@dataclass(frozen=True)
class Figures:
    """How near T frames are to their pictures; nan where there is no picture of the person."""

    error: np.ndarray  # [T] mean square over the known picture, over one grey
    psnr_error: np.ndarray  # [T] mean square on the person
    iou: np.ndarray  # [T] of alpha and mask

    @property
    def psnr(self) -> float:
        """Return dB on the person over the clip; nan: it is never seen."""
        mean = _mean(self.psnr_error)
        return math.nan if math.isnan(mean) else -10 * math.log10(max(mean, 1e-10))


@dataclass(frozen=True)
class RefinedClip:
    """A clip after the fit, or as it was."""

    identity: Identity
    motion: Motion
    viewmats: Tensor  # [T, 4, 4]
    quality: FitQuality
    report: dict[str, object]


class PhotometricFitter:
    """A model, ready to refine any number of clips.

    Args:
        model: reconstructs and draws avatars; its body is the one that was fitted.
        config: how; None: as the device can.
    """

    def __init__(self, model: GuavaModel, config: PhotometricConfig | None = None) -> None:
        self.model, self.config = model, config or default_config(model.device)
        noise = [n.clone() for n in model.refiner_noise]
        self._refine: Refine | None = (
            (lambda features: torch.sigmoid(model.refiner(features, noise))) if self.config.refined else None
        )
        self.size = model.config.image_size if self.config.refined else self.config.size or model.config.image_size

    def refine(self, video: TrackedVideo, fitted: ClipFit, tick: Callable[[int], None] = lambda n: None) -> RefinedClip:
        """Return a clip whose body lies better on its pictures, or the clip as it was, and why.

        Args:
            video: the clip, as the landmark fit has written it.
            fitted: the landmark fit.
            tick: told how many more frames are done, of all; raises to stop.

        Raises:
            InputError: a frame of the clip cannot be read.
        """
        on_gpu = self.model.device.type == "cuda"
        device = torch.cuda.device(self.model.device) if on_gpu else contextlib.nullcontext()  # of this thread
        progress = _Progress(video.num_frames, tick)
        with torch.inference_mode(False), torch.enable_grad(), device:
            try:
                with lack_of_memory_as_such():
                    return _Refining(self, video, fitted, progress).run()
            except torch.cuda.OutOfMemoryError as error:
                why = f"too little memory on the GPU ({in_short(error)})"
            finally:
                release_memory(self.model.device)  # pictures and graphs of the fit
            release_memory(self.model.device)  # now also what the error held
        progress.done(1.0)
        log.warning(
            "%s: not refined by its pictures, the fit to its landmarks stays: %s; end other programs on this GPU, or "
            "give --photometric off", video.name, why,
        )  # fmt: skip
        return as_before(fitted, why)

    def figures(
        self, video: TrackedVideo, fitted: ClipFit, identity: Identity, motion: Motion, viewmats: Tensor
    ) -> Figures:
        """Return how near the avatar of a clip's source frame, on these parameters, is to the clip's pictures."""
        work = _Refining(self, video, fitted, _Progress(video.num_frames, lambda n: None))
        return work.measure(work.avatar(identity, motion, viewmats), motion, viewmats)


def default_config(device: torch.device) -> PhotometricConfig:
    """Return how the fit is done on a device: on a CPU with half-size pictures and without the refiner."""
    if device.type == "cuda":
        return PhotometricConfig()
    return PhotometricConfig(
        refined=False, size=256, shape_frames=16, visits=6,
        shape=FitConfig(steps=60, frames_per_step=2, warmup=10, rates=_RATES, weights=_WEIGHTS),
    )  # fmt: skip


class _Refining:
    """The work on one clip."""

    def __init__(self, fitter: PhotometricFitter, video: TrackedVideo, fitted: ClipFit, progress: _Progress) -> None:
        self.fitter, self.video, self.fitted, self.progress = fitter, video, fitted, progress
        self.config, self.model, self.device = fitter.config, fitter.model, fitter.model.device
        self.points = LandmarkPoints(fitted.clip.body, self.device)
        space = fitted.clip.body.rig.rest.space
        self.tied = space.body if space.tied else 0
        self.source = best_source(fitted)

    def run(self) -> RefinedClip:
        """See `PhotometricFitter.refine`."""
        begun, f = time.monotonic(), self.fitted
        usable = [i for i in range(self.video.num_frames) if f.clip.landmarks.found[i]]
        picked = choose_frames(f.motion[usable], self.config.shape_frames) if usable else []
        try:
            frames, seen = observe_video(self.video, self.fitter.size, [usable[k] for k in picked])
        except TooFewFramesError:
            self.progress.done(1.0)
            return as_before(self.fitted, "too few frames show the person")
        before = self.measure(self.avatar(f.identity, f.motion, f.viewmats), f.motion, f.viewmats)
        self.progress.done(0.1)
        identity, motion, viewmats = self._fit_shape(frames, seen)
        avatar = self.avatar(identity, motion, viewmats)
        motion, viewmats = self._fit_poses(avatar, motion, viewmats)
        found = _Candidate(identity, motion, viewmats, self.measure(avatar, motion, viewmats),
                           self.quality(identity, motion, viewmats))  # fmt: skip
        self.progress.done(0.95)
        given_up = frames_given_up(before, found.figures, f.quality, found.quality)
        if given_up.any() and not given_up.all():
            motion, viewmats = fade(given_up, f.motion, f.viewmats, found.motion, found.viewmats)
            found = _Candidate(identity, motion, viewmats, self.measure(avatar, motion, viewmats),
                               self.quality(identity, motion, viewmats))  # fmt: skip
        self.progress.done(1.0)
        every = "every frame got worse" if given_up.all() else None
        why = every or why_not_better(before, found.figures, f.quality, found.quality)
        log.info(
            "%s: photometric refinement: %.2f -> %.2f dB, IoU %.3f -> %.3f, %d of %d frames given up%s, %.1f s",
            self.video.name, before.psnr, found.figures.psnr, _mean(before.iou), _mean(found.figures.iou),
            int(given_up.sum()), len(given_up), f"; not used: {why}" if why else "", time.monotonic() - begun,
        )  # fmt: skip
        report = _report(before, found.figures, given_up, why)
        if why:
            return replace(as_before(self.fitted, why), report=report)
        return RefinedClip(found.identity, found.motion, found.viewmats, found.quality, report)

    def avatar(self, identity: Identity, motion: Motion, viewmats: Tensor) -> Avatar:
        """Return the avatar of the source frame on a body; without the channels that are not looked at."""
        k = self.source
        source = replace(
            replace(self.video, source_frame=k).source_at(self.model.config.feature_img_size),
            identity=identity, motion=motion[k : k + 1], viewmat=viewmats[k],
        )  # fmt: skip
        avatar = self.model.reconstruct(source)
        return avatar if self.config.refined else replace(avatar, features=avatar.features[:, :_LEAST_CHANNELS])

    def _fit_shape(self, frames: Sequence[int], seen: Observations) -> tuple[Identity, Motion, Tensor]:
        f, ids = self.fitted, torch.tensor(frames)
        seen = replace(seen, hand_speeds=video_hand_speeds(self.model, self.video, frames, seen.K[0]))
        fit = PoseFit(
            self.avatar(f.identity, f.motion, f.viewmats), f.motion[ids], f.viewmats[ids], seen, self.fitter._refine,
            self._settings(), landmarks=self._landmarks(ids), tied=self.tied,
        )  # fmt: skip
        identity, motion, viewmats = fit.run(lambda done, steps: self.progress.done(0.1 + 0.25 * done / steps))
        return identity, *carry_over(frames, f.motion, f.viewmats, motion, viewmats)

    def _fit_poses(self, avatar: Avatar, motion: Motion, viewmats: Tensor) -> tuple[Motion, Tensor]:
        """Return motion and viewmats of all frames, window after window."""
        c, total = self.config, self.video.num_frames
        out, out_views = Motion(**{k: v.clone() for k, v in vars(motion).items()}), viewmats.clone()
        ranges = list(windows(total, c.window, c.overlap))
        for number, (first, last) in enumerate(ranges):
            ids = torch.arange(first, last)
            try:
                frames, seen = observe_video(self.video, self.fitter.size, ids.tolist())
            except TooFewFramesError:  # nobody is seen: the frames keep what the neighbours say
                continue
            seen = replace(seen, frames=torch.tensor(frames) - first)
            n = c.shape.frames_per_step
            settings = replace(
                self._settings(), steps=max(1, -(-c.visits * len(frames) // n)), warmup=_WINDOW_WARMUP,
                rates=replace(c.shape.rates, shape=0.0),
            )  # fmt: skip
            fit = PoseFit(
                avatar, motion[ids], viewmats[ids], seen, self.fitter._refine, settings,
                landmarks=self._landmarks(ids), tied=self.tied, smooth=c.smooth,
            )  # fmt: skip
            done = lambda k, steps, number=number: self.progress.done(0.35 + 0.55 * (number + k / steps) / len(ranges))
            _, moved, views = fit.run(done)
            if not all(bool(torch.isfinite(t).all()) for t in (*vars(moved).values(), views)):
                continue
            share = torch.ones(len(ids))
            if number:
                overlap = min(ranges[number - 1][1] - first, len(ids))
                share[:overlap] = torch.arange(1, overlap + 1) / (overlap + 1)
            mix = lambda old, new, w=share: old + (new - old) * w.view(-1, *[1] * (new.ndim - 1))
            for name, value in vars(moved).items():
                getattr(out, name)[first:last] = mix(getattr(out, name)[first:last], value)
            out_views[first:last] = mix(out_views[first:last], views)
        return out, out_views

    def _settings(self) -> FitConfig:
        """Return the settings of a fit at the size of the pictures, in whose pixels speeds are."""
        c = self.config.shape
        return replace(c, blur_speed=c.blur_speed * self.fitter.size / self.model.config.image_size)

    def _landmarks(self, frames: Tensor) -> LandmarkTerm | None:
        if self.config.landmarks == 0:
            return None
        return LandmarkTerm(self.points, self.fitted, frames, self.config.landmarks, self.device)

    @torch.no_grad()
    def quality(self, identity: Identity, motion: Motion, viewmats: Tensor) -> FitQuality:
        """Return how well the landmarks on a body agree with the detector's."""
        parts, rest = [], self.model.body.shape(identity.to(self.device))
        identity = identity.to(self.device)
        for first in range(0, len(motion), _CHUNK):
            part = slice(first, first + _CHUNK)
            some, views = motion[part].to(self.device), viewmats[part].to(self.device)
            posed = self.model.body.pose(rest, some)
            at = self.points(identity, some, posed.joints, posed.joint_transforms)
            parts.append(projected(self.fitted.clip, at, views).cpu())
        return quality_of(self.fitted.clip, torch.cat(parts), self.fitted.crop.side)

    @torch.no_grad()
    def measure(self, avatar: Avatar, motion: Motion, viewmats: Tensor) -> Figures:
        """Return how near an avatar in these poses is to the pictures of the clip."""
        T = len(motion)
        error, person, iou = (np.full(T, np.nan) for _ in range(3))
        for first in range(0, T, _CHUNK):
            try:
                frames, seen = observe_video(
                    self.video, self.fitter.size, range(first, min(T, first + _CHUNK)), least=1
                )
            except TooFewFramesError:
                continue
            seen = seen.to(self.device)
            ids = torch.tensor(frames)
            posed = avatar.pose(motion[ids].to(self.device))
            features, alpha = rasterize(posed, viewmats[ids].to(self.device), seen.K.expand(len(ids), 3, 3), *seen.size)
            rgb = features[:, :3] + _GREY * (1 - alpha)
            if self.fitter._refine is not None:
                # as in `GuavaModel.refine`
                some = features.split(1) if self.device.type == "cpu" else (features,)
                rgb = torch.cat([self.fitter._refine(part) for part in some]) * alpha + _GREY * (1 - alpha)
            mask, known = seen.masks.float() / 255, seen.known[:1]
            true = seen.images.float() / 255
            square = (rgb - (true * mask + _GREY * (1 - mask))).square().mean(1, keepdim=True)
            inside, covered = (mask > _SOLID) & known, (alpha > _SOLID) & known
            on_person = ((rgb - true).square().mean(1, keepdim=True) * inside).sum((1, 2, 3))
            error[frames] = ((square * known).sum((1, 2, 3)) / known.sum().clamp(min=1)).cpu()
            person[frames] = (on_person / inside.sum((1, 2, 3)).clamp(min=1)).cpu()
            iou[frames] = ((inside & covered).sum((1, 2, 3)) / (inside | covered).sum((1, 2, 3)).clamp(min=1)).cpu()
        return Figures(error, person, iou)


def as_before(fitted: ClipFit, why: str) -> RefinedClip:
    """Return a clip as its landmark fit has it, and why it stays so."""
    f = fitted
    return RefinedClip(f.identity, f.motion, f.viewmats, f.quality, {"used": False, "why_not": why})


@dataclass(frozen=True)
class _Candidate:
    identity: Identity
    motion: Motion
    viewmats: Tensor
    figures: Figures
    quality: FitQuality


class _Progress:
    """Tells in frames how much of a clip is done."""

    def __init__(self, frames: int, tick: Callable[[int], None]) -> None:
        self._frames, self._tick, self._told = frames, tick, 0

    def done(self, share: float) -> None:
        """Tell that this share of the work is done; raises to stop."""
        now = min(self._frames, int(share * self._frames + 1e-6))
        self._tick(max(0, now - self._told))
        self._told = max(self._told, now)


def best_source(fitted: ClipFit) -> int:
    """Return the number of the frame that shows most of the person: face and both hands seen, eyes open."""
    seen = fitted.clip.landmarks
    hands, face = np.asarray(seen.hand_score).mean(1), np.asarray(seen.face_score)
    eyes = fitted.motion.eyelids.mean(1).clamp(0, 1).numpy()
    return int(np.argmax(np.asarray(seen.found) * (2 * face + hands - eyes)))


def windows(total: int, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yield first and last (exclusive) frame of windows that cover `total` frames; none is much shorter than `size`."""
    count = max(1, math.ceil((total - overlap) / max(1, size - overlap)))
    step = (total - overlap) / count
    for k in range(count):
        yield round(k * step), min(total, round((k + 1) * step) + overlap)


def frames_given_up(before: Figures, after: Figures, old: FitQuality, new: FitQuality) -> np.ndarray:
    """Return [T] bool: frames whose picture or landmarks got worse."""
    with np.errstate(invalid="ignore"):  # nan: nothing is known, so nothing is worse
        worse = (after.error > before.error) | (after.psnr_error > before.psnr_error)
        for part in PARTS:
            worse = worse | (new.reprojection[part] > _WORSE[0] * old.reprojection[part] + _WORSE[1])
    out: np.ndarray = worse
    return out


def why_not_better(before: Figures, after: Figures, old: FitQuality, new: FitQuality) -> str | None:
    """Return why a clip stays as it was; None: it is better."""
    if not (_mean(after.error) < _mean(before.error) and _mean(after.psnr_error) < _mean(before.psnr_error)):
        return "the picture is no nearer"
    if _mean(after.iou) < _mean(before.iou) - _IOU_LOSS:
        return "the outline is farther off"
    for part in PARTS:
        a, b = (q.reprojection[part][np.isfinite(q.reprojection[part])] for q in (old, new))
        if len(a) and not np.median(b) <= _CLIP_WORSE[0] * np.median(a) + _CLIP_WORSE[1]:
            return f"the landmarks of {part.replace('_', ' ')} are farther off"
    if new.jitter > _JITTER_WORSE[0] * old.jitter + _JITTER_WORSE[1]:
        return "the body jitters more"
    return None


def fade(
    given_up: np.ndarray, motion: Motion, viewmats: Tensor, fitted: Motion, fitted_viewmats: Tensor
) -> tuple[Motion, Tensor]:
    """Return the fitted motion and viewmats, but the old ones where given up, and a mixture in the frames beside."""
    away = np.full(len(given_up), np.inf)
    for k in np.flatnonzero(given_up):
        away = np.minimum(away, np.abs(np.arange(len(given_up)) - k))
    share = torch.from_numpy(np.clip(away / (_RAMP + 1), 0, 1)).float()

    def mix(old: Tensor, new: Tensor) -> Tensor:
        w = share.view(-1, *[1] * (new.ndim - 1))
        return torch.where(w > 0, old + (new - old) * w, old)

    mixed = Motion(**{f.name: mix(getattr(motion, f.name), getattr(fitted, f.name)) for f in fields(Motion)})
    return mixed, mix(viewmats, fitted_viewmats)


def _report(before: Figures, after: Figures, given_up: np.ndarray, why: str | None) -> dict[str, object]:
    out: dict[str, object] = {"used": why is None}
    if why:
        out["why_not"] = why
    number = lambda x, digits: None if math.isnan(x) else round(x, digits)
    out["psnr_on_person"] = {"before": number(before.psnr, 2), "after": number(after.psnr, 2)}
    out["iou"] = {"before": number(_mean(before.iou), 4), "after": number(_mean(after.iou), 4)}
    out["frames_given_up"] = ranges(np.flatnonzero(given_up).tolist())
    return out


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
