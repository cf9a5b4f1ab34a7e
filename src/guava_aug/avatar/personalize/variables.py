"""What is optimised, and the avatar that comes of it."""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from guava_aug.avatar.avatar import Avatar
from guava_aug.avatar.personalize.config import PersonalizeConfig
from guava_aug.avatar.personalize.surface import offset_freedom, smooth_basis
from guava_aug.body import Identity, Motion
from guava_aug.body.surface_normals import vertex_normals

_LOGIT_LIMIT = 1e-4
_COARSE, _FINE = 0.16, 0.035  # metres between two functions that offsets are made of


class PoseVariables(nn.Module):
    """Motion, camera and shape of a person whose appearance stays; at first as they were.

    Args:
        avatar: with the identity of the person.
        motion: T frames.
        viewmats: [T, 4, 4].
        tied: so many shape coefficients of the head are those of the body (the embedded body's are).
    """

    def __init__(self, avatar: Avatar, motion: Motion, viewmats: Tensor, tied: int = 0):
        super().__init__()
        self.guess, self.tied = avatar, tied
        self.first_identity = avatar.rest.identity
        self.first_motion, self.first_viewmats = motion, viewmats
        self.motion = nn.ParameterDict({f.name: nn.Parameter(getattr(motion, f.name).clone()) for f in fields(Motion)})
        self.translation = nn.Parameter(viewmats[:, :3, 3].clone())
        self.betas = nn.Parameter(self.first_identity.betas.clone())
        self.flame_betas = nn.Parameter(self.first_identity.flame_betas.clone())

    def identity(self) -> Identity:
        """Return the identity as it is now."""
        head: Tensor = self.flame_betas
        if self.tied:
            head = torch.cat([self.betas[: self.tied], head[self.tied :]])
        return replace(self.first_identity, betas=self.betas, flame_betas=head)

    def avatar(self, *, frozen: bool = False) -> Avatar:
        """Return the avatar as it is now; `frozen`: no gradient reaches its appearance and shape."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return replace(self.guess, rest=self.guess.body.shape(self.identity()))

    def moved(self, frames: Tensor) -> tuple[Motion, Tensor]:
        """Motion and first camera's viewmats [n, 4, 4] of frames [n]."""
        motion = Motion(**{name: value[frames] for name, value in self.motion.items()})
        first = self.first_viewmats[frames]
        top = torch.cat([first[:, :3, :3], self.translation[frames][..., None]], 2)
        return motion, torch.cat([top, first[:, 3:]], 1)

    def final_identity(self) -> Identity:
        """Return the identity with the fitted shape."""
        return Identity(**{name: value.detach().clone() for name, value in vars(self.identity()).items()})


class Variables(PoseVariables):
    """Changes to an avatar, its identity, its motion and its camera; all zero at first.

    A Gaussian that no frame shows keeps what the network guessed: every change of one is times `gate`, which is 0 for
    what was never seen. Clothes and hair stand off the body by smooth functions over it, which reach round to the side
    that was not seen: coarse ones, the same left and right, and fine ones.
    """

    def __init__(self, avatar: Avatar, motion: Motion, viewmats: Tensor, gate: Tensor, config: PersonalizeConfig):
        super().__init__(avatar, motion, viewmats)
        self.config = config
        P, N = len(avatar.vertex_scales), avatar.num_gaussians
        self.gate = gate  # [N] 0..1
        zeros = lambda *shape: nn.Parameter(torch.zeros(*shape, device=gate.device))
        self.color, self.features = zeros(N, 3), zeros(N, avatar.features.shape[1] - 3)
        self.opacity, self.place = zeros(N), zeros(N - P, 3)
        self.vertex_scales, self.uv_scales = zeros(P, 3), zeros(N - P, 3)
        assets = avatar.body.assets
        self.normals = vertex_normals(assets.v_canonical, assets.faces)
        self.free = offset_freedom(assets)[:, None]
        self.coarse = smooth_basis(assets.v_canonical, _COARSE, symmetric=True)
        self.fine = smooth_basis(assets.v_canonical, _FINE, symmetric=False)
        self.thickness = zeros(self.coarse.shape[1], 1)  # metres along the normal
        self.height = zeros(self.fine.shape[1], 1)
        self.logit_opacity = _logit(avatar.opacities)
        self.guessed = torch.cat([_logit(avatar.features[:, :3]), avatar.features[:, 3:]], 1)  # [N, C]

    def offsets(self) -> Tensor:
        """[P, 3] metres."""
        height = self.coarse @ self.thickness + self.fine @ self.height + self.config.clothes
        return height * self.free * self.normals

    def avatar(self, *, frozen: bool = False) -> Avatar:
        """The avatar as it is now; `frozen`: no gradient reaches its appearance and shape."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            rest = replace(self.guess.body.shape(self.identity()), offsets=self.offsets())
        return replace(self.guess, rest=rest, **self._appearance(frozen))  # type: ignore[arg-type]

    def _appearance(self, frozen: bool) -> dict[str, Tensor]:
        g, P = self.guess, len(self.vertex_scales)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            gate = self.gate[:, None]
            looks = self.guessed + gate * torch.cat([self.color, self.features], 1)
            return {
                "features": torch.cat([torch.sigmoid(looks[:, :3]), looks[:, 3:]], 1),
                "opacities": torch.sigmoid(self.logit_opacity + self.gate * self.opacity),
                "vertex_scales": g.vertex_scales * (gate[:P] * self.vertex_scales).exp(),
                "uv_scales": g.uv_scales * (gate[P:] * self.uv_scales).exp(),
                "uv_local": g.uv_local + gate[P:] * self.place,
            }


def _logit(p: Tensor) -> Tensor:
    return torch.logit(p.clamp(_LOGIT_LIMIT, 1 - _LOGIT_LIMIT))
