"""What every fit to the frames of a video has: pictures through the differentiable rasteriser, steps, weights."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from guava_aug.avatar.avatar import Avatar, PosedGaussians
from guava_aug.avatar.image_losses import edge_loss, ssim
from guava_aug.avatar.personalize.config import FitConfig
from guava_aug.avatar.personalize.observations import Observations, importance
from guava_aug.avatar.personalize.variables import PoseVariables
from guava_aug.body import Identity, Motion
from guava_aug.render.rasterize_grad import rasterize_grad
from guava_aug.runtime.device import lack_of_memory_as_such

log = logging.getLogger(__name__)

OnStep = Callable[[int, int], None]  # steps done, steps in all; may end the fit by raising
Refine = Callable[[Tensor], Tensor]  # features [I, C, H, W] -> RGB [I, 3, H, W] 0..1, differentiable
_LAST_RATE = 0.03
_REPORT_EVERY = 100
_HANDS_SHARE, _FACE_SHARE = 1 / 6, 1e-3  # of the weight on changes of pose
_DM = 10.0


@dataclass(frozen=True)
class Drawn:
    """Pictures of frames as the variables have them now."""

    motion: Motion
    viewmats: Tensor  # [I, 4, 4]
    features: Tensor  # [I, C, H, W]
    alpha: Tensor  # [I, 1, H, W]
    joints: Tensor  # [I, J, 3]
    transforms: Tensor  # [I, J, 4, 4] of the joints, from rest


class PictureFit:
    """Adam over the `PoseVariables` of one person, on the device of the avatar.

    Args:
        avatar: the person, with its identity.
        motion, viewmats: T frames; viewmats [T, 4, 4] of the first camera.
        seen: pictures of these frames.
        refine: splatted features to RGB; None: their first three channels are the picture.
        config: rates, weights, steps.
    """

    variables: PoseVariables
    ways: tuple[bool, ...] = (False, True)  # in which pictures are drawn: `frozen` or not

    def __init__(
        self, avatar: Avatar, motion: Motion, viewmats: Tensor, seen: Observations, refine: Refine | None,
        config: FitConfig,
    ):  # fmt: skip
        self.config, self.refine = config, refine
        with torch.inference_mode(False), torch.no_grad():
            # tensors made under inference mode cannot take part in a fit
            identity = Identity(**{k: v.clone() for k, v in vars(avatar.rest.identity).items()})
            tensors = {k: v.clone() for k, v in vars(avatar).items() if isinstance(v, Tensor)}
            self.guess = replace(avatar, rest=avatar.body.shape(identity), **tensors)  # type: ignore[arg-type]
            device = avatar.opacities.device
            self.seen = seen.to(device)
            self.motion, self.viewmats = motion.to(device), viewmats.to(device).float()
            posed = avatar.body.pose(self.guess.rest, self.motion)
            self.importance = importance(
                posed, self.viewmats, self.seen, config.face_weight, config.hand_weight, config.blur_speed
            )
            self.depths = depths(posed.joints, self.viewmats)  # [T, J]
        self.generator = torch.Generator().manual_seed(config.seed)

    def _begin(self, variables: PoseVariables) -> None:
        """Take the variables; the last thing that a constructor does."""
        self.variables = variables
        self._posed: dict[bool, Callable[..., tuple[Tensor, ...]]] = {k: _Posed(variables, k) for k in self.ways}
        self._refine_step: Callable[[Tensor], Tensor] | None = self.refine

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

    def draw(self, ids: Tensor, *, frozen: bool) -> Drawn:
        """Return observations as the variables have them; `frozen`: no gradient reaches appearance and shape."""
        motion, viewmats, K = self.views(ids)
        means, quats, scales, opacities, looks, joints, transforms = self._posed[frozen](*vars(motion).values())
        posed = PosedGaussians(means, quats, scales, opacities, looks)
        features, alpha = rasterize(posed, viewmats, K, *self.seen.size)
        return Drawn(motion, viewmats, features, alpha, joints, transforms)

    # ---- the fit

    def _descend(
        self, chosen: Callable[[int], tuple[Tensor, bool]], on_step: OnStep = lambda done, steps: None
    ) -> None:
        """Take all steps.

        Args:
            chosen: the observations of a step, and whether they are `frozen`.
            on_step: called after every step.
        """
        c, begun = self.config, time.monotonic()
        optimizer = torch.optim.Adam(self._groups(), betas=(0.9, 0.99), fused=self.seen.images.is_cuda)
        if self.seen.images.is_cuda:
            self._capture()
        highest = [group["lr"] for group in optimizer.param_groups]
        for step in range(c.steps):
            share = min(1.0, step / c.warmup if c.warmup else 1.0) * (
                0.5 * (1 + math.cos(math.pi * step / c.steps)) * (1 - _LAST_RATE) + _LAST_RATE
            )
            for group, rate in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = rate * share
            ids, frozen = chosen(step)
            loss = self._loss(ids, frozen=frozen)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            on_step(step + 1, c.steps)
            if step % _REPORT_EVERY == 0 or step == c.steps - 1:
                log.info(
                    "step %d of %d: loss %.4f, %.1f s", step, c.steps, float(loss.detach()), time.monotonic() - begun
                )

    def _rated(self) -> list[tuple[list[nn.Parameter], float]]:
        """Return what is learnt, and how fast."""
        v, r = self.variables, self.config.rates
        m = v.motion
        return [
            ([m["global_orient"], m["body_pose"]], r.pose),
            ([m["left_hand_pose"], m["right_hand_pose"]], r.hands),
            ([m[k] for k in ("flame_expression", "jaw_pose", "eyelids", "eye_pose")], r.face),
            ([v.translation], r.camera), ([v.betas, v.flame_betas], r.shape),
        ]  # fmt: skip

    def _groups(self) -> list[dict[str, object]]:
        groups = self._rated()
        for parameters, rate in groups:
            for p in parameters:
                p.requires_grad_(rate > 0)
        return [{"params": parameters, "lr": rate} for parameters, rate in groups if rate > 0]

    def _capture(self) -> None:
        """Posing and refining as CUDA graphs: launching their thousands of small kernels takes longer than they do."""
        n, v = self.config.frames_per_step, self.variables
        ids = torch.zeros(n, dtype=torch.long, device=self.seen.frames.device)
        like = tuple(x.detach().clone().requires_grad_() for x in vars(v.moved(ids)[0]).values())
        modules: list[nn.Module] = [_Posed(v, way) for way in self.ways]
        arguments: list[tuple[Tensor, ...]] = [like] * len(modules)
        if self.refine is not None:
            W, H = self.seen.size
            channels = v.guess.features.shape[1]
            modules.append(_Refined(self.refine))
            arguments.append((torch.rand(n, channels, H, W, device=ids.device, requires_grad=True),))
        with no_garbage_collection(), lack_of_memory_as_such():  # memory that it frees would end the capture
            graphs = torch.cuda.make_graphed_callables(tuple(modules), tuple(arguments), allow_unused_input=True)
        self._posed = dict(zip(self.ways, graphs, strict=False))  # type: ignore[arg-type]
        self._refine_step = graphs[-1] if self.refine is not None else None  # type: ignore[assignment]

    def _choose(self, among: Sequence[int] | Tensor) -> Tensor:
        n = self.config.frames_per_step
        among = torch.as_tensor(among)
        if n <= len(among):
            pick = torch.randperm(len(among), generator=self.generator)[:n]
        else:
            pick = torch.randint(len(among), (n,), generator=self.generator)
        return among[pick].to(self.seen.frames.device)

    def _loss(self, ids: Tensor, *, frozen: bool) -> Tensor:
        drawn = self.draw(ids, frozen=frozen)
        return self._picture_loss(ids, drawn) + self._depth_loss(ids, drawn) + self._priors()

    def _picture_loss(self, ids: Tensor, drawn: Drawn) -> Tensor:
        w, alpha = self.config.weights, drawn.alpha
        rgb, raw = self._colors(ids, drawn)
        true, mask, known = self.truth(ids)
        back = torch.rand(len(ids), 3, 1, 1, generator=self.generator).to(true)
        target = true * mask + back * (1 - mask)
        # where nothing is known there is no loss
        plain = torch.where(known, raw + back * (1 - alpha), target)
        ours = plain if rgb is None else torch.where(known, rgb * alpha + back * (1 - alpha), target)
        covered = torch.where(known, alpha, mask)
        weight = self.importance[ids].float()
        loss = w.picture * ((ours - target).abs() * weight).mean() + w.ssim * (1 - ssim(ours, target))
        loss = loss + w.edges * edge_loss(ours, target) + w.alpha * ((covered - mask).abs() * weight).mean()
        return loss if rgb is None else loss + w.raw * ((plain - target).abs() * weight).mean()

    def _colors(self, ids: Tensor, drawn: Drawn) -> tuple[Tensor | None, Tensor]:
        """Return refined RGB, None where nothing refines, and the splatted colours [I, 3, H, W]."""
        refine = self._refine_step
        return None if refine is None else refine(drawn.features), drawn.features[:, :3]

    def _depth_loss(self, ids: Tensor, drawn: Drawn) -> Tensor:
        v, frames = self.variables, self.seen.frames[ids]
        moved = depths(drawn.joints, self.viewmats[frames]) + v.translation[frames, 2:] - self.viewmats[frames, 2, 3:]
        return self.config.weights.depth * (_DM * (moved - self.depths[frames])).square().mean()

    def _priors(self) -> Tensor:
        w, v = self.config.weights, self.variables
        m, first = v.motion, v.first_motion
        change = lambda name: (m[name] - getattr(first, name)).square().mean()
        loss: Tensor = w.pose * (change("body_pose") + change("global_orient"))
        loss = loss + w.pose * _HANDS_SHARE * (change("left_hand_pose") + change("right_hand_pose"))
        loss = loss + w.pose * _FACE_SHARE * change("flame_expression")
        loss = loss + w.camera * (v.translation - v.first_viewmats[:, :3, 3]).square().mean()
        return loss + w.shape * (v.betas - v.first_identity.betas).square().sum()


class _Posed(nn.Module):
    """Fields of a motion to those of the posed Gaussians, the joints and their transforms."""

    def __init__(self, variables: PoseVariables, frozen: bool):
        super().__init__()
        self.variables, self.frozen = variables, frozen

    def forward(self, *fields: Tensor) -> tuple[Tensor, ...]:
        avatar = self.variables.avatar(frozen=self.frozen)
        posed = avatar.body.pose(avatar.rest, Motion(*fields))
        g = avatar.on_body(posed)
        return g.means, g.quats, g.scales, g.opacities, g.features, posed.joints, posed.joint_transforms


class _Refined(nn.Module):
    def __init__(self, refine: Refine):
        super().__init__()
        self.refine = refine

    def forward(self, features: Tensor) -> Tensor:
        return self.refine(features)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect garbage now, and none until the end of the block."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def rasterize(posed: PosedGaussians, viewmats: Tensor, K: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Features [I, C, H, W] and alpha [I, 1, H, W] of I poses through I cameras with lenses K [I, 3, 3]."""
    drawn = rasterize_grad(
        posed.means[None], posed.quats[None], posed.scales[None], posed.opacities[None], posed.features[None],
        viewmats[None], K[None], width, height,
    )  # fmt: skip
    return drawn.image[0], drawn.alpha[0]


def depths(joints: Tensor, viewmats: Tensor) -> Tensor:
    """[T, J] depths of joints [T, J, 3] in cameras [T, 4, 4], metres."""
    return (joints * viewmats[:, None, 2, :3]).sum(-1) + viewmats[:, 2, 3:]
