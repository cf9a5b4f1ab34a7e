"""The fit: an avatar, its pose and its camera to the frames of its own video."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from guava_aug.avatar.avatar import Avatar, PosedGaussians
from guava_aug.avatar.config import ModelConfig
from guava_aug.avatar.image_losses import edge_loss, ssim
from guava_aug.avatar.network import ReconstructionNetwork
from guava_aug.avatar.personalize.config import PersonalizeConfig
from guava_aug.avatar.personalize.guess import guess_avatar
from guava_aug.avatar.personalize.observations import Observations, importance
from guava_aug.avatar.personalize.variables import Variables
from guava_aug.body import Identity, Motion
from guava_aug.errors import UsageError
from guava_aug.render.rasterize_grad import rasterize_grad

log = logging.getLogger(__name__)

OnStep = Callable[[int, int], None]  # steps done, steps in all
Refine = Callable[[Tensor], Tensor]  # features [I, C, H, W] -> RGB [I, 3, H, W] 0..1, differentiable
_WARMUP = 50  # steps
_LAST_RATE = 0.03
_REPORT_EVERY = 100
_HANDS_SHARE, _FACE_SHARE = 1 / 6, 1e-3  # of the weight on changes of pose
_CM, _DM = 100.0, 10.0
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


class Fit:
    """One person's fit, on the device of the avatar."""

    def __init__(
        self, avatar: Avatar, motion: Motion, viewmats: Tensor, seen: Observations, refine: Refine,
        config: PersonalizeConfig,
    ):  # fmt: skip
        self.config, self.refine = config, refine
        device = avatar.opacities.device
        with torch.inference_mode(False), torch.no_grad():
            # tensors made under inference mode cannot take part in a fit
            identity = Identity(**{k: v.clone() for k, v in vars(avatar.rest.identity).items()})
            tensors = {k: v.clone() for k, v in vars(avatar).items() if isinstance(v, Tensor)}
            avatar = replace(avatar, rest=avatar.body.shape(identity), **tensors)  # type: ignore[arg-type]
            self.seen = seen.to(device)
            self.motion, self.viewmats = motion.to(device), viewmats.to(device).float()
            posed = avatar.body.pose(avatar.rest, self.motion)
            self.importance = importance(
                posed, self.viewmats, self.seen, config.face_weight, config.hand_weight, config.blur_speed
            )
            self.depths = _depths(posed.joints, self.viewmats)  # [T, J]
        held = held_out(self.seen.frames, config.held_out_every)
        self.training = torch.nonzero(~held)[:, 0].cpu()
        self.held_out = torch.nonzero(held)[:, 0].cpu()
        gate = self._visibility(avatar)
        gate = gate / (gate + config.release) if config.release > 0 else torch.ones_like(gate)
        self.variables = Variables(avatar, self.motion, self.viewmats, gate, config)
        C = len(self.seen.K)
        self.matching = nn.Parameter(torch.eye(3, 4, device=device).repeat(C, 1, 1))
        self.generator = torch.Generator().manual_seed(config.seed)
        self._posed: dict[bool, Callable[..., tuple[Tensor, ...]]] = {
            k: _Posed(self.variables, k) for k in (False, True)
        }
        self._refine_step: Callable[[Tensor], Tensor] = refine

    # ---- pictures

    def views(self, ids: Tensor) -> tuple[Motion, Tensor, Tensor]:
        """Motion, viewmats and K of observations."""
        motion, first = self.variables.moved(self.seen.frames[ids])
        cameras = self.seen.cameras[ids]
        return motion, self.seen.relative[cameras] @ first, self.seen.K[cameras]

    def truth(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Colour, mask 0..1 and known bool of observations."""
        return (self.seen.images[ids].float() / 255, self.seen.masks[ids].float() / 255,
                self.seen.known[self.seen.cameras[ids]])  # fmt: skip

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
    def held_out_psnr(self, avatar: Avatar, motion: Motion, viewmats: Tensor) -> float:
        """Return dB over the person in the first camera's frames kept back, on grey; nan when none were kept."""
        errors = []
        for k in self.held_out[self.seen.cameras.cpu()[self.held_out] == 0].tolist():
            frame = slice(int(self.seen.frames[k]), int(self.seen.frames[k]) + 1)
            features, alpha = rasterize(avatar.pose(motion[frame]), viewmats[frame], self.seen.K[:1], *self.seen.size)
            true, mask, known = self.truth(torch.tensor([k], device=viewmats.device))
            ours = self.refine(features) * alpha + _GREY * (1 - alpha)
            inside = ((mask > 0.5) & known).expand_as(true)
            if bool(inside.any()):
                errors.append(float((ours - true)[inside].square().mean()))
        return -10 * math.log10(max(sum(errors) / len(errors), 1e-10)) if errors else math.nan

    # ---- the fit

    def run(self, on_step: OnStep = lambda done, steps: None) -> Personalized:
        """Fit, and return the result. `on_step` is called after every step; it may end the fit by raising."""
        c, begun = self.config, time.monotonic()
        optimizer = torch.optim.Adam(self._groups(), betas=(0.9, 0.99), fused=self.seen.images.is_cuda)
        if self.seen.images.is_cuda:
            self._capture()
        highest = [group["lr"] for group in optimizer.param_groups]
        for step in range(c.steps):
            share = min(1.0, step / _WARMUP) * (
                0.5 * (1 + math.cos(math.pi * step / c.steps)) * (1 - _LAST_RATE) + _LAST_RATE
            )
            for group, rate in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = rate * share
            # a held-out frame may move its own pose, or what is measured on it would be the tracker's error
            hold = len(self.held_out) > 0 and step % c.held_out_every == c.held_out_every - 1
            loss = self._loss(self._choose(self.held_out if hold else self.training), frozen=hold)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            on_step(step + 1, c.steps)
            if step % _REPORT_EVERY == 0 or step == c.steps - 1:
                log.info(
                    "step %d of %d: loss %.4f, %.1f s", step, c.steps, float(loss.detach()), time.monotonic() - begun
                )
        return self.result(time.monotonic() - begun)

    @torch.no_grad()
    def result(self, seconds: float = 0.0) -> Personalized:
        """Return the avatar as it is fitted now."""
        v = self.variables
        frames = torch.arange(len(self.motion), device=v.translation.device)
        motion, viewmats = v.moved(frames)
        return Personalized(v.avatar(), v.final_identity(), motion, viewmats, v.gate, seconds)

    def _groups(self) -> list[dict[str, object]]:
        v, r = self.variables, self.config.rates
        m = v.motion
        groups: list[tuple[list[nn.Parameter], float]] = [
            ([m["global_orient"], m["body_pose"]], r.pose),
            ([m["left_hand_pose"], m["right_hand_pose"]], r.hands),
            ([m[k] for k in ("flame_expression", "jaw_pose", "eyelids", "eye_pose")], r.face),
            ([v.translation], r.camera), ([v.betas, v.flame_betas], r.shape), ([v.color], r.color),
            ([v.features], r.features), ([v.opacity], r.opacity), ([v.vertex_scales, v.uv_scales], r.scales),
            ([v.place], r.place), ([v.height], r.offsets), ([v.thickness], r.thickness),
            ([self.matching], r.matching if self.config.match_colors else 0.0),
        ]  # fmt: skip
        for parameters, rate in groups:
            for p in parameters:
                p.requires_grad_(rate > 0)
        return [{"params": parameters, "lr": rate} for parameters, rate in groups if rate > 0]

    def _capture(self) -> None:
        """Posing and refining as CUDA graphs: launching their thousands of small kernels takes longer than they do."""
        n, v = self.config.frames_per_step, self.variables
        ids = torch.zeros(n, dtype=torch.long, device=self.seen.frames.device)
        like = tuple(x.detach().clone().requires_grad_() for x in vars(v.moved(ids)[0]).values())
        channels = v.guessed.shape[1]
        W, H = self.seen.size
        picture = torch.rand(n, channels, H, W, device=ids.device, requires_grad=True)
        modules = _Posed(v, False), _Posed(v, True), _Refined(self.refine)
        graphs = torch.cuda.make_graphed_callables(modules, (like, like, (picture,)), allow_unused_input=True)
        self._posed, self._refine_step = {False: graphs[0], True: graphs[1]}, graphs[2]  # type: ignore[dict-item, assignment]

    def _choose(self, among: Sequence[int] | Tensor) -> Tensor:
        n = self.config.frames_per_step
        among = torch.as_tensor(among)
        if n <= len(among):
            pick = torch.randperm(len(among), generator=self.generator)[:n]
        else:
            pick = torch.randint(len(among), (n,), generator=self.generator)
        return among[pick].to(self.seen.frames.device)

    def _loss(self, ids: Tensor, *, frozen: bool) -> Tensor:
        w, v = self.config.weights, self.variables
        motion, viewmats, K = self.views(ids)
        *gaussians, joints = self._posed[frozen](*vars(motion).values())
        features, alpha = rasterize(PosedGaussians(*gaussians), viewmats, K, *self.seen.size)
        rgb, raw = self._refine_step(features), features[:, :3]
        if self.config.match_colors:
            A = self._matching()[self.seen.cameras[ids]]
            rgb = torch.einsum("ikc,ichw->ikhw", A[..., :3], rgb) + A[..., 3, None, None]
            raw = torch.einsum("ikc,ichw->ikhw", A[..., :3], raw) + A[..., 3, None, None] * alpha
        true, mask, known = self.truth(ids)
        back = torch.rand(len(ids), 3, 1, 1, generator=self.generator).to(true)
        target = true * mask + back * (1 - mask)
        # where nothing is known there is no loss
        ours = torch.where(known, rgb * alpha + back * (1 - alpha), target)
        plain = torch.where(known, raw + back * (1 - alpha), target)
        covered = torch.where(known, alpha, mask)
        weight = self.importance[ids].float()
        loss = w.picture * ((ours - target).abs() * weight).mean() + w.ssim * (1 - ssim(ours, target))
        loss = loss + w.edges * edge_loss(ours, target) + w.alpha * ((covered - mask).abs() * weight).mean()
        loss = loss + w.raw * ((plain - target).abs() * weight).mean()
        frames = self.seen.frames[ids]
        moved = _depths(joints, self.viewmats[frames]) + v.translation[frames, 2:] - self.viewmats[frames, 2, 3:]
        loss = loss + w.depth * (_DM * (moved - self.depths[frames])).square().mean()
        return loss + self._priors()

    def _matching(self) -> Tensor:
        """[C, 3, 4]; the first camera's is the identity."""
        return torch.cat([torch.eye(3, 4, device=self.matching.device)[None], self.matching[1:]])

    def _priors(self) -> Tensor:
        w, v = self.config.weights, self.variables
        m, first = v.motion, v.first_motion
        change = lambda name: (m[name] - getattr(first, name)).square().mean()
        loss = w.pose * (change("body_pose") + change("global_orient"))
        loss = loss + w.pose * _HANDS_SHARE * (change("left_hand_pose") + change("right_hand_pose"))
        loss = loss + w.pose * _FACE_SHARE * change("flame_expression")
        loss = loss + w.camera * (v.translation - v.first_viewmats[:, :3, 3]).square().mean()
        loss = loss + w.shape * (v.betas - v.identity.betas).square().sum()
        loss = loss + w.place * v.place.square().mean() + w.color * v.color.square().mean()
        loss = loss + w.scales * (v.uv_scales.square().mean() + v.vertex_scales.square().mean())
        loss = loss + w.offsets * (_CM * v.height).square().mean()
        loss = loss + w.thickness * (_CM * v.thickness).square().mean()
        return loss


class _Posed(nn.Module):
    """Fields of a motion to those of the posed Gaussians, and the joints."""

    def __init__(self, variables: Variables, frozen: bool):
        super().__init__()
        self.variables, self.frozen = variables, frozen

    def forward(self, *fields: Tensor) -> tuple[Tensor, ...]:
        avatar = self.variables.avatar(frozen=self.frozen)
        posed = avatar.body.pose(avatar.rest, Motion(*fields))
        gaussians = avatar.on_body(posed)
        return (*vars(gaussians).values(), posed.joints)


class _Refined(nn.Module):
    def __init__(self, refine: Refine):
        super().__init__()
        self.refine = refine

    def forward(self, features: Tensor) -> Tensor:
        return self.refine(features)


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
        before=fit.held_out_psnr(original, motion, viewmats),
        after=fit.held_out_psnr(found.avatar, found.motion, found.viewmats),
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


def rasterize(posed: PosedGaussians, viewmats: Tensor, K: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Features [I, C, H, W] and alpha [I, 1, H, W] of I poses through I cameras with lenses K [I, 3, 3]."""
    drawn = rasterize_grad(
        posed.means[None], posed.quats[None], posed.scales[None], posed.opacities[None], posed.features[None],
        viewmats[None], K[None], width, height,
    )  # fmt: skip
    return drawn.image[0], drawn.alpha[0]


def _depths(joints: Tensor, viewmats: Tensor) -> Tensor:
    """[T, J] depths of joints [T, J, 3] in cameras [T, 4, 4], metres."""
    return (joints * viewmats[:, None, 2, :3]).sum(-1) + viewmats[:, 2, 3:]
