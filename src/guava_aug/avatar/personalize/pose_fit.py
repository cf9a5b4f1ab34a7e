"""Motion, camera and shape of a person against pictures and landmarks, the appearance held."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from guava_aug.avatar.avatar import Avatar
from guava_aug.avatar.personalize.config import FitConfig
from guava_aug.avatar.personalize.observations import Observations
from guava_aug.avatar.personalize.picture_fit import Drawn, OnStep, PictureFit, Refine
from guava_aug.avatar.personalize.variables import PoseVariables
from guava_aug.body import Identity, Motion
from guava_aug.tracked.fit import ClipFit
from guava_aug.tracked.fit.landmark_points import LandmarkPoints, observed, projected

_CUT = 4.0  # standard deviations beyond which a landmark is let go (Geman-McClure), as in the landmark fit
_SMOOTH = ("global_orient", "body_pose", "left_hand_pose", "right_hand_pose", "jaw_pose")


class PoseFit(PictureFit):
    """Motion, camera and shape against pictures and landmarks; appearance is held.

    Args:
        avatar, motion, viewmats, seen, refine, config: as of `PictureFit`.
        landmarks: gives the landmark term of frames as they are drawn; None: there is none.
        tied: as of `PoseVariables`.
        smooth: weight of second differences in time; 0 where frames do not follow on each other.
    """

    ways = (False,)

    def __init__(
        self, avatar: Avatar, motion: Motion, viewmats: Tensor, seen: Observations, refine: Refine | None,
        config: FitConfig, *, landmarks: LandmarkTerm | None = None, tied: int = 0, smooth: float = 0.0,
    ):  # fmt: skip
        super().__init__(avatar, motion, viewmats, seen, refine, config)
        self.landmarks, self.smooth = landmarks, smooth
        with torch.inference_mode(False):
            self._begin(PoseVariables(self.guess, self.motion, self.viewmats, tied))

    def run(self, on_step: OnStep = lambda done, steps: None) -> tuple[Identity, Motion, Tensor]:
        """Fit, and return identity, motion and viewmats, on the CPU. `on_step` may end the fit by raising."""
        everything = torch.arange(len(self.seen))
        self._descend(lambda step: (self._choose(everything), False), on_step)
        v = self.variables
        with torch.no_grad():
            motion, viewmats = v.moved(torch.arange(len(self.motion), device=self.viewmats.device))
            motion = replace(motion, eyelids=motion.eyelids.clamp(0, 1))
        return v.final_identity().to("cpu"), motion.to("cpu"), viewmats.cpu()

    def _loss(self, ids: Tensor, *, frozen: bool) -> Tensor:
        drawn = self.draw(ids, frozen=frozen)
        loss = self._picture_loss(ids, drawn) + self._depth_loss(ids, drawn) + self._priors()
        if self.landmarks is not None:
            loss = loss + self.landmarks(self.variables.identity(), drawn, self.seen.frames[ids])
        return loss + self._unrest() if self.smooth else loss

    def _unrest(self) -> Tensor:
        v = self.variables
        total = v.translation.new_zeros(())
        if len(v.translation) < 3:
            return total
        changes = [v.motion[f] - getattr(v.first_motion, f) for f in _SMOOTH]
        changes.append(v.translation - v.first_viewmats[:, :3, 3])
        for x in changes:
            total = total + (x[:-2] - 2 * x[1:-1] + x[2:]).square().mean()
        return self.smooth * total


class LandmarkTerm:
    """The detector's landmarks of some frames, as a term of a fit.

    Args:
        points: where landmarks are on the body.
        fitted: the landmark fit of the clip.
        frames: [n] frame numbers in the clip.
        weight: of the mean cost of a landmark.
    """

    def __init__(self, points: LandmarkPoints, fitted: ClipFit, frames: Tensor, weight: float, device: torch.device):
        self._points, self._clip, self._weight = points, fitted.clip, weight
        pixels, weights = observed(fitted.clip.frames(frames))
        self._pixels, self._weights = pixels.to(device), weights.to(device)

    def __call__(self, identity: Identity, drawn: Drawn, frames: Tensor) -> Tensor:
        """Return the term; `frames` [n] count those of the constructor."""
        at = projected(self._clip, self._points(identity, drawn.motion, drawn.joints, drawn.transforms), drawn.viewmats)
        error = (at - self._pixels[frames]).square().sum(-1) * self._weights[frames]
        return self._weight * (_CUT**2 * error / (_CUT**2 + error)).mean()
