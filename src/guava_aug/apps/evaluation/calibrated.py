"""An avatar that was fitted to some of several calibrated cameras, against what all of them saw."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from guava_aug.apps.evaluation.crops import part_regions
from guava_aug.apps.evaluation.landmarks import score_landmarks
from guava_aug.apps.evaluation.likeness import (
    AFTER,
    ALL,
    BEFORE,
    KEPT_BACK,
    POSE,
    TRUTH,
    Likeness,
    Row,
    strips,
    to_bytes,
)
from guava_aug.apps.evaluation.person_scores import surrounding_color
from guava_aug.apps.evaluation.real import BodyFit, CalibratedPack, Draw, evaluate_pack, observe
from guava_aug.apps.evaluation.self_view import SHOWN, State, draw, spread
from guava_aug.avatar.model import GuavaModel
from guava_aug.avatar.personalize import PersonalizeConfig, Personalized, personalize
from guava_aug.errors import InputError
from guava_aug.tracked import TrackedVideo
from guava_aug.tracked.masks import ranges
from guava_aug.views.cameras import Cameras

log = logging.getLogger(__name__)

FITS = ("multi", "tracked")  # the fit of the body that is used when none is named, if it is there

OnFit = Callable[[Personalized], None]


def measure_calibrated(
    model: GuavaModel,
    pack: CalibratedPack,
    config: PersonalizeConfig | None,
    *,
    personalize_name: str,
    fit_name: str | None = None,
    source_frame: int = 0,
    cameras: Sequence[str] = (),
    landmarks: bool = True,
    check: Callable[[], None] = lambda: None,
    on_fit: OnFit = lambda found: None,
) -> Likeness:
    """Return figures of every camera before and, with a `config`, after the avatar is fitted.

    Every fourth frame is kept from appearance and shape in all cameras that are fitted to; those figures are the rows
    of the frames kept back. Fitted to all cameras, the result is an upper bound: what this avatar, these poses and
    these masks allow at all.

    Args:
        model: reconstructs, fits and renders.
        pack: the views.
        config: of the fit; None: there is none.
        personalize_name: what the report calls it.
        fit_name: which fit of the body; None: the pack's `multi`, else `tracked`, else its only one.
        source_frame: of the source camera's video, that the avatar is made from before the fit.
        cameras: that are fitted to, the source camera first; none: the source camera alone.
        landmarks: also find landmarks again, in the frames kept back.
        check: called now and then; raises to stop.
        on_fit: gets the fitted avatar.

    Raises:
        InputError: something of the pack is missing or does not fit.
        UsageError: the cameras are not there, or the source camera is not the first.
    """
    fit_name = fit_name or default_fit(pack)
    body, fitted_to = pack.fit(fit_name), tuple(cameras) or (pack.source,)
    seen = observe(pack, body, fitted_to)
    every = (config or PersonalizeConfig()).held_out_every
    held = [i for i in pack.scored if i % every == every // 2]
    if not held:
        raise InputError(
            f"{pack.folder}: none of the scored frames is kept back; expected one of {every}, counted from 0"
        )
    video = TrackedVideo.open(pack.folder / "tracked", pack.video, source_frame=source_frame)
    avatar = model.reconstruct(video.source_at(model.config.feature_img_size))
    avatar = avatar.with_identity(body.identity.to(model.device))
    parts = _parts(model, pack, body)
    rows: list[Row] = []
    pictures: dict[str, dict[str, dict[int, np.ndarray]]] = {  # camera, state, frame
        camera: {TRUTH: {i: to_bytes(pack.picture(camera, i)[0]) for i in held}} for camera in pack.cameras
    }

    def measure(name: str, state: State, fit: BodyFit) -> None:
        drawn: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        for camera in pack.cameras:
            views = pack.views(camera, fit)
            for i in pack.scored:
                check()
                drawn[camera, i] = draw(model, state, i, views[i : i + 1])
        for title, frames in ((ALL, pack.scored), (KEPT_BACK, held)):
            for camera in pack.cameras:
                found = evaluate_pack(pack, fit, _looked_up(drawn, camera), frames, [camera], parts=parts)
                rows.extend(Row(title, name, where, scores) for where, scores in found.items())
        for camera in pack.cameras:
            truth = [pack.picture(camera, i) for i in pack.scored]
            around = surrounding_color(truth, pack.valid(camera))
            pictures[camera][name] = {
                i: to_bytes(rgb * alpha + around * (1 - alpha)) for i in held for rgb, alpha in (drawn[camera, i],)
            }

    measure(BEFORE, State(avatar, body.motion, body.viewmats), body)
    facts: dict[str, object] = {"fit_of_body": fit_name, "metres_per_unit": body.metres, "source_camera": pack.source}
    facts |= {"alignment": pack.alignment, "source_frame": source_frame}
    if config is not None:
        config = replace(config, match_colors=len(fitted_to) > 1)
        noise = [n.clone() for n in model.refiner_noise]
        found = personalize(
            avatar, body.motion, body.viewmats, seen, model.network, model.config,
            lambda features: torch.sigmoid(model.refiner(features, noise)), config, lambda done, steps: check(),
        )  # fmt: skip
        on_fit(found)
        after = replace(body, motion=found.motion.to("cpu"), viewmats=found.viewmats.cpu())
        measure(POSE, State(avatar.with_identity(found.identity), after.motion, after.viewmats), after)
        measure(AFTER, State(found.avatar, after.motion, after.viewmats), after)
        facts |= {
            "steps": config.steps, "seconds_of_fit": round(found.seconds, 1), "used": found.better,
            "grey_before": found.before, "grey_after": found.after,
        }  # fmt: skip
    frames = {
        "fitted": [] if config is None else [i for i in range(pack.num_frames) if i % every != every // 2],
        "kept_back": held, "scored": list(pack.scored),
    }  # fmt: skip
    notes = (
        f"fitted to {'no camera' if config is None else 'camera ' + ', '.join(fitted_to)}; source camera "
        f"{pack.source}; fit of the body: {fit_name}",
        f"kept back from the fit: frames {ranges(held)} of the {len(pack.scored)} that are scored",
    )
    motion: dict[str, dict[str, float]] = {}
    if landmarks:
        for camera in pack.cameras:
            found_again = score_landmarks(pictures[camera], held, model.device, check)
            motion |= {f"camera {camera}, {state}": figures for state, figures in found_again.items()}
    return Likeness(
        pack.video, "calibrated cameras", personalize_name, fitted_to, frames, rows, motion,
        [
            strip for camera in pack.cameras
            for strip in strips(f"{pack.video}_camera_{camera}", pictures[camera], spread(held, SHOWN))
        ],
        facts, notes,
    )  # fmt: skip


def default_fit(pack: CalibratedPack) -> str:
    """Return the fit of the body that is used when none is named. Raises InputError when it is not clear."""
    there = sorted(p.stem for p in (pack.folder / "fits").glob("*.npz"))
    for name in (*FITS, *(there if len(there) == 1 else ())):
        if name in there:
            return name
    raise InputError(
        f"{pack.folder / 'fits'}: expected a fit of the body, {' or '.join(FITS)} or a single one, found "
        f"{', '.join(there) or 'none'}; name one with --body_fit"
    )


def _looked_up(drawn: Mapping[tuple[str, int], tuple[Tensor, Tensor]], camera: str) -> Draw:
    return lambda frame, view: drawn[camera, frame]


def _parts(model: GuavaModel, pack: CalibratedPack, body: BodyFit) -> Callable[[str, int], dict[str, Tensor]]:
    """Return what tells where head and hands are, by the given fit of the body: the same for all states."""
    rest = model.body.shape(body.identity.to(model.device))
    kept: dict[tuple[str, int], dict[str, Tensor]] = {}

    def parts(camera: str, frame: int) -> dict[str, Tensor]:
        if (camera, frame) not in kept:
            view: Cameras = pack.views(camera, body)[frame : frame + 1].to(model.device)
            with torch.inference_mode():
                posed = model.body.pose(rest, body.motion[frame : frame + 1].to(model.device))
            kept[camera, frame] = part_regions(posed, model.body, view)
        return kept[camera, frame]

    return parts
