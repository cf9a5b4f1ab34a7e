"""A synthetic signer in a room: person, motion, light, background and tracked camera of one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guava_aug.apps.synthetic.backgrounds import make_background, make_light
from guava_aug.apps.synthetic.bank import Bank, expression_names
from guava_aug.apps.synthetic.motion import FPS, signing_motion
from guava_aug.apps.synthetic.render import Light, render_vertices
from guava_aug.apps.synthetic.subjects import Person, make_person
from guava_aug.apps.synthetic.varieties import STANDARD
from guava_aug.body.params import Motion
from guava_aug.views.cameras import Cameras

_CENTER = 0.75  # metres: the height the new-view cameras aim at, in the upright world
_DISTANCE = (14.2, 15.4)  # metres: 24 / scale of the tracker's camera; the picture is distance / 12 metres wide


@dataclass(frozen=True)
class Scene:
    """One person, one light, one background, one camera, T frames of motion."""

    person: Person
    motion: Motion
    viewmat: Tensor  # [4, 4] the tracked camera
    light: Light
    background: Tensor  # [3, S, S] 0..1


def make_scene(bank: Bank, seed: int, frames: int, size: int = 512, fps: float = FPS, variety: str = STANDARD) -> Scene:
    """Return the scene of one seed. variety: which set of people, one of `VARIETIES`."""
    person = make_person(bank, seed, variety=variety)
    motion = signing_motion(bank.model, person.identity, expression_names(), seed, frames, fps)
    return Scene(
        person, motion, tracked_camera(seed), make_light(seed, variety),
        torch.from_numpy(make_background(seed, size)).permute(2, 0, 1).contiguous(),
    )  # fmt: skip


def tracked_camera(seed: int) -> Tensor:
    """Return [4, 4] world to camera, as the tracker finds them: unturned, t = (cx, cy, 24 / scale)."""
    rng = np.random.default_rng([seed, 0xCA3])
    viewmat = torch.eye(4)
    viewmat[:3, 3] = torch.tensor([rng.normal(0, 0.015), _CENTER + rng.normal(0, 0.015), rng.uniform(*_DISTANCE)])
    return viewmat


def scene_pictures(
    bank: Bank, scene: Scene, cameras: Cameras, frames: slice = slice(None), supersample: int = 3
) -> tuple[Tensor, Tensor]:
    """Return pictures [T, 3, H, W] over the background and masks [T, 1, H, W], 0..1, one camera per frame."""
    vertices = scene.person.skin.vertices(bank.model(scene.person.identity, scene.motion[frames]))
    rgb, alpha = render_vertices(vertices, scene.person.skin, scene.light, cameras, supersample)
    return rgb + (1 - alpha) * scene.background, alpha
