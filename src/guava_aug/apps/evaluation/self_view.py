"""A tracked video of a real person, seen through its own camera: an avatar against frames that it was not fitted to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guava_aug.apps.evaluation.crops import part_regions
from guava_aug.apps.evaluation.landmarks import score_landmarks
from guava_aug.apps.evaluation.likeness import AFTER, BEFORE, KEPT_BACK, POSE, TRUTH, Likeness, Row, strips, to_bytes
from guava_aug.apps.evaluation.person_scores import SOLID, score, surrounding_color
from guava_aug.apps.evaluation.stability import body_flow, cvvdp_jod, cvvdp_program, warp_error
from guava_aug.avatar import Avatar
from guava_aug.avatar.model import GuavaModel
from guava_aug.avatar.personalize import PRESETS, PersonalizeConfig, personalize_video
from guava_aug.avatar.personalize.fit import held_out
from guava_aug.avatar.personalize.video import choose_frames, observe_video
from guava_aug.body import Motion, PosedBody
from guava_aug.errors import InputError
from guava_aug.tracked import BodyOutline, TrackedVideo
from guava_aug.tracked.masks import ranges
from guava_aug.views.cameras import Cameras, tracked_cameras

log = logging.getLogger(__name__)

SHOWN = 4  # frames on the sheet
_FPS = 25.0  # of a video that does not say


@dataclass(frozen=True)
class State:
    """An avatar, and the poses and cameras that it is seen in."""

    avatar: Avatar
    motion: Motion  # of all T frames
    viewmats: Tensor  # [T, 4, 4]


@dataclass(frozen=True)
class _Truth:
    """What a frame shows, at the size of the model."""

    rgb: Tensor  # [3, S, S] 0..1
    mask: Tensor  # [1, S, S] 0..1


def preset_of(personalize: str, steps: int | None = None) -> PersonalizeConfig:
    """Return the settings of a preset; those of `off` decide which frames are kept back as `full` does."""
    config = PRESETS["full" if personalize == "off" else personalize]
    return config if steps is None else replace(config, steps=steps)


def measure_self_view(
    model: GuavaModel,
    video: TrackedVideo,
    personalize: str,
    *,
    most: int,
    steps: int | None = None,
    outline: BodyOutline | None = None,
    check: Callable[[], None] = lambda: None,
) -> Likeness:
    """Return how near the avatar of a video comes to its person before and, unless `personalize` is off, after the fit.

    Every fourth frame of those that a fit looks at is kept back: its picture touches neither appearance nor shape, but
    it may correct its own pose, as in any run. The figures are of `most` of these frames at most, evenly spaced; never
    of the source frame.

    Args:
        model: reconstructs, fits and renders.
        video: with the source frame.
        personalize: off, fast or full.
        most: frames that are scored, and steps from frame to frame that steadiness is measured over.
        steps: of the fit; None: those of the preset.
        outline: of the model's body; finds masks that miss the person.
        check: called now and then; raises to stop.

    Raises:
        InputError: the video cannot be read, or no frame is left to be scored.
    """
    config, size = preset_of(personalize, steps), model.config.image_size
    looked_at, _ = observe_video(video, size, choose_frames(video.motion, config.most_frames), outline)
    held = held_out(torch.arange(len(looked_at)), config.held_out_every)
    kept_back = [i for i, kept in zip(looked_at, held.tolist(), strict=True) if kept and i != video.source_frame]
    if not kept_back:
        raise InputError(f"{video.name}: no frame is kept back from its {len(looked_at)}; a longer video is needed")
    scored = spread(kept_back, most)
    log.info("%s: kept back %s; scored %s", video.name, ranges(kept_back), ranges(scored))

    avatar = model.reconstruct(video.source_at(model.config.feature_img_size))
    states = {BEFORE: State(avatar, video.motion, video.viewmats.float())}
    facts: dict[str, object] = {"size": size, "source_frame": video.source_frame}
    if personalize != "off":
        found = personalize_video(
            model, video, config, outline=outline, on_step=_teller(video.name, check)
        )  # fmt: skip
        assert list(found.frames) == looked_at
        with_shape = avatar.with_identity(found.fit.identity)
        states[POSE] = State(with_shape, found.motion, found.viewmats)
        states[AFTER] = State(found.fit.avatar, found.motion, found.viewmats)
        facts |= {
            "steps": config.steps, "seconds_of_fit": round(found.fit.seconds, 1), "used": found.fit.better,
            "grey_before": found.fit.before, "grey_after": found.fit.after,
        }  # fmt: skip
    stage = _Stage(model, video, size, check)
    rows, pictures = stage.scores(states, scored)
    stretch = middle_stretch(video.num_frames, most)
    motion = score_landmarks(pictures, scored, model.device, check)
    for name, figures in stage.steadiness(states, stretch).items():
        motion.setdefault(name, {}).update(figures)
    frames = {
        "fitted": [] if personalize == "off" else [i for i in looked_at if i not in set(kept_back)],
        "kept_back": kept_back, "scored": scored, "stretch": stretch,
    }  # fmt: skip
    notes = (
        f"kept back from the fit: frames {ranges(kept_back)}; scored: {ranges(scored)}",
        f"steadiness over frames {stretch[0]} to {stretch[-1]}",
    )
    return Likeness(
        video.name, "self view", personalize, ("own",), frames, rows, motion,
        strips(video.name, pictures, spread(scored, SHOWN)), facts, notes,
    )  # fmt: skip


def spread(frames: Sequence[int], most: int) -> list[int]:
    """Return at most `most` of the frames, evenly spaced."""
    if len(frames) <= most:
        return list(frames)
    return [frames[(2 * k + 1) * len(frames) // (2 * most)] for k in range(most)]


def middle_stretch(count: int, steps: int) -> list[int]:
    """Return consecutive frames from the middle of a video of `count` frames, with `steps` steps if it has so many."""
    length = min(count, steps + 1)
    first = (count - length) // 2
    return list(range(first, first + length))


def draw(model: GuavaModel, state: State, frame: int, camera: Cameras) -> tuple[Tensor, Tensor]:
    """Return rgb [3, S, S] and alpha [1, S, S] of a state in one frame, 0..1, on the CPU."""
    with torch.inference_mode():
        layers = model.render_layers(state.avatar.pose(state.motion[frame : frame + 1].to(model.device)), camera)
        return layers.rgb[0].float().cpu().clamp(0, 1), layers.alpha[0].float().cpu().clamp(0, 1)


class _Stage:
    """The video's own camera, and what it saw."""

    def __init__(self, model: GuavaModel, video: TrackedVideo, size: int, check: Callable[[], None]) -> None:
        self.model, self.video, self.size, self.check = model, video, size, check
        known = video.known_at(size)
        self.valid = torch.ones(size, size, dtype=torch.bool) if known is None else torch.from_numpy(known)

    def truth(self, frame: int) -> _Truth:
        """Return what a frame shows."""
        rgb, mask = self.video.read_frame(frame)
        planes = torch.from_numpy(np.concatenate([rgb, mask[..., None]], 2)).permute(2, 0, 1)[None].float() / 255
        small = F.interpolate(planes, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)[0]
        return _Truth(small[:3], small[3:])

    def camera(self, state: State, frame: int) -> Cameras:
        """Return the video's camera of a frame as a state has it."""
        return tracked_cameras(state.viewmats[frame], self.size, K=self.video.lens_at(self.size))

    def scores(
        self, states: dict[str, State], frames: Sequence[int]
    ) -> tuple[list[Row], dict[str, dict[int, np.ndarray]]]:
        """Return rows of the person, head and hands, and the pictures by state and frame, `TRUTH` among them."""
        truth = {i: self.truth(i) for i in frames}
        pairs = {i: (t.rgb, t.mask) for i, t in truth.items()}
        around = surrounding_color(list(pairs.values()), self.valid)
        regions = self._regions(states[BEFORE], frames)
        pictures = {TRUTH: {i: to_bytes(truth[i].rgb) for i in frames}}
        rows = []
        for name, state in states.items():
            drawn = {}
            pictures[name] = {}
            for i in frames:
                self.check()
                drawn[i] = rgb, alpha = draw(self.model, state, i, self.camera(state, i))
                pictures[name][i] = to_bytes(rgb * alpha + around * (1 - alpha))
            rows.append(Row(KEPT_BACK, name, "person", score(drawn, pairs, self.valid, match=False)))
            for part, where in regions.items():
                found = score({i: drawn[i] for i in where}, pairs, self.valid, where, match=False)
                if found["frames"]:
                    rows.append(Row(KEPT_BACK, name, part, found))
        return rows, pictures

    def _regions(self, state: State, frames: Sequence[int]) -> dict[str, dict[int, Tensor]]:
        """Return where head and hands are, by the tracked body: the same for all states."""
        found: dict[str, dict[int, Tensor]] = {}
        for i in frames:
            posed = self._posed(state, i)
            for part, region in part_regions(
                posed, self.model.body, self.camera(state, i).to(self.model.device)
            ).items():
                found.setdefault(part, {})[i] = region
        return found

    def _posed(self, state: State, frame: int, count: int = 1) -> PosedBody:
        motion = state.motion[frame : frame + count].to(self.model.device)
        with torch.inference_mode():
            return self.model.body.pose(state.avatar.rest, motion)

    def steadiness(self, states: dict[str, State], stretch: Sequence[int]) -> dict[str, dict[str, float]]:
        """Return warp errors of the states and of the video along the same flow, and JOD if its package is there."""
        if len(stretch) < 2:
            return {}
        truth = [self.truth(i) for i in stretch]
        around = surrounding_color([(t.rgb, t.mask) for t in truth], self.valid)
        over = lambda rgb, alpha: rgb * alpha + around * (1 - alpha)
        result: dict[str, dict[str, float]] = {}
        faces = self.model.body.assets.faces
        for name, state in states.items():
            pictures = []
            for i in stretch:
                self.check()
                pictures.append(over(*draw(self.model, state, i, self.camera(state, i))))
            ours: list[float] = []
            theirs: list[float] = []
            for k, i in enumerate(stretch[:-1]):
                vertices = self._posed(state, i, 2).vertices
                views = Cameras(state.viewmats[i : i + 2], self.camera(state, i).K, self.size, self.size)
                flow = body_flow(faces, vertices, views.to(self.model.device)).to("cpu")
                # on the person in both true frames, so that no background slips in
                where = (truth[k + 1].mask[0] > SOLID) & self.valid & (flow.bring(truth[k].mask)[0] > SOLID)
                own = warp_error(pictures[k], pictures[k + 1], flow, where)
                of_video = warp_error(truth[k].rgb, truth[k + 1].rgb, flow, where)
                if own is not None and of_video is not None:
                    ours.append(own)
                    theirs.append(of_video)
            if ours:
                result[name] = {"warp_error": float(np.mean(ours)), "warp_error_of_video": float(np.mean(theirs))}
            if cvvdp_program() is not None:
                quality = cvvdp_jod(
                    pictures, [over(t.rgb, t.mask) for t in truth], float(self.video.fps or _FPS), self.model.device
                )
                if quality is not None:
                    result.setdefault(name, {})["cvvdp_jod"] = quality
        return result


def _teller(name: str, check: Callable[[], None]) -> Callable[[int, int], None]:
    def on_step(done: int, steps: int) -> None:
        check()
        if done % max(1, steps // 5) == 0:
            log.info("%s: fitting the avatar: step %d of %d", name, done, steps)

    return on_step
