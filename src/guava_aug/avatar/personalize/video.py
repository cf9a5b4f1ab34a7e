"""The avatar of a tracked video, fitted to frames of the video itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np
import roma
import torch
from torch import Tensor
from torch.nn import functional as F

from guava_aug.avatar.model import GuavaModel
from guava_aug.avatar.personalize.config import PersonalizeConfig
from guava_aug.avatar.personalize.fit import Personalized, held_out, personalize
from guava_aug.avatar.personalize.observations import Observations, hand_speeds
from guava_aug.avatar.personalize.picture_fit import OnStep
from guava_aug.body import Motion
from guava_aug.errors import InputError
from guava_aug.runtime.cpus import usable_cpus
from guava_aug.runtime.device import release_memory
from guava_aug.runtime.text import pluralize
from guava_aug.tracked import BodyOutline, TrackedVideo
from guava_aug.tracked.masks import left_out, small_mask
from guava_aug.tracked.outline import spread_frames
from guava_aug.tracked.plausibility import source_fault
from guava_aug.views.cameras import tracked_cameras


class TooFewFramesError(InputError):
    """All frames could be read, and too few of them show the person."""


LEAST_FRAMES = 3  # one of them is kept back
_POSES_AT_A_TIME = 16
_THREADS = 8
_TURNS = ("global_orient", "body_pose", "left_hand_pose", "right_hand_pose", "jaw_pose", "eye_pose")
_OF_POSE = {"global_orient": 1.0, "body_pose": 1.0, "left_hand_pose": 0.3, "right_hand_pose": 0.3, "jaw_pose": 0.5}


@dataclass(frozen=True)
class PersonalizedVideo:
    """A fit, and what it means for all T frames of the video."""

    fit: Personalized  # its motion and viewmats are of `frames`
    frames: tuple[int, ...]  # that were looked at
    kept_back: int  # of them
    motion: Motion  # of all frames
    viewmats: Tensor  # [T, 4, 4]


def personalize_video(
    model: GuavaModel,
    video: TrackedVideo,
    config: PersonalizeConfig,
    *,
    outline: BodyOutline | None = None,
    on_step: OnStep = lambda done, steps: None,
) -> PersonalizedVideo:
    """Return the avatar of a video, fitted to at most `config.most_frames` of its frames.

    The frames that are looked at are spread by time and by pose. They are in memory as bytes, 1.6 MB each at 512 x 512
    pixels, so that memory does not grow with the video. Poses and cameras of the frames between them get the changes of
    the nearest two, by their distance in time. Frames whose masks miss the person are left out.

    Args:
        model: reconstructs the avatar that the fitted one is judged against, and refines pictures.
        video: whose person it is.
        config: how much is done.
        outline: of the model's body; None: masks are compared by their areas only.
        on_step: told steps done and steps in all; may end the fit by raising.

    Raises:
        InputError: names the video, which cannot be read, shows nobody in its source frame, or has too few frames.
    """
    size, device = model.config.image_size, model.device
    source = video.source_at(model.config.feature_img_size)
    if (fault := source_fault(source.image, video.name)) is not None:
        raise InputError(fault)
    frames, seen = observe_video(video, size, choose_frames(video.motion, config.most_frames), outline)
    original = model.reconstruct(source)
    motion, viewmats = video.motion[frames], video.viewmats[frames]
    seen = replace(seen, hand_speeds=video_hand_speeds(model, video, frames, seen.K[0]))
    noise = [n.clone() for n in model.refiner_noise]
    fit = personalize(
        original, motion, viewmats, seen, model.network, model.config,
        lambda features: torch.sigmoid(model.refiner(features, noise)), config, on_step,
        frames.index(video.source_frame) if video.source_frame in frames else None,
    )  # fmt: skip
    if not _is_finite(fit):
        fit = replace(fit, after=float("nan"))  # not better, whatever the pictures say
    fitted = fit.motion.to("cpu"), fit.viewmats.cpu()
    kept_back = int(held_out(seen.frames, config.held_out_every).sum())
    del seen
    release_memory(device)  # the pictures and graphs of the fit
    return PersonalizedVideo(
        fit, tuple(frames), kept_back, *carry_over(frames, video.motion, video.viewmats.float(), *fitted)
    )


def choose_frames(motion: Motion, most: int) -> list[int]:
    """Return at most `most` frame numbers in order: half of them evenly spread, the others where poses are far apart.

    The others are chosen one by one, each the farthest in joint angles from those chosen already.
    """
    T = len(motion)
    if most >= T:
        return list(range(T))
    chosen = spread_frames(T, max(2, most // 2))
    poses = torch.cat([w * getattr(motion, name).flatten(1) for name, w in _OF_POSE.items()], 1)
    away = torch.stack([(poses - poses[i]).square().sum(1) for i in chosen]).amin(0)
    while len(chosen) < most:
        away[chosen] = -1.0  # also where all poses are alike
        chosen.append(int(away.argmax()))
        away = torch.minimum(away, (poses - poses[chosen[-1]]).square().sum(1))
    return sorted(chosen)


def observe_video(
    video: TrackedVideo,
    size: int,
    frames: Sequence[int],
    outline: BodyOutline | None = None,
    *,
    least: int = LEAST_FRAMES,
) -> tuple[list[int], Observations]:
    """Return what frames of a video show at `size` x `size` pixels, and which frames these are: without bad masks.

    Raises:
        InputError: a frame cannot be read.
        TooFewFramesError: fewer than `least` can be used.
    """

    def read(index: int) -> tuple[Tensor, Tensor, np.ndarray]:
        rgb, mask = video.read_frame(index)
        return _at_size(rgb, size), _at_size(mask, size), small_mask(mask)

    with ThreadPoolExecutor(min(_THREADS, usable_cpus())) as pool:
        images, masks, small = zip(*pool.map(read, frames), strict=True)
    missed = set(left_out(video, frames, np.stack(small), outline))
    used = [k for k, frame in enumerate(frames) if frame not in missed and bool((masks[k] > 127).any())]
    if len(used) < least:
        raise TooFewFramesError(
            f"{video.name}: an avatar is fitted to {least} frames at least that show the person; this video has "
            f"{len(used)}, of {pluralize(len(frames), 'frame')} that were looked at; give --personalize off for it"
        )
    known = video.known_at(size)
    lens = tracked_cameras(video.viewmats[0], size, K=video.lens_at(size)).K
    return [frames[k] for k in used], Observations(
        images=torch.stack([images[k] for k in used]),
        masks=torch.stack([masks[k] for k in used]),
        frames=torch.arange(len(used)),
        cameras=torch.zeros(len(used), dtype=torch.long),
        known=torch.ones(1, 1, size, size, dtype=torch.bool) if known is None else torch.from_numpy(known)[None, None],
        relative=torch.eye(4)[None],
        K=lens.float().reshape(1, 3, 3),
    )


def carry_over(
    frames: Sequence[int], motion: Motion, viewmats: Tensor, fitted: Motion, fitted_viewmats: Tensor
) -> tuple[Motion, Tensor]:
    """Return motion and viewmats of all T frames: those of `frames` as fitted, the others changed as their neighbours.

    Between two fitted frames a change is interpolated over time; before the first and after the last it is that of
    the nearest. Changes of rotations are rotations, so that it does not matter how an angle is written.

    Args:
        frames: n fitted frames, ascending.
        motion: of all frames before the fit.
        viewmats: likewise, [T, 4, 4].
        fitted: motion of the n frames.
        fitted_viewmats: of the n frames, [n, 4, 4].
    """
    T, n = len(motion), len(frames)
    at = torch.tensor(frames)
    after = torch.searchsorted(at, torch.arange(T)).clamp(1, n - 1) if n > 1 else torch.zeros(T, dtype=torch.long)
    before = (after - 1).clamp(min=0)
    span = (at[after] - at[before]).clamp(min=1)
    share = ((torch.arange(T) - at[before]) / span).clamp(0, 1)  # [T] of the frame after

    def spread(change: Tensor) -> Tensor:  # [n, ...] -> [T, ...]
        w = share.view(T, *[1] * (change.ndim - 1))
        return (1 - w) * change[before] + w * change[after]

    values = {}
    for f in fields(Motion):
        old, new = getattr(motion, f.name), getattr(fitted, f.name)
        if f.name in _TURNS:
            change = roma.rotvec_composition([new, -old[at]])
            value = _written_as(roma.rotvec_composition([spread(change), old]), old)
        else:
            value = old + spread(new - old[at])
        value[at] = new  # exactly
        values[f.name] = value
    moved = viewmats.clone()
    moved[:, :3, 3] += spread(fitted_viewmats[:, :3, 3] - viewmats[at, :3, 3])
    moved[at] = fitted_viewmats
    return Motion(**values), moved


def _written_as(turns: Tensor, like: Tensor) -> Tensor:
    """Return the same rotations [..., 3], with a whole turn more or less where that is nearer to `like`.

    Bodies stand at half a turn about x: rotation vectors of at most half a turn would change their sign from frame to
    frame, and a mixture of both spellings is another pose.
    """
    length = turns.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    other = turns * (1 - 2 * math.pi / length)
    near = (turns - like).norm(dim=-1, keepdim=True) <= (other - like).norm(dim=-1, keepdim=True)
    return torch.where(near, turns, other)


def video_hand_speeds(model: GuavaModel, video: TrackedVideo, frames: Sequence[int], K: Tensor) -> Tensor:
    """Return [n, 2] pixels a frame, left and right hand, by the neighbours of each frame in the whole video."""
    body, device = model.body, model.device
    rest = body.shape(video.identity.to(device))
    last = video.num_frames - 1
    found = []
    with torch.no_grad():
        for ids in torch.tensor(frames).split(_POSES_AT_A_TIME):
            joints = [
                body.pose(rest, video.motion[(ids + d).clamp(0, last)].to(device)).joints.cpu() for d in (0, -1, 1)
            ]
            found.append(hand_speeds(joints[0], joints[1:], video.viewmats[ids].float(), K.expand(len(ids), 3, 3)))
    return torch.cat(found)


def _at_size(picture: np.ndarray, size: int) -> Tensor:
    """Return [3 or 1, size, size] uint8 of uint8 [H, W, 3] or [H, W], antialiased."""
    planes = picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)
    image = torch.from_numpy(np.ascontiguousarray(planes))
    if image.shape[-1] == size:
        return image
    resized = F.interpolate(image[None].float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def _is_finite(fit: Personalized) -> bool:
    tensors: list[Tensor] = [v for v in vars(fit.avatar).values() if isinstance(v, Tensor) and v.is_floating_point()]
    tensors += [*vars(fit.motion).values(), fit.viewmats]
    return all(bool(torch.isfinite(t).all()) for t in tensors)
