"""The fit: an avatar, its pose and its camera to the frames of its own video."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from guava_aug.avatar.avatar import Avatar
from guava_aug.avatar.config import ModelConfig
from guava_aug.avatar.network import ReconstructionNetwork
from guava_aug.avatar.personalize.config import PersonalizeConfig
from guava_aug.avatar.personalize.guess import guess_avatar
from guava_aug.avatar.personalize.observations import Observations
from guava_aug.avatar.personalize.picture_fit import Drawn, OnStep, PictureFit, Refine, rasterize
from guava_aug.avatar.personalize.variables import Variables
from guava_aug.body import Identity, Motion
from guava_aug.errors import UsageError

_CM = 100.0
_GREY = 0.5
_PICTURES_PER_PASS = 4  # when nothing is learnt


@dataclass(frozen=True)
class Personalized:
    """An avatar fitted to the frames of its own video, and whether it is better than before."""

    avatar: Avatar
    identity: Identity
    motion: Motion
    viewmats: Tensor  # [T, 4, 4] of the first camera
    gate: Tensor  # [N] 0..1 how well each Gaussian was seen
    seconds: float
    before: float = math.nan  # dB on the person in the frames kept back, of the avatar as it was; nan: none were kept
    after: float = math.nan

    @property
    def better(self) -> bool:
        """Whether the fitted avatar is nearer to the frames kept back; without any, it is taken to be."""
        return math.isnan(self.before) or self.after > self.before  # not, when a fit that failed gives nan after


class Fit(PictureFit):
    """One person's likeness: appearance, shape, poses and cameras."""

    config: PersonalizeConfig
    variables: Variables

    def __init__(
        self, avatar: Avatar, motion: Motion, viewmats: Tensor, seen: Observations, refine: Refine,
        config: PersonalizeConfig,
    ):  # fmt: skip
        super().__init__(avatar, motion, viewmats, seen, refine, config)
        self._refine = refine
        device = self.viewmats.device
        with torch.inference_mode(False):
            held = held_out(self.seen.frames, config.held_out_every)
            self.training = torch.nonzero(~held)[:, 0].cpu()
            self.held_out = torch.nonzero(held)[:, 0].cpu()
            gate = self._visibility(self.guess)
            gate = gate / (gate + config.release) if config.release > 0 else torch.ones_like(gate)
            C = len(self.seen.K)
            self.matching = nn.Parameter(torch.eye(3, 4, device=device).repeat(C, 1, 1))
            self._begin(Variables(self.guess, self.motion, self.viewmats, gate, config))

    # ---- pictures

    def _visibility(self, avatar: Avatar) -> Tensor:
        """[N] weight of every Gaussian in the person's pixels of the training frames, summed."""
        total = torch.zeros(avatar.num_gaussians, device=avatar.opacities.device)
        for ids in self.training.to(total.device).split(_PICTURES_PER_PASS):
            with torch.no_grad():
                frames, cameras = self.seen.frames[ids], self.seen.cameras[ids]
                posed = avatar.pose(self.motion[frames])
                viewmats = self.seen.relative[cameras] @ self.viewmats[frames]
                _, masks, known = self.truth(ids)
                where = (known & (masks > 0.5)).float()
            one = torch.ones(avatar.num_gaussians, 16, device=total.device, requires_grad=True)
            image, _ = rasterize(replace(posed, features=one), viewmats, self.seen.K[cameras], *self.seen.size)
            total += torch.autograd.grad((image[:, :1] * where).sum(), one)[0][:, 0]
        return total

    @torch.no_grad()
    def held_out_psnr(
        self, avatar: Avatar, motion: Motion, viewmats: Tensor, network: ReconstructionNetwork | None = None,
        source: int | None = None,
    ) -> float:  # fmt: skip
        """Return dB over the person in the first camera's frames kept back, on grey; nan when none were kept.

        network: of the avatar, where it shows pixels of its source frame. source: that frame, which is not counted.
        """
        errors = []
        for k in self.held_out[self.seen.cameras.cpu()[self.held_out] == 0].tolist():
            if int(self.seen.frames[k]) == source:
                continue
            frame = slice(int(self.seen.frames[k]), int(self.seen.frames[k]) + 1)
            posed = avatar.pose(motion[frame])
            features, alpha = rasterize(posed, viewmats[frame], self.seen.K[:1], *self.seen.size)
            rgb = self._refine(features)
            if posed.source is not None and network is not None:
                places = posed.draw_maps(viewmats[frame], self.seen.K[0], *self.seen.size)
                rgb = network.source_blend(rgb, alpha, places, posed.source.picture[None])
            true, mask, known = self.truth(torch.tensor([k], device=viewmats.device))
            ours = rgb * alpha + _GREY * (1 - alpha)
            inside = ((mask > 0.5) & known).expand_as(true)
            if bool(inside.any()):
                errors.append(float((ours - true)[inside].square().mean()))
        return -10 * math.log10(max(sum(errors) / len(errors), 1e-10)) if errors else math.nan

    # ---- the fit

    def run(self, on_step: OnStep = lambda done, steps: None) -> Personalized:
        """Fit, and return the result. `on_step` is called after every step; it may end the fit by raising."""
        every, begun = self.config.held_out_every, time.monotonic()

        def chosen(step: int) -> tuple[Tensor, bool]:
            # a held-out frame may move its own pose, or what is measured on it would be the tracker's error
            hold = len(self.held_out) > 0 and step % every == every - 1
            return self._choose(self.held_out if hold else self.training), hold

        self._descend(chosen, on_step)
        return self.result(time.monotonic() - begun)

    @torch.no_grad()
    def result(self, seconds: float = 0.0) -> Personalized:
        """Return the avatar as it is fitted now."""
        v = self.variables
        frames = torch.arange(len(self.motion), device=v.translation.device)
        motion, viewmats = v.moved(frames)
        return Personalized(v.avatar(), v.final_identity(), motion, viewmats, v.gate, seconds)

    def _rated(self) -> list[tuple[list[nn.Parameter], float]]:
        v, r = self.variables, self.config.rates
        return [
            *super()._rated(), ([v.color], r.color), ([v.features], r.features), ([v.opacity], r.opacity),
            ([v.vertex_scales, v.uv_scales], r.scales), ([v.place], r.place), ([v.height], r.offsets),
            ([v.thickness], r.thickness), ([self.matching], r.matching if self.config.match_colors else 0.0),
        ]  # fmt: skip

    def _colors(self, ids: Tensor, drawn: Drawn) -> tuple[Tensor | None, Tensor]:
        rgb, raw = super()._colors(ids, drawn)
        if rgb is None or not self.config.match_colors:
            return rgb, raw
        A = self._matching()[self.seen.cameras[ids]]
        rgb = torch.einsum("ikc,ichw->ikhw", A[..., :3], rgb) + A[..., 3, None, None]
        return rgb, torch.einsum("ikc,ichw->ikhw", A[..., :3], raw) + A[..., 3, None, None] * drawn.alpha

    def _matching(self) -> Tensor:
        """[C, 3, 4]; the first camera's is the identity."""
        return torch.cat([torch.eye(3, 4, device=self.matching.device)[None], self.matching[1:]])

    def _priors(self) -> Tensor:
        w, v = self.config.weights, self.variables
        loss = super()._priors()
        loss = loss + w.place * v.place.square().mean() + w.color * v.color.square().mean()
        loss = loss + w.scales * (v.uv_scales.square().mean() + v.vertex_scales.square().mean())
        loss = loss + w.offsets * (_CM * v.height).square().mean()
        return loss + w.thickness * (_CM * v.thickness).square().mean()


def personalize(  # noqa: D417 - the types say it
    original: Avatar,
    motion: Motion,
    viewmats: Tensor,
    seen: Observations,
    network: ReconstructionNetwork,
    model_config: ModelConfig,
    refine: Refine,
    config: PersonalizeConfig | None = None,
    on_step: OnStep = lambda done, steps: None,
    source: int | None = None,
) -> Personalized:
    """The avatar of a video, fitted to the video's frames; `better` says whether it is to be used.

    The fit begins with what the network sees in several training frames through the true lens, not with `original`,
    which it is judged against.

    Args:
        original: the avatar as the product reconstructs it, on the identity of the video.
        motion, viewmats: of all T frames; viewmats [T, 4, 4] of the first camera.
        seen: pictures of these frames, those of the first camera among them.
        network, model_config: that made `original`.
        refine: splatted features [I, C, H, W] to RGB [I, 3, H, W], differentiable.
        on_step: told steps done and steps in all after every step; may end the fit by raising.
        source: the frame, of the T, that `original` was made from: it may show its very pixels, so it is no measure.

    Raises UsageError when the pictures have not the size that the refiner works at, or no frame is left to learn from.
    """
    config = config or PersonalizeConfig()
    size = model_config.image_size
    if seen.size != (size, size):
        raise UsageError(f"personalize: pictures must be {size} x {size} pixels, found {seen.size[0]} x {seen.size[1]}")
    if not bool(((seen.cameras == 0) & ~held_out(seen.frames, config.held_out_every)).any()):
        raise UsageError(
            f"personalize: no frame of the first camera is left to learn from ({len(seen)} pictures, one frame of "
            f"{config.held_out_every} kept back); give more frames"
        )
    device = original.opacities.device
    seen, motion, viewmats = seen.to(device), motion.to(device), viewmats.to(device).float()
    fit = Fit(_guess(original, motion, viewmats, seen, network, model_config, config), motion, viewmats, seen, refine,
              config)  # fmt: skip
    found = fit.run(on_step)
    return replace(
        found,
        before=fit.held_out_psnr(original, motion, viewmats, network, source),
        after=fit.held_out_psnr(found.avatar, found.motion, found.viewmats, source=source),
    )


@torch.no_grad()
def _guess(
    original: Avatar, motion: Motion, viewmats: Tensor, seen: Observations, network: ReconstructionNetwork,
    model_config: ModelConfig, config: PersonalizeConfig,
) -> Avatar:  # fmt: skip
    """What the network sees in training frames spread over the video."""
    usable = torch.nonzero((seen.cameras == 0) & ~held_out(seen.frames, config.held_out_every))[:, 0]
    spread = torch.linspace(0, len(usable) - 1, min(config.guess_frames, len(usable)), device=usable.device)
    ids = usable[spread.round().long()]
    person = seen.masks[ids].float() / 255 * seen.known[:1]
    frames = seen.frames[ids]
    identity = Identity(**{k: v.clone() for k, v in vars(original.rest.identity).items()})
    return guess_avatar(
        network, model_config, original.body, original.body.shape(identity), motion[frames], viewmats[frames],
        seen.K[0], seen.images[ids].float() / 255 * person,
    )  # fmt: skip


def held_out(frames: Tensor, every: int) -> Tensor:
    """Bool: the frames kept from the appearance, one of `every`; none when it is 0."""
    return frames % every == every // 2 if every else torch.zeros_like(frames, dtype=torch.bool)
